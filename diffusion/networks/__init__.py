"""Networks that estimate the clean data or the noise from a noisy input.

All share one signature:

  network.apply({'params': params}, x, noise, label, train=..., rngs={'dropout': key}) -> y

x is [batch, height, width, channels]; noise is [batch] on DDPM's scale, 0 (clean) to 1000; label
is [batch] classes, with `num_classes` as the null class of classifier-free guidance, or None for
the null class of every example. y is [batch, height, width, out_channels] in float32.
"""

from diffusion.networks.dit import DiT
from diffusion.networks.mlp import MLP
from diffusion.networks.unet import UNet

NETWORKS = {'unet': UNet, 'dit': DiT, 'mlp': MLP}
