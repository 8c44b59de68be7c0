"""Averages of parameters: EDM's half-life, and EDM2's post-hoc averages of any width."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from common.config import ConfigError
from common.training import averages
from configs.base import get_base


def recursion(values, gamma):
  """The power-function average after each step."""
  share = jax.vmap(lambda step: averages.power_update_weight(step, gamma))(jnp.arange(len(values)))
  average, path = np.zeros_like(values[0]), []
  for value, part in zip(values, np.asarray(share, np.float64), strict=True):
    average = average + part * (value - average)
    path.append(average)
  return np.array(path)


def test_half_life_halves_and_ramps_up():
  """EDM's beta = 0.5^(batch / min(half-life, ramp-up · images)), in steps."""
  decay = lambda n, ramp: float(averages.half_life_decay(jnp.asarray(n), 100.0, ramp))
  assert decay(10_000, 0.05) == pytest.approx(0.5**0.01)
  assert decay(200, 0.05) == pytest.approx(0.5**0.1)  # a half-life of 5% of 200 steps
  assert decay(0, 0.05) == 0.0 and decay(0, 0.0) == pytest.approx(0.5**0.01)
  section = get_base().ema.to_dict()
  at = lambda averaging: float(averaging.decay_at(jnp.asarray(200)))
  assert at(averages.make_averaging(section, 10, 1000)) == pytest.approx(201 / 210)
  for half_life in ('10%', '3.2 kimg'):
    made = averages.make_averaging(section | {'half_life': half_life}, 10, 1000, batch_size=32)
    assert made.half_life == 100 and at(made) == pytest.approx(0.5**0.1)


@pytest.mark.parametrize('width', [0.01, 0.05, 0.1, 0.2, 0.28])
def test_width_of_and_gamma_of_are_inverses(width):
  gamma = averages.gamma_of(width)
  assert averages.width_of(gamma) == pytest.approx(width, rel=1e-10)
  # The width is the standard deviation of the profile over [0, 1].
  tau = (np.arange(200_000) + 0.5) / 200_000
  p = (gamma + 1) * tau**gamma / 200_000
  mean = (p * tau).sum()
  assert np.sqrt((p * (tau - mean) ** 2).sum()) == pytest.approx(width, rel=1e-6)


def test_published_gammas():
  """EDM2 stores widths 0.05 and 0.10, which are gamma 16.97 and 6.94."""
  assert averages.gamma_of(0.05) == pytest.approx(16.9721986, rel=1e-8)
  assert averages.gamma_of(0.10) == pytest.approx(6.937203938, rel=1e-8)
  assert averages.width_of(16.97) == pytest.approx(0.05000548862, rel=1e-8)
  share = averages.power_update_weight(jnp.asarray(999), averages.gamma_of(0.05))
  assert 1 - float(share) == pytest.approx(0.9821795063, rel=1e-6)


def test_published_weights():
  """EDM2's code for width 0.075 from 0.05 and 0.10: an unconstrained fit, divided by its sum."""
  ones, gammas = np.ones(2), np.array([averages.gamma_of(w) for w in (0.05, 0.10)])
  goal = np.ones(1), np.array([averages.gamma_of(0.075)])
  among = averages.inner_products(ones, gammas, ones, gammas)
  free = np.linalg.solve(among, averages.inner_products(ones, gammas, *goal))[:, 0]
  np.testing.assert_allclose(free / free.sum(), [0.3422694236, 0.6577305764], rtol=1e-8)
  # Ours have the least squared error among weights that sum to 1.
  own = averages.posthoc_weights([(1, 0.05), (1, 0.10)], 1, 0.075)
  away = lambda share: (share - free) @ among @ (share - free)
  assert away(own) < min(away(own + d) for d in ([0.01, -0.01], [-0.01, 0.01]))
  assert away(own) < away(free / free.sum())


def test_the_recursion_equals_the_closed_form():
  rng = np.random.default_rng(0)
  values = rng.normal(size=(300, 3))
  for gamma in (0.5, 6.94, 16.97):
    tau = np.arange(301, dtype=np.float64)
    share = np.diff(tau ** (gamma + 1)) / 300 ** (gamma + 1)
    np.testing.assert_allclose(recursion(values, gamma)[-1], share @ values, rtol=2e-5, atol=2e-6)
    assert share.sum() == pytest.approx(1)


def test_inner_products_are_the_integrals():
  tau = (np.arange(400_000) + 0.5) / 400_000 * 1000

  def profile(t, gamma):
    return np.where(tau < t, (gamma + 1) / t * (np.minimum(tau, t) / t) ** gamma, 0)

  times, gammas = np.array([400.0, 1000.0, 1000.0]), np.array([6.94, 16.97, 2.0])
  found = averages.inner_products(times, gammas, times, gammas)
  rows = np.array([profile(t, g) for t, g in zip(times, gammas, strict=True)])
  np.testing.assert_allclose(found, rows @ rows.T * 1000 / 400_000, rtol=1e-4)


def test_any_width_is_reconstructed_from_stored_ones():
  """Parameters that drift with noise: the error is small next to the differences between widths."""
  rng = np.random.default_rng(1)
  steps = np.linspace(0, 1, 4000)[:, None]
  values = np.sin(3 * steps * np.arange(1, 6)) + 0.3 * rng.normal(size=(4000, 5))
  averaged = lambda width: recursion(values, averages.gamma_of(width))
  widths = (0.05, 0.1)
  paths = {width: averaged(width) for width in widths}
  for width in (0.04, 0.07, 0.15, 0.2):
    directly, errors = averaged(width)[-1], []
    for number in (2, 4, 8, 16):  # of snapshots, evenly over the run
      steps = range(4000 // number, 4001, 4000 // number)
      stored = [(step, width) for step in steps for width in widths]
      points = np.array([paths[width][step - 1] for step, width in stored])
      share = averages.posthoc_weights(stored, 4000, width)
      assert share.sum() == pytest.approx(1, abs=1e-9)
      apart = np.linalg.norm(points[-1] - points[-2])
      errors.append(np.linalg.norm(share @ points - directly) / apart)
    assert (np.diff(errors) < 0).all() and errors[2] < 0.04 and errors[3] < 0.01, (width, errors)
  stored = [(step, width) for step in range(500, 4001, 500) for width in widths]
  # A stored average is reproduced exactly, also one that ends before the last step.
  np.testing.assert_allclose(averages.posthoc_weights(stored, 4000, 0.1), np.eye(16)[-1], atol=1e-6)
  np.testing.assert_allclose(
    averages.posthoc_weights(stored[:8], 2000, 0.05), np.eye(8)[-2], atol=1e-6
  )


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    ({'widths': (0.3,)}, r'width of an average is a fraction of the run in \(0, 0.2887\), got 0.3'),
    ({'half_life': 'long'}, "ema.half_life='long' must be a number such as '500'"),
  ],
)
def test_invalid_settings_are_refused(changes, message):
  with pytest.raises(ConfigError, match=message):
    averages.make_averaging(get_base().ema.to_dict() | changes, 10, 100)
