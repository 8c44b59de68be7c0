"""Orderings of images."""

import dataclasses
from typing import Annotated, ClassVar

import jax.numpy as jnp
from jaxtyping import Array, Int, Integer

from autoregressive.orderings.base import Covariates, Ordering
from common.config import ConfigError
from common.data.spec import DataSpec, token_dtype
from common.ranges import AT_LEAST_ONE, OneOf


@dataclasses.dataclass(frozen=True)
class Patches(Ordering):
  """Patches of size x size pixels, row by row; a size of 1 is the raster order of pixels.

  Attributes:
    spec: the images' DataSpec.
    size: side of a patch in pixels; divides height and width.
    channels: 'together': an emission holds all channels of a patch, independent given the past;
      'apart': each channel of a patch is its own emission, in the order of the channels.

  Raises:
    ConfigError: if the size does not divide the image, or its values are not whole numbers.
  """

  spec: DataSpec
  size: Annotated[int, AT_LEAST_ONE] = 1
  channels: Annotated[str, OneOf('together', 'apart')] = 'together'

  domains: ClassVar[tuple[str, ...]] = ('image',)

  def __post_init__(self):
    if not self.spec.levels:
      raise ConfigError(
        f"ordering 'patches' needs pixels that are whole numbers, and {self.spec.name!r} holds real"
        " numbers: use family 'diffusion'"
      )
    height, width, _ = self.spec.shape
    if height % self.size or width % self.size:
      raise ConfigError(
        f'ordering.size={self.size} does not divide images of {height} x {width}; choose a common '
        'divisor'
      )

  @property
  def grid(self) -> tuple[int, int]:
    """Rows and columns of patches."""
    return self.spec.shape[0] // self.size, self.spec.shape[1] // self.size

  @property
  def length(self) -> int:
    """Emissions in one image."""
    rows, columns = self.grid
    # K x K patches: K² times fewer emissions; channels apart: one emission for each.
    return rows * columns * (self.spec.shape[2] if self.channels == 'apart' else 1)

  @property
  def values(self) -> int:
    """Values in one emission."""
    # All values of an example are in exactly one emission.
    return self.spec.num_dims // self.length

  @property
  def vocabulary(self) -> int:
    """Number of levels of a channel."""
    return self.spec.levels

  def encode(
    self, x: Integer[Array, 'batch height width channels'], covariates: Covariates | None = None
  ) -> Int[Array, 'batch length values']:
    """Images to emissions."""
    del covariates
    rows, columns = self.grid
    # Height is (row, y) and width (column, x).
    x = x.reshape(-1, rows, self.size, columns, self.size, self.spec.shape[2])
    # From (batch, row, y, column, x, channel): patches first, then what an emission holds.
    order = (0, 1, 3, 5, 2, 4) if self.channels == 'apart' else (0, 1, 3, 2, 4, 5)
    return x.transpose(order).reshape(-1, self.length, self.values).astype(jnp.int32)

  def decode(
    self, emissions: Int[Array, 'batch length values'], covariates: Covariates | None = None
  ) -> Integer[Array, 'batch height width channels']:
    """Emissions to images: the inverse of `encode`."""
    del covariates
    rows, columns = self.grid
    size, depth = self.size, self.spec.shape[2]
    # Back to (batch, row, y, column, x, channel).
    if self.channels == 'apart':
      x = emissions.reshape(-1, rows, columns, depth, size, size).transpose(0, 1, 4, 2, 5, 3)
    else:
      x = emissions.reshape(-1, rows, columns, size, size, depth).transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(-1, *self.spec.shape).astype(token_dtype(self.spec.levels))
