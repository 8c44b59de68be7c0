"""PixelCNN++ (Salimans et al. 2017): two streams through a causal U-Net.

The 'down' stream v sees all rows above a pixel, by windows of 2 × 3; the 'down-right' stream h sees
those and the row left of it, by windows of 2 × 2, and has v as an input of every block. The head
(`logistic_mixture`) makes the channels of a pixel depend on one another; this network does not.
"""

import functools
from typing import Annotated, Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from autoregressive.networks.raster import (
  Conv,
  RasterNetwork,
  RasterPosition,
  load_features,
  normalised,
  store_features,
)
from common.config import ConfigError
from common.ranges import AT_LEAST_ONE, AT_LEAST_ZERO, BELOW_ONE

# Windows, both causal: a row up; columns left and right of the pixel, or left only.
DOWN = dict(rows=(1, 0), columns=(1, 1))
DOWN_RIGHT = dict(rows=(1, 0), columns=(1, 0))


def concat_elu(x: Float[Array, '*batch channels']) -> Float[Array, '*batch twice']:
  """[elu(x), elu(-x)] (Shang et al. 2016, with elu in place of relu)."""
  return nn.elu(jnp.concatenate([x, -x], -1))


class Block(nn.Module):
  """A gated residual block: x + a·σ(b), (a, b) from two convolutions, a skip input, the start.

  Attributes:
    features: channels.
    window: window of both convolutions.
    conv: constructor of convolutions.
    conditional: whether the start token shifts a and b.
    dropout: rate between the convolutions.
  """

  features: int
  window: Any
  conv: Any
  conditional: bool
  dropout: float

  @nn.compact
  def __call__(
    self,
    x: Float[Array, 'batch rows columns channels'],
    skip: Float[Array, 'batch rows columns more'] | None,
    start: Float[Array, 'batch width'],
    at: RasterPosition | None,
    train: bool,
  ) -> Float[Array, 'batch rows columns channels']:
    made = self.conv(self.features, **self.window)(concat_elu(x), at)
    if skip is not None:
      made += self.conv(self.features, name='skip')(concat_elu(skip), at)
    made = nn.Dropout(self.dropout, deterministic=not train)(concat_elu(made))
    # Small at first (the authors' code), so that every block begins close to the identity.
    made = self.conv(2 * self.features, **self.window, scale=0.1)(made, at)
    if self.conditional:
      project = nn.Dense(2 * self.features, use_bias=False, dtype=x.dtype, name='start_proj')
      made += project(start)[:, None, None]
    value, gate = jnp.split(made, 2, -1)  # the gate of van den Oord et al. 2016b
    return x + value * nn.sigmoid(gate)


class TransposedConv(nn.Module):
  """A transposed convolution that doubles the grid: pixel (i, j) makes pixels from (2i, 2j) on.

  Attributes:
    features: channels.
    wide: a window of 2 × 3, columns 2j - 1 ... 2j + 1, for the stream v; otherwise 2 × 2.
    weight_norm, dtype, fitted: as in `Conv`.
  """

  features: int
  wide: bool
  weight_norm: bool
  dtype: str
  fitted: bool = False

  @nn.compact
  def __call__(
    self, x: Float[Array, 'batch rows columns channels'], at: RasterPosition | None
  ) -> Float[Array, 'batch out_rows out_columns channels']:
    shape = (2, 3 if self.wide else 2, x.shape[-1], self.features)
    kernel = self.param('kernel', nn.initializers.lecun_normal(), shape)
    if self.weight_norm:
      convolve = functools.partial(self._whole, x) if at is None and self.fitted else None
      kernel, bias = normalised(self, kernel, self.features, convolve)
    else:
      bias = self.param('bias', nn.initializers.zeros, (self.features,))
    x, kernel, bias = (a.astype(self.dtype) for a in (x, kernel, bias))
    # Row i of the small grid makes rows 2i and 2i + 1 of the large one, each by its own kernel.
    if at is None:
      return self._whole(x, kernel) + bias
    kernel = kernel[at.row % 2]
    if at.column is None:
      return self._row(x, kernel) + bias
    return x @ kernel[at.column % 2] + bias

  def _whole(self, x, kernel):
    """All rows, without the bias."""
    both = jnp.stack([self._row(x, kernel[i].astype(x.dtype)) for i in range(2)], 2)
    return both.reshape(x.shape[0], -1, *both.shape[3:])

  def _row(self, x, kernel):
    """Every row with twice its columns."""
    if not self.wide:
      pair = [x @ kernel[0], x @ kernel[1]]
    else:  # taps at columns 2j - 1, 2j, 2j + 1
      right = jnp.pad(x[:, :, 1:], ((0, 0), (0, 0), (0, 1), (0, 0)))
      # Column 2j has one tap, of pixel j. Column 2j + 1 has two: of j and of its neighbour j + 1.
      pair = [x @ kernel[1], x @ kernel[2] + right @ kernel[0]]
    # [batch, rows, columns, 2, features]: even and odd columns interleave.
    made = jnp.stack(pair, 3)
    return made.reshape(*x.shape[:2], -1, self.features)


class Level(nn.Module):
  """One resolution: blocks on the way in, the level below (half the size), blocks on the way out.

  Each block on the way out has a skip input from one on the way in, in reverse order.

  Attributes:
    features: channels.
    blocks: blocks on the way in; one more on the way out, except in the lowest level.
    below: levels below this one.
    skips: whether blocks on the way out have those skip inputs.
    conv, conditional, dropout: as in `Block`.
  """

  features: int
  blocks: int
  below: int
  skips: bool
  conv: Any
  conditional: bool
  dropout: float

  def setup(self):
    block = functools.partial(
      Block,
      self.features,
      conv=self.conv,
      conditional=self.conditional,
      dropout=self.dropout,
    )
    # Above the lowest level, one more block on the way out has the level's input as its skip input.
    out = self.blocks + (self.below > 0)
    self.v_in = [block(DOWN) for _ in range(self.blocks)]
    self.h_in = [block(DOWN_RIGHT) for _ in range(self.blocks)]
    self.v_out = [block(DOWN) for _ in range(out)]
    self.h_out = [block(DOWN_RIGHT) for _ in range(out)]
    if self.below:
      self.v_down = self.conv(self.features, **DOWN, stride=2)
      self.h_down = self.conv(self.features, **DOWN_RIGHT, stride=2)
      up = functools.partial(TransposedConv, self.features, **self.conv.keywords)
      self.v_up, self.h_up = up(wide=True), up(wide=False)
      self.lower = Level(
        self.features,
        self.blocks,
        self.below - 1,
        self.skips,
        self.conv,
        self.conditional,
        self.dropout,
      )

  def rows(self, x, start, at: RasterPosition | None, train: bool):
    """The stream v: (its output, its features for the stream h, here and below)."""
    seen, made, lower = [x], [], None
    for block in self.v_in:
      x = block(x, None, start, at, train)
      seen.append(x)
      made.append(x)
    # Features of the level below are spread over this level's grid by the transposed convolution.
    if self.below:
      x, lower = self._lower_rows(self.v_down(x, at), start, at, train)
      x = self.v_up(x, at)
    else:
      x = seen.pop()  # the lowest level turns around: its last output is the first on the way out
    for block in self.v_out:
      x = block(x, seen.pop() if self.skips else None, start, at, train)
      made.append(x)
    return x, (store_features(self, tuple(made), at), lower)

  def pixels(self, x, features, start, at: RasterPosition | None, train: bool):
    """The stream h, given the features of v."""
    # Features of v in the order of its blocks; each block of h takes the next one.
    here, lower = (None, None) if features is None else features
    above = list(load_features(self, here, at))
    seen = [x]
    for block in self.h_in:
      x = block(x, above.pop(0), start, at, train)
      seen.append(x)
    if self.below:
      x = self._lower_pixels(self.h_down(x, at), lower, start, at, train)
      x = self.h_up(x, at)
    else:
      x = seen.pop()
    for block in self.h_out:
      skip = [above.pop(0), seen.pop()] if self.skips else [above.pop(0)]
      x = block(x, jnp.concatenate(skip, -1), start, at, train)
    return x

  def _lower_rows(self, x, start, at, train):
    """The level below; with a cache it runs in every second row, and its last row is stored."""
    # Row 2i of this level completes row i below; row 2i + 1 reads it again.
    if at is None:
      return self.lower.rows(x, start, None, train)

    def run(level, x):
      row = level.lower.rows(x, start, _half(at), train)[0]
      level.put_variable('cache', 'lower_row', row)
      return row

    return self._run_or_recall(run, 'lower_row', x, at.row % 2 == 0), None

  def _lower_pixels(self, x, features, start, at, train):
    """The level below; with a cache it runs at every second pixel of every second row."""
    if at is None:
      return self.lower.pixels(x, features, start, None, train)
    half = _half(at)

    def run(level, x):
      empty = jnp.zeros((x.shape[0], 1, half.width, self.features), x.dtype)
      row = level.get_variable('cache', 'lower_pixels', empty)
      pixel = level.lower.pixels(x, None, start, half, train)
      row = jax.lax.dynamic_update_slice(row, pixel, (0, 0, half.column, 0))
      level.put_variable('cache', 'lower_pixels', row)
      return row

    # Only such a pixel completes a pixel of the level below; the others read it from the cache.
    even = (at.row % 2 == 0) & (at.column % 2 == 0)
    row = self._run_or_recall(run, 'lower_pixels', x, even)
    return jax.lax.dynamic_slice_in_dim(row, half.column, 1, axis=2)

  def _run_or_recall(self, run, name, x, now):
    """run(self, x) if `now`, otherwise the result of its last run, stored under `name`."""
    # While the cache is being created, both branches of `cond` need its variables to exist.
    if not self.has_variable('cache', name):
      return run(self, x)
    return nn.cond(now, run, lambda level, x: level.get_variable('cache', name), self, x)


def _half(at: RasterPosition) -> RasterPosition:
  """The same place on the grid of half the size."""
  column = None if at.column is None else at.column // 2
  return RasterPosition(at.row // 2, column, at.width // 2)


class PixelCNNPlusPlus(RasterNetwork):
  """Salimans et al. 2017, section 2.3 to 2.5 and figure 2, for emissions that are pixels.

  The published CIFAR-10 network has 192 features (160 in the authors' code), 5 blocks, 3 levels
  and dropout 0.5. Pixels enter through the model's linear map, whose bias replaces a channel of
  ones; that map and the last one have no normalised weights.

  Attributes:
    length, grid: length and grid of the ordering, which has one emission per pixel.
    width: features.
    blocks: blocks of a level on the way in.
    levels: resolutions, each half of the one above.
    dropout: rate within the blocks.
    conditional: whether the start token, which carries the class, reaches every block; otherwise
      it reaches none.
    skips: whether blocks on the way out have skip inputs from those on the way in (section 2.5).
    weight_norm: whether kernels are split into direction and length (Salimans & Kingma 2016).
    init_examples: training examples that lengths and biases are fitted to before the first step:
      every convolution's outputs get mean 0 and deviation 1, or 0.1 in the last one of a block (the
      authors' code); 0: none.
    dtype: type of the products and of the residual stream.

  Raises:
    ConfigError: for a grid that `levels` do not divide, separate channels, or `init_examples`
      without `weight_norm`.
  """

  width: Annotated[int, AT_LEAST_ONE] = 160
  blocks: Annotated[int, AT_LEAST_ONE] = 5
  levels: Annotated[int, AT_LEAST_ONE] = 3
  dropout: Annotated[float, BELOW_ONE] = 0.5
  conditional: bool = True
  skips: bool = True
  weight_norm: bool = True
  init_examples: Annotated[int, AT_LEAST_ZERO] = 0
  dtype: str = 'float32'

  margin = 2

  def __post_init__(self):
    super().__post_init__()
    rows, columns = self.grid
    if rows % 2 ** (self.levels - 1) or columns % 2 ** (self.levels - 1):
      raise ConfigError(
        f'network.levels={self.levels} needs a grid whose sides are multiples of '
        f'{2 ** (self.levels - 1)}, got {rows} x {columns}; use fewer levels'
      )
    if self.groups > 1:
      raise ConfigError(
        "network 'pixelcnn_pp' needs one emission per pixel, got "
        f"{self.groups}: set ordering.channels='together'"
      )
    if self.init_examples and not self.weight_norm:
      raise ConfigError(
        f'network.init_examples={self.init_examples} fits the lengths of normalised weights: set '
        'network.weight_norm=True'
      )

  def setup(self):
    fitted = self.init_examples > 0
    norm = dict(weight_norm=self.weight_norm, fitted=fitted)
    conv = functools.partial(Conv, **norm, dtype=self.dtype)
    # The image itself: v sees the rows above; h also sees the pixels to the left.
    first = functools.partial(conv, self.width, first=True)
    self.first_v = first(rows=(2, 1), columns=(1, 1))
    self.first_above = first(rows=(1, 1), columns=(1, 1))
    self.first_left = first(rows=(1, 0), columns=(1, -1))
    self.top = Level(
      self.width,
      self.blocks,
      self.levels - 1,
      self.skips,
      conv,
      self.conditional,
      self.dropout,
    )

  def rows(
    self,
    image: Float[Array, 'batch rows columns channels'],
    start: Float[Array, 'batch width'],
    at: RasterPosition | None,
    train: bool,
  ) -> Any:
    """The features of the stream v, level by level."""
    return self.top.rows(self.first_v(image, at), start, at, train)[1]

  def pixels(
    self,
    image: Float[Array, 'batch rows columns channels'],
    features: Any,
    start: Float[Array, 'batch width'],
    at: RasterPosition | None,
    train: bool,
  ) -> Float[Array, 'batch out_rows out_columns channels']:
    # Two windows make up the L-shape of the past: rows above, and the same row to the left.
    x = self.first_above(image, at) + self.first_left(image, at)
    return nn.elu(self.top.pixels(x, features, start, at, train))
