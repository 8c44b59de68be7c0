"""Metrics of images: classifiers, features, and distances between sets of images."""
