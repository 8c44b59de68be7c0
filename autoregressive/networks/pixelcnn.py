"""PixelCNN (van den Oord et al. 2016a) and the gated PixelCNN (van den Oord et al. 2016b).

If the ordering separates channels, the features of a pixel are divided among its channels: green
sees red, blue sees both. The start token carries the class.
"""

import functools
from typing import Annotated, Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from autoregressive.networks.raster import (
  Conv,
  RasterNetwork,
  RasterPosition,
  load_features,
  store_features,
)
from common.config import ConfigError
from common.ranges import AT_LEAST_ONE, Interval


def _check_kernels(**kernels: int) -> None:
  for name, kernel in kernels.items():
    if kernel % 2 == 0:
      raise ConfigError(f'network.{name} must be odd, got {kernel}')


class PixelCNN(RasterNetwork):
  """One stream of masked convolutions, with a blind spot above and to the right of a pixel.

  Van den Oord et al. 2016a, table 1 and figure 5: a first convolution with mask A, then residual
  blocks of 1 × 1, kernel × kernel and 1 × 1 with mask B, then 1 × 1 convolutions, the last of
  which is the model's projection. The start token is added to the first features.

  Attributes:
    length, grid: length and grid of the ordering.
    width: features of an emission, an even number; the blocks use half of them inside.
    layers: residual blocks.
    kernel, first_kernel: sides of the windows, odd.
    dtype: type of the products and of the residual stream.

  Raises:
    ConfigError: for an odd width or an even kernel.
  """

  width: Annotated[int, AT_LEAST_ONE] = 64
  layers: Annotated[int, AT_LEAST_ONE] = 7
  kernel: Annotated[int, Interval(3)] = 3
  first_kernel: Annotated[int, Interval(3)] = 7
  dtype: str = 'float32'

  def __post_init__(self):
    super().__post_init__()
    _check_kernels(kernel=self.kernel, first_kernel=self.first_kernel)
    if self.width % 2:
      raise ConfigError(f'network.width must be even, got {self.width}')

  @property
  def margin(self) -> int:
    return self.first_kernel // 2

  def setup(self):
    features, groups = self.groups * self.width, self.groups
    conv = functools.partial(Conv, groups=groups, dtype=self.dtype)

    def square(features, kernel, **more):
      near = kernel // 2
      return conv(features, rows=(near, 0), columns=(near, near), **more)

    # Mask A in the first layer excludes the pixel itself; then mask B may include its features.
    self.first_conv = square(features, self.first_kernel, centre='A', first=True)
    self.start_proj = nn.Dense(features, use_bias=False, dtype=self.dtype)
    # Figure 5 (left): 2h features to h, masked convolution, h to 2h.
    self.reduce = [conv(features // 2, centre='B') for _ in range(self.layers)]
    self.mix = [square(features // 2, self.kernel, centre='B') for _ in range(self.layers)]
    self.expand = [conv(features, centre='B') for _ in range(self.layers)]
    self.output_conv = conv(features, centre='B')

  def rows(self, image, start, at: RasterPosition | None, train: bool) -> None:
    """This network has no vertical stream."""

  def pixels(
    self,
    image: Float[Array, 'batch rows columns channels'],
    features: None,
    start: Float[Array, 'batch width'],
    at: RasterPosition | None,
    train: bool,
  ) -> Float[Array, 'batch out_rows out_columns channels']:
    x = self.first_conv(image, at) + self.start_proj(start)[:, None, None]
    for reduce, mix, expand in zip(self.reduce, self.mix, self.expand, strict=True):
      x += expand(nn.relu(mix(nn.relu(reduce(nn.relu(x), at)), at)), at)
    return nn.relu(self.output_conv(nn.relu(x), at))


class GatedPixelCNN(RasterNetwork):
  """A vertical stream over all rows above and a horizontal one along the row: no blind spot.

  Van den Oord et al. 2016b, figure 2: both are gated by tanh(·)·σ(·), the vertical stream feeds
  the horizontal one through 1 × 1 convolutions, and the start token shifts both in every layer
  (equation 4).

  Attributes:
    length, grid: length and grid of the ordering.
    width: features of an emission.
    layers: gated layers.
    kernel, first_kernel: sides of the windows, odd.
    dtype: type of the products and of the residual stream.

  Raises:
    ConfigError: for an even kernel.
  """

  width: Annotated[int, AT_LEAST_ONE] = 64
  layers: Annotated[int, AT_LEAST_ONE] = 8
  kernel: Annotated[int, Interval(3)] = 3
  first_kernel: Annotated[int, Interval(3)] = 7
  dtype: str = 'float32'

  def __post_init__(self):
    super().__post_init__()
    _check_kernels(kernel=self.kernel, first_kernel=self.first_kernel)

  @property
  def margin(self) -> int:
    return self.first_kernel // 2

  def setup(self):
    features = self.groups * self.width
    conv = functools.partial(Conv, groups=self.groups, dtype=self.dtype)
    vertical, horizontal = [], []
    for i in range(self.layers):
      near = (self.kernel if i else self.first_kernel) // 2
      # The first layer sees the image, so it must stop at the row above. Later ones see features
      # that have stopped there already, and may take in their own row.
      above = (near, 0) if i else (near, 1)
      vertical.append(conv(2 * features, rows=above, columns=(near, near), first=i == 0))
      horizontal.append(
        conv(2 * features, columns=(near, 0), centre='B' if i else 'A', first=i == 0)
      )
    self.vertical, self.horizontal = vertical, horizontal
    # One way only: the vertical stream must not see pixels to the left (section 2.2).
    self.vertical_to_horizontal = [conv(2 * features) for _ in range(self.layers)]
    self.mix = [conv(features, centre='B') for _ in range(self.layers)]
    # Equation 4: a linear map of the start token, the same at every pixel, before the gates.
    shift = functools.partial(nn.Dense, 2 * features, use_bias=False, dtype=self.dtype)
    self.vertical_start_proj = [shift() for _ in range(self.layers)]
    self.horizontal_start_proj = [shift() for _ in range(self.layers)]
    self.output_conv = conv(features, centre='B')

  def rows(
    self,
    image: Float[Array, 'batch rows columns channels'],
    start: Float[Array, 'batch width'],
    at: RasterPosition | None,
    train: bool,
  ) -> Any:
    """The vertical stream of every layer, before its gate, as the horizontal one takes it."""
    # Vertical features of a pixel do not depend on its row, so a whole row is computed at once.
    x, made = image, []
    for convolve, shift in zip(self.vertical, self.vertical_start_proj, strict=True):
      made.append(convolve(x, at) + shift(start)[:, None, None])
      x = self._gate(made[-1])
    return store_features(self, tuple(made), at)

  def pixels(
    self,
    image: Float[Array, 'batch rows columns channels'],
    features: Any,
    start: Float[Array, 'batch width'],
    at: RasterPosition | None,
    train: bool,
  ) -> Float[Array, 'batch out_rows out_columns channels']:
    x = image
    for i, above in enumerate(load_features(self, features, at)):
      mixed = self.horizontal[i](x, at) + self.vertical_to_horizontal[i](above, at)
      mixed = self._gate(mixed + self.horizontal_start_proj[i](start)[:, None, None])
      made = self.mix[i](mixed, at)
      x = x + made if i else made  # the first layer has no residual: its input is the image
    return nn.relu(self.output_conv(nn.relu(x), at))

  def _gate(self, x: Array) -> Array:
    """Equation 2: tanh of half of each emission's features times the sigmoid of the other."""
    # Halves within each emission's features, so that a gate never mixes groups.
    pairs = x.reshape(*x.shape[:-1], self.groups, 2, self.width)
    gated = jnp.tanh(pairs[..., 0, :]) * nn.sigmoid(pairs[..., 1, :])
    return gated.reshape(*x.shape[:-1], self.groups * self.width)
