"""Configs of experiments, as data: no network code, no mathematics."""
