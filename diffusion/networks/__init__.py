"""Networks that estimate the clean data or the noise from a noisy input, and classifiers, by name.

All extend `DiffusionNetwork` (diffusion/networks/base.py).
"""

from collections.abc import Mapping

from diffusion.networks.base import DiffusionNetwork
from diffusion.networks.dit import DiT
from diffusion.networks.encoder import UNetEncoder
from diffusion.networks.mlp import MLP
from diffusion.networks.unet import UNet

NETWORKS: Mapping[str, type[DiffusionNetwork]] = {'unet': UNet, 'dit': DiT, 'mlp': MLP}
# Networks whose output is logits of classes, for the whole image; those above give them for pixels.
CLASSIFIERS: Mapping[str, type[DiffusionNetwork]] = {'unet_encoder': UNetEncoder, 'mlp': MLP}
