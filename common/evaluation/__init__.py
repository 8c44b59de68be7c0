"""Metrics over samples and likelihoods."""
