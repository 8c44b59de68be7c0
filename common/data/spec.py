"""The description of a dataset that models, training and evaluation are built from."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from common.data.music import Pitches
from common.data.palettes import Palette
from common.data.tokenizers import Tokenizer


def token_dtype(levels: int) -> np.dtype:
  """The smallest of uint8, uint16 and int32 that holds the integers in [0, levels)."""
  dtypes = (np.uint8, np.uint16, np.int32)
  return np.dtype(next(dtype for dtype in dtypes if levels - 1 <= np.iinfo(dtype).max))


@dataclasses.dataclass(frozen=True)
class SeriesSpec:
  """Describes windows of time series, beyond their shape.

  Attributes:
    horizon: number of values at the end of a window that are to be forecast.
    season: number of steps after which a series tends to repeat; 1 if no season is known.
    counts: whether all values are integers of at least 0.
    covariates: names of the columns next to the value.
  """

  horizon: int
  season: int = 1
  counts: bool = False
  covariates: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class DataSpec:
  """Describes one example of a dataset: enough to build a model and to compile a training step.

  Attributes:
    name: name of the dataset.
    domain: the kind of data, which decides the layout of an example:
      'image': [height, width, channels], integers.
      'text': a window of token ids [context + 1]. The first token is given, never predicted
        (common/data/builders/text.py).
      'music': a window of frames [context + 1, voices]. The first frame is given
        (common/data/builders/chorales.py).
      'series': a window of a time series, float32 [context + horizon, 1 + covariates]: the value,
        then the covariates, which are known in advance. The class of a window is the series that
        it comes from (common/data/builders/series.py).
    shape: shape of one example.
    levels: the values of an example are integers in [0, levels); 0 means float32 numbers.
    num_classes: number of classes; 0 if the data has no labels.
    class_names: names of the classes, in the order of the labels.
    num_train: number of training examples, which is the length of an epoch.
    tokenizer: for text, the tokenizer.
    series: for time series, the description of the windows.
    pitches: for music, the range of pitches (common/data/music.py).
    palette: for images of palette indices (one channel), the colours.
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
    """Number of values in one example: the divisor of bits/dim."""
    return int(np.prod(self.shape))

  @property
  def dtype(self) -> np.dtype:
    """Type of the values of an example."""
    return token_dtype(self.levels) if self.levels else np.dtype(np.float32)

  def batch_struct(self, batch_size: int) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes and types of a batch, without values, as `jax.eval_shape` takes them."""
    struct = {'x': jax.ShapeDtypeStruct((batch_size, *self.shape), self.dtype)}
    if self.num_classes:
      struct['label'] = jax.ShapeDtypeStruct((batch_size,), jnp.int32)
    return struct


def to_unit(x: jax.Array, levels: int) -> jax.Array:
  """Maps integers in [0, levels) to float32 in [-1, 1]: x · 2 / (levels - 1) - 1."""
  # A product with 2 / (levels - 1): dividing by (levels - 1) / 2 would round differently.
  return x.astype(jnp.float32) * (2.0 / (levels - 1)) - 1.0


def from_unit(x: jax.Array, levels: int) -> jax.Array:
  """Maps floats to the nearest integers in [0, levels): the inverse of `to_unit`."""
  # Clipped before rounding: samples of a diffusion model may lie slightly outside [-1, 1].
  whole = jnp.round((jnp.clip(x, -1.0, 1.0) + 1.0) * ((levels - 1) / 2.0))
  return whole.astype(token_dtype(levels))
