"""Data with known modes: mixtures of Gaussians, and stacked images."""
