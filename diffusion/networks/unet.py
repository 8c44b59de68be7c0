"""One U-Net: DDPM, DDPM++, NCSN++, ADM and VDM are settings of it.

Sources: Ho et al. 2020 (DDPM), Song et al. 2021 (DDPM++, NCSN++), Dhariwal & Nichol 2021 (ADM),
Kingma et al. 2021 (VDM). The papers' settings are in `configs/papers/`.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Annotated, NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from common.attention import attend_positions_first
from common.config import ConfigError
from common.ranges import AT_LEAST_ONE, AT_LEAST_ZERO, BELOW_ONE, Each, Interval, OneOf
from diffusion.networks.base import DiffusionNetwork
from diffusion.networks.conditioning import (
  EMBEDDINGS,
  Conditioning,
  check_embedding_width,
)
from diffusion.networks.resampling import FIR_MARGIN, downsample, upsample

_init = nn.initializers.variance_scaling(1.0, 'fan_avg', 'uniform')


class Initialisers(NamedTuple):
  """Initialisers of the layers that do not start as all others do.

  Attributes:
    last: the last layer of each residual branch, and that of the network.
    qkv: the queries, keys and values of attention.
  """

  last: nn.initializers.Initializer
  qkv: nn.initializers.Initializer


INITIALISATIONS = {
  'zero': Initialisers(nn.initializers.zeros, _init),
  # Karras et al. 2022, the authors' code: weights times 1e-5, and times √0.2.
  'edm': Initialisers(
    nn.initializers.variance_scaling(1e-10, 'fan_avg', 'uniform'),
    nn.initializers.variance_scaling(0.2, 'fan_avg', 'uniform'),
  ),
}
Images = Float[Array, 'batch _ _ _']  # batch, height, width, channels


def num_groups(channels: int) -> int:
  """Groups of a group norm: 32, or the most that divide the channels into 4 or more each."""
  return next(g for g in range(min(32, max(1, channels // 4)), 0, -1) if channels % g == 0)


def group_norm(channels: int, dtype: str, name: str) -> nn.GroupNorm:
  """Group norm; flax computes its statistics in float32 whatever the type of its output."""
  return nn.GroupNorm(num_groups(channels), epsilon=1e-6, dtype=jnp.dtype(dtype), name=name)


def conv(
  channels: int, dtype: str, name: str, size: int = 3, strides: int = 1, init: Callable = _init
) -> nn.Conv:
  """A convolution that keeps the size of the image, apart from its strides."""
  return nn.Conv(
    channels, (size, size), strides, kernel_init=init, dtype=jnp.dtype(dtype), name=name
  )


def conv_downsample(x: Images, channels: int, dtype: str, name: str, fir: bool) -> Images:
  """A 3x3 convolution to half the resolution: strided (DDPM), or before the filter (NCSN++)."""
  if not fir:
    return conv(channels, dtype, name, strides=2)(x)
  # Song et al. 2021 convolve at the full resolution, and only the filter's stride halves it. All
  # zeros are added before both, so that the order of the two linear maps makes no difference.
  padding = 1 + FIR_MARGIN
  h = nn.Conv(
    channels, (3, 3), padding=padding, kernel_init=_init, dtype=jnp.dtype(dtype), name=name
  )(x)
  return downsample(h, fir=True, margin=0)


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
  """The settings that all layers of a `UNet` share; `UNet` describes them."""

  dropout: float
  scale_shift: bool
  skip_rescale: bool
  resample_projection: bool
  fir: bool
  head_width: int
  dtype: str
  initialisation: str = 'zero'


class ResBlock(nn.Module):
  """Two convolutions, the second one conditioned; optionally changes the resolution."""

  style: Style
  channels: int
  train: bool
  resample: Callable | None = None

  @nn.compact
  def __call__(self, x: Images, condition: Float[Array, 'batch dim']) -> Images:
    style = self.style
    h = nn.silu(group_norm(x.shape[-1], style.dtype, 'norm1')(x))
    if self.resample is not None:
      # Between norm and convolution, on both branches, so that they meet at one resolution.
      x, h = self.resample(x, style.fir), self.resample(h, style.fir)
    h = conv(self.channels, style.dtype, 'conv1')(h)
    # Twice the channels for a scale and a shift.
    sizes = self.channels * (2 if style.scale_shift else 1)
    project = nn.Dense(
      sizes, kernel_init=_init, dtype=jnp.dtype(style.dtype), name='condition_proj'
    )
    condition = project(condition)[:, None, None]
    norm = group_norm(self.channels, style.dtype, 'norm2')
    if style.scale_shift:  # adaptive group norm (Dhariwal & Nichol 2021, section 3.1)
      scale, shift = jnp.split(condition, 2, axis=-1)
      h = norm(h) * (1 + scale) + shift
    else:
      h = norm(h + condition)
    h = nn.Dropout(style.dropout, deterministic=not self.train)(nn.silu(h))
    # Zero at initialisation, or nearly: every block starts as its skip connection.
    h = conv(self.channels, style.dtype, 'conv2', init=INITIALISATIONS[style.initialisation].last)(
      h
    )
    # A 1x1 convolution where the skip connection changes its channels (or always: NCSN++).
    resampled = self.resample is not None and style.resample_projection
    if x.shape[-1] != self.channels or resampled:
      x = conv(self.channels, style.dtype, 'skip', size=1)(x)
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
    h = group_norm(channels, style.dtype, 'norm')(x).reshape(batch, height * width, channels)
    # Query, key and value from one product; DDPM has one head of all channels.
    sizes = (3, channels // head_width, head_width)
    initialisers = INITIALISATIONS[style.initialisation]
    qkv = nn.DenseGeneral(sizes, kernel_init=initialisers.qkv, dtype=dtype, name='qkv')(h)
    # [batch, pixels, 3, heads, dim] to three arrays [batch, pixels, heads, dim]
    h = attend_positions_first(*jnp.moveaxis(qkv, 2, 0))
    h = nn.DenseGeneral(channels, (-2, -1), kernel_init=initialisers.last, dtype=dtype, name='out')(
      h
    )
    return add(x, h.reshape(x.shape), style.skip_rescale)


class UNet(DiffusionNetwork):
  """Residual blocks down to a coarse resolution and up again, with skips across.

  The output is exactly zero at initialisation, unless a setting says otherwise.

  Attributes:
    out_channels: channels of the output.
    num_classes: number of classes, or 0.
    width: channels of the first level.
    multipliers: channels of each level over `width`; each level halves the resolution.
    blocks: residual blocks of a level (one more on the way up).
    attention: resolutions, in pixels of height, that have self-attention.
    up_attention: on the way up, after 'every' block of such a level or after its 'last' one.
    head_width: channels of an attention head; 0 for a single head.
    dropout: probability.
    embedding: noise embedding, a key of `conditioning.EMBEDDINGS`.
    embedding_width: size of the noise embedding; 0 for `width`.
    early_label: the class is added to the noise embedding before its two layers (EDM); otherwise
      after them.
    augment_dim: numbers in an augmentation label, or 0.
    scale_shift: the condition scales and shifts the second norm; otherwise it is added before it.
    resample_in_block: a residual block changes the resolution (BigGAN); otherwise a separate
      convolution does.
    resample_projection: a residual block that changes the resolution always has a 1x1 convolution
      on its skip connection.
    fir: resample with the filter [1, 3, 3, 1] (StyleGAN 2); otherwise with means and copies.
    skip_rescale: residual connections are divided by sqrt(2).
    progressive_input: shrunken copies of the input enter every level (NCSN++, 'residual').
    input_fourier: exponents n of 2ⁿ: sines and cosines of the input at these frequencies are
      further channels of it (VDM); (): none.
    add_input: the input is added to the output, which is then not zero at initialisation (VDM).
    initialisation: how residual branches and the output start: 'zero', or 'edm', nearly so and
      with smaller queries, keys and values (EDM).
    dtype: type of the convolutions, of other products and of the residual stream.
    remat: recompute a block's activations in the backward pass instead of keeping them.
  """

  has_convolutions = True
  out_channels: int
  num_classes: int = 0
  width: Annotated[int, AT_LEAST_ONE] = 64
  multipliers: Annotated[tuple[int, ...], Each(AT_LEAST_ONE, int, least=1)] = (1, 2, 2)
  blocks: Annotated[int, AT_LEAST_ONE] = 2
  attention: Annotated[tuple[int, ...], Each(AT_LEAST_ONE, int)] = ()
  up_attention: Annotated[str, OneOf('every', 'last')] = 'every'
  head_width: Annotated[int, Interval(0, note='0: one head')] = 0
  dropout: Annotated[float, BELOW_ONE] = 0.0
  embedding: Annotated[str, OneOf(*EMBEDDINGS)] = 'ddpm'
  embedding_width: Annotated[int, Interval(0, note='0: the width')] = 0
  early_label: bool = False
  augment_dim: Annotated[int, AT_LEAST_ZERO] = 0
  scale_shift: bool = False
  resample_in_block: bool = False
  resample_projection: bool = False
  fir: bool = False
  skip_rescale: bool = False
  progressive_input: bool = False
  input_fourier: Annotated[tuple[int, ...], Each(Interval(0, 30), int)] = ()
  add_input: bool = False
  initialisation: Annotated[str, OneOf(*INITIALISATIONS)] = 'zero'
  dtype: str = 'float32'
  remat: bool = False

  def __post_init__(self):
    check_embedding_width(self.embedding_width or self.width)
    super().__post_init__()

  @nn.compact
  def __call__(
    self,
    x: Float[Array, 'batch height width channels'],
    noise: Float[Array, 'batch'],
    label: Int[Array, 'batch'] | None = None,
    train: bool = False,
    augment: Float[Array, 'batch numbers'] | None = None,
  ) -> Float[Array, 'batch height width out_channels']:
    self._check_shape(*x.shape[1:])
    condition = nn.silu(self._conditioning()(noise, label, augment))
    res = functools.partial(self._res, condition=condition, train=train)
    change_resolution = functools.partial(self._change_resolution, condition=condition, train=train)

    # Every output on the way down is a skip input on the way up, last in, first out.
    pyramid = h = x
    if self.input_fourier:
      h = jnp.concatenate([x, fourier_features(x, self.input_fourier)], axis=-1)
    h = conv(self.width, self.dtype, 'input')(h)
    skips = [h]
    for i, multiplier in enumerate(self.multipliers):
      for j in range(self.blocks):
        h = res(h, multiplier, f'down_{i}_{j}')
        # A level has attention by its height in pixels, as the papers name it.
        if h.shape[1] in self.attention:
          h = self._attend(h, f'down_{i}_{j}_attention')
        skips.append(h)
      if i < len(self.multipliers) - 1:
        h = change_resolution(h, multiplier, downsample, f'down_{i}_resample')
        # NCSN++ (Song et al. 2021, appendix H): the input itself, shrunken, joins every level.
        if self.progressive_input:
          name = f'down_{i}_input'
          pyramid = conv_downsample(pyramid, h.shape[-1], self.dtype, name, self.fir)
          pyramid = h = add(h, pyramid, self.skip_rescale)
        skips.append(h)

    # The coarsest level always has attention, as in all four papers.
    h = res(h, self.multipliers[-1], 'middle_0')
    h = self._attend(h, 'middle_attention')
    h = res(h, self.multipliers[-1], 'middle_1')

    # One block more than on the way down: the skip input of the first convolution or resampling.
    for i, multiplier in reversed(list(enumerate(self.multipliers))):
      for j in range(self.blocks + 1):
        h = res(jnp.concatenate([h, skips.pop()], axis=-1), multiplier, f'up_{i}_{j}')
        chosen = self.up_attention == 'every' or j == self.blocks
        if h.shape[1] in self.attention and chosen:
          h = self._attend(h, f'up_{i}_{j}_attention')
      if i:
        h = change_resolution(h, multiplier, upsample, f'up_{i}_resample')
    # The last convolution is in float32 and zero at initialisation: it makes the estimate.
    h = nn.silu(group_norm(h.shape[-1], self.dtype, 'norm')(h))
    h = conv(
      self.out_channels, 'float32', 'output', init=INITIALISATIONS[self.initialisation].last
    )(h)
    return h + x if self.add_input else h

  def _conditioning(self) -> Conditioning:
    return Conditioning(
      4 * self.width,
      self.embedding,
      self.embedding_width or self.width,
      self.num_classes,
      self.augment_dim,
      self.early_label,
      kernel_init=_init,
      dtype=self.dtype,
      name='conditioning',
    )

  @property
  def _style(self) -> Style:
    return Style(
      dropout=self.dropout,
      scale_shift=self.scale_shift,
      skip_rescale=self.skip_rescale,
      resample_projection=self.resample_projection,
      fir=self.fir,
      head_width=self.head_width,
      dtype=self.dtype,
      initialisation=self.initialisation,
    )

  def _res(self, h, multiplier, name, resample=None, *, condition, train):
    """A residual block with `multiplier` times `width` channels."""
    block = nn.remat(ResBlock) if self.remat else ResBlock
    channels = multiplier * self.width
    return block(self._style, channels, train, resample, name=name)(h, condition)

  def _attend(self, h, name):
    """Self-attention over all pixels."""
    attention = nn.remat(Attention) if self.remat else Attention
    return attention(self._style, name=name)(h)

  def _change_resolution(self, h, multiplier, resample, name, *, condition, train):
    """The step from one level to the next, by `downsample` or `upsample`."""
    if self.resample_in_block:
      return self._res(h, multiplier, name, resample, condition=condition, train=train)
    if resample is downsample:
      return conv_downsample(h, h.shape[-1], self.dtype, name, self.fir)
    return conv(h.shape[-1], self.dtype, name)(upsample(h, self.fir))

  def _check_shape(self, height: int, width: int, channels: int):
    """Raises ConfigError for images that do not fit the levels, the attention or the output."""
    # Each level but the first halves the sides.
    factor = 2 ** (len(self.multipliers) - 1)
    if height % factor or width % factor:
      raise ConfigError(
        f'network.multipliers={self.multipliers} need images whose sides are multiples of '
        f'{factor}, got {height}x{width}; use fewer levels'
      )
    levels = tuple(height // 2**i for i in range(len(self.multipliers)))
    for resolution in self.attention:
      if resolution not in levels:
        raise ConfigError(f'network.attention must name levels out of {levels}, got {resolution}')
    if self.add_input and channels != self.out_channels:
      raise ConfigError(
        f'network.add_input needs as many channels of the output as of the input, got '
        f'{self.out_channels} and {channels}; set it to False, or choose a fixed '
        'prediction.variance'
      )
