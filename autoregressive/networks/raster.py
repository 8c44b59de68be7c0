"""Networks that see a sequence as an image, pixel by pixel in raster order.

A causal network gets the start token and then each emission one position late. `RasterNetwork` puts
the emissions back at their pixels in the image, [batch, rows, columns, groups · width], with
`groups` emissions per pixel (its channels, if the ordering separates them), and reads the hidden
states from the same pixels. Its layers are convolutions whose windows hold only earlier pixels.

The same layers run in three ways, selected by the argument `at`:

  whole image   at = None; in training and for likelihoods
  a row         RasterPosition(row, None): a layer of the vertical stream, which sees only rows
                above the pixel, computes a whole row at once when the rows above are complete
  a pixel       RasterPosition(row, column): a layer computes one pixel from those in its cache

So with a cache each feature is computed once per image, instead of once for each pixel that is
sampled (Ramachandran et al. 2017). Layers keep their features in flax's collection 'cache'.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from autoregressive.networks.base import CausalNetwork
from common.config import ConfigError

# Which groups of inputs a group of outputs sees at the centre, by mask.
CENTRES = {'': None, 'A': np.less, 'B': np.less_equal}


class RasterPosition(NamedTuple):
  """The pixel that a layer computes; column None: its whole row, of `width` columns."""

  row: Int[Array, '']
  column: Int[Array, ''] | None
  width: int


class RasterCache(NamedTuple):
  """The cache: emissions seen, the start token, the image so far, each layer's features."""

  index: Int[Array, '']
  start: Float[Array, 'batch width']
  image: Float[Array, 'batch rows columns channels']
  layers: Any


def normalised(
  module: nn.Module,
  kernel: Float[Array, 'rows columns channels features'],
  features: int,
  convolve: Callable[[Array], Array] | None = None,
  scale: float = 1.0,
) -> tuple[Float[Array, 'rows columns channels features'], Float[Array, 'features']]:
  """A kernel of `module` with its own length, and its bias (Salimans & Kingma 2016, equation 2).

  The parameters are called 'length' and 'bias', one number for each output channel.

  Args:
    module: the layer.
    kernel: the direction, of any length.
    features: output channels.
    convolve: the layer's outputs by a kernel. They initialise the parameters: their mean becomes 0,
      and their deviation `scale` (equation 5). None: without data, the length begins as `scale` and
      the bias as 0.
    scale: initial deviation of the outputs, or initial length.
  """
  norm = jnp.sqrt(jnp.square(kernel).sum((0, 1, 2)) + 1e-12)
  first_length, first_bias = jnp.asarray(scale), jnp.zeros(())
  if convolve is not None and module.is_initializing():
    outputs = convolve(kernel / norm).astype(jnp.float32).reshape(-1, features)
    first_length = scale / jnp.sqrt(outputs.var(0) + 1e-8)
    first_bias = -outputs.mean(0) * first_length
  length = module.param('length', nn.initializers.constant(first_length), (features,))
  bias = module.param('bias', nn.initializers.constant(first_bias), (features,))
  return kernel * (length / norm), bias


class Conv(nn.Module):
  """A convolution over a window of rows and columns around each pixel (r, c).

  Attributes:
    features: output channels.
    rows: the window's rows are r - rows[0] ... r - rows[1].
    columns: its columns are c - columns[0] ... c + columns[1].
    stride: 2 halves the grid.
    centre: 'A' or 'B' for the masks of van den Oord et al. 2016: nothing in row r right of c, and
      at c itself a group of outputs sees the groups of inputs before it (A), or also its own (B).
      '': no mask.
    groups: emissions per pixel; each takes an equal share of the features, in order.
    first: whether the input is the image itself, which the cache already holds, with a margin.
    weight_norm: whether kernels are split into direction and length (Salimans & Kingma 2016).
    fitted: whether lengths and biases begin so that the outputs of the examples that initialise the
      network have mean 0 and deviation `scale`; needs `weight_norm`.
    scale: initial standard deviation of the outputs.
    dtype: type of the products and of the outputs.
  """

  features: int
  rows: tuple[int, int] = (0, 0)
  columns: tuple[int, int] = (0, 0)
  stride: int = 1
  centre: str = ''
  groups: int = 1
  first: bool = False
  weight_norm: bool = False
  fitted: bool = False
  scale: float = 1.0
  dtype: str = 'float32'

  @property
  def size(self) -> tuple[int, int]:
    """Rows and columns of the window."""
    return self.rows[0] - self.rows[1] + 1, self.columns[0] + self.columns[1] + 1

  @nn.compact
  def __call__(
    self, x: Float[Array, 'batch rows columns channels'], at: RasterPosition | None
  ) -> Float[Array, 'batch out_rows out_columns features']:
    kernel = self._kernel(x.shape[-1])
    x = x.astype(self.dtype)
    if self.weight_norm:
      convolve = functools.partial(self._whole, x) if at is None and self.fitted else None
      kernel, bias = normalised(self, kernel, self.features, convolve, self.scale)
    else:
      bias = self.param('bias', nn.initializers.zeros, (self.features,))
    kernel = kernel.astype(self.dtype)
    if at is None:
      made = self._whole(x, kernel)
    elif at.column is None:
      made = self._slide(self._row_window(x, at), kernel, (0, 0), 1)
    else:
      window = self._pixel_window(x, at)
      flat = window.reshape(x.shape[0], 1, 1, -1), kernel.reshape(-1, self.features)
      made = jnp.matmul(*flat)
    return made + bias.astype(self.dtype)

  def _kernel(self, channels: int) -> Float[Array, 'rows columns channels features']:
    shape = (*self.size, channels, self.features)
    # variance_scaling takes a variance; with weight norm the length carries the scale.
    scale = 1.0 if self.weight_norm else self.scale**2
    init = nn.initializers.variance_scaling(scale, 'fan_in', 'truncated_normal')
    kernel = self.param('kernel', init, shape)
    # The mask comes before the norm, so that masked weights do not count in the length.
    if self.centre:
      kernel *= self._mask(channels)
    return kernel

  def _mask(self, channels: int) -> np.ndarray:
    mask = np.ones((*self.size, channels, self.features), np.float32)
    # The window's last row is the pixel's own: everything right of the pixel comes later.
    mask[-1, self.columns[0] + 1 :] = 0
    # Within the pixel, a channel's group is its emission: index · groups / channels.
    inputs, outputs = (np.arange(n) * self.groups // n for n in (channels, self.features))
    mask[-1, self.columns[0]] = CENTRES[self.centre](inputs[:, None], outputs[None])
    return mask

  def _whole(self, x, kernel):
    """The convolution of a whole image."""
    kernel = kernel.astype(self.dtype)
    return self._slide(x, kernel, (self.rows[0], -self.rows[1]), self.stride)

  def _slide(self, x, kernel, rows, row_stride):
    """The convolution at every pixel, with `rows` of padding above and below."""
    if self.size == (1, 1):  # a matrix product, faster than a convolution
      return jnp.matmul(x, kernel[0, 0])
    return jax.lax.conv_general_dilated(
      x,
      kernel,
      (row_stride, self.stride),
      (rows, self.columns),
      dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
    )

  def _row_window(self, x, at):
    """The rows of the window, the last of which is new."""
    if self.first:
      margin = (x.shape[2] - at.width) // 2
      window = jax.lax.dynamic_slice_in_dim(x, at.row + margin - self.rows[0], self.size[0], 1)
      return window[:, :, margin : margin + at.width]
    if not self.rows[0]:
      return x
    # Rows before the first are zeros, like the padding of the whole image.
    empty = jnp.zeros((x.shape[0], self.rows[0], *x.shape[2:]), x.dtype)
    window = jnp.concatenate([self.get_variable('cache', 'above', empty), x], 1)
    self.put_variable('cache', 'above', window[:, 1:])
    return window

  def _pixel_window(self, x, at):
    """The window around a pixel: of the image, or of the stored features with this pixel added.

    Row r is stored in slot r mod the number of rows. Right of the pixel its slot still holds an
    older row, which the mask hides.
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
    # Slots in the order of their rows: the slot after this row's holds the oldest row.
    return jnp.take(near, (at.row + 1 + jnp.arange(slots)) % slots, axis=1)


class RasterNetwork(CausalNetwork):
  """Base of networks over images: from a sequence to an image and back.

  A subclass has the fields `width`, `length`, `grid` and `dtype`, and as flax methods
    rows(image, start, at, train) -> features of the vertical stream, if it has one
    pixels(image, features, start, at, train) -> hidden [batch, rows, columns, groups · width]
  With a cache, `rows` runs for a row before `pixels` does, and passes its features on through
  `store_features` and `load_features`.

  Raises:
    ConfigError: for an ordering without a grid, whose data are not images.
  """

  length: int
  grid: tuple[int, int] | None
  sequential = True
  margin = 1  # pixels of zeros around the image: how far the windows of the first layers reach

  def __post_init__(self):
    super().__post_init__()
    if self.grid is None:
      raise ConfigError(
        f"network {type(self).__name__} needs an ordering of images, such as 'patches'; "
        'this ordering has no grid'
      )

  @property
  def groups(self) -> int:
    """Emissions per pixel."""
    return self.length // (self.grid[0] * self.grid[1])

  def init_cache(self, batch: int, length: int) -> RasterCache:
    """An empty cache; it always has room for a whole image."""
    del length
    (rows, columns), m = self.grid, self.margin
    start = jnp.zeros((batch, self.width), self.dtype)
    # With the margin no window reaches beyond the array.
    image = jnp.zeros((batch, rows + m, columns + 2 * m, self.groups * self.width), self.dtype)
    index = jnp.zeros((), jnp.int32)
    module = self.clone(parent=None)
    # Shapes of the caches come from tracing one row and one pixel; nothing is computed.
    kept = jax.eval_shape(
      lambda key: module.init(key, image, start, self._position(index), method='create_cache'),
      jax.random.key(0),
    ).get('cache', {})
    layers = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), kept)
    return RasterCache(index, start, image, layers)

  def create_cache(self, image, start, at):
    """Runs one row and one pixel to create the cache variables."""
    self.rows(image, start, at._replace(column=None), False)
    self.pixels(image, None, start, at, False)

  def _position(self, index: Int[Array, '']) -> RasterPosition:
    """The pixel that an emission belongs to."""
    columns = self.grid[1]
    # The `groups` emissions of a pixel follow one another.
    pixel = index // self.groups
    return RasterPosition(pixel // columns, pixel % columns, columns)

  def __call__(
    self,
    h: Float[Array, 'batch length width'],
    cache: RasterCache | None = None,
    train: bool = False,
    segments: Int[Array, 'batch length'] | None = None,
  ) -> tuple[Float[Array, 'batch length width'], RasterCache | None]:
    """Runs the network on the start token and a beginning of the image, or on the next part.

    Args:
      h: the start token, then embedded emissions: all but the last for a whole image.
      cache: state after the previous parts, from `init_cache` or an earlier call; None: h is a
        whole sequence.
      train: whether dropout is on; it needs the random stream 'dropout'.
      segments: must be None: images are not packed.

    Returns:
      Hidden states, and the cache with this part added (None without).
    """
    if segments is not None:
      raise ValueError('images are not packed into one sequence: segments must be None')
    h = h.astype(self.dtype)
    if cache is not None:
      return self._extend(h, cache)
    batch, length, width = h.shape
    # Inputs are one position late: h[:, 1:] are the emissions of pixels 0, 1, ... The rest of the
    # image, and its last emission, are zeros that no window of an earlier pixel reaches.
    emissions = jnp.pad(h[:, 1:], ((0, 0), (0, self.length - length + 1), (0, 0)))
    image = emissions.reshape(batch, *self.grid, self.groups * width)
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
      # x is emission index - 1: this step writes it into the image, then computes emission `index`.
      at, last = self._position(index), self._position(jnp.maximum(index - 1, 0))
      start = jnp.where(index == 0, x, cache.start)
      corner = (0, last.row + m, last.column + m, (index - 1) % self.groups * self.width)
      emission = jnp.where(index == 0, 0, x)[:, None, None]
      image = jax.lax.dynamic_update_slice(cache.image, emission, corner)
      # At the first emission of a row the rows above are complete, so the vertical stream can run.
      layers = jax.lax.cond(
        index % (self.groups * at.width) == 0,
        lambda layers: run(layers, 'rows', image, start, at._replace(column=None))[1]['cache'],
        lambda layers: layers,
        cache.layers,
      )
      # The horizontal stream runs for every emission: its pixel now holds one emission more.
      hidden, kept = run(layers, 'pixels', image, None, start, at)
      # The layers computed all emissions of the pixel: select that of this step.
      hidden = hidden.reshape(-1, self.groups, self.width)
      hidden = jax.lax.dynamic_index_in_dim(hidden, index % self.groups, 1, keepdims=False)
      return RasterCache(index + 1, start, image, kept['cache']), hidden

    if h.shape[1] == 1:
      cache, hidden = step(cache, h[:, 0])
      return hidden[:, None], cache
    cache, hidden = jax.lax.scan(step, cache, h.swapaxes(0, 1))
    return hidden.swapaxes(0, 1), cache


def store_features(module: nn.Module, features: Any, at: RasterPosition | None) -> Any:
  """Features of the vertical stream; with a cache, stored for the pixels of the row."""
  if at is not None:
    module.put_variable('cache', 'features', features)
  return features


def load_features(module: nn.Module, features: Any, at: RasterPosition | None) -> Any:
  """Features of the vertical stream: of the whole image, or the stored ones of one pixel."""
  if at is None:
    return features
  stored = module.get_variable('cache', 'features')
  return jax.tree.map(lambda x: jax.lax.dynamic_slice_in_dim(x, at.column, 1, axis=2), stored)
