"""The encoder half of a U-Net as a classifier of noisy images (Dhariwal & Nichol 2021)."""

from typing import Annotated

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from common.attention import attend_positions_first
from common.config import ConfigError
from common.ranges import OneOf
from diffusion.networks.blocks import Images, group_norm
from diffusion.networks.unet import UNetBase

POOLINGS = ('attention', 'mean')


class AttentionPool(nn.Module):
  """A vector for each image: its mean attends to all pixels (CLIP; ADM, the authors' code).

  The mean is a token before those of the pixels. Each token has a learned position. Only the mean's
  output is used, so only the mean has a query. All of it is in float32, as in the authors' code.

  Attributes:
    out_channels: size of the vector.
    head_width: channels of a head; 0 for a single head.
    kernel_init: the initialiser of its weights.
  """

  out_channels: int
  head_width: int
  kernel_init: nn.initializers.Initializer

  @nn.compact
  def __call__(self, x: Images) -> Float[Array, 'batch out_channels']:
    batch, height, width, channels = x.shape
    head_width = self.head_width or channels
    if channels % head_width:
      raise ConfigError(f'network.head_width={head_width} does not divide {channels} channels')
    pixels = x.reshape(batch, height * width, channels)
    tokens = jnp.concatenate([pixels.mean(axis=1, keepdims=True), pixels], axis=1)
    init = nn.initializers.normal(channels**-0.5)
    tokens = tokens + self.param('position', init, tokens.shape[1:])
    heads = (channels // head_width, head_width)
    query = nn.DenseGeneral(heads, kernel_init=self.kernel_init, name='query')(tokens[:, :1])
    key_value = nn.DenseGeneral((2, *heads), kernel_init=self.kernel_init, name='key_value')(tokens)
    h = attend_positions_first(query, key_value[:, :, 0], key_value[:, :, 1])
    return nn.Dense(self.out_channels, kernel_init=self.kernel_init, name='out')(
      h.reshape(batch, channels)
    )


class UNetEncoder(UNetBase):
  """The encoder half of a U-Net and a pooling: a vector for each image, such as logits of classes.

  Attributes:
    pool: 'attention', or the 'mean' over pixels and a layer that is zero at initialisation; both in
      float32.
  """

  pool: Annotated[str, OneOf(*POOLINGS)] = 'attention'

  @nn.compact
  def __call__(
    self,
    x: Float[Array, 'batch height width channels'],
    noise: Float[Array, 'batch'],
    label: Int[Array, 'batch'] | None = None,
    train: bool = False,
    augment: Float[Array, 'batch numbers'] | None = None,
  ) -> Float[Array, 'batch out_channels']:
    self._check_shape(*x.shape[1:3])
    condition = nn.silu(self._conditioning()(noise, label, augment))
    h, _ = self._down(x, condition, train)
    h = nn.silu(group_norm(h.shape[-1], self._style, 'norm', dtype='float32')(h))
    if self.pool == 'attention':
      pool = AttentionPool(self.out_channels, self.head_width, self._style.init.kernel, name='pool')
      return pool(h)
    output = nn.Dense(self.out_channels, kernel_init=nn.initializers.zeros, name='output')
    return output(h.mean(axis=(1, 2)))
