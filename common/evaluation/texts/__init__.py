"""Metrics of text: likelihoods in units that tokenizers share, and the words of samples."""
