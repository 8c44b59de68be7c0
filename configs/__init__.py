"""Experiments as data: no network code, no maths."""
