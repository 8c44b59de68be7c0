"""The description of a dataset that models, training and evaluation are built from."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int, Num, Shaped

from common.data.latents.first_stage import FirstStage, in_batches
from common.data.modes import Modes
from common.data.music import Pitches
from common.data.palettes import Palette
from common.data.series.calendars import STEPS, Clock
from common.data.series.columns import Columns
from common.data.tokenizers import Tokenizer


def token_dtype(levels: int) -> np.dtype:
  """The smallest of uint8, uint16 and int32 that holds the integers in [0, levels)."""
  dtypes = (np.uint8, np.uint16, np.int32)
  return np.dtype(next(dtype for dtype in dtypes if levels - 1 <= np.iinfo(dtype).max))


NO_COLUMNS = Columns((), 'step', 'value')  # of series that come from no file


@dataclasses.dataclass(frozen=True)
class SeriesSpec:
  """Describes windows of time series, beyond their shape.

  Attributes:
    horizon: number of values at the end of a window that are to be forecast.
    season: number of steps after which a series tends to repeat; 1 if no season is known.
    counts: whether all values are integers of at least 0.
    covariates: names of the columns of numbers next to the value: those of the file, then features
      of the time.
    categories: the texts of each column of categories, which are the last columns. A code k is the
      k-th text, counted from 1; 0 is any other.
    value, time: names of the columns of values and times in the raw data.
    origins, units: of each series: a raw value is origin + unit · stored value. Empty: 0 and 1.
    first: the time of the first step of each series, in `clock.unit`; empty: 0.
    clock: how times are counted and written.
    naive_scales: of each series, the mean error of the seasonal naive forecast within the part
      before the test, in the unit of the file (common/data/series/encoding.py); empty: unknown.
    spreads: of each series, the standard deviation of its training part, in the unit of the file;
      empty: unknown.
    means, deviations: of the covariates of the file, which are stored without them.
    static: the covariates and categories that are the same in all steps of a series.
    columns: the roles of the columns of the file.
    layout: its layout (common/data/series/layouts.py).
    unit: what the values are measured in, for people; '' if unknown.
  """

  horizon: int
  season: int = 1
  counts: bool = False
  covariates: tuple[str, ...] = ()
  categories: tuple[tuple[str, ...], ...] = ()
  value: str = 'value'
  time: str = 'step'
  origins: tuple[float, ...] = ()
  units: tuple[float, ...] = ()
  first: tuple[int, ...] = ()
  clock: Clock = STEPS
  naive_scales: tuple[float, ...] = ()
  spreads: tuple[float, ...] = ()
  means: tuple[float, ...] = ()
  deviations: tuple[float, ...] = ()
  static: tuple[str, ...] = ()
  columns: Columns = NO_COLUMNS
  layout: str = 'long'
  unit: str = ''

  @property
  def observed(self) -> tuple[int, ...]:
    """The columns of numbers, counted after the value, that are known only afterwards."""
    names = self.columns.observed
    return tuple(i for i, name in enumerate(self.covariates) if name in names)

  @property
  def observed_categories(self) -> tuple[int, ...]:
    """The columns of categories that are known only afterwards."""
    names = self.columns.observed
    return tuple(i for i, name in enumerate(self.columns.categories) if name in names)

  def raw(
    self, stored: Num[np.ndarray, 'windows *steps'], label: Int[np.ndarray, 'windows']
  ) -> Float[np.ndarray, 'windows *steps']:
    """Stored values of windows as raw values, in float64."""
    stored = np.asarray(stored, np.float64)
    if not self.units:
      return stored
    rest = (-1,) + (1,) * (stored.ndim - 1)
    origin, unit = (np.array(each)[label].reshape(rest) for each in (self.origins, self.units))
    return origin + unit * stored

  def times(
    self, start: Int[np.ndarray, 'windows'], label: Int[np.ndarray, 'windows'], length: int
  ) -> Int[np.ndarray, 'windows length']:
    """The times of `length` steps of windows that begin at the steps `start` of their series."""
    first = np.array(self.first)[label] if self.first else np.zeros_like(start)
    return first[:, None] + self.clock.step * (start[:, None] + np.arange(length))


@dataclasses.dataclass(frozen=True)
class LatentSpec:
  """What the examples of a `DataSpec` are, if they are latents.

  Attributes:
    images: describes the images that they encode.
    digest: that of the first stage.
    deviation: what the first stage's latents are divided by; 1 for codes.
    first_stage: encodes and decodes.
  """

  images: 'DataSpec'
  digest: str
  deviation: float
  first_stage: FirstStage = dataclasses.field(compare=False, repr=False)

  def decode(
    self, x: Num[np.ndarray, '*batch rows columns c']
  ) -> Shaped[np.ndarray, '*batch height width channels']:
    """The images of examples."""
    x = np.asarray(x)
    flat = x.reshape(-1, *x.shape[-3:])
    if not self.first_stage.levels:
      flat = flat * np.float32(self.deviation)
    images = in_batches(self.first_stage.decode, flat)
    return images.reshape(*x.shape[:-3], *self.images.shape)


@dataclasses.dataclass(frozen=True)
class DataSpec:
  """Describes one example of a dataset: enough to build a model and to compile a training step.

  Attributes:
    name: name of the dataset.
    domain: the kind of data, which decides the layout of an example:
      'image': [height, width, channels], integers; or, if `levels` is 0, numbers, such as the
        latents of an autoencoder.
      'text': a window of token ids [context + 1]. The first token is given, never predicted
        (common/data/builders/text.py).
      'music': a window of frames [context + 1, voices]. The first frame is given
        (common/data/builders/chorales.py).
      'rolls': a window of frames [context + 1, keys], 1 where a key sounds. The first frame is
        given (common/data/builders/sequences/piano_rolls.py).
      'series': a window of a time series, float32 [context + horizon, 1 + covariates + categories]:
        the value, then the covariates; NaN where they are missing. The class of a window is the
        series that it comes from, 'start' the step of the series at which it begins, which is
        negative if it begins with padding (common/data/builders/series.py).
      'points': a point, float32 [1, 1, coordinates] (common/data/builders/mixtures/gaussians.py).
    shape: shape of one example.
    levels: the values of an example are integers in [0, levels); 0 means float32 numbers.
    num_classes: number of classes; 0 if the data has no labels.
    class_names: names of the classes, in the order of the labels.
    num_train: number of training examples, which is the length of an epoch.
    tokenizer: for text, the tokenizer.
    series: for time series, the description of the windows.
    pitches: for music and piano rolls, the range of pitches (common/data/music.py).
    palette: for images of palette indices (one channel), the colours.
    counted: for text, music and piano rolls, whether 'counted', bool [context + 1], says which
      tokens or frames of a window count, such as the answers of dialogues; otherwise all count.
    latents: for latents of images, the first stage and what they encode.
    modes: for data whose modes are known, what they are. Stacked images have 'mode', an int, for
      evaluation (common/data/modes.py).
  """

  name: str
  domain: str
  shape: tuple[int, ...]
  levels: int
  num_classes: int = 0
  class_names: tuple[str, ...] = ()
  num_train: int = 0
  tokenizer: Tokenizer | None = None
  series: SeriesSpec | None = None
  pitches: Pitches | None = None
  palette: Palette | None = None
  counted: bool = False
  latents: LatentSpec | None = None
  modes: Modes | None = None

  @property
  def num_dims(self) -> int:
    """Number of values in one example: the divisor of bits/dim."""
    return int(np.prod(self.shape))

  @property
  def indices(self) -> bool:
    """Whether the values of images are indices without an order: of colours or of codes."""
    return self.palette is not None or (self.latents is not None and self.levels > 0)

  def decoded(self, x: np.ndarray) -> np.ndarray:
    """Examples as a user gets them in an array: the images of latents, others as they are."""
    return x if self.latents is None else self.latents.decode(x)

  @property
  def dtype(self) -> np.dtype:
    """Type of the values of an example."""
    return token_dtype(self.levels) if self.levels else np.dtype(np.float32)

  def batch_struct(self, batch_size: int) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes and types of a batch, without values, as `jax.eval_shape` takes them."""
    struct = {'x': jax.ShapeDtypeStruct((batch_size, *self.shape), self.dtype)}
    if self.num_classes:
      struct['label'] = jax.ShapeDtypeStruct((batch_size,), jnp.int32)
    if self.series is not None:
      struct['start'] = jax.ShapeDtypeStruct((batch_size,), jnp.int32)
    if self.counted:
      struct['counted'] = jax.ShapeDtypeStruct((batch_size, *self.shape[:1]), jnp.bool_)
    # Latents have the modes of their images, whose examples have the 'mode'.
    if self.modes is not None and self.modes.classes and self.latents is None:
      struct['mode'] = jax.ShapeDtypeStruct((batch_size,), jnp.int32)
    return struct


def latent_spec(images: DataSpec, stage: FirstStage, deviation: float = 1.0) -> DataSpec:
  """Describes the latents of a dataset of images.

  Raises:
    ConfigError: for images that the first stage does not take.
  """
  return dataclasses.replace(
    images,
    shape=stage.shape,
    levels=stage.levels,
    latents=LatentSpec(images, stage.digest, deviation, stage),
  )


def to_unit(x: jax.Array, levels: int) -> jax.Array:
  """Maps integers in [0, levels) to float32 in [-1, 1]: x · 2 / (levels - 1) - 1.

  With levels = 0, x holds numbers, which stay as they are.
  """
  if not levels:
    return x.astype(jnp.float32)
  # A product with 2 / (levels - 1): dividing by (levels - 1) / 2 would round differently.
  return x.astype(jnp.float32) * (2.0 / (levels - 1)) - 1.0


def from_unit(x: jax.Array, levels: int) -> jax.Array:
  """Maps floats to the nearest integers in [0, levels): the inverse of `to_unit`."""
  if not levels:
    return x
  # Clipped before rounding: samples of a diffusion model may lie slightly outside [-1, 1].
  whole = jnp.round((jnp.clip(x, -1.0, 1.0) + 1.0) * ((levels - 1) / 2.0))
  return whole.astype(token_dtype(levels))
