"""Causal networks behind one interface: `apply(params, x, cache=None) -> hidden, cache`."""
