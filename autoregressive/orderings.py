"""Orderings: data as a sequence of emissions, and back.

The model of this family is p(x) = ∏ p(e_i | e_<i). Only the ordering decides what an emission is
and in which order emissions come: it turns data into arrays [batch, length, values] and back,
exactly. The values within one emission are independent given the past, so K x K patches take K²
times fewer steps than pixels, at the cost of likelihood.
"""

import dataclasses
from collections.abc import Mapping
from typing import Annotated, ClassVar, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Integer, Num

from common.config import ConfigError, component
from common.data.spec import DataSpec, token_dtype
from common.ranges import AT_LEAST_ONE, OneOf


class Covariates(NamedTuple):
  """Data about sequences of numbers that is known before their values are predicted.

  Attributes:
    features: covariates of each emission.
    location: the number that is subtracted from the values of each sequence.
    scale: the scale ν of each sequence (autoregressive/heads/numbers.py).
  """

  features: Float[Array, 'batch length features']
  location: Float[Array, 'batch']
  scale: Float[Array, 'batch']


class Ordering:
  """The interface of orderings. A subclass is a frozen dataclass; the defaults here are neutral.

  Attributes:
    spec: the description of the data.
    length: number of emissions in one example.
    values: number of values in one emission.
    vocabulary: a value is an integer in [0, vocabulary); 0: values are numbers.
    domain: the kind of data that the ordering is for, as in `DataSpec.domain`.
    open_ended: whether a sequence may be shorter or longer than `length`.
    period: emissions in one token or frame. Users count lengths in tokens or frames, and must give
      at least one of them if the model has no start.
    grid: rows and columns of images; None for other data.
    features: number of covariates of each emission.
    given: number of first emissions that evaluation takes as given; the likelihood covers only the
      emissions after them.
    counts: whether all values are whole numbers from 0.
    needs_past: whether a sample needs covariates and a given beginning.
  """

  spec: DataSpec
  length: int
  values: int
  vocabulary: int

  domain: ClassVar[str]
  open_ended: ClassVar[bool] = False
  period: ClassVar[int] = 1
  grid: ClassVar[tuple[int, int] | None] = None
  features: ClassVar[int] = 0
  given: ClassVar[int] = 0
  counts: ClassVar[bool] = False
  needs_past: ClassVar[bool] = False

  def encode(
    self, x: Num[Array, 'batch *shape'], covariates: Covariates | None = None
  ) -> Num[Array, 'batch length values']:
    """Data, with the covariates of its sequences if there are any, to emissions."""
    raise NotImplementedError

  def decode(
    self, emissions: Num[Array, 'batch length values'], covariates: Covariates | None = None
  ) -> Num[Array, 'batch *shape']:
    """Emissions, with their covariates if there are any, to data: the inverse of `encode`."""
    raise NotImplementedError

  def covariates(
    self, x: Num[Array, 'batch *shape'], lengths: Int[Array, 'batch'] | None = None
  ) -> Covariates | None:
    """The covariates of data whose first `lengths` emissions are given; None if it has none."""
    del x, lengths
    return None

  def log_units(self, label: Int[Array, 'batch']) -> Float[Array, 'batch']:
    """ln of the unit in which examples of a class are stored, in the unit of the raw data.

    A density of a stored value, divided by this unit, is a density of the raw value.
    """
    return jnp.zeros(label.shape, jnp.float32)


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

  domain: ClassVar[str] = 'image'

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


@dataclasses.dataclass(frozen=True)
class Tokens(Ordering):
  """Tokens of a text (word pieces, characters or bytes), one after the other.

  Attributes:
    spec: DataSpec of domain 'text', with shape (context,) and one level per token.
  """

  spec: DataSpec

  domain: ClassVar[str] = 'text'
  values: ClassVar[int] = 1
  open_ended: ClassVar[bool] = True

  @property
  def length(self) -> int:
    """Tokens in one example."""
    return self.spec.shape[0]

  @property
  def vocabulary(self) -> int:
    """Number of different tokens."""
    return self.spec.levels

  def encode(
    self, x: Integer[Array, 'batch length'], covariates: Covariates | None = None
  ) -> Int[Array, 'batch length 1']:
    """Texts to emissions."""
    del covariates
    return x[..., None].astype(jnp.int32)

  def decode(
    self, emissions: Int[Array, 'batch length 1'], covariates: Covariates | None = None
  ) -> Int[Array, 'batch length']:
    """Emissions to texts: the inverse of `encode`."""
    del covariates
    return emissions[..., 0]


@dataclasses.dataclass(frozen=True)
class Windows(Ordering):
  """Windows of time series: the values are emissions, the other columns are covariates.

  A window has a location m, which is subtracted from its values, and a scale ν. Both depend only on
  the n given values z, so they reveal nothing about the values to be forecast:

    m = mean z and ν = (1 + Σ |z - m|) / (1 + n).

  The 1s count as one more value, at a distance of the unit in which the series is stored
  (common/data/builders/series.py), so that a constant context has a scale too. Forecasts of
  a·series + b are therefore a·forecasts + b.

  For a head over counts, m = 0 and ν = 1 + mean z (Salinas et al. 2020, section 3.3): emissions
  must remain whole numbers from 0, and a count has no other unit.

  Attributes:
    spec: DataSpec of domain 'series', with shape (context + horizon, 1 + covariates).
    centred: whether m is the mean; False for a head over counts.
  """

  spec: DataSpec
  centred: bool = True

  domain: ClassVar[str] = 'series'
  values: ClassVar[int] = 1
  vocabulary: ClassVar[int] = 0
  needs_past: ClassVar[bool] = True

  @property
  def length(self) -> int:
    """Steps in one window."""
    return self.spec.shape[0]

  @property
  def given(self) -> int:
    """Steps before the forecast: the context."""
    # The horizon is the end of a window.
    return self.length - self.spec.series.horizon

  @property
  def counts(self) -> bool:
    """Whether all values are whole numbers from 0."""
    return self.spec.series.counts

  @property
  def features(self) -> int:
    """Number of covariates of a step."""
    return self.spec.shape[1] - 1

  def encode(
    self, x: Num[Array, 'batch length columns'], covariates: Covariates | None = None
  ) -> Float[Array, 'batch length 1']:
    """Windows to emissions: values minus the location of their window."""
    values = x[..., :1].astype(jnp.float32)
    return values if covariates is None else values - covariates.location[:, None, None]

  def covariates(
    self, x: Float[Array, 'batch length columns'], lengths: Int[Array, 'batch'] | None = None
  ) -> Covariates:
    """Covariates of windows with `lengths` given values; None: the whole context."""
    count = self.given if lengths is None else jnp.minimum(lengths, self.given)[:, None]
    seen = jnp.arange(self.given) < count
    # `where` also keeps out NaNs beyond the n given values.
    value, n = jnp.where(seen, x[:, : self.given, 0], 0), seen.sum(-1)
    if not self.centred:
      location, scale = jnp.zeros(len(x)), 1 + value.sum(1) / jnp.maximum(n, 1)
      return Covariates(x[..., 1:], location, scale)
    # As a mean of differences, which float32 keeps exactly for values that are close to each other.
    first = value[:, 0]
    differences = jnp.where(seen, value - first[:, None], 0)
    location = first + differences.sum(1) / jnp.maximum(n, 1)
    deviations = jnp.where(seen, jnp.abs(value - location[:, None]), 0)
    return Covariates(x[..., 1:], location, (1 + deviations.sum(1)) / (1 + n))

  def decode(
    self, emissions: Float[Array, 'batch length 1'], covariates: Covariates | None = None
  ) -> Float[Array, 'batch length columns']:
    """Emissions to windows: the inverse of `encode` and `covariates`."""
    values = emissions + covariates.location[:, None, None]
    return jnp.concatenate([values, covariates.features], -1)

  def log_units(self, label: Int[Array, 'batch']) -> Float[Array, 'batch']:
    """ln of the unit of each series."""
    units = self.spec.series.units
    # In float64 on the host: a unit may lie beyond the range of float32.
    return jnp.asarray(np.log(units), jnp.float32)[label] if units else super().log_units(label)


@dataclasses.dataclass(frozen=True)
class Frames(Ordering):
  """Frames of several voices, one after the other.

  Attributes:
    spec: DataSpec of domain 'music', with shape (frames, voices).
    voices: 'together': an emission is a frame, its voices independent given the past; 'apart': each
      voice of a frame is its own emission, which sees the earlier voices of the frame.
  """

  spec: DataSpec
  voices: Annotated[str, OneOf('together', 'apart')] = 'together'

  domain: ClassVar[str] = 'music'
  open_ended: ClassVar[bool] = True

  @property
  def period(self) -> int:
    """Emissions in one frame."""
    return self.spec.shape[1] if self.voices == 'apart' else 1

  @property
  def values(self) -> int:
    """Values in one emission."""
    # 'apart': 1; 'together': all voices.
    return self.spec.shape[1] // self.period

  @property
  def length(self) -> int:
    """Emissions in one example."""
    return self.spec.shape[0] * self.period

  @property
  def vocabulary(self) -> int:
    """Number of values that a voice can have."""
    return self.spec.levels

  def encode(
    self, x: Integer[Array, 'batch frames voices'], covariates: Covariates | None = None
  ) -> Int[Array, 'batch length values']:
    """Frames to emissions."""
    del covariates
    # Voices are the last axis: 'apart' splits frames into emissions of one value each.
    return x.reshape(x.shape[0], -1, self.values).astype(jnp.int32)

  def decode(
    self, emissions: Int[Array, 'batch length values'], covariates: Covariates | None = None
  ) -> Int[Array, 'batch frames voices']:
    """Emissions to frames: the inverse of `encode`."""
    del covariates
    # Any number of frames: a piece may be shorter or longer than in training.
    return emissions.reshape(emissions.shape[0], -1, self.spec.shape[1])


ORDERINGS: Mapping[str, type[Ordering]] = {
  'patches': Patches,
  'tokens': Tokens,
  'frames': Frames,
  'windows': Windows,
}


def build_ordering(settings: Mapping, spec: DataSpec, centred: bool = True) -> Ordering:
  """The ordering that a config's `ordering` section names.

  Args:
    settings: the section.
    spec: the description of the data.
    centred: see `Windows`.

  Raises:
    ConfigError: for an unknown ordering or setting, or an ordering for another kind of data.
  """
  name = settings.get('name')
  suitable = [known for known, kind in ORDERINGS.items() if kind.domain == spec.domain]
  if name in ORDERINGS and name not in suitable:
    raise ConfigError(
      f'ordering {name!r} is for data of domain {ORDERINGS[name].domain!r}, but {spec.name!r} has '
      f'domain {spec.domain!r}: use {" or ".join(map(repr, suitable)) or "another family"}'
    )
  return component(ORDERINGS, settings, 'ordering', spec=spec, centred=centred)
