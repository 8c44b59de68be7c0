"""Layers that generators and discriminators share."""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from common.config import ConfigError

Images = Float[Array, 'batch _ _ _']  # batch, height, width, channels
SPECTRAL = 'spectral'  # the collection of flax that holds the vectors of the power iteration


def group_norm(channels: int, dtype: str, name: str) -> nn.GroupNorm:
  """Group norm, with groups of 4 channels or more; flax computes its statistics in float32.

  The papers have batch norm here, by which the examples of a batch depend on each other: samples
  would change with their number, and the loss with the way in which a batch is split.
  """
  most = min(32, max(1, channels // 4))
  groups = next(number for number in range(most, 0, -1) if channels % number == 0)
  return nn.GroupNorm(groups, dtype=jnp.dtype(dtype), name=name)


def conv(
  channels: int, dtype: str, name: str, size: int = 3, strides: int = 1, bias: bool = True
) -> nn.Conv:
  """A convolution that keeps the size of the image, apart from its strides."""
  return nn.Conv(channels, (size, size), strides, use_bias=bias, dtype=jnp.dtype(dtype), name=name)


def apply_layer(layer: nn.Module, spectral_norm: bool, *inputs: Array) -> Array:
  """A layer of the discriminator, its kernel divided by its largest singular value if asked to.

  Spectral norm (Miyato et al. 2018, algorithm 1): one power iteration per call, from the vectors
  in the collection SPECTRAL. The kernel of a convolution is a matrix with a row for each output
  channel; the gradient flows through the singular value, but not through its vectors.
  """
  if not spectral_norm:
    return layer(*inputs)
  return nn.SpectralNorm(layer, collection_name=SPECTRAL)(*inputs, update_stats=True)


def first_side(name: str, sides: tuple[int, int], levels: int) -> tuple[int, int]:
  """The sides of the coarsest grid of a network.

  Args:
    name: the section of the network, for messages.
    sides: height and width of the images.
    levels: how often the network halves or doubles them.

  Raises:
    ConfigError: the images cannot be halved so often.
  """
  height, width = sides
  factor = 2**levels
  if height % factor or width % factor:
    raise ConfigError(
      f'{name}.multipliers has {levels} levels, which need images whose sides are multiples of '
      f'{factor}, got {height}x{width}; use fewer levels'
    )
  return height // factor, width // factor


class Projection(nn.Module):
  """The last layer of a projection discriminator: ψ(h) + ⟨class embedding, h⟩.

  Source: Miyato & Koyama 2018, eq. 3. It is in float32, whatever the type of the features.

  Attributes:
    num_classes: number of classes, or 0: then it is ψ(h) alone.
    spectral_norm: whether both matrices are divided by their largest singular value.
  """

  num_classes: int
  spectral_norm: bool

  @nn.compact
  def __call__(
    self, h: Float[Array, 'batch features'], label: Int[Array, 'batch'] | None
  ) -> Float[Array, 'batch']:
    h = h.astype(jnp.float32)
    logit = apply_layer(nn.Dense(1, name='output'), self.spectral_norm, h)[:, 0]
    if self.num_classes:
      embed = nn.Embed(self.num_classes, h.shape[-1], name='label_embed')
      logit = logit + (apply_layer(embed, self.spectral_norm, label) * h).sum(-1)
    return logit
