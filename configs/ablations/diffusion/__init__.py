"""Studies of diffusion papers: their ablation tables."""
