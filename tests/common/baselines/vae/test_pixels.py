"""Distributions of pixels: probabilities of levels, densities of numbers, draws."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from common.baselines.vae.pixels import PIXELS

KINDS = {'gaussian': stats.norm, 'logistic': stats.logistic}


def outputs(location, log_scale):
  """The decoder's output for one pixel of one channel, with a scale for each value."""
  return jnp.asarray([[[[location, log_scale]]]], jnp.float32)


def level_log_probs(kind, location, log_scale, levels):
  pixels = PIXELS[kind](scale='each')
  x = jnp.arange(levels, dtype=jnp.uint8)[:, None, None, None]
  each = jnp.broadcast_to(outputs(location, log_scale), (levels, 1, 1, 2))
  return np.asarray(pixels.log_prob({}, each, x, levels), np.float64)


@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('location', [-3.0, -1.0, 0.01, 0.7, 2.0])
@pytest.mark.parametrize('log_scale', [-6.0, -3.0, 0.0, 2.0])
def test_levels_have_the_probabilities_of_their_bins(kind, location, log_scale):
  levels = 256
  found = level_log_probs(kind, location, log_scale, levels)
  assert np.exp(found).sum() == pytest.approx(1, abs=2e-5)
  # The bins' ends in float64, from the side on which nothing cancels.
  centres, half = np.linspace(-1, 1, levels), 1 / (levels - 1)
  true = KINDS[kind](np.float32(location).astype(float), np.exp(np.float64(log_scale)))
  low, high = centres - half, centres + half
  low[0], high[-1] = -np.inf, np.inf
  upper_tail = centres > location
  probability = np.where(upper_tail, true.sf(low) - true.sf(high), true.cdf(high) - true.cdf(low))
  sure = probability > 1e-30
  # Relative to 1 + |log p|: positions in bins are rounded in float32.
  error = np.abs(found[sure] - np.log(probability[sure])) / (1 + np.abs(np.log(probability[sure])))
  assert error.max() < 5e-4


@pytest.mark.parametrize('kind', KINDS)
def test_gradients_are_finite_however_far_off_the_decoder_is(kind):
  pixels = PIXELS[kind](scale='each')
  x = jnp.asarray([0, 3, 255, 128], jnp.uint8)[:, None, None, None]

  def loss(values):
    return pixels.log_prob({}, values, x, 256).sum()

  for location in (-50.0, -1.0, 1.0, 50.0):
    for log_scale in (-20.0, -3.0, 5.0):
      each = jnp.broadcast_to(outputs(location, log_scale), (4, 1, 1, 2))
      value, slope = jax.value_and_grad(loss)(each)
      assert np.isfinite(value) and np.isfinite(slope).all()


@pytest.mark.parametrize('kind', KINDS)
def test_numbers_have_densities(kind):
  pixels = PIXELS[kind]()
  params = {'scale': jnp.asarray([-0.5, 0.3])}
  x, location = np.float32([[[[0.2, -1.4]]]]), jnp.asarray([[[[0.1, 0.4]]]])
  found = pixels.log_prob(params, location, jnp.asarray(x), 0)
  true = KINDS[kind](np.array([0.1, 0.4]), np.exp([-0.5, 0.3])).logpdf(x[0, 0, 0]).sum()
  assert float(found[0]) == pytest.approx(true, rel=1e-5)


@pytest.mark.parametrize('kind', KINDS)
def test_draws_have_the_distribution(kind):
  pixels, keys = PIXELS[kind](), jax.random.split(jax.random.key(1), 4000)
  params, location = {'scale': jnp.asarray([-1.0])}, jnp.full((4000, 1, 1, 1), 0.3)
  drawn = np.asarray(pixels.draw(params, location, keys)).ravel()
  assert stats.kstest(drawn, KINDS[kind](0.3, np.exp(-1.0)).cdf).pvalue > 0.01
  assert float(pixels.mean(params, location)[0, 0, 0, 0]) == pytest.approx(0.3)
