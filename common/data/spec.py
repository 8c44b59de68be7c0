"""What a method needs to know of the data it models."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from common.data.music import Pitches
from common.data.palettes import Palette
from common.data.tokenizers import Tokenizer


def token_dtype(levels: int) -> np.dtype:
  """The smallest type for integers in [0, levels)."""
  kinds = (np.uint8, np.uint16, np.int32)
  return np.dtype(next(kind for kind in kinds if levels - 1 <= np.iinfo(kind).max))


@dataclasses.dataclass(frozen=True)
class SeriesSpec:
  """What there is to know of windows of time series beside their shape.

  Attributes:
    horizon: the last so many values of a window are what is forecast.
    season: steps after which a series tends to repeat; 1: none is known.
    counts: whether all values are whole numbers from 0.
    covariates: names of the columns that stand beside the value.
  """

  horizon: int
  season: int = 1
  counts: bool = False
  covariates: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class DataSpec:
  """Describes one example of a dataset; enough to build a model and compile a training step.

  Attributes:
    name: the dataset's name.
    domain: 'image' for uint8 arrays [height, width, channels]; 'text' for windows of token ids
      [context + 1], the first of which is only given (common/data/builders/text.py); 'music' for
      windows of frames [context + 1, voices], likewise (common/data/builders/chorales.py); 'series'
      for windows of time series, float32 [context + horizon, 1 + covariates]: the value, then what
      is known of its time in advance (common/data/builders/series.py). A class is a series there.
    shape: shape of one example.
    levels: an example's values are integers in [0, levels); 0: they are numbers, float32.
    num_classes: 0 where the data has no labels.
    class_names: names of the classes, in the order of the labels.
    num_train: examples in the training split: the length of an epoch.
    tokenizer: of a text.
    series: of windows of time series.
    pitches: of music: what its values stand for.
    palette: of images that are indices of colours, in a single channel.
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

  @property
  def num_dims(self) -> int:
    """Dimensions of one example: what bits/dim are per."""
    return int(np.prod(self.shape))

  @property
  def dtype(self) -> np.dtype:
    """Type of an example's values."""
    return token_dtype(self.levels) if self.levels else np.dtype(np.float32)

  def batch_struct(self, batch_size: int) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes and types of a batch, without its values."""
    struct = {'x': jax.ShapeDtypeStruct((batch_size, *self.shape), self.dtype)}
    if self.num_classes:
      struct['label'] = jax.ShapeDtypeStruct((batch_size,), jnp.int32)
    return struct


def to_unit(x: jax.Array, levels: int) -> jax.Array:
  """Integers in [0, levels) to floats in [-1, 1]."""
  return x.astype(jnp.float32) * (2.0 / (levels - 1)) - 1.0


def from_unit(x: jax.Array, levels: int) -> jax.Array:
  """Floats to the nearest integers in [0, levels), as uint8: the inverse of `to_unit`."""
  return jnp.round((jnp.clip(x, -1.0, 1.0) + 1.0) * ((levels - 1) / 2.0)).astype(jnp.uint8)
