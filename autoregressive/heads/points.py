"""Heads of one number for each value, trained with a loss of the forecasting competitions.

N-BEATS trains with them (Oreshkin et al. 2020, section 3.4). They have no spread: every draw is the
number itself.
"""

import dataclasses
from typing import Annotated, ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from autoregressive.heads.base import Scale
from autoregressive.heads.numbers import NumberHead
from common.ranges import OneOf


@dataclasses.dataclass(frozen=True)
class Point(NumberHead):
  """The number ν·o, trained with the absolute or the squared error in units of ν.

  With ordering.scale='naive', the absolute error is MASE.

  Attributes:
    values: numbers in an emission.
    loss: 'absolute', whose best forecast is the median, or 'squared': the mean.
  """

  loss: Annotated[str, OneOf('absolute', 'squared')] = 'absolute'

  outputs_per_value: ClassVar[int] = 1
  likelihood: ClassVar[bool] = False

  def log_prob_of_values(
    self,
    outputs: Float[Array, '*#batch size'],
    emission: Float[Array, '*#batch values'],
    scale: Scale = 1.0,
  ) -> Float[Array, '...']:
    """A score instead of a log-density: minus the error of each value."""
    forecast, scale = self._split(outputs, scale)
    error = emission / scale - forecast
    return -jnp.abs(error) if self.loss == 'absolute' else -jnp.square(error)

  def sample(
    self, outputs: Float[Array, '*batch size'], key: Key[Array, ''], scale: Scale = 1.0
  ) -> Float[Array, '*batch values']:
    """The forecast."""
    del key
    return self.mode(outputs, scale)

  def mode(
    self, outputs: Float[Array, '*batch size'], scale: Scale = 1.0
  ) -> Float[Array, '*batch values']:
    """The forecast."""
    forecast, scale = self._split(outputs, scale)
    return scale * forecast


@dataclasses.dataclass(frozen=True)
class Percentage(Point):
  """The number ν·o, trained with a percentage error, as a share: 0.01 is a percent.

  A percentage needs the level of a value, so the ordering subtracts nothing from it.

  Attributes:
    values: numbers in an emission.
    loss: 'smape': 2·|y - f| / (|y| + |f|), in which the denominator has no gradient, as in the
      authors' code; 'mape': |y - f| / |y|. Where the denominator is 0, a value does not count.
  """

  loss: Annotated[str, OneOf('smape', 'mape')] = 'smape'

  relative: ClassVar[bool] = True

  def log_prob_of_values(
    self,
    outputs: Float[Array, '*#batch size'],
    emission: Float[Array, '*#batch values'],
    scale: Scale = 1.0,
  ) -> Float[Array, '...']:
    """A score instead of a log-density: minus the percentage error of each value."""
    forecast, scale = self._split(outputs, scale)
    value = emission / scale
    size = jnp.abs(value)
    if self.loss == 'smape':
      size = (size + jnp.abs(jax.lax.stop_gradient(forecast))) / 2
    return -jnp.where(size > 0, jnp.abs(value - forecast) / jnp.where(size > 0, size, 1), 0)
