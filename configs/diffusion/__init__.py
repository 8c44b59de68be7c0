"""Configs of the diffusion family."""
