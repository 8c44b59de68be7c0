"""One U-Net: DDPM, DDPM++, NCSN++, ADM and VDM are settings of it.

Sources: Ho et al. 2020 (DDPM), Song et al. 2021 (DDPM++, NCSN++), Dhariwal & Nichol 2021 (ADM),
Kingma et al. 2021 (VDM). The papers' settings are in `configs/papers/`.
"""

import functools
from typing import Annotated, Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from common.config import ConfigError
from common.ranges import ABOVE_ZERO, AT_LEAST_ONE, AT_LEAST_ZERO, BELOW_ONE, Each, Interval, OneOf
from diffusion.networks.base import DiffusionNetwork
from diffusion.networks.blocks import (
  INITIALISATIONS,
  Attention,
  Images,
  ResBlock,
  Style,
  add,
  conv,
  conv_downsample,
  fourier_features,
  group_norm,
)
from diffusion.networks.conditioning import (
  EMBEDDINGS,
  Conditioning,
  check_embedding_width,
)
from diffusion.networks.resampling import downsample, upsample


class UNetBase(DiffusionNetwork):
  """What a U-Net and its encoder half share: settings, and the way down.

  Attributes:
    out_channels: channels of the output.
    num_classes: number of classes, or 0.
    width: channels of the first level.
    multipliers: channels of each level over `width`; each level halves the resolution.
    blocks: residual blocks of a level on the way down.
    attention: resolutions, in pixels of height, that have self-attention.
    head_width: channels of an attention head; 0 for a single head.
    dropout: probability.
    embedding: noise embedding, a key of `conditioning.EMBEDDINGS`.
    embedding_width: size of the noise embedding; 0 for `width`.
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
    initialisation: how weights start: 'zero', as DDPM's, with branches and the output at 0; 'edm',
      these nearly so, and smaller queries, keys and values (EDM); 'adm', PyTorch's default in place
      of Glorot's, and larger embeddings of classes (ADM).
    norm_epsilon: added to the variance in group norms.
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
  head_width: Annotated[int, Interval(0, note='0: one head')] = 0
  dropout: Annotated[float, BELOW_ONE] = 0.0
  embedding: Annotated[str, OneOf(*EMBEDDINGS)] = 'ddpm'
  embedding_width: Annotated[int, Interval(0, note='0: the width')] = 0
  scale_shift: bool = False
  resample_in_block: bool = False
  resample_projection: bool = False
  fir: bool = False
  skip_rescale: bool = False
  progressive_input: bool = False
  input_fourier: Annotated[tuple[int, ...], Each(Interval(0, 30), int)] = ()
  initialisation: Annotated[str, OneOf(*INITIALISATIONS)] = 'zero'
  norm_epsilon: Annotated[float, ABOVE_ZERO] = 1e-6
  dtype: str = 'float32'
  remat: bool = False

  def __post_init__(self):
    check_embedding_width(self.embedding_width or self.width)
    super().__post_init__()

  def _down(self, x: Images, condition: Float[Array, 'batch dim'], train: bool):
    """The coarsest level after the middle blocks; and every output on the way down, in order."""
    res = functools.partial(self._res, condition=condition, train=train)
    change_resolution = functools.partial(self._change_resolution, condition=condition, train=train)
    pyramid = h = x
    if self.input_fourier:
      h = jnp.concatenate([x, fourier_features(x, self.input_fourier)], axis=-1)
    h = conv(self.width, self._style, 'input')(h)
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
          pyramid = conv_downsample(pyramid, h.shape[-1], self._style, name)
          pyramid = h = add(h, pyramid, self.skip_rescale)
        skips.append(h)

    # The coarsest level always has attention, as in all four papers.
    h = res(h, self.multipliers[-1], 'middle_0')
    h = self._attend(h, 'middle_attention')
    return res(h, self.multipliers[-1], 'middle_1'), skips

  def _conditioning(self, **settings: Any) -> Conditioning:
    return Conditioning(
      4 * self.width,
      self.embedding,
      self.embedding_width or self.width,
      kernel_init=self._style.init.kernel,
      label_init=self._style.init.label,
      dtype=self.dtype,
      name='conditioning',
      **settings,
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
      norm_epsilon=self.norm_epsilon,
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
      return conv_downsample(h, h.shape[-1], self._style, name)
    return conv(h.shape[-1], self._style, name)(upsample(h, self.fir))

  def _check_shape(self, height: int, width: int):
    """Raises ConfigError for images that do not fit the levels or the attention."""
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


class UNet(UNetBase):
  """Residual blocks down to a coarse resolution and up again, with skips across.

  The output is exactly zero at initialisation, unless a setting says otherwise.

  On the way up, a level has one block more than `blocks`.

  Attributes:
    up_attention: on the way up, after 'every' block of such a level or after its 'last' one.
    early_label: the class is added to the noise embedding before its two layers (EDM); otherwise
      after them.
    augment_dim: numbers in an augmentation label, or 0.
    add_input: the input is added to the output, which is then not zero at initialisation (VDM).
  """

  up_attention: Annotated[str, OneOf('every', 'last')] = 'every'
  early_label: bool = False
  augment_dim: Annotated[int, AT_LEAST_ZERO] = 0
  add_input: bool = False

  @nn.compact
  def __call__(
    self,
    x: Float[Array, 'batch height width channels'],
    noise: Float[Array, 'batch'],
    label: Int[Array, 'batch'] | None = None,
    train: bool = False,
    augment: Float[Array, 'batch numbers'] | None = None,
  ) -> Float[Array, 'batch height width out_channels']:
    self._check_shape(*x.shape[1:3])
    self._check_channels(x.shape[3])
    conditioning = self._conditioning(
      num_classes=self.num_classes, augment_dim=self.augment_dim, early_label=self.early_label
    )
    condition = nn.silu(conditioning(noise, label, augment))
    # Every output on the way down is a skip input on the way up, last in, first out.
    h, skips = self._down(x, condition, train)

    # One block more than on the way down: the skip input of the first convolution or resampling.
    for i, multiplier in reversed(list(enumerate(self.multipliers))):
      for j in range(self.blocks + 1):
        h = jnp.concatenate([h, skips.pop()], axis=-1)
        h = self._res(h, multiplier, f'up_{i}_{j}', condition=condition, train=train)
        chosen = self.up_attention == 'every' or j == self.blocks
        if h.shape[1] in self.attention and chosen:
          h = self._attend(h, f'up_{i}_{j}_attention')
      if i:
        name = f'up_{i}_resample'
        h = self._change_resolution(h, multiplier, upsample, name, condition=condition, train=train)
    # The last convolution is in float32 and zero at initialisation: it makes the estimate.
    h = nn.silu(group_norm(h.shape[-1], self._style, 'norm')(h))
    init = self._style.init.last
    h = conv(self.out_channels, self._style, 'output', kernel_init=init, dtype='float32')(h)
    return h + x if self.add_input else h

  def _check_channels(self, channels: int):
    """Raises ConfigError for an input that cannot be added to the output."""
    if self.add_input and channels != self.out_channels:
      raise ConfigError(
        f'network.add_input needs as many channels of the output as of the input, got '
        f'{self.out_channels} and {channels}; set it to False, or choose a fixed '
        'prediction.variance'
      )
