"""The discretised logistic mixture: bins that sum to one, edges, order of channels, sampling."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special, stats

from autoregressive.heads.mixture import LogisticMixture
from common.config import ConfigError
from tests.autoregressive.common import chi_square

GREY = LogisticMixture(1, 256, components=3)
TINY = LogisticMixture(3, 3, components=2)  # 27 colours
COLOURS = np.array(list(itertools.product(range(3), repeat=3)))


@functools.cache
def outputs_of(head, spread=1.0, batch=4):
  return spread * jax.random.normal(jax.random.key(head.size), (batch, head.size))


def table_of(head, outputs, emissions):
  """Log-probability of every emission under each row of outputs."""
  return jax.jit(lambda o, e: head.log_prob(o[:, None], e[None]))(outputs, jnp.array(emissions))


def exact(outputs, head):
  """Log-probabilities of all levels of one channel in float64, by differences of σ or of 1 - σ,
  whichever is smaller."""
  weights, means, scales = np.asarray(outputs, np.float64).reshape(-1, 3, head.components)[0]
  levels = np.arange(head.vocabulary)[:, None]
  half, x = 1 / (head.vocabulary - 1), levels * 2 / (head.vocabulary - 1) - 1
  sharpness = np.exp(-np.maximum(scales, -7))
  upper, lower = sharpness * (x + half - means), sharpness * (x - half - means)
  upper = np.where(levels == head.vocabulary - 1, np.inf, upper)
  lower = np.where(levels == 0, -np.inf, lower)
  sign = np.where(upper + lower > 0, -1, 1)  # σ(a) - σ(b) = σ(-b) - σ(-a)
  mass = sign * (special.expit(sign * upper) - special.expit(sign * lower))
  with np.errstate(divide='ignore'):
    return special.logsumexp(special.log_softmax(weights) + np.log(mass), axis=-1)


@pytest.mark.parametrize('spread', [0.3, 1.0, 5.0, 30.0])
def test_bins_sum_to_one(spread):
  levels = np.arange(256)[:, None]
  table = table_of(GREY, outputs_of(GREY, spread), levels)
  np.testing.assert_allclose(special.logsumexp(table, axis=-1), 0, atol=2e-5)


@pytest.mark.parametrize('spread', [0.3, 1.0, 4.0])
def test_log_prob_is_that_of_a_mixture_in_float64(spread):
  outputs = outputs_of(GREY, spread)
  table = np.asarray(table_of(GREY, outputs, np.arange(256)[:, None]))
  for row, made in zip(outputs, table, strict=True):
    expected = exact(row, GREY)
    seen = expected > -600  # below, float64 runs out too
    np.testing.assert_allclose(made[seen], expected[seen], rtol=3e-5, atol=3e-4)
    assert seen.sum() > 30


def test_edges_are_open():
  """Closed forms: log σ(s·(-1 + 1/255 - μ)) and log σ(-s·(1 - 1/255 - μ))."""
  head = LogisticMixture(1, 256, components=1)
  for mean, log_scale in ((0.0, -1.0), (-1.3, -3.0), (2.0, 0.5), (0.9, -7.0), (0.9, -20.0)):
    outputs = jnp.array([0.0, mean, log_scale])
    sharpness = np.exp(-max(log_scale, -7.0))
    first = special.log_expit(sharpness * (-1 + 1 / 255 - mean))
    last = special.log_expit(-sharpness * (1 - 1 / 255 - mean))
    made = head.log_prob(jnp.stack([outputs] * 2), jnp.array([[0], [255]]))
    np.testing.assert_allclose(made, [first, last], rtol=1e-5)


def test_far_from_the_mean_it_approaches_the_density():
  """Where a bin's mass is far below 1e-5 it is density times width: log pdf - log 127.5."""
  head = LogisticMixture(1, 256, components=1)
  made = head.log_prob(jnp.array([0.0, -0.9, -3.0]), jnp.array([230]))
  density = stats.logistic.logpdf(230 * 2 / 255 - 1, -0.9, np.exp(-3.0))
  assert float(made) < -25
  assert float(made) == pytest.approx(density - np.log(127.5), abs=0.01)


def test_gradients_are_finite_everywhere():
  corners = itertools.product((0.0,), (-50.0, 0.0, 50.0), (-30.0, 0.0, 30.0))
  outputs = jnp.array(list(corners))[:, None]
  head = LogisticMixture(1, 256, components=1)
  levels = jnp.array([[0], [1], [128], [254], [255]])
  gradient = jax.jit(jax.grad(lambda o: head.log_prob(o, levels).sum()))(outputs)
  assert np.isfinite(gradient).all()


def test_colours_sum_to_one():
  table = table_of(TINY, outputs_of(TINY, 2.0), COLOURS)
  np.testing.assert_allclose(special.logsumexp(table, axis=-1), 0, atol=1e-5)


def test_channels_follow_one_another():
  """Blue's coefficients do not change the distribution of red and green, nor green's red."""
  base = np.array(outputs_of(TINY, 1.0)).reshape(-1, 10, 2)

  def law(rows, channels):
    """Probabilities of the first channels, with the coefficients of some rows changed."""
    changed = base.copy()
    changed[:, rows] += 2.0
    table = np.exp(table_of(TINY, jnp.array(changed.reshape(-1, 20)), COLOURS))
    return table.reshape(-1, 3**channels, 3 ** (3 - channels)).sum(-1)

  plain = {n: law([], n) for n in (1, 2, 3)}
  for row, unmoved, moved in ((7, 1, 2), (8, 2, 3), (9, 2, 3)):  # a: green; b, c: blue
    np.testing.assert_allclose(law([row], unmoved), plain[unmoved], atol=1e-6)
    assert np.abs(law([row], moved) - plain[moved]).max() > 1e-3


@pytest.mark.parametrize('head', [LogisticMixture(1, 16, components=2), TINY], ids=['grey', 'rgb'])
def test_sampled_frequencies(head):
  outputs = outputs_of(head, 1.0, batch=1)
  emissions = COLOURS if head is TINY else np.arange(16)[:, None]
  draws = np.asarray(jax.jit(head.sample)(outputs.repeat(20_000, 0), jax.random.key(0)))
  expected = np.exp(np.asarray(table_of(head, outputs, emissions)))[0].astype(np.float64)
  index = draws @ 3 ** np.arange(2, -1, -1) if head is TINY else draws[:, 0]
  counts = np.bincount(index, minlength=len(expected))
  assert chi_square(counts, expected / expected.sum() * counts.sum()) > 1e-3


def test_mode_is_the_most_probable_level_channel_by_channel():
  outputs = outputs_of(TINY, 1.5, batch=16)
  tables = np.exp(table_of(TINY, outputs, COLOURS)).reshape(16, 3, 3, 3)
  for table, made in zip(tables, jax.jit(TINY.mode)(outputs).tolist(), strict=True):
    red = table.sum((1, 2)).argmax()
    green = table[red].sum(1).argmax()
    assert made == [red, green, table[red, green].argmax()]
  levels = np.arange(256)[:, None]
  best = np.asarray(table_of(GREY, outputs_of(GREY), levels)).argmax(-1)
  np.testing.assert_array_equal(jax.jit(GREY.mode)(outputs_of(GREY))[:, 0], best)


def test_sizes_and_inputs():
  assert LogisticMixture(3, 256).size == 100
  assert LogisticMixture(1, 256).size == 30
  np.testing.assert_allclose(GREY.network_inputs(jnp.array([[0], [255]])), [[-1.0], [1.0]])


@pytest.mark.parametrize(
  'settings, message',
  [
    (dict(values=2, vocabulary=256), '1 or 3 channels, got 2 values'),
    (dict(values=1, vocabulary=1), 'at least 2 levels, got 1'),
  ],
)
def test_refuses(settings, message):
  with pytest.raises(ConfigError, match=message) as error:
    LogisticMixture(**settings)
  assert '\n' not in str(error.value)
