"""Latents of images as data."""
