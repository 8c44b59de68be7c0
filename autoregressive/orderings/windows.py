"""The ordering of time series: values of windows, with covariates."""

import dataclasses
from typing import Annotated, ClassVar

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Num

from autoregressive.orderings.base import Covariates, Ordering
from common.data.series import inputs
from common.data.spec import DataSpec
from common.ranges import OneOf


@dataclasses.dataclass(frozen=True)
class Windows(Ordering):
  """Windows of time series: the values are emissions, the other columns are covariates.

  A window has a location m, which is subtracted from its values, and a scale ν. Both depend only on
  the n given values z that are not missing, so they reveal nothing about the values to be forecast:
  by default m = mean z and ν = (1 + Σ |z - m|) / (1 + n) (common/data/series/inputs.py). Forecasts
  of a·series + b are therefore a·forecasts + b.

  For a head over counts, m = 0 and ν = 1 + mean z (Salinas et al. 2020, section 3.3): emissions
  must remain whole numbers from 0, and a count has no other unit.

  Missing values are 0 as emissions, and do not count in the loss. The covariates of a step are
  numbers, then codes of categories. The numbers are the covariates that are known in advance (0 if
  missing, which is their mean), those that are only observed, one step late and 0 in the horizon,
  whether each of these is known, and last whether the value one step before is known.

  Attributes:
    spec: DataSpec of domain 'series', with shape (context + horizon, 1 + covariates + categories).
    centred: whether values have a location; False for a head over counts.
    location: m: the 'mean' of z, its 'last' value, or 'zero'.
    scale: what ν averages: each 'deviation' |z - m|, or each 'change' from a value to the next.
  """

  spec: DataSpec
  centred: bool = True
  location: Annotated[str, OneOf(*inputs.LOCATIONS)] = 'mean'
  scale: Annotated[str, OneOf(*inputs.SCALES)] = 'deviation'

  domains: ClassVar[tuple[str, ...]] = ('series',)
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
    """Number of covariates of a step that are numbers."""
    series = self.spec.series
    return len(series.covariates) + len(series.observed) + 1

  @property
  def categories(self) -> tuple[int, ...]:
    """Number of codes of each covariate that is a category; 0 is an unknown one."""
    return tuple(len(texts) + 1 for texts in self.spec.series.categories)

  def encode(
    self, x: Num[Array, 'batch length columns'], covariates: Covariates | None = None
  ) -> Float[Array, 'batch length 1']:
    """Windows to emissions: values minus the location of their window, or 0 if missing."""
    values = x[..., :1].astype(jnp.float32)
    if covariates is not None:
      values = values - covariates.location[:, None, None]
    return jnp.where(jnp.isnan(values), 0, values)

  def observed(self, x: Num[Array, 'batch length columns']) -> Bool[Array, 'batch length']:
    """Whether each value is known."""
    return ~jnp.isnan(x[..., 0])

  def covariates(
    self,
    x: Float[Array, 'batch length columns'],
    lengths: Int[Array, 'batch'] | None = None,
    label: Int[Array, 'batch'] | None = None,
  ) -> Covariates:
    """Covariates of windows with `lengths` given values; None: the whole context."""
    del label
    count = self.given if lengths is None else jnp.minimum(lengths, self.given)[:, None]
    past = jnp.broadcast_to(jnp.arange(x.shape[1]) < count, x.shape[:2])
    # Values that are drawn are known to the steps after them.
    known = self.observed(x) if lengths is None else self.observed(x) | ~past
    location, scale = self._levels(x[:, : self.given, 0], past[:, : self.given])
    columns = jnp.nan_to_num(x[..., 1:])
    return Covariates(self._features(x[..., 1:], past, known), location, scale, columns)

  def _levels(
    self, values: Float[Array, 'batch given'], past: Bool[Array, 'batch given']
  ) -> tuple[Float[Array, 'batch'], Float[Array, 'batch']]:
    """The location and the scale of windows, from their given values."""
    if self.centred:
      return inputs.levels(values, past, self.location, self.scale)
    seen = past & ~jnp.isnan(values)
    total = jnp.where(seen, values, 0).sum(1)
    return jnp.zeros(len(values)), 1 + total / jnp.maximum(seen.sum(1), 1)

  def _features(
    self,
    columns: Float[Array, 'batch length columns'],
    past: Bool[Array, 'batch length'],
    known: Bool[Array, 'batch length'],
  ) -> Float[Array, 'batch length features']:
    """The covariates of each step, from the columns next to the value.

    Args:
      columns: the numbers, then the codes of categories.
      past: whether a step is before the horizon.
      known: whether the value of a step is known to the steps after it.
    """
    seen, codes = inputs.visible(self.spec.series, columns, past), []
    late = _delayed(jnp.concatenate([seen.late, seen.known, known[..., None]], -1))
    delayed, observed = _delayed(seen.codes), self.spec.series.observed_categories
    for category in range(seen.codes.shape[-1]):
      codes.append((delayed if category in observed else seen.codes)[..., category, None])
    return jnp.concatenate([seen.ahead, late, *codes], -1)

  def decode(
    self, emissions: Float[Array, 'batch length 1'], covariates: Covariates | None = None
  ) -> Float[Array, 'batch length columns']:
    """Emissions to windows: the inverse of `encode` and `covariates`, but without missing values.

    A missing value becomes the location of its window, a missing covariate 0.
    """
    values = emissions + covariates.location[:, None, None]
    return jnp.concatenate([values, covariates.columns], -1)

  def log_units(self, label: Int[Array, 'batch']) -> Float[Array, 'batch']:
    """ln of the unit of each series."""
    units = self.spec.series.units
    # In float64 on the host: a unit may lie beyond the range of float32.
    return jnp.asarray(np.log(units), jnp.float32)[label] if units else super().log_units(label)


def _delayed(x: Float[Array, 'batch length columns']) -> Float[Array, 'batch length columns']:
  """Each step gets the columns of the step before it, the first one zeros."""
  return jnp.pad(x, ((0, 0), (1, 0), (0, 0)))[:, :-1]
