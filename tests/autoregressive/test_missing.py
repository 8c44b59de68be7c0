"""Missing values: they reach neither the loss, nor the scale, nor the input of a forecast."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from autoregressive.method import build
from autoregressive.orderings import build_ordering
from common.data.series.columns import Columns
from common.method import Request
from tests.autoregressive.common import perturbed
from tests.autoregressive.series import (
  CONTEXT,
  HORIZON,
  MASK,
  SPEC,
  loss_context,
  series_config,
  series_method,
  windows,
)

COLUMNS = Columns(('id',), 'day', 'y', ('a', 'b'), ('sky', 'mood'), ('b', 'mood'))
# Two numbers and two categories; b and mood are known only afterwards.
NAMED = dataclasses.replace(
  SPEC,
  shape=(CONTEXT + HORIZON, 5),
  series=dataclasses.replace(
    SPEC.series, columns=COLUMNS, categories=(('rain', 'sun'), ('bad', 'good', 'so-so'))
  ),
)
GAPS = [(0, 2), (0, 9), (1, 0), (1, 1), (1, 2), (2, 11), (3, 7), (4, 5)]  # windows and steps


def batch_with_gaps(num=6):
  """Windows with categories and with missing values, covariates and codes."""
  rng = np.random.default_rng(1)
  batch = windows(num, spec=dataclasses.replace(NAMED, shape=(CONTEXT + HORIZON, 3)))
  codes = rng.integers(0, [3, 4], (num, CONTEXT + HORIZON, 2))
  x = np.concatenate([batch['x'], codes], -1).astype(np.float32)
  for window, step in GAPS:
    x[window, step, 0] = np.nan
  x[2, 3, 1] = x[3, 4, 2] = x[3, 6, 2] = x[0, 1, 3] = x[1, 4, 4] = np.nan
  return {'x': x, 'label': np.asarray(batch['label'])}


def test_the_covariates_of_a_step_by_hand():
  ordering = build_ordering({'name': 'windows'}, NAMED)
  assert (ordering.features, ordering.categories) == (4, (3, 4))
  x = batch_with_gaps()['x']
  for lengths in (None, jnp.full(6, CONTEXT), jnp.full(6, CONTEXT - 2)):
    found = np.asarray(ordering.covariates(jnp.asarray(x), lengths).features)
    context = CONTEXT if lengths is None else int(lengths[0])
    for window, step in np.ndindex(6, CONTEXT + HORIZON):
      before = x[window, step - 1] if step else np.full(5, np.nan)
      past = 1 <= step <= context
      known = step > 0 and (not np.isnan(before[0]) or (lengths is not None and not past))
      visible = past and not np.isnan(before[2])
      expected = [
        np.nan_to_num(x[window, step, 1]),
        before[2] if visible else 0,
        visible,
        known,
        np.nan_to_num(x[window, step, 3]),
        np.nan_to_num(before[4]) if past else 0,
      ]
      np.testing.assert_array_equal(found[window, step], np.float32(expected))


@pytest.mark.parametrize('location', ['mean', 'last', 'zero'])
@pytest.mark.parametrize('scale', ['deviation', 'change'])
def test_location_and_scale_of_the_values_that_are_there(location, scale):
  ordering = build_ordering({'name': 'windows', 'location': location, 'scale': scale}, NAMED)
  x = batch_with_gaps()['x']
  x[5, :CONTEXT, 0] = np.nan  # nothing at all: 0 and 1
  found = ordering.covariates(jnp.asarray(x))
  for i, past in enumerate(x[:, :CONTEXT, 0].astype(np.float64)):
    seen = past[~np.isnan(past)]
    where = {'mean': seen.mean(), 'last': seen[-1], 'zero': 0.0}[location] if len(seen) else 0.0
    changes = np.diff(past)
    sizes = np.abs(seen - where) if scale == 'deviation' else np.abs(changes[~np.isnan(changes)])
    assert float(found.location[i]) == pytest.approx(where, rel=1e-6)
    assert float(found.scale[i]) == pytest.approx((1 + sizes.sum()) / (1 + len(sizes)), rel=1e-5)


def test_training_does_not_depend_on_what_stands_in_the_place_of_a_missing_value():
  """Bit for bit: other bits in a NaN, and other observed covariates in the horizon."""
  made = build(series_config(head='student_t'), NAMED)
  batch = batch_with_gaps()
  params = perturbed(jax.jit(made.init)(jax.random.key(0), batch)[0])

  @jax.jit
  def step(params, x):
    context = loss_context(params, 6)
    full = {'x': x, 'label': jnp.asarray(batch['label'])}
    loss = lambda p: made.loss(p, (), full, jax.random.key(1), context)[0]
    value, grads = jax.value_and_grad(loss)(params)
    return value, jax.tree.map(lambda p, g: p - 0.1 * g, params, grads)

  one = step(params, batch['x'])
  other = batch['x'].copy()
  other.view(np.uint32)[np.isnan(other)] = 0x7FC12345
  other[:, CONTEXT:, 2] = np.nan
  other[:, CONTEXT:, 4] = 2
  two = step(params, other)
  assert np.isfinite(one[0])
  jax.tree.map(np.testing.assert_array_equal, one, two)
  # But a value that is there matters, and so does whether it is.
  for number in (np.nan, 7.0):
    other = batch['x'].copy()
    other[0, 3, 0] = number
    assert step(params, other)[0] != one[0]


@pytest.mark.slow
@pytest.mark.parametrize('head', ['gaussian', 'student_t'])
def test_the_likelihood_of_a_window_with_gaps_is_the_marginal(head):
  """Values are independent given outputs of 0, so the marginal leaves out the missing ones."""
  made = build(series_config(head=head), NAMED)
  batch = batch_with_gaps()
  params = jax.tree.map(jnp.zeros_like, jax.jit(made.init)(jax.random.key(0), batch)[0])
  nats, _, dims, *_ = jax.jit(made.nll)(params, batch, jax.random.key(0))
  past, truth = np.split(np.asarray(batch['x'][..., 0], np.float64), [CONTEXT], axis=1)
  mean, number = np.nanmean(past, 1, keepdims=True), (~np.isnan(past)).sum(1, keepdims=True)
  nu = (1 + np.nansum(np.abs(past - mean), 1, keepdims=True)) / (1 + number)
  half = np.log(2)  # softplus(0)
  densities = {
    'gaussian': stats.norm(mean, nu * half),
    'student_t': stats.t(2 + half, mean, nu * half),
  }[head].logpdf(truth)
  np.testing.assert_allclose(nats, -np.nansum(densities, 1), rtol=1e-4)
  np.testing.assert_array_equal(dims, (~np.isnan(truth)).sum(1))
  context = loss_context(params, 6, training=False)
  evaluate = jax.jit(lambda b: made.loss(params, (), b, jax.random.key(1), context))
  loss, aux = evaluate(batch)
  assert float(loss) == pytest.approx(-np.nanmean(densities), rel=1e-4)
  assert float(aux.count) == (~np.isnan(truth)).sum()


@pytest.mark.slow
def test_forecasts_of_windows_with_gaps_are_those_of_one_pass():
  """Decoding step by step has the outputs of a whole pass in which the drawn values are known."""
  made = build(series_config(), NAMED)
  batch = batch_with_gaps()
  params = perturbed(jax.jit(made.init)(jax.random.key(0), batch)[0])
  mask = np.ones(NAMED.shape, bool)
  mask[CONTEXT:, 0] = False
  drawn = made.draw(params, jax.random.key(0), Request(6, batch['label'], batch['x'], mask, {}))
  x = batch['x'].copy()
  x[:, CONTEXT:, 0] = np.asarray(drawn.x)[:, CONTEXT:, 0]
  whole = jax.jit(made.nll)(params, batch | {'x': x}, jax.random.key(0))
  np.testing.assert_allclose(whole.nats, -np.asarray(drawn.log_prob).sum(1), rtol=1e-3, atol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize('horizon', [2, 7])
def test_a_horizon_may_be_shorter_or_longer_than_the_trained_one(horizon):
  """The first steps of a longer forecast are those of a shorter one."""
  made, batch, params = series_method(network__positions='rotary')
  x = np.pad(np.asarray(batch['x']), ((0, 0), (0, 3), (0, 0)))[:, : CONTEXT + horizon]
  mask = np.ones(x.shape[1:], bool)
  mask[CONTEXT:, 0] = False
  ask = lambda x, mask: np.asarray(
    made.draw(params, jax.random.key(0), Request(6, batch['label'], x, mask, {})).x
  )
  one, other = ask(x, mask), ask(batch['x'], MASK)
  assert one.shape == (6, CONTEXT + horizon, 3)
  same = CONTEXT + min(horizon, HORIZON)
  np.testing.assert_allclose(one[:, :same, 0], other[:, :same, 0], rtol=1e-4, atol=1e-4)
