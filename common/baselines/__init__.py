"""Baselines: generative models that the two families are compared with, behind `Method`."""
