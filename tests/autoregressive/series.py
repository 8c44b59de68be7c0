"""Shared by the tests of forecasts: small windows of time series, small models of them."""

import jax
import jax.numpy as jnp
import numpy as np

from autoregressive.method import build, build_model
from common.data.spec import DataSpec, SeriesSpec
from common.method import Context
from tests.autoregressive.common import perturbed, small_config

CONTEXT, HORIZON, COVARIATES = 8, 4, 2
SERIES = SeriesSpec(HORIZON, season=4, counts=True, covariates=('a', 'b'))
SPEC = DataSpec(
  'waves', 'series', (CONTEXT + HORIZON, 1 + COVARIATES), 0, 3, ('x', 'y', 'z'), 64, series=SERIES
)
MASK = np.ones(SPEC.shape, bool)
MASK[CONTEXT:, 0] = False


def series_config(head='gaussian', **overrides):
  """The base config for windows of time series, at a size for tests."""
  return small_config(
    ordering=dict(name='windows'),
    head=dict(name=head),
    **{'network__width': 16, 'network__layers': 1, 'network__heads': 2} | overrides,
  )


def windows(num, seed=0, spec=SPEC):
  """A batch of windows of counts, with random covariates."""
  rng = np.random.default_rng(seed)
  x = rng.normal(size=(num, *spec.shape)).astype(np.float32)
  x[..., 0] = rng.poisson(20.0, x.shape[:2])
  return {'x': jnp.asarray(x), 'label': jnp.arange(num) % spec.num_classes}


def series_model(spec=SPEC, scale=0.3, **settings):
  """(ordering, model, perturbed parameters)."""
  ordering, model = build_model(series_config(**settings), spec)
  x = windows(1)['x']
  covariates = ordering.covariates(x)
  emissions = ordering.encode(x, covariates)
  params = jax.jit(model.init)(jax.random.key(0), emissions, covariates=covariates)['params']
  return ordering, model, perturbed(params, scale)


def series_method(spec=SPEC, **settings):
  """(method, a batch, perturbed parameters)."""
  made, batch = build(series_config(**settings), spec), windows(6, spec=spec)
  params, _ = jax.jit(made.init)(jax.random.key(0), batch)
  return made, batch, perturbed(params)


def loss_context(params, size, training=True):
  """The context of a loss of a batch of this size."""
  return Context(jnp.int32(0), params, training, jnp.arange(size), size)


def loss_of(made, params, batch, training):
  """(loss, Aux) of a batch."""
  context = loss_context(params, len(batch['x']), training)
  return jax.jit(lambda p, b: made.loss(p, (), b, jax.random.key(1), context))(params, batch)
