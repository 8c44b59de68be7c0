"""Configs of the GAN, a baseline."""
