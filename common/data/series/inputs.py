"""What a model is given of windows of time series: a location, a scale, and covariates."""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from common.data.spec import SeriesSpec

LOCATIONS, SCALES = ('mean', 'last', 'zero'), ('deviation', 'change')


def levels(
  values: Float[Array, 'batch given'],
  past: Bool[Array, 'batch given'],
  location: str = 'mean',
  scale: str = 'deviation',
) -> tuple[Float[Array, 'batch'], Float[Array, 'batch']]:
  """The location m and the scale ν of windows, from their given values z that are not missing.

  By default m = mean z and ν = (1 + Σ |z - m|) / (1 + n). The 1s count as one more value, at a
  distance of the unit in which the series is stored, so that a constant context has a scale too.

  Args:
    values: the values; NaN where they are missing.
    past: whether a value is given.
    location: m: the 'mean' of z, its 'last' value, or 'zero'.
    scale: what ν averages: each 'deviation' |z - m|, or each 'change' from a value to the next.
  """
  seen = past & ~jnp.isnan(values)
  # `where` also keeps out NaNs.
  value, n = jnp.where(seen, values, 0), seen.sum(-1)
  first, last = (_pick(value, index) for index in (seen.argmax(1), _last(seen)))
  # As a mean of differences, which float32 keeps exactly for values that are close to each other.
  differences = jnp.where(seen, value - first[:, None], 0)
  mean = first + differences.sum(1) / jnp.maximum(n, 1)
  m = {'mean': mean, 'last': last, 'zero': jnp.zeros(len(value))}[location]
  if scale == 'change':
    seen = seen[:, 1:] & seen[:, :-1]
    distances, n = jnp.abs(value[:, 1:] - value[:, :-1]), seen.sum(-1)
  else:
    distances = jnp.abs(value - m[:, None])
  return m, (1 + jnp.where(seen, distances, 0).sum(1)) / (1 + n)


def _pick(value: Float[Array, 'batch given'], index: Int[Array, 'batch']) -> Float[Array, 'batch']:
  return jnp.take_along_axis(value, index[:, None], 1)[:, 0]


def _last(seen: Bool[Array, 'batch given']) -> Int[Array, 'batch']:
  """The index of the last value that is seen."""
  return seen.shape[1] - 1 - seen[:, ::-1].argmax(1)


class Visible(NamedTuple):
  """The columns next to the value as a forecast may see them: 0 where they are missing or hidden.

  Attributes:
    ahead: the numbers that are known in advance.
    late: the numbers that are known only afterwards.
    known: whether each of the latter is visible.
    codes: the categories.
  """

  ahead: Float[Array, 'batch length ahead']
  late: Float[Array, 'batch length late']
  known: Bool[Array, 'batch length late']
  codes: Float[Array, 'batch length categories']


def visible(
  series: SeriesSpec,
  columns: Float[Array, 'batch length columns'],
  past: Bool[Array, 'batch length'],
) -> Visible:
  """What may be seen of the columns: those that are known only afterwards are not, in the horizon.

  Args:
    series: the description of the windows.
    columns: the numbers next to the value, then the codes of categories.
    past: whether a step is before the horizon.
  """
  numbers, codes = jnp.split(columns, [len(series.covariates)], -1)
  ahead = np.setdiff1d(np.arange(len(series.covariates)), series.observed)
  late = numbers[..., np.array(series.observed, int)]
  known = past[..., None] & ~jnp.isnan(late)
  # A missing category is an unknown one, 0.
  hidden = np.isin(np.arange(codes.shape[-1]), series.observed_categories)
  codes = jnp.where(hidden & ~past[..., None], 0, jnp.nan_to_num(codes))
  return Visible(jnp.nan_to_num(numbers[..., ahead]), jnp.where(known, late, 0), known, codes)
