"""N-BEATS against the equations of the paper in NumPy, its parameters and its bases."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from autoregressive.networks.nbeats import (
  InterpretableNBeats,
  NBeats,
  seasonal_basis,
  trend_basis,
)
from tests.autoregressive.common import perturbed
from tests.cases import mostly_slow

CONTEXT, HORIZON = 10, 4
SMALL = {
  'nbeats': NBeats(CONTEXT, HORIZON, units=8, layers=2, stacks=3),
  'quantiles': NBeats(CONTEXT, HORIZON, outputs=3, units=8, layers=2, stacks=2),
  'nbeats_interpretable': InterpretableNBeats(
    CONTEXT, HORIZON, trend_units=8, season_units=6, layers=2, repeats=2
  ),
  'interpretable quantiles': InterpretableNBeats(
    CONTEXT, HORIZON, outputs=3, trend_units=8, season_units=6, layers=2, repeats=2
  ),
}


def dense(parameters, h):
  return h @ np.asarray(parameters['kernel'], np.float64) + np.asarray(parameters['bias'])


def block(network, parameters, x, basis):
  """Equation 1: hidden layers, θ of the backcast and of the forecast, and their bases."""
  h = x
  for i in range(network.layers):
    h = np.maximum(dense(parameters[f'layer_{i}'], h), 0)
  backcast, forecast = (dense(parameters[part], h) for part in ('backcast', 'forecast'))
  if basis is None:
    return backcast, forecast.reshape(*h.shape[:-1], HORIZON, network.outputs)
  past, future = (
    basis(np.arange(first, last) / HORIZON) for first, last in ((-CONTEXT, 0), (0, HORIZON))
  )
  theta = forecast.reshape(*h.shape[:-1], network.outputs, len(future))
  return backcast @ past, np.einsum('...of,fs->...so', theta, future)


def reference(network, parameters, x):
  """Section 3.2: what a block explains is taken out of the input of the next."""
  if isinstance(network, NBeats):
    blocks = [(f'block_{i}', None) for i in range(network.stacks)]
  else:
    trend = lambda t: np.stack([t**0, t, t**2])
    season = lambda t: np.stack([t**0, np.cos(2 * np.pi * t), 0 * t, np.sin(2 * np.pi * t)])
    blocks = [('trend', trend)] * network.repeats + [('season', season)] * network.repeats
  forecast = 0.0
  for name, basis in blocks:
    backcast, part = block(network, parameters[name], x, basis)
    x, forecast = x - backcast, forecast + part
  return forecast.reshape(*x.shape[:-1], -1)


@pytest.mark.parametrize('name', mostly_slow(SMALL, ['nbeats']))
def test_the_forecast_is_that_of_the_equations(name):
  network = SMALL[name]
  x = jax.random.normal(jax.random.key(0), (3, 2, CONTEXT))
  params = perturbed(jax.jit(network.init)(jax.random.key(1), x)['params'], 0.3)
  found, cache = jax.jit(network.apply)({'params': params}, x)
  assert cache is None and found.shape == (3, 2, HORIZON * network.outputs)
  expected = reference(network, params, np.asarray(x, np.float64))
  np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
  rounded, _ = network.clone(dtype='bfloat16').apply({'params': params}, x)
  assert rounded.dtype == jnp.bfloat16
  np.testing.assert_allclose(
    rounded.astype(np.float32), expected, atol=0.1 * np.abs(expected).max()
  )


def test_parameters_are_those_of_the_paper():
  """At M4's settings for a horizon of 18 months and a look-back of two horizons."""
  context, horizon = 36, 18
  hidden = lambda units: context * units + units + 3 * (units * units + units)
  generic = 30 * (hidden(512) + 513 * (context + horizon))
  # Three coefficients of the trend, 2 · 9 of the season; blocks of a stack share their parameters.
  interpretable = hidden(256) + 257 * 2 * 3 + hidden(2048) + 2049 * 2 * 18
  for constructor, number in ((NBeats, generic), (InterpretableNBeats, interpretable)):
    network = constructor(context, horizon)
    shapes = jax.eval_shape(network.init, jax.random.key(0), jnp.zeros((1, 1, context)))
    assert sum(math.prod(x.shape) for x in jax.tree.leaves(shapes)) == number


def test_bases():
  times = np.arange(8) / 8
  np.testing.assert_allclose(trend_basis(2, times), [times**0, times, times**2])
  season = seasonal_basis(8, times)
  assert season.shape == (8, 8)
  # Orthogonal over a horizon; sin 0 is nothing.
  np.testing.assert_allclose(season @ season.T, np.diag([8, 4, 4, 4, 0, 4, 4, 4]), atol=1e-9)
