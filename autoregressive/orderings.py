"""Orderings: data as a sequence of emissions, and back.

The model of this family is p(x) = prod_i p(e_i | e_<i). What an emission is, and in which order
they come, is decided here and nowhere else: an ordering turns data into integers [batch, length,
values] and back, exactly. The values within one emission are independent given the past, so K x K
patches take K² times fewer steps than pixels and pay for it in likelihood.

An ordering has
  length: emissions in one example;
  values: values in one emission;
  vocabulary: a value is an integer in [0, vocabulary);
  open_ended: whether a sequence may be shorter or longer than `length`;
  period: emissions in one part of such a sequence, a token or a frame: what its length is counted
    in, and what is given where a model has no start;
  encode, decode: data -> emissions -> data.
One of numbers (a vocabulary of 0) may have what is known beside the emissions:
  known(x, lengths) -> Known;
  features: how many numbers of it go into the network at each emission;
  given: emissions that evaluation takes for given, so that the likelihood is of the others;
  counts: whether they are whole numbers from 0.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import ClassVar, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Integer, Num

from common.config import ConfigError, component
from common.data.spec import DataSpec, token_dtype


@dataclasses.dataclass(frozen=True)
class Patches:
  """Patches of size x size pixels, row by row; a size of 1 is the raster order of pixels.

  Attributes:
    spec: the images' DataSpec.
    size: side of a patch in pixels; divides height and width.
    channels: 'together': an emission holds all channels of a patch, independent given the past;
      'apart': each channel of a patch is an emission of its own, in the order of the channels.

  Raises:
    ConfigError: when the size does not divide the image, or the data are no images.
  """

  spec: DataSpec
  size: int = 1
  channels: str = 'together'

  open_ended: ClassVar[bool] = False
  period: ClassVar[int] = 1

  def __post_init__(self):
    if self.spec.domain != 'image':
      raise ConfigError(f"ordering 'patches' is of images; {self.spec.name!r} is not")
    height, width, _ = self.spec.shape
    if self.size < 1 or height % self.size or width % self.size:
      raise ConfigError(f'ordering.size={self.size} does not divide images of {height} x {width}')
    if self.channels not in ('together', 'apart'):
      raise ConfigError(f"ordering.channels={self.channels!r}; known: 'apart', 'together'")

  @property
  def grid(self) -> tuple[int, int]:
    """Rows and columns of patches."""
    return self.spec.shape[0] // self.size, self.spec.shape[1] // self.size

  @property
  def length(self) -> int:
    """Emissions in one image."""
    rows, columns = self.grid
    return rows * columns * (self.spec.shape[2] if self.channels == 'apart' else 1)

  @property
  def values(self) -> int:
    """Values in one emission."""
    return self.spec.num_dims // self.length

  @property
  def vocabulary(self) -> int:
    """Number of values that one value can have."""
    return self.spec.levels

  def encode(
    self, x: Integer[Array, 'batch height width channels']
  ) -> Int[Array, 'batch length values']:
    """Images to emissions."""
    rows, columns = self.grid
    x = x.reshape(-1, rows, self.size, columns, self.size, self.spec.shape[2])
    order = (0, 1, 3, 5, 2, 4) if self.channels == 'apart' else (0, 1, 3, 2, 4, 5)
    return x.transpose(order).reshape(-1, self.length, self.values).astype(jnp.int32)

  def decode(
    self, emissions: Int[Array, 'batch length values']
  ) -> Integer[Array, 'batch height width channels']:
    """Emissions to images: the inverse of `encode`."""
    rows, columns = self.grid
    size, depth = self.size, self.spec.shape[2]
    if self.channels == 'apart':
      x = emissions.reshape(-1, rows, columns, depth, size, size).transpose(0, 1, 4, 2, 5, 3)
    else:
      x = emissions.reshape(-1, rows, columns, size, size, depth).transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(-1, *self.spec.shape).astype(token_dtype(self.spec.levels))


@dataclasses.dataclass(frozen=True)
class Tokens:
  """Tokens of a text, or bytes or characters of it, one after the other.

  Attributes:
    spec: DataSpec of domain 'text', with shape (context,) and as many levels as tokens.

  Raises:
    ConfigError: when the data are no text.
  """

  spec: DataSpec

  values: ClassVar[int] = 1
  open_ended: ClassVar[bool] = True
  period: ClassVar[int] = 1

  def __post_init__(self):
    if self.spec.domain != 'text':
      raise ConfigError(f"ordering 'tokens' is of texts; {self.spec.name!r} is not")

  @property
  def length(self) -> int:
    """Tokens in one example."""
    return self.spec.shape[0]

  @property
  def vocabulary(self) -> int:
    """Number of tokens that there are."""
    return self.spec.levels

  def encode(self, x: Integer[Array, 'batch length']) -> Int[Array, 'batch length 1']:
    """Texts to emissions."""
    return x[..., None].astype(jnp.int32)

  def decode(self, emissions: Int[Array, 'batch length 1']) -> Int[Array, 'batch length']:
    """Emissions to texts: the inverse of `encode`."""
    return emissions[..., 0]


class Known(NamedTuple):
  """What is known of sequences of numbers beside the emissions.

  Attributes:
    features: of each emission, known before it is: covariates.
    scale: of each sequence (autoregressive/heads/numbers.py).
  """

  features: Float[Array, 'batch length features']
  scale: Float[Array, 'batch']


@dataclasses.dataclass(frozen=True)
class Windows:
  """Windows of time series: the values are emissions, the covariates beside them are known.

  The scale of a window is ν = scale_offset + mean |value| over its given part (Salinas et al. 2020,
  section 3.3, have an offset of 1), so that nothing of the forecast is in it. Where that is 0, ν is
  1.

  Attributes:
    spec: DataSpec of domain 'series', with shape (context + horizon, 1 + covariates).
    scale_offset: 1 suits counts, which may be few; with 0, forecasts of a Gaussian or Student's t
      are exactly so many times as large as the series is.

  Raises:
    ConfigError: when the data are no time series, or the offset is negative.
  """

  spec: DataSpec
  scale_offset: float = 1.0

  values: ClassVar[int] = 1
  vocabulary: ClassVar[int] = 0
  open_ended: ClassVar[bool] = False
  period: ClassVar[int] = 1

  def __post_init__(self):
    if self.spec.series is None:
      raise ConfigError(f"ordering 'windows' is of time series; {self.spec.name!r} is not")
    if self.scale_offset < 0:
      raise ConfigError(f'ordering.scale_offset={self.scale_offset} must not be negative')

  @property
  def length(self) -> int:
    """Steps in one window."""
    return self.spec.shape[0]

  @property
  def given(self) -> int:
    """Steps before the forecast: the context."""
    return self.length - self.spec.series.horizon

  @property
  def counts(self) -> bool:
    """Whether all values are whole numbers from 0."""
    return self.spec.series.counts

  @property
  def features(self) -> int:
    """Covariates."""
    return self.spec.shape[1] - 1

  def encode(self, x: Num[Array, 'batch length columns']) -> Float[Array, 'batch length 1']:
    """Windows to emissions."""
    return x[..., :1].astype(jnp.float32)

  def known(
    self, x: Float[Array, 'batch length columns'], lengths: Int[Array, 'batch'] | None = None
  ) -> Known:
    """Covariates and scales of windows, of which `lengths` values are given; None: the context."""
    value = jnp.abs(x[:, : self.given, 0])
    number = self.given if lengths is None else jnp.minimum(lengths, self.given)[:, None]
    held = jnp.arange(self.given) < number
    mean = jnp.where(held, value, 0).sum(1) / jnp.maximum(held.sum(-1), 1)
    scale = self.scale_offset + mean
    return Known(x[..., 1:], jnp.where(scale > 0, scale, 1.0))

  def decode(
    self, emissions: Float[Array, 'batch length 1'], known: Known
  ) -> Float[Array, 'batch length columns']:
    """Emissions to windows: the inverse of `encode` and `known`."""
    return jnp.concatenate([emissions, known.features], -1)


@dataclasses.dataclass(frozen=True)
class Frames:
  """Frames of several voices, one after the other.

  Attributes:
    spec: DataSpec of domain 'music', with shape (frames, voices).
    voices: 'together': an emission is a frame, its voices independent given the past; 'apart': each
      voice of a frame is an emission of its own, which sees those before it in the frame.

  Raises:
    ConfigError: when the data are no music, or for another choice.
  """

  spec: DataSpec
  voices: str = 'together'

  open_ended: ClassVar[bool] = True

  def __post_init__(self):
    if self.spec.domain != 'music':
      raise ConfigError(f"ordering 'frames' is of music; {self.spec.name!r} is not")
    if self.voices not in ('together', 'apart'):
      raise ConfigError(f"ordering.voices={self.voices!r}; known: 'apart', 'together'")

  @property
  def period(self) -> int:
    """Emissions in one frame."""
    return self.spec.shape[1] if self.voices == 'apart' else 1

  @property
  def values(self) -> int:
    """Values in one emission."""
    return self.spec.shape[1] // self.period

  @property
  def length(self) -> int:
    """Emissions in one example."""
    return self.spec.shape[0] * self.period

  @property
  def vocabulary(self) -> int:
    """Number of values that a voice can have."""
    return self.spec.levels

  def encode(self, x: Integer[Array, 'batch frames voices']) -> Int[Array, 'batch length values']:
    """Frames to emissions."""
    return x.reshape(x.shape[0], -1, self.values).astype(jnp.int32)

  def decode(
    self, emissions: Int[Array, 'batch length values']
  ) -> Int[Array, 'batch frames voices']:
    """Emissions to frames: the inverse of `encode`."""
    return emissions.reshape(emissions.shape[0], -1, self.spec.shape[1])


ORDERINGS: Mapping[str, Callable] = {
  'patches': Patches,
  'tokens': Tokens,
  'frames': Frames,
  'windows': Windows,
}


def build_ordering(settings: Mapping, spec: DataSpec):
  """The ordering that a config's `ordering` section names."""
  return component(ORDERINGS, settings, 'ordering', spec=spec)


def known_of(
  ordering, x: Num[Array, 'batch *shape'], lengths: Int[Array, 'batch'] | None = None
) -> Known | None:
  """What an ordering knows of data beside the emissions; None: it is no ordering of numbers."""
  return ordering.known(x, lengths) if hasattr(ordering, 'known') else None
