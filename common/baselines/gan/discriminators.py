"""Discriminators: from data and a class to a logit, positive for real data, by name."""

from collections.abc import Mapping
from typing import Annotated

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from common.baselines.gan.layers import Images, Projection, apply_layer, conv, first_side
from common.devices.mesh import kept_split
from common.ranges import AT_LEAST_ONE, AT_LEAST_ZERO, Each

SLOPE = 0.2  # of leaky rectifiers below 0 (Radford et al. 2016)


class Discriminator(nn.Module):
  """A network that tells real data from generated data; it normalises nothing over a batch.

  Every subclass has the flax fields below, and ends with a `Projection`.

  Attributes:
    num_classes: number of classes, or 0.
    spectral_norm: divide every kernel by its largest singular value (Miyato et al. 2018).
    dtype: type of the products and of what flows between them.
  """

  def __call__(
    self, x: Float[Array, 'batch height width channels'], label: Int[Array, 'batch'] | None
  ) -> Float[Array, 'batch']:
    """The logit of each example, in float32; `label` is None if there are no classes."""
    raise NotImplementedError

  def project(
    self, h: Float[Array, 'batch features'], label: Int[Array, 'batch'] | None
  ) -> Float[Array, 'batch']:
    """The logits of features, all of which the device of an example has (see `kept_split`)."""
    h = kept_split(h)
    return Projection(self.num_classes, self.spectral_norm, name='projection')(h, label)


class DCGANDiscriminator(Discriminator):
  """Strided convolutions with leaky rectifiers (Radford et al. 2016), without batch norm.

  Attributes:
    width: channels, in units of which `multipliers` counts.
    multipliers: channels of the convolutions over `width`; each halves the resolution.
  """

  num_classes: int = 0
  spectral_norm: bool = False
  width: Annotated[int, AT_LEAST_ONE] = 32
  multipliers: Annotated[tuple[int, ...], Each(AT_LEAST_ONE, int, least=1)] = (1, 2)
  dtype: str = 'float32'

  @nn.compact
  def __call__(
    self, x: Float[Array, 'batch height width channels'], label: Int[Array, 'batch'] | None
  ) -> Float[Array, 'batch']:
    first_side('discriminator', x.shape[1:3], len(self.multipliers))
    for level, multiplier in enumerate(self.multipliers):
      layer = conv(self.width * multiplier, self.dtype, f'down_{level}', size=4, strides=2)
      x = nn.leaky_relu(apply_layer(layer, self.spectral_norm, x), SLOPE)
    return self.project(x.reshape(x.shape[0], -1), label)


class ResBlock(nn.Module):
  """Two convolutions with a skip connection; optionally halves the resolution.

  Source: Miyato et al. 2018, and their code for the first block, which rectifies no pixels.
  """

  channels: int
  spectral_norm: bool
  dtype: str
  first: bool = False
  down: bool = False

  @nn.compact
  def __call__(self, x: Images) -> Images:
    h = x if self.first else nn.relu(x)
    h = nn.relu(apply_layer(conv(self.channels, self.dtype, 'conv1'), self.spectral_norm, h))
    h = apply_layer(conv(self.channels, self.dtype, 'conv2'), self.spectral_norm, h)
    if self.down:
      x, h = downsample(x), downsample(h)
    if x.shape[-1] != self.channels or self.down:
      skip = conv(self.channels, self.dtype, 'skip', size=1)
      # A 1x1 convolution commutes with means of pixels, and is cheaper after them.
      x = apply_layer(skip, self.spectral_norm, x)
    return x + h


def downsample(x: Images) -> Images:
  """Halves the resolution by means of 2x2 pixels."""
  return nn.avg_pool(x, (2, 2), strides=(2, 2))


class ResNetDiscriminator(Discriminator):
  """Residual blocks and a sum over all pixels (Miyato et al. 2018).

  Attributes:
    width: channels, in units of which `multipliers` counts.
    multipliers: channels of the blocks over `width`; each block halves the resolution.
    blocks: further blocks at the coarsest resolution.
  """

  num_classes: int = 0
  spectral_norm: bool = False
  width: Annotated[int, AT_LEAST_ONE] = 64
  multipliers: Annotated[tuple[int, ...], Each(AT_LEAST_ONE, int, least=1)] = (1, 1)
  blocks: Annotated[int, AT_LEAST_ZERO] = 1
  dtype: str = 'float32'

  @nn.compact
  def __call__(
    self, x: Float[Array, 'batch height width channels'], label: Int[Array, 'batch'] | None
  ) -> Float[Array, 'batch']:
    levels = len(self.multipliers)
    first_side('discriminator', x.shape[1:3], levels)
    for level in range(levels + self.blocks):
      down = level < levels
      channels = self.width * self.multipliers[level if down else -1]
      block = ResBlock(
        channels, self.spectral_norm, self.dtype, not level, down, name=f'block_{level}'
      )
      x = block(x)
    return self.project(nn.relu(x).astype(jnp.float32).sum((1, 2)), label)


class MLPDiscriminator(Discriminator):
  """A perceptron, for data of few dimensions.

  Attributes:
    width: hidden units.
    depth: hidden layers.
  """

  num_classes: int = 0
  spectral_norm: bool = False
  width: Annotated[int, AT_LEAST_ONE] = 128
  depth: Annotated[int, AT_LEAST_ONE] = 3
  dtype: str = 'float32'

  @nn.compact
  def __call__(
    self, x: Float[Array, 'batch height width channels'], label: Int[Array, 'batch'] | None
  ) -> Float[Array, 'batch']:
    x = x.reshape(x.shape[0], -1)
    for number in range(self.depth):
      layer = nn.Dense(self.width, dtype=jnp.dtype(self.dtype), name=f'dense_{number}')
      x = nn.leaky_relu(apply_layer(layer, self.spectral_norm, x), SLOPE)
    return self.project(x, label)


DISCRIMINATORS: Mapping[str, type[Discriminator]] = {
  'dcgan': DCGANDiscriminator,
  'resnet': ResNetDiscriminator,
  'mlp': MLPDiscriminator,
}
