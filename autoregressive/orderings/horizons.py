"""The ordering of direct forecasts: a whole horizon is one emission, given its context."""

import dataclasses
from typing import Annotated, ClassVar

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Num

from autoregressive.orderings.base import Covariates
from autoregressive.orderings.windows import Windows
from common.config import ConfigError
from common.ranges import AT_LEAST_ZERO


@dataclasses.dataclass(frozen=True)
class Horizon(Windows):
  """Windows of time series whose horizon is one emission; its covariates are the context.

  The values of a horizon are independent given the context: a head of point forecasts loses nothing
  by it, and draws are right for each step, but not for sums over steps. Covariates of the file and
  of the time have no part in it.

  Location and scale are those of `Windows`. A percentage error needs the level of a value: then the
  location is minus the origin of the series in its unit, which makes an emission the raw value over
  the unit, and ν is the mean size of the look-back.

  A missing value of the context is at the location; one of the horizon does not count.

  Attributes:
    spec, centred, location, scale: as in `Windows`, computed from the look-back only.
    relative: whether the head is trained with percentage errors.
    lookback: steps before the horizon that the model sees, the last of the context; 0: all of them.

  Raises:
    ConfigError: for a look-back that is longer than the context.
  """

  relative: bool = False
  lookback: Annotated[int, AT_LEAST_ZERO] = 0

  length: ClassVar[int] = 1
  given: ClassVar[int] = 0
  categories: ClassVar[tuple[int, ...]] = ()

  def __post_init__(self):
    if self.lookback > self.context:
      raise ConfigError(
        f'ordering.lookback={self.lookback} is longer than the context of {self.context} steps: '
        'lower it, or raise data.context'
      )

  @property
  def context(self) -> int:
    """Steps before the forecast."""
    return self.spec.shape[0] - self.spec.series.horizon

  @property
  def values(self) -> int:
    """Steps of the forecast."""
    return self.spec.series.horizon

  @property
  def features(self) -> int:
    """The values that the model sees."""
    return self.lookback or self.context

  def encode(
    self, x: Num[Array, 'batch steps columns'], covariates: Covariates | None = None
  ) -> Float[Array, 'batch 1 horizon']:
    """Horizons minus the location of their window; a missing value stays NaN.

    Raises:
      ConfigError: for windows of another length than the model was built for.
    """
    if x.shape[1] != self.spec.shape[0]:
      raise ConfigError(
        f"ordering 'horizon' forecasts {self.values} steps from {self.context}, no other number; "
        f'got windows of {x.shape[1]}'
      )
    values = x[:, None, self.context :, 0].astype(jnp.float32)
    return values if covariates is None else values - covariates.location[:, None, None]

  def observed(self, x: Num[Array, 'batch steps columns']) -> Float[Array, 'batch 1']:
    """The share of each horizon that is known: the weight of its emission."""
    return jnp.isfinite(x[:, self.context :, 0]).mean(1, keepdims=True, dtype=jnp.float32)

  def covariates(
    self,
    x: Float[Array, 'batch steps columns'],
    lengths: Int[Array, 'batch'] | None = None,
    label: Int[Array, 'batch'] | None = None,
  ) -> Covariates:
    """The look-back of windows, which is always given as a whole, and its location and scale."""
    del lengths
    values = x[:, self.context - self.features : self.context, 0]
    if self.relative:
      location, scale = self._relative_levels(values, label)
    else:
      location, scale = self._levels(values, jnp.ones(values.shape, bool))
    features = jnp.nan_to_num((values - location[:, None]) / scale[:, None])
    # The columns are all of the window, of which a forecast replaces the horizon.
    return Covariates(features[:, None], location, scale, jnp.nan_to_num(x))

  def _relative_levels(
    self, values: Float[Array, 'batch lookback'], label: Int[Array, 'batch'] | None
  ) -> tuple[Float[Array, 'batch'], Float[Array, 'batch']]:
    """Minus the origin of each series in its unit, and the mean size of the raw values in it."""
    series, origin = self.spec.series, jnp.zeros(len(values))
    if series.units:
      # In float64 on the host: raw = origin + unit · stored.
      ratios = np.array(series.origins) / np.array(series.units)
      # NaN for a series that the model does not know: its level is not in the window.
      known = jnp.asarray(ratios, jnp.float32)
      origin = known.at[label].get(mode='fill', fill_value=jnp.nan)
    size = jnp.abs(values + origin[:, None])
    seen = jnp.isfinite(size)
    mean = jnp.where(seen, size, 0).sum(1) / jnp.maximum(seen.sum(1), 1)
    return -origin, jnp.where(mean > 0, mean, 1)

  def decode(
    self, emissions: Float[Array, 'batch 1 horizon'], covariates: Covariates | None = None
  ) -> Float[Array, 'batch steps columns']:
    """Windows with these horizons; a missing value of the context becomes 0."""
    values = emissions[:, 0] + covariates.location[:, None]
    return covariates.columns.at[:, self.context :, 0].set(values)
