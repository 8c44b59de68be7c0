"""Networks that see a sequence as an image, pixel by pixel in raster order.

A causal network gets the start token and then each emission one place late. `Raster` puts the
emissions back where they stand in the image, [batch, rows, columns, groups · width], with `groups`
emissions to a pixel (its channels, where the ordering has them apart), and reads hidden states
off the same places. What it runs is convolutions whose windows hold only what came before.

The same layers run in three ways, told by the argument `at`:

  whole image   at = None; in training and for likelihoods
  a row         Place(row, None): a layer of the vertical stream, which sees only rows above the
                pixel, makes a whole row at once, when the image above is complete
  a pixel       Place(row, column): a layer makes one pixel from those it has kept

With a cache each feature is so computed once per image, where a full pass per pixel would compute
all of them for each (Ramachandran et al. 2017). What layers keep is flax's collection 'cache'.
"""

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from autoregressive.networks.base import CausalNetwork
from common.config import ConfigError

CENTRES = {'': None, 'A': np.less, 'B': np.less_equal}


class Place(NamedTuple):
  """Where a layer is: a pixel, or with column None a row; of a grid so many columns wide."""

  row: Int[Array, '']
  column: Int[Array, ''] | None
  width: int


class State(NamedTuple):
  """The cache: emissions seen, the start token, the image so far, what each layer keeps."""

  index: Int[Array, '']
  start: Float[Array, 'batch width']
  image: Float[Array, 'batch rows columns channels']
  layers: Any


class Conv(nn.Module):
  """A convolution over a window of rows and columns about each pixel (r, c).

  Attributes:
    features: output channels.
    rows: the window's rows are r - rows[0] ... r - rows[1].
    columns: its columns are c - columns[0] ... c + columns[1].
    stride: 2 halves the grid.
    centre: 'A' or 'B' for the masks of van den Oord et al. 2016: nothing in row r right of c, and
      at c itself a group of outputs sees the groups of inputs before it (A), or its own too (B).
      '': no mask.
    groups: emissions to a pixel, which the features are divided among, one after the other.
    first: whether the input is the image: with a cache it has a margin, and nothing is kept.
    weight_norm: whether kernels are split into direction and length (Salimans & Kingma 2016).
    scale: of the outputs at the start.
    dtype: of the products; outputs are float32.
  """

  features: int
  rows: tuple[int, int] = (0, 0)
  columns: tuple[int, int] = (0, 0)
  stride: int = 1
  centre: str = ''
  groups: int = 1
  first: bool = False
  weight_norm: bool = False
  scale: float = 1.0
  dtype: str = 'float32'

  @property
  def size(self) -> tuple[int, int]:
    """Rows and columns of the window."""
    return self.rows[0] - self.rows[1] + 1, self.columns[0] + self.columns[1] + 1

  @nn.compact
  def __call__(
    self, x: Float[Array, 'batch rows columns channels'], at: Place | None
  ) -> Float[Array, 'batch out_rows out_columns features']:
    kernel = self._kernel(x.shape[-1]).astype(self.dtype)
    bias = self.param('bias', nn.initializers.zeros, (self.features,))
    x = x.astype(self.dtype)
    if at is None:
      made = self._slide(x, kernel, (self.rows[0], -self.rows[1]), self.stride)
    elif at.column is None:
      made = self._slide(self._row_window(x, at), kernel, (0, 0), 1)
    else:
      window = self._pixel_window(x, at)
      flat = window.reshape(x.shape[0], 1, 1, -1), kernel.reshape(-1, self.features)
      made = jnp.matmul(*flat, preferred_element_type=jnp.float32)
    return made + bias

  def _kernel(self, channels: int) -> Float[Array, 'rows columns channels features']:
    shape = (*self.size, channels, self.features)
    scale = 1.0 if self.weight_norm else self.scale**2
    init = nn.initializers.variance_scaling(scale, 'fan_in', 'truncated_normal')
    kernel = self.param('kernel', init, shape)
    if self.centre:
      kernel *= self._mask(channels)
    if self.weight_norm:
      length = self.param('length', nn.initializers.constant(self.scale), (self.features,))
      kernel *= length / jnp.sqrt(jnp.square(kernel).sum((0, 1, 2)) + 1e-12)
    return kernel

  def _mask(self, channels: int) -> np.ndarray:
    mask = np.ones((*self.size, channels, self.features), np.float32)
    mask[-1, self.columns[0] + 1 :] = 0
    before, after = (np.arange(n) * self.groups // n for n in (channels, self.features))
    mask[-1, self.columns[0]] = CENTRES[self.centre](before[:, None], after[None])
    return mask

  def _slide(self, x, kernel, rows, down):
    if self.size == (1, 1):
      return jnp.matmul(x, kernel[0, 0], preferred_element_type=jnp.float32)
    return jax.lax.conv_general_dilated(
      x,
      kernel,
      (down, self.stride),
      (rows, self.columns),
      dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
      preferred_element_type=jnp.float32,
    )

  def _row_window(self, x, at):
    """The rows of the window, of which the last is new."""
    if self.first:
      margin = (x.shape[2] - at.width) // 2
      window = jax.lax.dynamic_slice_in_dim(x, at.row + margin - self.rows[0], self.size[0], 1)
      return window[:, :, margin : margin + at.width]
    if not self.rows[0]:
      return x
    empty = jnp.zeros((x.shape[0], self.rows[0], *x.shape[2:]), x.dtype)
    window = jnp.concatenate([self.get_variable('cache', 'above', empty), x], 1)
    self.put_variable('cache', 'above', window[:, 1:])
    return window

  def _pixel_window(self, x, at):
    """The window about a pixel: of the image, or of what was kept with this pixel added.

    Row r is kept in slot r mod the number of rows. What its slot still holds right of the pixel
    is of an older row, and masked.
    """
    left, right = self.columns
    if self.first:
      margin = (x.shape[2] - at.width) // 2
      corner = (0, at.row + margin - self.rows[0], at.column + margin - left, 0)
      return jax.lax.dynamic_slice(x, corner, (x.shape[0], *self.size, x.shape[-1]))
    if self.size == (1, 1):
      return x
    slots = self.size[0]
    empty = jnp.zeros((x.shape[0], slots, left + at.width + right, x.shape[-1]), x.dtype)
    ring = self.get_variable('cache', 'ring', empty)
    ring = jax.lax.dynamic_update_slice(ring, x, (0, at.row % slots, at.column + left, 0))
    self.put_variable('cache', 'ring', ring)
    near = jax.lax.dynamic_slice_in_dim(ring, at.column, self.size[1], axis=2)
    return jnp.take(near, (at.row + 1 + jnp.arange(slots)) % slots, axis=1)


class Raster(CausalNetwork):
  """What networks over images share: the way from a sequence to an image and back.

  A subclass has the settings `width`, `length` and `grid`, and as flax methods
    rows(image, start, at, train) -> features of the vertical stream, if it has one
    pixels(image, features, start, at, train) -> hidden [batch, rows, columns, groups · width]
  where with a cache `rows` has run for the row before `pixels` runs, and leaves the features with
  `keep`, to be read by `recall`.

  Raises:
    ConfigError: for an ordering that is not of images.
  """

  length: int
  grid: tuple[int, int] | None
  sequential = True
  margin = 1  # about the image: as far as the windows of the first layers reach

  def __post_init__(self):
    super().__post_init__()
    if self.grid is None:
      raise ConfigError(f'network {type(self).__name__} needs an ordering of images')

  @property
  def groups(self) -> int:
    """Emissions to a pixel."""
    return self.length // (self.grid[0] * self.grid[1])

  def init_cache(self, batch: int, length: int) -> State:
    """An empty cache; always of room for an image."""
    del length
    (rows, columns), m = self.grid, self.margin
    start = jnp.zeros((batch, self.width))
    image = jnp.zeros((batch, rows + m, columns + 2 * m, self.groups * self.width))
    index = jnp.zeros((), jnp.int32)
    module = self.clone(parent=None)
    kept = jax.eval_shape(
      lambda key: module.init(key, image, start, self._place(index), method='touch'),
      jax.random.key(0),
    ).get('cache', {})
    layers = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), kept)
    return State(index, start, image, layers)

  def touch(self, image, start, at):
    """A row and a pixel of it, so that all that is kept comes to be."""
    self.rows(image, start, at._replace(column=None), False)
    self.pixels(image, None, start, at, False)

  def _place(self, index: Int[Array, '']) -> Place:
    """The pixel that an emission belongs to."""
    columns = self.grid[1]
    pixel = index // self.groups
    return Place(pixel // columns, pixel % columns, columns)

  def __call__(
    self,
    h: Float[Array, 'batch length width'],
    cache: State | None = None,
    train: bool = False,
    segments: Int[Array, 'batch length'] | None = None,
  ) -> tuple[Float[Array, 'batch length width'], State | None]:
    """Runs the network on the start token and a beginning of the image, or on the next part.

    Args:
      h: the start token, then embedded emissions: all but the last for a whole image.
      cache: what came before, from `init_cache` or an earlier call; None: nothing did.
      train: whether to drop; needs the random stream 'dropout'.
      segments: must be None: images are not packed.

    Returns:
      Hidden states in float32, and the cache with this part added (None without).
    """
    if segments is not None:
      raise ValueError('segments: images are not packed into one sequence')
    if cache is not None:
      return self._extend(h, cache)
    batch, length, width = h.shape
    late = jnp.pad(h[:, 1:], ((0, 0), (0, self.length - length + 1), (0, 0)))
    image = late.reshape(batch, *self.grid, self.groups * width)
    features = self.rows(image, h[:, 0], None, train)
    hidden = self.pixels(image, features, h[:, 0], None, train)
    return hidden.reshape(batch, self.length, width)[:, :length], None

  def _extend(self, h, cache):
    """The next part, one emission after the other."""
    module, params = self.clone(parent=None), self.variables.get('params', {})

    def run(layers, method, *args):
      variables = {'params': params, 'cache': layers}
      return module.apply(variables, *args, False, method=method, mutable=['cache'])

    def step(cache, x):
      index, m = cache.index, self.margin
      at, last = self._place(index), self._place(jnp.maximum(index - 1, 0))
      start = jnp.where(index == 0, x, cache.start)
      corner = (0, last.row + m, last.column + m, (index - 1) % self.groups * self.width)
      late = jnp.where(index == 0, 0, x)[:, None, None]
      image = jax.lax.dynamic_update_slice(cache.image, late, corner)
      layers = jax.lax.cond(
        index % (self.groups * at.width) == 0,
        lambda layers: run(layers, 'rows', image, start, at._replace(column=None))[1]['cache'],
        lambda layers: layers,
        cache.layers,
      )
      hidden, kept = run(layers, 'pixels', image, None, start, at)
      hidden = hidden.reshape(-1, self.groups, self.width)
      hidden = jax.lax.dynamic_index_in_dim(hidden, index % self.groups, 1, keepdims=False)
      return State(index + 1, start, image, kept['cache']), hidden

    if h.shape[1] == 1:
      cache, hidden = step(cache, h[:, 0])
      return hidden[:, None], cache
    cache, hidden = jax.lax.scan(step, cache, h.swapaxes(0, 1))
    return hidden.swapaxes(0, 1), cache


def keep(module: nn.Module, features: Any, at: Place | None) -> Any:
  """Features of the vertical stream, kept for the pixels of the row where there is a cache."""
  if at is not None:
    module.put_variable('cache', 'features', features)
  return features


def recall(module: nn.Module, features: Any, at: Place | None) -> Any:
  """The same where they are needed: of the whole image, or those kept at one pixel."""
  if at is None:
    return features
  kept = module.get_variable('cache', 'features')
  return jax.tree.map(lambda x: jax.lax.dynamic_slice_in_dim(x, at.column, 1, axis=2), kept)
