"""Heads of one number: the losses of the competitions, and values that were not observed."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from autoregressive.heads.numbers import Gaussian, Quantiles
from autoregressive.heads.points import Percentage, Point
from common.evaluation.forecasts import competitions

OUTPUTS = jnp.array([[1.5, -0.5, 2.0], [0.3, 1.0, 4.0]])
EMISSION = jnp.array([[6.0, 2.0, 0.0], [3.0, 2.5, 1.0]])
SCALE = jnp.array([4.0, 0.5])
FORECAST = np.asarray(SCALE[:, None] * OUTPUTS)


def test_losses_are_those_of_the_competitions():
  truth = np.asarray(EMISSION)
  error = np.abs(truth - FORECAST) / SCALE[:, None]
  expected = {
    Point(3): error.sum(-1),
    Point(3, 'squared'): (error**2).sum(-1),
    Percentage(3): 3 * competitions.smape(FORECAST, truth) / 100,
    # The mean over the values that have a percentage, times their number.
    Percentage(3, 'mape'): competitions.mape(FORECAST, truth) / 100 * np.array([2, 3]),
  }
  for head, loss in expected.items():
    np.testing.assert_allclose(-head.log_prob(OUTPUTS, EMISSION, SCALE), loss, rtol=1e-6)
    for forecast in (head.mode(OUTPUTS, SCALE), head.sample(OUTPUTS, jax.random.key(0), SCALE)):
      np.testing.assert_allclose(forecast, FORECAST, rtol=1e-6)
    assert head.size == 3 and not head.likelihood


def test_the_denominator_of_smape_has_no_gradient():
  """Otherwise a forecast on the wrong side of 0, where sMAPE is 200 whatever it is, would stay."""
  head = Percentage(1)
  slope = jax.grad(lambda o: -head.log_prob(o, jnp.array([2.0]), 1.0))(jnp.array([-1.0]))
  np.testing.assert_allclose(slope, -2 / 3)


@pytest.mark.parametrize('head', [Gaussian(3), Quantiles(3), Point(3), Percentage(3)])
def test_a_value_that_was_not_observed_counts_as_the_mean_of_the_others(head):
  outputs = jax.random.normal(jax.random.key(1), (head.size,))
  emission = jnp.array([1.0, jnp.nan, 3.0])

  def score(outputs, emission):
    return head.log_prob(outputs, emission, 2.0)

  value, slope = jax.value_and_grad(score)(outputs, emission)
  each = [float(score(outputs, emission.at[1].set(x))) for x in (1.0, 5.0)]
  # Without the middle value, whatever it is.
  assert np.isfinite(slope).all() and slope.reshape(3, -1)[1].tolist() == [0] * (head.size // 3)
  single = type(head)(1)
  parts = outputs.reshape(3, -1)
  seen = [float(single.log_prob(parts[i], emission[i : i + 1], 2.0)) for i in (0, 2)]
  assert float(value) == pytest.approx(1.5 * sum(seen), rel=1e-5)
  assert min(each) < max(each)
  assert float(score(outputs, jnp.full(3, jnp.nan))) == 0
