"""Generators: from noise and a class to data, by name."""

import math
from collections.abc import Mapping
from typing import Annotated

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from common.baselines.gan.layers import Images, conv, first_side, group_norm
from common.ranges import AT_LEAST_ONE, Each


class Generator(nn.Module):
  """A network from noise to data.

  Every subclass has the flax fields below, and ends in float32.

  Attributes:
    shape: shape of one example, [height, width, channels].
    num_classes: number of classes, or 0.
    bounded: whether the data lie in [-1, 1], as images do: the output is then a tanh.
    latent: dimensions of the noise.
    dtype: type of the products and of what flows between them.
  """

  def __call__(
    self, z: Float[Array, 'batch latent'], label: Int[Array, 'batch'] | None
  ) -> Float[Array, 'batch height width channels']:
    """Generates data; `label` is None if there are no classes."""
    raise NotImplementedError

  def condition(
    self, z: Float[Array, 'batch latent'], label: Int[Array, 'batch'] | None
  ) -> Float[Array, 'batch _']:
    """The input of the first layer: the noise, and next to it an embedding of the class."""
    if not self.num_classes:
      return z
    # As large as the noise, so that neither outweighs the other at the start.
    embed = nn.Embed(
      self.num_classes, self.latent, embedding_init=nn.initializers.normal(1.0), name='label_embed'
    )
    return jnp.concatenate([z, embed(label)], -1)

  def grid(
    self, z: Float[Array, 'batch latent'], label: Int[Array, 'batch'] | None, channels: int
  ) -> Images:
    """The coarsest grid, of `channels` channels, from the noise and the class."""
    height, width = first_side('generator', self.shape[:2], len(self.multipliers))
    size = height * width * channels
    h = nn.Dense(size, dtype=jnp.dtype(self.dtype), name='input')(self.condition(z, label))
    return h.reshape(-1, height, width, channels)

  def bound(self, x: Array) -> Float[Array, '...']:
    """The output in float32, in [-1, 1] if the data are."""
    x = x.astype(jnp.float32)
    return jnp.tanh(x) if self.bounded else x


class DCGANGenerator(Generator):
  """Transposed convolutions (Radford et al. 2016), with group norm in place of batch norm.

  Attributes:
    width: channels of the finest hidden grid, in units of which `multipliers` counts.
    multipliers: channels of the hidden grids over `width`, the finest first; each is half as large
      as the one before, and the first half as large as the image.
  """

  shape: tuple[int, ...]
  num_classes: int = 0
  bounded: bool = True
  latent: Annotated[int, AT_LEAST_ONE] = 64
  width: Annotated[int, AT_LEAST_ONE] = 32
  multipliers: Annotated[tuple[int, ...], Each(AT_LEAST_ONE, int, least=1)] = (1, 2)
  dtype: str = 'float32'

  @nn.compact
  def __call__(
    self, z: Float[Array, 'batch latent'], label: Int[Array, 'batch'] | None
  ) -> Float[Array, 'batch height width channels']:
    channels = [self.width * multiplier for multiplier in self.multipliers]
    h = self.grid(z, label, channels[-1])
    for level in range(len(channels) - 1, -1, -1):
      h = nn.relu(group_norm(channels[level], self.dtype, f'norm_{level}')(h))
      # Kernels of 4 with strides of 2 cover all pixels equally: no checkerboard at the start.
      outputs, dtype = (channels[level - 1], self.dtype) if level else (self.shape[-1], 'float32')
      h = nn.ConvTranspose(outputs, (4, 4), (2, 2), dtype=jnp.dtype(dtype), name=f'up_{level}')(h)
    return self.bound(h)


class UpBlock(nn.Module):
  """Doubles the resolution: two convolutions with a skip connection (Miyato et al. 2018)."""

  channels: int
  dtype: str

  @nn.compact
  def __call__(self, x: Images) -> Images:
    h = nn.relu(group_norm(x.shape[-1], self.dtype, 'norm1')(x))
    h = conv(self.channels, self.dtype, 'conv1')(upsample(h))
    h = nn.relu(group_norm(self.channels, self.dtype, 'norm2')(h))
    h = conv(self.channels, self.dtype, 'conv2')(h)
    # A 1x1 convolution commutes with copies of pixels, and is cheaper before them.
    return h + upsample(conv(self.channels, self.dtype, 'skip', size=1)(x))


def upsample(x: Images) -> Images:
  """Doubles the resolution by copies of pixels."""
  return jnp.repeat(jnp.repeat(x, 2, axis=1), 2, axis=2)


class ResNetGenerator(Generator):
  """Residual blocks that double the resolution (Miyato et al. 2018), with group norm.

  Attributes:
    width: channels, in units of which `multipliers` counts.
    multipliers: channels of the blocks over `width`, the last block first; each block doubles the
      resolution.
  """

  shape: tuple[int, ...]
  num_classes: int = 0
  bounded: bool = True
  latent: Annotated[int, AT_LEAST_ONE] = 128
  width: Annotated[int, AT_LEAST_ONE] = 64
  multipliers: Annotated[tuple[int, ...], Each(AT_LEAST_ONE, int, least=1)] = (1, 1)
  dtype: str = 'float32'

  @nn.compact
  def __call__(
    self, z: Float[Array, 'batch latent'], label: Int[Array, 'batch'] | None
  ) -> Float[Array, 'batch height width channels']:
    channels = [self.width * multiplier for multiplier in self.multipliers]
    h = self.grid(z, label, channels[-1])
    for level in range(len(channels) - 1, -1, -1):
      h = UpBlock(channels[level], self.dtype, name=f'block_{level}')(h)
    h = nn.relu(group_norm(channels[0], self.dtype, 'norm')(h))
    return self.bound(conv(self.shape[-1], 'float32', 'output')(h))


class MLPGenerator(Generator):
  """A perceptron, for data of few dimensions.

  Attributes:
    width: hidden units.
    depth: hidden layers.
  """

  shape: tuple[int, ...]
  num_classes: int = 0
  bounded: bool = True
  latent: Annotated[int, AT_LEAST_ONE] = 16
  width: Annotated[int, AT_LEAST_ONE] = 128
  depth: Annotated[int, AT_LEAST_ONE] = 3
  dtype: str = 'float32'

  @nn.compact
  def __call__(
    self, z: Float[Array, 'batch latent'], label: Int[Array, 'batch'] | None
  ) -> Float[Array, 'batch height width channels']:
    h = self.condition(z, label)
    for layer in range(self.depth):
      h = nn.silu(nn.Dense(self.width, dtype=jnp.dtype(self.dtype), name=f'dense_{layer}')(h))
    h = nn.Dense(math.prod(self.shape), dtype=jnp.float32, name='output')(h)
    return self.bound(h).reshape(-1, *self.shape)


GENERATORS: Mapping[str, type[Generator]] = {
  'dcgan': DCGANGenerator,
  'resnet': ResNetGenerator,
  'mlp': MLPGenerator,
}
