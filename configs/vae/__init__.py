"""Configs of variational autoencoders."""
