"""Completions of Python functions: `python -m experiments.completions` (docs/chat.md)."""
