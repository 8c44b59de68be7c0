"""Autoencoders: variational ones (VAE), and vector-quantised ones (VQ-VAE)."""
