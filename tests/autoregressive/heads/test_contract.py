"""Every head in the table: its density sums or integrates to 1, and its samples follow it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from autoregressive.heads import HEADS
from common.config import ConfigError, component

DRAWS = 4000
LIMIT = 1.95 / DRAWS**0.5  # Kolmogorov-Smirnov, at a level of 0.1 %
LIKELIHOODS = [name for name, head in HEADS.items() if head.likelihood]


def head_of(name):
  """The head for emissions of one value, with the vocabulary that it accepts."""
  for vocabulary in (6, 2):
    try:
      return component(HEADS, {'name': name}, 'head', values=1, vocabulary=vocabulary)
    except ConfigError as error:
      refusal = error
  raise refusal


def support(head):
  """Points at which to evaluate the density, and the weight of each in a sum or an integral."""
  if not head.over_numbers or head.counts:
    x = np.arange(head.vocabulary if not head.over_numbers else 4000, dtype=np.float64)
    return x, np.ones_like(x)
  x = 5 * np.sinh(np.linspace(-9, 9, 40_001))  # fine near 0, and far enough for heavy tails
  return x, np.gradient(x)


def log_prob_of(head, outputs, x, scale):
  """The log-probability or log-density at each point."""
  tiled = jnp.broadcast_to(outputs, (len(x), head.size))
  return jax.jit(lambda o, e: head.log_prob(o, e, scale))(tiled, x[:, None])


@pytest.mark.parametrize('scale', [1.0, 3.0])
@pytest.mark.parametrize('name', LIKELIHOODS)
def test_the_density_is_one_in_total_and_samples_follow_it(name, scale):
  head = head_of(name)
  outputs = jax.random.normal(jax.random.key(3), (head.size,))
  x, weight = support(head)
  kind = jnp.float32 if head.over_numbers else jnp.int32
  log_prob = log_prob_of(head, outputs, jnp.asarray(x, kind), scale)
  mass = np.exp(np.asarray(log_prob, np.float64)) * weight
  assert mass.sum() == pytest.approx(1, abs=2e-3)

  tiled = jnp.broadcast_to(outputs, (DRAWS, head.size))
  drawn = jax.jit(lambda key: head.sample(tiled, key, scale))(jax.random.key(5))
  drawn = np.sort(np.asarray(drawn, np.float64)[:, 0])
  below = np.searchsorted(drawn, x, side='right') / DRAWS
  # The cumulative mass up to the middle of a cell of the integral, or including a whole number.
  share = 1.0 if head.counts or not head.over_numbers else 0.5
  cumulative = np.cumsum(mass) - (1 - share) * mass
  assert np.abs(below - cumulative).max() < LIMIT


@pytest.mark.parametrize('name', LIKELIHOODS)
def test_the_mode_is_the_most_probable_point(name):
  head = head_of(name)
  outputs = jax.random.normal(jax.random.key(3), (head.size,))
  x, _ = support(head)
  kind = jnp.float32 if head.over_numbers else jnp.int32
  log_prob = log_prob_of(head, outputs, jnp.asarray(x, kind), 1.0)
  mode = head.mode(outputs, 1.0)
  assert float(head.log_prob(outputs, mode, 1.0)) == pytest.approx(float(log_prob.max()), abs=1e-2)


@pytest.mark.parametrize('name', HEADS)
def test_bfloat16_outputs_are_computed_in_float32(name):
  head = head_of(name)
  outputs = jax.random.normal(jax.random.key(3), (4, head.size)).astype(jnp.bfloat16)
  emission = jnp.ones((4, 1), jnp.float32 if head.over_numbers else jnp.int32)
  log_prob = head.log_prob(outputs, emission)
  assert log_prob.dtype == jnp.float32
  expected = head.log_prob(outputs.astype(jnp.float32), emission)
  np.testing.assert_allclose(log_prob, expected, rtol=1e-6)
