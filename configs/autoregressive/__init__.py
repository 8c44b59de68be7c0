"""Configs of the autoregressive family."""
