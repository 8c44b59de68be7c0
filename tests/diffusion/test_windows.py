"""Conditional diffusion over windows of time series: what is given, counted and drawn."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from common.config import ConfigError
from common.data.series.columns import Columns
from common.data.spec import DataSpec, SeriesSpec
from common.domains.forecasts.draws import forecast_request
from common.method import Context
from diffusion.windows import condition
from experiments import families

CONTEXT, HORIZON = 8, 4
COLUMNS = Columns(('id',), 'day', 'y', ('price', 'load'), ('sky',), ('load',))
SERIES = SeriesSpec(
  HORIZON, 4, covariates=('price', 'load', 'age'), categories=(('dry', 'wet'),), columns=COLUMNS
)
SPEC = DataSpec('shop', 'series', (CONTEXT + HORIZON, 5), 0, 2, ('a', 'b'), 20, series=SERIES)


def batch(num=4):
  """Windows with a gap in the context of the first and in the horizon of the second."""
  rng = np.random.default_rng(0)
  x = rng.normal(size=(num, *SPEC.shape)).astype(np.float32)
  x[..., 0] = 20 + 5 * x[..., 0]
  x[..., 4] = rng.integers(0, 3, x.shape[:2])
  x[0, 2, 0] = x[1, 10, 0] = x[2, 3, 2] = np.nan
  return {'x': x, 'label': np.arange(num, dtype=np.int32) % 2}


def built(**changes):
  """A small model of these windows, with random parameters."""
  config = families.complete(
    dict(
      family='diffusion',
      network=dict(name='dit', width=16, depth=1, heads=2, patch=1),
      prediction=dict(target='v', sigma_data=1.0),
      sampling=dict(steps=3, threshold=dict(name='none')),
    )
    | changes
  )
  method = families.build(config, SPEC)
  params, memory = jax.jit(method.init)(jax.random.key(0), batch())
  leaves, tree = jax.tree.flatten(params)
  keys = jax.random.split(jax.random.key(1), len(leaves))
  noisy = [x + 0.1 * jax.random.normal(k, x.shape) for x, k in zip(leaves, keys, strict=True)]
  return method, jax.tree.unflatten(tree, noisy), memory


def test_the_condition_of_a_window_by_hand():
  x = batch()['x']
  made = condition(SPEC, jnp.asarray(x), CONTEXT)
  past = x[:, :CONTEXT, 0].astype(np.float64)
  mean = np.nanmean(past, 1)
  known = ~np.isnan(past)
  scale = (1 + np.nansum(np.abs(past - mean[:, None]), 1)) / (1 + known.sum(1))
  np.testing.assert_allclose(made.location, mean, rtol=1e-5)
  np.testing.assert_allclose(made.scale, scale, rtol=1e-5)
  horizon = np.nan_to_num((x[:, CONTEXT:, 0] - mean[:, None]) / scale[:, None])
  np.testing.assert_allclose(made.x0[..., 0, 0], horizon, rtol=1e-4, atol=1e-5)
  np.testing.assert_array_equal(made.counted[..., 0, 0], ~np.isnan(x[:, CONTEXT:, 0]))
  given = np.asarray(made.given)[:, :, 0]
  # value, known, before the horizon, price, age, load, whether it is known, three codes
  assert given.shape == (4, CONTEXT + HORIZON, 10)
  assert (given[:, CONTEXT:, [0, 1, 2, 5, 6]] == 0).all() and (given[:, :CONTEXT, 2] == 1).all()
  np.testing.assert_array_equal(given[:, :CONTEXT, 1], known)
  np.testing.assert_array_equal(given[..., 3:5], x[..., [1, 3]])
  np.testing.assert_array_equal(given[:, :CONTEXT, 5], np.nan_to_num(x[:, :CONTEXT, 2]))
  np.testing.assert_array_equal(given[..., 7:].argmax(-1), x[..., 4])


def test_location_and_scale_are_settings():
  method, params, _ = built(windows=dict(location='last', scale='change'))
  x = jnp.asarray(batch()['x'])
  made = method.condition(x)
  past = np.asarray(x[3, :CONTEXT, 0], np.float64)
  assert float(made.location[3]) == pytest.approx(past[-1], rel=1e-6)
  change = (1 + np.abs(np.diff(past)).sum()) / CONTEXT
  assert float(made.scale[3]) == pytest.approx(change, rel=1e-5)
  # Forecasts move and grow with the series, up to the unit that the scale counts as one change.
  request = forecast_request(SPEC, batch())
  drawn = method.draw(params, jax.random.key(3), request).x[:, CONTEXT:, 0]
  moved = request._replace(past=request.past + np.array([100.0, 0, 0, 0, 0], np.float32))
  again = method.draw(params, jax.random.key(3), moved).x[:, CONTEXT:, 0]
  np.testing.assert_allclose(again, drawn + 100, rtol=1e-4)


@pytest.mark.slow
def test_what_is_missing_or_to_be_forecast_changes_nothing():
  """The loss bit for bit, whatever stands in the place of a missing value; and the forecasts."""
  method, params, memory = built()
  one = batch()
  context = Context(jnp.int32(0), params, True, jnp.arange(4), 4)
  value = lambda p, b: method.loss(p, memory, b, jax.random.key(2), context)[0]
  loss, gradient = jax.jit(value), jax.jit(jax.grad(value))
  other = {'x': one['x'].copy(), 'label': one['label']}
  other['x'].view(np.uint32)[np.isnan(other['x'])] = 0x7FC12345
  other['x'][:, CONTEXT:, 2] = 9.0  # known only afterwards
  assert np.isfinite(loss(params, one)) and loss(params, one) == loss(params, other)
  jax.tree.map(np.testing.assert_array_equal, gradient(params, one), gradient(params, other))
  other['x'][1, 9, 0] += 1.0
  assert loss(params, one) != loss(params, other)
  # The true future does not reach its forecast; another level of the series moves it as much.
  hidden, moved = (one['x'].copy() for _ in range(2))
  hidden[:, CONTEXT:, 0] = np.nan
  moved[..., 0] += 1024
  drawn = [
    method.draw(params, jax.random.key(3), forecast_request(SPEC, one | {'x': x}))
    for x in (one['x'], hidden, moved)
  ]
  values = [np.asarray(samples.x)[:, CONTEXT:, 0] for samples in drawn]
  np.testing.assert_array_equal(values[0], values[1])
  np.testing.assert_allclose(values[2] - 1024, values[0], atol=1e-2)
  assert drawn[0].x.shape == one['x'].shape and drawn[0].evaluations == 3
  np.testing.assert_array_equal(drawn[0].x[:, :CONTEXT], np.nan_to_num(one['x'][:, :CONTEXT]))


def test_other_horizons_and_bad_requests():
  method, params, _ = built()
  spec = dataclasses.replace(
    SPEC, shape=(CONTEXT + 7, 5), series=dataclasses.replace(SERIES, horizon=7)
  )
  one = batch()
  longer = one | {'x': np.pad(one['x'], ((0, 0), (0, 3), (0, 0)))}
  request = forecast_request(spec, longer)
  method.check_request(None, request)
  method.check_request(params, request)
  assert method.sampling_program(params, request).function
  request = forecast_request(SPEC, one)
  for change, message in (
    (dict(mask=None), 'a forecast needs a past with its covariates'),
    (dict(mask=np.roll(request.mask, 1, 0)), 'needs 8 given steps and all covariates'),
    (dict(options={'guidance': 2.0}), 'forecasts have no guidance'),
  ):
    with pytest.raises(ConfigError, match=message):
      method.check_request(None, request._replace(**change))
  with pytest.raises(ConfigError, match=r'set sampling\.threshold\.name=none'):
    built(sampling=dict(threshold=dict(name='static')))
