"""Direct forecasts: a horizon is one emission, whose covariates are the context."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from autoregressive.method import build, build_model
from autoregressive.orderings import build_ordering
from common.config import ConfigError
from common.data.spec import SeriesSpec
from common.domains.forecasts.draws import forecast_request
from tests.autoregressive.common import perturbed
from tests.autoregressive.series import CONTEXT, HORIZON, SPEC, loss_context, series_config, windows
from tests.cases import slow

SERIES = SeriesSpec(
  HORIZON, 4, covariates=('a', 'b'), origins=(100.0, -3.0, 0.0), units=(20.0, 2.0, 5.0)
)
REAL = dataclasses.replace(SPEC, series=SERIES)
NBEATS = dict(name='nbeats', units=8, layers=2, stacks=2)
LABEL = jnp.array([0, 1, 2, 0])


def config(head, **settings):
  return series_config(head) | dict(ordering=dict(name='horizon') | settings, network=NBEATS)


def batch():
  """Windows of stored values; the last has a context and a horizon with missing values."""
  x = np.array(windows(4)['x'])
  x[..., 0] = np.random.default_rng(0).normal(size=x.shape[:2])
  x[3, 2, 0] = x[3, CONTEXT + 1, 0] = np.nan
  return {'x': jnp.asarray(x), 'label': LABEL}


def test_a_horizon_is_an_emission_and_its_context_are_covariates():
  ordering = build_ordering({'name': 'horizon'}, REAL)
  x = batch()['x']
  covariates = ordering.covariates(x)
  emissions = ordering.encode(x, covariates)
  assert emissions.shape == (4, 1, HORIZON) and covariates.features.shape == (4, 1, CONTEXT)
  assert (ordering.length, ordering.given, ordering.features) == (1, 0, CONTEXT)
  np.testing.assert_allclose(ordering.decode(emissions, covariates)[:3], x[:3], atol=1e-6)
  np.testing.assert_allclose(ordering.observed(x), [[1], [1], [1], [1 - 1 / HORIZON]])
  mean = np.nanmean(x[:, :CONTEXT, 0], 1)
  np.testing.assert_allclose(covariates.location, mean, atol=1e-6)
  scaled = (np.asarray(x[:3, :CONTEXT, 0]) - mean[:3, None]) / covariates.scale[:3, None]
  np.testing.assert_allclose(covariates.features[:3, 0], scaled, atol=1e-5)
  assert covariates.features[3, 0, 2] == 0  # missing: at the location


def test_the_lookback_is_all_that_the_model_sees():
  ordering = build_ordering({'name': 'horizon', 'lookback': 3}, REAL)
  assert ordering.features == 3
  x = np.array(batch()['x'])
  covariates = ordering.covariates(jnp.asarray(x))
  assert covariates.features.shape == (4, 1, 3)
  np.testing.assert_allclose(covariates.location, np.nanmean(x[:, CONTEXT - 3 : CONTEXT, 0], 1))
  x[:, : CONTEXT - 3, 0] = 7.0
  other = ordering.covariates(jnp.asarray(x))
  for one, another in zip(covariates[:3], other[:3], strict=True):  # the columns are the window
    np.testing.assert_array_equal(one, another)
  with pytest.raises(ConfigError, match=f'lookback={CONTEXT + 1} is longer than the context'):
    build_ordering({'name': 'horizon', 'lookback': CONTEXT + 1}, REAL)


def test_percentages_are_of_raw_values():
  ordering = build_ordering({'name': 'horizon'}, REAL, relative=True)
  x = batch()['x']
  covariates = ordering.covariates(x, label=LABEL)
  raw = SERIES.raw(np.asarray(x[..., 0]), np.asarray(LABEL))
  units = np.array(SERIES.units)[np.asarray(LABEL)][:, None]
  emissions = ordering.encode(x, covariates)[:, 0]
  np.testing.assert_allclose(emissions, raw[:, CONTEXT:] / units, rtol=1e-4, atol=1e-5)
  size = np.nanmean(np.abs(raw[:, :CONTEXT] / units), 1)
  np.testing.assert_allclose(covariates.scale, size, rtol=1e-4)
  # The level of a series that the model does not know is not in its window.
  assert np.isnan(ordering.covariates(x, label=LABEL + 3).location).all()


@pytest.mark.parametrize('head', [*slow(['point', 'percentage']), 'quantiles'])
def test_a_direct_model_is_trained_and_sampled_by_the_same_loop(head):
  made, data = build(config(head), REAL), batch()
  params = perturbed(made.init(jax.random.key(0), data)[0], 0.3)
  assert set(params) == {'network'}  # the model has no parameters of its own
  value, aux = made.loss(params, (), data, jax.random.key(1), loss_context(params, 4, False))
  ordering, model = build_model(config(head), REAL)
  covariates = ordering.covariates(data['x'], label=LABEL)
  emissions = ordering.encode(data['x'], covariates)
  outputs = model.apply({'params': params}, emissions, covariates=covariates)
  size = model.head.size // HORIZON
  total = 0.0
  for i in range(4):
    truth = np.asarray(emissions[i, 0])
    for step in np.flatnonzero(np.isfinite(truth)):
      one = dataclasses.replace(model.head, values=1)
      part = outputs[i, 0, step * size : (step + 1) * size]
      total -= float(one.log_prob(part, jnp.asarray(truth[step : step + 1]), covariates.scale[i]))
  assert float(aux.count) == 4 * HORIZON - 1
  assert float(value) == pytest.approx(total / (4 * HORIZON - 1), rel=1e-4)
  request = forecast_request(REAL, {k: np.asarray(v) for k, v in data.items()})
  drawn = made.draw(params, jax.random.key(2), request)
  assert drawn.evaluations == 1
  np.testing.assert_allclose(drawn.x[:3, :CONTEXT], data['x'][:3, :CONTEXT], atol=1e-6)
  if head != 'quantiles':
    expected = model.head.mode(outputs[:, 0], covariates.scale) + covariates.location[:, None]
    np.testing.assert_allclose(drawn.x[:, CONTEXT:, 0], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
  ('settings', 'message'),
  [
    (dict(head=dict(name='percentage'), ordering=dict(name='windows')), "ordering.name='horizon'"),
    (dict(network=NBEATS, ordering=dict(name='windows')), "set ordering.name='horizon'"),
  ],
)
def test_what_does_not_go_together_is_refused(settings, message):
  whole = series_config() | settings
  with pytest.raises(ConfigError, match=message):
    build_model(whole, REAL)


def test_another_horizon_is_refused():
  ordering = build_ordering({'name': 'horizon'}, REAL)
  with pytest.raises(ConfigError, match='forecasts 4 steps from 8, no other number; got windows'):
    ordering.encode(jnp.zeros((1, CONTEXT + 6, 3)))


def test_a_direct_model_has_no_output_bias():
  settings = config('quantiles')
  with pytest.raises(ConfigError, match='needs a projection of its own'):
    build(settings | {'model': settings['model'] | {'output_bias': True}}, REAL)
