"""Score-based diffusion. `build` turns a config and a description of the data into a `Method`."""

from diffusion.method import build

__all__ = ['build']
