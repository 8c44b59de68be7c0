"""The convolutional autoencoder of VQGAN and latent diffusion.

Sources: Esser et al. 2021 and Rombach et al. 2022. It is the architecture of `AutoencoderKL` and
`VQModel` in the library diffusers, whose weights `common/baselines/vae/weights.py` reads. The
papers have no classes: with classes, each residual block adds the projected class between its
convolutions, where the blocks of a diffusion network add the time (Ho et al. 2020).
"""

import dataclasses
from typing import Annotated

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from common.attention import attend_positions_first
from common.baselines.vae.networks.base import (
  Autoencoder,
  Features,
  Images,
  Labels,
  Latents,
  Outputs,
  embed_label,
)
from common.config import ConfigError
from common.ranges import AT_LEAST_ONE, Each

# PyTorch's default, which the authors keep: uniform, of variance 1 / (3 · inputs).
_init = nn.initializers.variance_scaling(1 / 3, 'fan_in', 'uniform')
Maps = Float[Array, 'batch _ _ _']  # batch, height, width, channels
Condition = Float[Array, 'batch dim'] | None


@dataclasses.dataclass(frozen=True)
class Style:
  """The settings that encoder and decoder share; `ConvAutoencoder` describes them."""

  width: int
  multipliers: tuple[int, ...]
  blocks: int
  groups: int
  attention: bool
  quant_conv: bool
  num_classes: int
  dtype: str

  def norm(self, name: str) -> nn.GroupNorm:
    """Group norm. Its statistics are float32 whatever the type of its output."""
    # The mean of squared differences from the mean, which is exact for maps with a large mean.
    return nn.GroupNorm(
      self.groups, epsilon=1e-6, dtype=self.dtype, use_fast_variance=False, name=name
    )

  def conv(self, channels: int, name: str, size: int = 3, dtype: str = '') -> nn.Conv:
    """A convolution that keeps the size of the image, in the network's type or in another one."""
    dtype = dtype or self.dtype
    return nn.Conv(channels, (size, size), kernel_init=_init, dtype=dtype, name=name)

  def condition(self, label: Labels) -> Condition:
    """What the residual blocks are told of the class."""
    embedded = embed_label(label, self.num_classes, 4 * self.width)
    return None if embedded is None else nn.silu(embedded)


class ResBlock(nn.Module):
  """Two convolutions, each after a norm; the second one is told the class."""

  style: Style
  channels: int

  @nn.compact
  def __call__(self, x: Maps, condition: Condition) -> Maps:
    style = self.style
    h = style.conv(self.channels, 'conv1')(nn.silu(style.norm('norm1')(x)))
    if condition is not None:
      project = nn.Dense(self.channels, kernel_init=_init, dtype=style.dtype, name='condition_proj')
      h = h + project(condition)[:, None, None]
    h = nn.silu(style.norm('norm2')(h))
    h = style.conv(self.channels, 'conv2')(h)
    if x.shape[-1] != self.channels:
      x = style.conv(self.channels, 'skip', size=1)(x)
    return x + h


class Attention(nn.Module):
  """Self-attention over all positions, with one head."""

  style: Style

  @nn.compact
  def __call__(self, x: Maps) -> Maps:
    style = self.style
    batch, height, width, channels = x.shape
    h = style.norm('norm')(x).reshape(batch, height * width, channels)
    # [batch, positions, 3, heads, dim] to three arrays [batch, positions, heads, dim]
    qkv = nn.DenseGeneral((3, 1, channels), kernel_init=_init, dtype=style.dtype, name='qkv')(h)
    h = attend_positions_first(*jnp.moveaxis(qkv, 2, 0))
    h = nn.DenseGeneral(channels, (-2, -1), kernel_init=_init, dtype=style.dtype, name='out')(h)
    return x + h.reshape(x.shape)


class Encoder(nn.Module):
  """Residual blocks from the image down to the grid of latents.

  Attributes:
    style: the settings.
    features: channels of the output.
  """

  style: Style
  features: int

  @nn.compact
  def __call__(self, x: Images, label: Labels) -> Features:
    style = self.style
    condition = style.condition(label)
    h = style.conv(style.width, 'input')(x)
    for i, multiplier in enumerate(style.multipliers):
      channels = multiplier * style.width
      for j in range(style.blocks):
        h = ResBlock(style, channels, name=f'down_{i}_{j}')(h, condition)
      if i < len(style.multipliers) - 1:
        # Zeros at the lower and the right edge alone: halves an even size exactly.
        h = nn.Conv(
          channels,
          (3, 3),
          strides=2,
          padding=((0, 1), (0, 1)),
          kernel_init=_init,
          dtype=style.dtype,
          name=f'down_{i}_resample',
        )(h)
    h = _middle(style, h, condition)
    # The last layers are in float32: a loss is given their outputs.
    h = style.conv(self.features, 'output', dtype='float32')(nn.silu(style.norm('norm')(h)))
    if style.quant_conv:
      h = style.conv(self.features, 'quant_conv', size=1, dtype='float32')(h)
    return h


class Decoder(nn.Module):
  """The mirror of the encoder, with one residual block more in each level.

  Attributes:
    style: the settings.
    out_channels: channels of the output.
  """

  style: Style
  out_channels: int

  @nn.compact
  def __call__(self, z: Latents, label: Labels) -> Outputs:
    style = self.style
    condition = style.condition(label)
    if style.quant_conv:
      z = style.conv(z.shape[-1], 'post_quant_conv', size=1)(z)
    h = style.conv(style.multipliers[-1] * style.width, 'input')(z)
    h = _middle(style, h, condition)
    # Levels are counted from the latents up.
    for i, multiplier in enumerate(reversed(style.multipliers)):
      channels = multiplier * style.width
      for j in range(style.blocks + 1):
        h = ResBlock(style, channels, name=f'up_{i}_{j}')(h, condition)
      if i < len(style.multipliers) - 1:
        h = jnp.repeat(jnp.repeat(h, 2, axis=1), 2, axis=2)  # nearest neighbours
        h = style.conv(channels, f'up_{i}_resample')(h)
    h = nn.silu(style.norm('norm')(h))
    return style.conv(self.out_channels, 'output', dtype='float32')(h)


def _middle(style: Style, h: Maps, condition: Condition) -> Maps:
  """Residual block, attention and residual block of the calling module, at the latents' size."""
  h = ResBlock(style, h.shape[-1], name='middle_0')(h, condition)
  if style.attention:
    h = Attention(style, name='middle_attention')(h)
  return ResBlock(style, h.shape[-1], name='middle_1')(h, condition)


class ConvAutoencoder(Autoencoder):
  """Residual blocks at each resolution, and attention between all latents.

  Attributes:
    out_channels, features, num_classes, dtype: see `Autoencoder`.
    width: channels of the first level.
    multipliers: channels of each level over `width`; each level but the first halves the
      resolution.
    blocks: residual blocks of a level (one more in the decoder).
    groups: groups of each group norm.
    attention: whether latents attend to each other, in encoder and decoder.
    quant_conv: whether a 1x1 convolution follows the encoder, and another one precedes the decoder.
  """

  width: Annotated[int, AT_LEAST_ONE] = 32
  multipliers: Annotated[tuple[int, ...], Each(AT_LEAST_ONE, int, least=1)] = (1, 2)
  blocks: Annotated[int, AT_LEAST_ONE] = 1
  groups: Annotated[int, AT_LEAST_ONE] = 8
  attention: bool = True
  quant_conv: bool = True

  def __post_init__(self):
    for multiplier in self.multipliers:
      if multiplier * self.width % self.groups:
        raise ConfigError(
          f'network.groups={self.groups} must divide the channels of each level, '
          f'got {multiplier * self.width}'
        )
    super().__post_init__()

  def setup(self):
    style = Style(**{field.name: vars(self)[field.name] for field in dataclasses.fields(Style)})
    self.encoder = Encoder(style, self.features)
    self.decoder = Decoder(style, self.out_channels)

  @property
  def factor(self) -> int:
    return 2 ** (len(self.multipliers) - 1)

  @property
  def factor_setting(self) -> str:
    return f'network.multipliers={self.multipliers}'

  def encode(self, x: Images, label: Labels = None, train: bool = False) -> Features:
    self.grid(*x.shape[1:3])
    return self.encoder(x, label)

  def decode(self, z: Latents, label: Labels = None, train: bool = False) -> Outputs:
    return self.decoder(z, label)
