"""Guidance: the meaning of the weight, the cost of a call, and how transforms compose."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion import processes
from diffusion.predictions import Pair
from diffusion.sampling import driver, guidance, solvers
from tests.diffusion import exact

KEY = jax.random.key(0)
PROCESS = processes.VPLinear()
with jax.enable_x64(True):
  X = jnp.asarray(np.random.default_rng(0).normal(size=(6, 2)))
  T = jnp.full((6,), 0.4)


@pytest.fixture(autouse=True)
def float64():
  with jax.enable_x64(True):
    yield


@jax.jit
def conditional(x, t, condition):
  """Component 0 or 1 of the mixture for condition 0 or 1, the whole mixture for 2."""
  parts = [
    exact.Gaussians(
      np.ones(1), exact.MIXTURE.means[k : k + 1], exact.MIXTURE.covariances[k : k + 1]
    )
    for k in range(2)
  ]
  pairs = [data.denoiser(PROCESS)(x, t) for data in (*parts, exact.MIXTURE)]
  choose = lambda *leaves: jnp.stack(leaves)[condition, jnp.arange(x.shape[0])]
  return jax.tree.map(choose, *pairs)


CONDITION = jnp.asarray([0, 1, 0, 1, 1, 0])
NULL = jnp.full((6,), 2)


def guided(weight):
  return guidance.ClassifierFree(conditional, CONDITION, NULL, weight)


def assert_pairs(a, b, rtol=1e-12):
  np.testing.assert_allclose(a.x0, b.x0, rtol=rtol)
  np.testing.assert_allclose(a.eps, b.eps, rtol=rtol)


def test_weight_1_is_the_conditional_model_and_0_the_unconditional():
  assert_pairs(guided(1.0)(X, T), conditional(X, T, CONDITION))
  assert_pairs(guided(0.0)(X, T), conditional(X, T, NULL))


def test_ho_and_salimans_convention():
  w = 0.7
  with_condition, without = conditional(X, T, CONDITION), conditional(X, T, NULL)
  expected = (1 + w) * with_condition.eps - w * without.eps
  np.testing.assert_allclose(guided(1 + w)(X, T).eps, expected)


def test_guidance_keeps_x():
  pair = guided(3.0)(X, T)
  np.testing.assert_allclose(PROCESS.alpha(T[0]) * pair.x0 + PROCESS.sigma(T[0]) * pair.eps, X)


@pytest.mark.slow
def test_classifier_guidance_by_the_exact_classifier_is_the_conditional_model():
  """∇log p(x | y) = ∇log p(x) + ∇log p(y | x): at scale 1 this is Bayes' rule."""

  def log_density(data, x, t):
    alpha, sigma = PROCESS.alpha(t), PROCESS.sigma(t)
    total = []
    for mean, covariance, weight in zip(data.means, data.covariances, data.weights, strict=True):
      cov = alpha**2 * covariance + sigma**2 * np.eye(2)
      total.append(
        jax.scipy.stats.multivariate_normal.logpdf(x, alpha * mean, cov) + np.log(weight)
      )
    return jax.scipy.special.logsumexp(jnp.stack(total))

  one = exact.Gaussians(np.ones(1), exact.MIXTURE.means[:1], exact.MIXTURE.covariances[:1])
  log_prob = jax.vmap(lambda x, t: log_density(one, x, t) - log_density(exact.MIXTURE, x, t))
  plain = exact.MIXTURE.denoiser(PROCESS)
  shifted = guidance.ClassifierGuidance(plain, log_prob, PROCESS, 1.0)
  assert_pairs(shifted(X, T), one.denoiser(PROCESS)(X, T), rtol=1e-9)
  assert_pairs(guidance.ClassifierGuidance(plain, log_prob, PROCESS, 0.0)(X, T), plain(X, T))


def test_classifier_guidance_by_hand():
  """eps − s·σ·∇log p(y | x), and x0 + s·σ²/α·∇log p (Dhariwal & Nichol 2021, algorithm 2)."""
  plain = exact.MIXTURE.denoiser(PROCESS)
  shifted = guidance.ClassifierGuidance(
    plain, lambda x, t: -((x - 2.0) ** 2).sum(-1), PROCESS, 1.5
  )(X, T)
  alpha, sigma, gradient = PROCESS.alpha(T[0]), PROCESS.sigma(T[0]), -2 * (X - 2.0)
  np.testing.assert_allclose(shifted.eps, plain(X, T).eps - 1.5 * sigma * gradient)
  np.testing.assert_allclose(shifted.x0, plain(X, T).x0 + 1.5 * sigma**2 / alpha * gradient)


def test_samples_move_to_the_mean_of_the_class():
  """log p(y | x0) = a·x0 + c makes N(0, v) to N(s·a·v, v) at scale s; the flow maps the means."""
  variance, slope = 0.5, 0.8

  def log_prob(x, t):
    alpha, sigma = PROCESS.alpha(t), PROCESS.sigma(t)
    # The logarithm of E[exp(a·x0) | x], without its constant: a times the posterior mean.
    return slope * alpha * variance / (alpha**2 * variance + sigma**2) * x[:, 0]

  plain = exact.isotropic(variance**0.5).denoiser(PROCESS)
  for scale in (1.0, 3.0):
    mean = scale * slope * variance
    denoise = guidance.ClassifierGuidance(plain, log_prob, PROCESS, scale)
    chain = driver.ReverseChain(solvers.Heun(), PROCESS, denoise)
    times = jnp.linspace(1, 0, 101)
    x, _, _ = driver.drive(chain, times, mean * PROCESS.alpha(times[:1])[:, None], KEY)
    np.testing.assert_allclose(x[0, 0], mean, rtol=1e-3)


def test_autoguidance_extrapolates_from_the_weak_model():
  strong, weak = exact.MIXTURE.denoiser(PROCESS), exact.GAUSSIAN.denoiser(PROCESS)
  assert_pairs(guidance.Autoguidance(strong, weak, 1.0)(X, T), strong(X, T))
  pair = guidance.Autoguidance(strong, weak, 2.0)(X, T)
  np.testing.assert_allclose(pair.x0, 2 * strong(X, T).x0 - weak(X, T).x0)
  np.testing.assert_allclose(pair.eps, 2 * strong(X, T).eps - weak(X, T).eps)


def test_interval_switches_by_noise_level_within_a_batch():
  t = jnp.linspace(0.05, 0.95, 6)
  level = PROCESS.sigma(t) / PROCESS.alpha(t)
  limited = guidance.Interval(guided(4.0), PROCESS, 0.7, 3.0)
  inside = np.asarray((level > 0.7) & (level <= 3.0))
  # The second time is inside by σ/α = 0.86, not by σ = 0.65.
  assert 0 < inside.sum() < 6
  pair, on, off = limited(X, t), guided(4.0)(X, t), conditional(X, t, CONDITION)
  np.testing.assert_allclose(pair.x0, np.where(inside[:, None], on.x0, off.x0))


def test_a_step_is_guided_as_a_whole_by_its_noisier_end():
  """w(σ) does not switch within a step (Kynkäänniemi et al. 2024, section 3.1): σ/α in (0.7, 3]."""
  t = jnp.asarray([0.7, 0.45, 0.15])
  level = np.asarray(PROCESS.sigma(t) / PROCESS.alpha(t))
  assert level[0] > 3 > level[1] > 0.7 > level[2]
  free = guided(4.0)
  plain = lambda x, t: conditional(x, t, CONDITION)
  limited = guidance.Rescaled(guidance.Interval(free, PROCESS, 0.7, 3.0), PROCESS, 0.0)
  run = lambda denoise, times: driver.drive(
    driver.ReverseChain(solvers.Heun(), PROCESS, denoise), times, X, KEY
  )
  # A step that begins above the interval, and one that ends below it, also upwards.
  for times, denoise, cost in [(t[:2], plain, 2), (t[1:], free, 4), (t[:0:-1], free, 4)]:
    x, count, _ = run(limited, times)
    np.testing.assert_allclose(x, run(denoise, times)[0], rtol=1e-10)
    assert count == cost


def test_interval_without_an_upper_bound_holds_from_pure_noise_on():
  process, t = processes.RectifiedFlow(), jnp.full((6,), 1.0)
  limited = guidance.Interval(guided(4.0), process, 0.5, float('inf'))
  assert_pairs(limited(X, t), guided(4.0)(X, t))


def test_the_count_of_evaluations_is_that_of_the_calls():
  calls = []

  def network(x, t, condition):
    branches = x.shape[0] // 6
    jax.debug.callback(lambda: calls.append(branches))  # no arguments: reading one can deadlock
    return Pair(x, x)

  def evaluations(denoise, sampler=solvers.Heun):
    calls.clear()
    times = np.linspace(1, 0, 9)
    run = jax.jit(lambda x: driver.sample(sampler(), PROCESS, denoise, times, x, KEY))
    _, count = jax.block_until_ready(run(X))
    jax.effects_barrier()
    assert int(count) == sum(calls)
    return int(count)

  free = guidance.ClassifierFree(network, CONDITION, NULL, 2.0)
  assert evaluations(lambda x, t: network(x, t, CONDITION)) == 15
  assert evaluations(free) == 30
  assert 15 < evaluations(guidance.Interval(free, PROCESS, 0.5, 3.0)) < 30
  weak = lambda x, t: network(x, t, NULL)
  assert evaluations(guidance.Autoguidance(free, weak, 2.0), solvers.DDIM) == 24
  limited = guidance.Interval(free, PROCESS, 0.5, 3.0)
  thresholded = guidance.StaticThreshold(guidance.Rescaled(limited, PROCESS), PROCESS)
  assert evaluations(thresholded) == evaluations(limited)


def test_weight_does_not_recompile():
  traces = []

  @jax.jit
  def run(weight):
    traces.append(1)
    times = np.linspace(1, 0, 5)
    return driver.sample(solvers.DDIM(), PROCESS, guided(weight), times, X, KEY)[0]

  assert np.abs(run(1.0) - run(3.0)).max() > 0.01
  assert len(traces) == 1


def test_rescaling_restores_the_plain_contrast():
  x = jnp.asarray(np.random.default_rng(1).normal(size=(3, 8, 8, 1)))
  t = jnp.full((3,), 0.4)
  model = lambda x, t, condition: Pair(
    x * condition[:, None, None, None], x - x * condition[:, None, None, None]
  )
  one, half = jnp.ones(3), jnp.full((3,), 0.5)
  strong = guidance.ClassifierFree(model, one, half, 5.0)
  std = lambda a: np.std(a, axis=(1, 2, 3))
  plain, wide = std(x), std(strong(x, t).x0)
  assert (wide > 2 * plain).all()
  full = guidance.Rescaled(strong, PROCESS, 1.0)(x, t)
  np.testing.assert_allclose(std(full.x0), plain)
  np.testing.assert_allclose(PROCESS.alpha(t[0]) * full.x0 + PROCESS.sigma(t[0]) * full.eps, x)
  partly = guidance.Rescaled(strong, PROCESS, 0.7)(x, t)
  np.testing.assert_allclose(std(partly.x0), 0.7 * plain + 0.3 * wide)


def test_thresholds():
  model = lambda x, t: Pair(3 * x, x)
  x = jnp.asarray(np.random.default_rng(1).normal(size=(3, 16, 16, 1)))
  t = jnp.full((3,), 0.4)
  static = guidance.StaticThreshold(model, PROCESS)(x, t)
  np.testing.assert_array_equal(static.x0, np.clip(3 * x, -1, 1))
  np.testing.assert_allclose(PROCESS.alpha(t[0]) * static.x0 + PROCESS.sigma(t[0]) * static.eps, x)
  dynamic = guidance.DynamicThreshold(model, PROCESS, 0.9)(x, t)
  size = np.quantile(np.abs(3 * x), 0.9, axis=(1, 2, 3))[:, None, None, None]
  np.testing.assert_allclose(dynamic.x0, np.clip(3 * x, -size, size) / size)
  np.testing.assert_array_equal(
    guidance.StaticThreshold(model, PROCESS, 0.6)(x, t).x0, np.clip(3 * x, -0.6, 0.6)
  )
  dynamic = guidance.DynamicThreshold(model, PROCESS, 0.9, 2.0)(x, t)
  assert (size > 2).all()
  np.testing.assert_allclose(dynamic.x0, 2 * np.clip(3 * x, -size, size) / size)
  small = guidance.DynamicThreshold(lambda x, t: Pair(0.1 * x, x), PROCESS, 0.9, 2.0)(x, t)
  np.testing.assert_allclose(small.x0, 0.1 * np.asarray(x))


@pytest.mark.parametrize(
  ('build', 'message'),
  [
    (lambda: guidance.ClassifierFree(conditional, None, NULL, 2.0), 'conditional model'),
    (lambda: guidance.ClassifierFree(conditional, CONDITION, None, 2.0), 'conditional model'),
    (lambda: guidance.Autoguidance(conditional, None, 2.0), 'weaker model'),
    (lambda: guidance.ClassifierGuidance(conditional, None, PROCESS, 2.0), 'classifier'),
    (lambda: guidance.Interval(guided(2.0), PROCESS, 2.0, 1.0), '0 <= low < high'),
    (lambda: guidance.Interval(guided(2.0), PROCESS, -1.0, 1.0), '0 <= low < high'),
    (lambda: guidance.DynamicThreshold(conditional, PROCESS, 1.5), 'percentile'),
  ],
)
def test_invalid_guidance_is_refused(build, message):
  with pytest.raises(ValueError, match=message):
    build()
