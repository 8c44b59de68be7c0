"""Configs of classifiers of noisy data, which guide samples."""
