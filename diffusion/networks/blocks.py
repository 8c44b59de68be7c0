"""The layers of a U-Net: convolutions, residual blocks, self-attention."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from common.attention import attend_positions_first
from common.config import ConfigError
from diffusion.networks.resampling import FIR_MARGIN, downsample


class Initialisers(NamedTuple):
  """How the weights of a U-Net start.

  Attributes:
    kernel: all that have no other initialiser.
    last: the last layer of each residual branch, and that of the network.
    qkv: the queries, keys and values of attention.
    label: the embedding of the class.
  """

  kernel: nn.initializers.Initializer
  last: nn.initializers.Initializer
  qkv: nn.initializers.Initializer
  label: nn.initializers.Initializer = nn.initializers.normal(0.02)


GLOROT = nn.initializers.variance_scaling(1.0, 'fan_avg', 'uniform')
# Uniform within ±1/√fan_in, PyTorch's default.
NARROW = nn.initializers.variance_scaling(1 / 3, 'fan_in', 'uniform')
INITIALISATIONS = {
  'zero': Initialisers(GLOROT, nn.initializers.zeros, GLOROT),
  # Karras et al. 2022, the authors' code: weights times 1e-5, and times √0.2.
  'edm': Initialisers(
    GLOROT,
    nn.initializers.variance_scaling(1e-10, 'fan_avg', 'uniform'),
    nn.initializers.variance_scaling(0.2, 'fan_avg', 'uniform'),
  ),
  # Dhariwal & Nichol 2021, the authors' code.
  'adm': Initialisers(NARROW, nn.initializers.zeros, NARROW, nn.initializers.normal(1.0)),
}
Images = Float[Array, 'batch _ _ _']  # batch, height, width, channels


def num_groups(channels: int) -> int:
  """Groups of a group norm: 32, or the most that divide the channels into 4 or more each."""
  return next(g for g in range(min(32, max(1, channels // 4)), 0, -1) if channels % g == 0)


def add(x: Images, h: Images, rescale: bool) -> Images:
  """A residual connection; if rescaled, two parts of variance 1 have a sum of variance 1."""
  return (x + h) * 0.5**0.5 if rescale else x + h


def fourier_features(x: Images, exponents: tuple[int, ...]) -> Images:
  """sin and cos of 2π·2ⁿ·x for each exponent n, as channels (Kingma et al. 2021, appendix C)."""
  # In float32: the angles reach hundreds of turns.
  frequencies = 2 * jnp.pi * 2.0 ** jnp.asarray(exponents, jnp.float32)
  angles = x.astype(jnp.float32)[..., None] * frequencies
  waves = jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)
  return waves.reshape(*x.shape[:-1], -1).astype(x.dtype)


@dataclasses.dataclass(frozen=True)
class Style:
  """The settings that all layers of a U-Net share; `UNetBase` describes them."""

  dropout: float
  scale_shift: bool
  skip_rescale: bool
  resample_projection: bool
  fir: bool
  head_width: int
  dtype: str
  initialisation: str = 'zero'
  norm_epsilon: float = 1e-6

  @property
  def init(self) -> Initialisers:
    """The initialisers."""
    return INITIALISATIONS[self.initialisation]


def group_norm(channels: int, style: Style, name: str, dtype: str = '') -> nn.GroupNorm:
  """Group norm; flax computes its statistics in float32 whatever the type of its output."""
  dtype = jnp.dtype(dtype or style.dtype)
  return nn.GroupNorm(num_groups(channels), epsilon=style.norm_epsilon, dtype=dtype, name=name)


def conv(
  channels: int, style: Style, name: str, size: int = 3, strides: int = 1, **changes: Any
) -> nn.Conv:
  """A convolution that keeps the size of the image, apart from its strides."""
  settings = {'kernel_init': style.init.kernel, 'dtype': jnp.dtype(style.dtype)} | changes
  return nn.Conv(channels, (size, size), strides, name=name, **settings)


def conv_downsample(x: Images, channels: int, style: Style, name: str) -> Images:
  """A 3x3 convolution to half the resolution: strided (DDPM), or before the filter (NCSN++)."""
  if not style.fir:
    return conv(channels, style, name, strides=2)(x)
  # Song et al. 2021 convolve at the full resolution, and only the filter's stride halves it. All
  # zeros are added before both, so that the order of the two linear maps makes no difference.
  h = conv(channels, style, name, padding=1 + FIR_MARGIN)(x)
  return downsample(h, fir=True, margin=0)


class ResBlock(nn.Module):
  """Two convolutions, the second one conditioned; optionally changes the resolution."""

  style: Style
  channels: int
  train: bool
  resample: Callable | None = None

  @nn.compact
  def __call__(self, x: Images, condition: Float[Array, 'batch dim']) -> Images:
    style = self.style
    h = nn.silu(group_norm(x.shape[-1], style, 'norm1')(x))
    if self.resample is not None:
      # Between norm and convolution, on both branches, so that they meet at one resolution.
      x, h = self.resample(x, style.fir), self.resample(h, style.fir)
    h = conv(self.channels, style, 'conv1')(h)
    # Twice the channels for a scale and a shift.
    sizes = self.channels * (2 if style.scale_shift else 1)
    dtype = jnp.dtype(style.dtype)
    project = nn.Dense(sizes, kernel_init=style.init.kernel, dtype=dtype, name='condition_proj')
    condition = project(condition)[:, None, None]
    norm = group_norm(self.channels, style, 'norm2')
    if style.scale_shift:  # adaptive group norm (Dhariwal & Nichol 2021, section 3.1)
      scale, shift = jnp.split(condition, 2, axis=-1)
      h = norm(h) * (1 + scale) + shift
    else:
      h = norm(h + condition)
    h = nn.Dropout(style.dropout, deterministic=not self.train)(nn.silu(h))
    # Zero at initialisation, or nearly: every block starts as its skip connection.
    h = conv(self.channels, style, 'conv2', kernel_init=style.init.last)(h)
    # A 1x1 convolution where the skip connection changes its channels (or always: NCSN++).
    resampled = self.resample is not None and style.resample_projection
    if x.shape[-1] != self.channels or resampled:
      x = conv(self.channels, style, 'skip', size=1)(x)
    return add(x, h, style.skip_rescale)


class Attention(nn.Module):
  """Self-attention over all pixels."""

  style: Style

  @nn.compact
  def __call__(self, x: Images) -> Images:
    style = self.style
    batch, height, width, channels = x.shape
    head_width = style.head_width or channels
    if channels % head_width:
      raise ConfigError(f'network.head_width={head_width} does not divide {channels} channels')
    dtype = jnp.dtype(style.dtype)
    h = group_norm(channels, style, 'norm')(x).reshape(batch, height * width, channels)
    # Query, key and value from one product; DDPM has one head of all channels.
    sizes = (3, channels // head_width, head_width)
    qkv = nn.DenseGeneral(sizes, kernel_init=style.init.qkv, dtype=dtype, name='qkv')(h)
    # [batch, pixels, 3, heads, dim] to three arrays [batch, pixels, heads, dim]
    h = attend_positions_first(*jnp.moveaxis(qkv, 2, 0))
    out = nn.DenseGeneral(channels, (-2, -1), kernel_init=style.init.last, dtype=dtype, name='out')
    h = out(h)
    return add(x, h.reshape(x.shape), style.skip_rescale)
