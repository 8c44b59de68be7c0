"""N-BEATS: a whole forecast at once, as a sum of the forecasts of residual blocks.

Oreshkin, Carpov, Chapados & Bengio 2020. A block explains a part of its input, the backcast, and
adds a part of the forecast; the next block sees what is left of the input ("doubly residual
stacking", section 3.2):

  x_(l+1) = x_l - backcast_l,   forecast = Σ forecast_l.
"""

import functools
from collections.abc import Callable
from typing import Annotated, Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from autoregressive.networks.base import CausalNetwork
from common.config import ConfigError
from common.ranges import AT_LEAST_ONE, Interval

# From the times of some steps, in units of the horizon, to functions of them.
Basis = Callable[[Float[np.ndarray, 'steps']], Float[np.ndarray, 'functions steps']]


def trend_basis(
  degree: int, times: Float[np.ndarray, 'steps']
) -> Float[np.ndarray, 'functions steps']:
  """The powers of time up to a degree (section 3.3, equation 2)."""
  return times ** np.arange(degree + 1)[:, None]


def seasonal_basis(
  horizon: int, times: Float[np.ndarray, 'steps']
) -> Float[np.ndarray, 'functions steps']:
  """cos and sin of 2πit for i up to ⌊horizon/2 - 1⌋ (section 3.3, the seasonality model)."""
  angles = 2 * np.pi * np.arange(max(horizon // 2, 1))[:, None] * times
  return np.concatenate([np.cos(angles), np.sin(angles)])


class Block(nn.Module):
  """Hidden layers, then backcast and forecast (section 3.1, equation 1).

  Attributes:
    units: hidden units of each layer.
    layers: hidden layers.
    lookback, horizon, outputs, dtype: those of the network.
    basis: the functions that backcast and forecast are combined from; None: a value of its own for
      each step. (The generic g of section 3.3 is linear, as is θ: together one linear map.)
  """

  units: int
  layers: int
  lookback: int
  horizon: int
  outputs: int
  dtype: str
  basis: Basis | None = None

  @nn.compact
  def __call__(self, x: Float[Array, '*batch lookback']):
    """(backcast [..., lookback], forecast [..., horizon · outputs])."""
    h = x
    for i in range(self.layers):
      init = nn.initializers.he_normal()
      h = nn.relu(nn.Dense(self.units, dtype=self.dtype, kernel_init=init, name=f'layer_{i}')(h))
    if self.basis is None:
      size = self.horizon * self.outputs
      return self._theta(h, self.lookback, 'backcast'), self._theta(h, size, 'forecast')
    # The input is before time 0, where the horizon begins.
    past = self.basis(np.arange(-self.lookback, 0) / self.horizon)
    future = self.basis(np.arange(self.horizon) / self.horizon)
    backcast = self._theta(h, len(past), 'backcast') @ past.astype(self.dtype)
    theta = self._theta(h, self.outputs * len(future), 'forecast')
    # Each output of a step, such as a quantile, has its own coefficients.
    theta = theta.reshape(*h.shape[:-1], self.outputs, len(future))
    forecast = jnp.swapaxes(theta @ future.astype(self.dtype), -1, -2)
    return backcast, forecast.reshape(*h.shape[:-1], self.horizon * self.outputs)

  def _theta(self, h, size: int, name: str):
    return nn.Dense(size, dtype=self.dtype, name=name)(h)


class DirectNetwork(CausalNetwork):
  """The base of both architectures: a position is a context in, and a whole forecast out.

  Attributes:
    lookback: steps of the input.
    horizon: steps of the forecast.
    outputs: outputs for each step, such as quantiles, as the head takes them.
    dtype: type of the products.

  Raises:
    ConfigError: for an ordering whose emissions are not whole horizons.
  """

  lookback: int = 0
  horizon: int = 1
  outputs: int = 1
  dtype: str = 'float32'

  direct = True

  def __post_init__(self):
    super().__post_init__()
    if not self.lookback:
      raise ConfigError(
        "N-BEATS forecasts a whole horizon at once: set ordering.name='horizon', or choose another "
        'network'
      )

  @property
  def width(self) -> int:
    """Numbers in an input."""
    return self.lookback

  def blocks(self) -> list[nn.Module]:
    """The blocks, from the first to the last; one that occurs several times shares parameters."""
    raise NotImplementedError

  def init_cache(self, batch: int, length: int) -> Any:
    """Nothing: no position sees another."""
    del batch, length
    return ()

  @nn.compact
  def __call__(
    self,
    h: Float[Array, 'batch length lookback'],
    cache: Any = None,
    train: bool = False,
    segments: Int[Array, 'batch length'] | None = None,
  ) -> tuple[Float[Array, 'batch length size'], Any]:
    """The outputs of the head from contexts; the other arguments have no effect."""
    del train, segments
    rest, forecast = h.astype(self.dtype), jnp.zeros((), self.dtype)
    for block in self.blocks():
      backcast, part = block(rest)
      rest, forecast = rest - backcast, forecast + part
    return forecast, cache

  def block(self, units: int, layers: int, name: str, basis: Basis | None = None) -> Block:
    """A block at the sizes of the network."""
    sizes = self.lookback, self.horizon, self.outputs, self.dtype
    return Block(units, layers, *sizes, basis, name=name)


class NBeats(DirectNetwork):
  """The generic N-BEATS (section 3.3), which knows nothing about time series.

  Attributes:
    units: hidden units of each layer.
    layers: hidden layers of a block.
    stacks: stacks of one block each.
  """

  units: Annotated[int, AT_LEAST_ONE] = 512
  layers: Annotated[int, AT_LEAST_ONE] = 4
  stacks: Annotated[int, AT_LEAST_ONE] = 30

  def blocks(self) -> list[nn.Module]:
    """One block for each stack."""
    return [self.block(self.units, self.layers, f'block_{i}') for i in range(self.stacks)]


class InterpretableNBeats(DirectNetwork):
  """The interpretable N-BEATS (section 3.3): a stack for the trend, then one for the season.

  Attributes:
    trend_units, season_units: hidden units of each layer of the two stacks.
    layers: hidden layers of a block.
    repeats: blocks of a stack, which share their parameters.
    degree: degree of the trend's polynomial.
  """

  trend_units: Annotated[int, AT_LEAST_ONE] = 256
  season_units: Annotated[int, AT_LEAST_ONE] = 2048
  layers: Annotated[int, AT_LEAST_ONE] = 4
  repeats: Annotated[int, AT_LEAST_ONE] = 3
  degree: Annotated[int, Interval(0, 10)] = 2

  def blocks(self) -> list[nn.Module]:
    """The trend's block several times, then the season's."""
    trend = functools.partial(trend_basis, self.degree)
    season = functools.partial(seasonal_basis, self.horizon)
    return [self.block(self.trend_units, self.layers, 'trend', trend)] * self.repeats + [
      self.block(self.season_units, self.layers, 'season', season)
    ] * self.repeats
