"""Metrics of text: of the likelihood in units that tokenizers share, and of the words of samples."""
