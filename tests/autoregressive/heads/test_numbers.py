"""Heads over numbers against scipy, their moments, samples and scales; building a head."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special, stats

from autoregressive.heads import build_head
from autoregressive.heads.categorical import Bernoulli, Categorical
from autoregressive.heads.densities import negative_binomial_log_prob, student_t_log_prob
from autoregressive.heads.numbers import (
  Gaussian,
  NegativeBinomial,
  Quantiles,
  StudentT,
  quantile_function,
)
from autoregressive.orderings import Patches, Windows
from common.config import ConfigError
from common.data.spec import DataSpec
from tests.autoregressive.common import chi_square
from tests.autoregressive.series import SPEC as SERIES

HEADS = {
  'gaussian': Gaussian(2),
  'student_t': StudentT(2),
  'negative_binomial': NegativeBinomial(2),
  'quantiles': Quantiles(2),
}
DRAWS = 20_000


def softplus(x):
  return np.log1p(np.exp(np.asarray(x, np.float64)))


def peers(name, outputs, scale=1.0):
  """The distributions by scipy, of the two values of one emission."""
  o = np.asarray(outputs, np.float64).reshape(2, -1)
  if name == 'gaussian':
    return stats.norm(scale * o[:, 0], scale * softplus(o[:, 1]))
  if name == 'student_t':
    return stats.t(2 + softplus(o[:, 2]), scale * o[:, 0], scale * softplus(o[:, 1]))
  mean, alpha = scale * softplus(o[:, 0]), softplus(o[:, 1]) / np.sqrt(scale)
  return stats.nbinom(1 / alpha, 1 / (1 + alpha * mean))


def some_outputs(head, batch=(), seed=0):
  return jax.random.normal(jax.random.key(seed), (*batch, head.size))


@pytest.mark.parametrize('scale', [1.0, 7.5])
@pytest.mark.parametrize('name', ['gaussian', 'student_t', 'negative_binomial'])
def test_log_prob_is_that_of_scipy(name, scale):
  head = HEADS[name]
  outputs = some_outputs(head)
  emissions = np.stack([np.arange(40), np.arange(40)[::-1]], -1)
  log_prob = jax.jit(lambda e: head.log_prob(outputs, e, scale))(jnp.array(emissions))
  peer = peers(name, outputs, scale)
  expected = peer.logpmf(emissions) if name == 'negative_binomial' else peer.logpdf(emissions)
  np.testing.assert_allclose(log_prob, expected.sum(-1), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize('name', ['gaussian', 'student_t'])
def test_samples_by_kolmogorov_and_smirnov(name):
  head = HEADS[name]
  outputs = some_outputs(head)
  tiled = jnp.broadcast_to(outputs, (DRAWS, head.size))
  draws = np.asarray(jax.jit(lambda key: head.sample(tiled, key, 3.0))(jax.random.key(1)))
  peer = peers(name, outputs, 3.0)
  for i in range(2):
    marginal = lambda x, i=i: peer.cdf(np.stack([x] * 2, -1))[..., i]
    assert stats.kstest(draws[:, i], marginal).pvalue > 1e-3
  assert abs(stats.spearmanr(draws).statistic) < 0.03  # independent
  np.testing.assert_allclose(head.mode(outputs, 3.0), peer.median(), rtol=1e-5)


def test_student_t_moments():
  """Variance scale²·df/(df - 2), and heavier tails than the normal."""
  head = StudentT(1)
  outputs = jnp.array([0.3, 0.2, 8.0])
  df, centre, width = (float(x[0]) for x in head.parameters(outputs))
  assert df == pytest.approx(2 + softplus(8.0), rel=1e-6)
  x = np.linspace(-400, 400, 400_001)
  density = np.exp(np.asarray(head.log_prob(outputs, jnp.array(x)[:, None])), dtype=np.float64)
  total, mean = np.trapezoid(density, x), np.trapezoid(density * x, x)
  variance = np.trapezoid(density * (x - mean) ** 2, x)
  assert total == pytest.approx(1, abs=1e-4)
  assert mean == pytest.approx(centre, abs=1e-4)
  assert variance == pytest.approx(width**2 * df / (df - 2), rel=1e-3)


@pytest.mark.parametrize('raw, scale', [((2.0, 0.5), 1.0), ((1.0, -2.0), 20.0), ((3.0, 2.0), 4.0)])
def test_negative_binomial_moments(raw, scale):
  """Mean ν·softplus(o₁) = μ and variance μ + αμ² with α = softplus(o₂)/√ν, from the pmf itself."""
  head = NegativeBinomial(1)
  outputs, counts = jnp.array(raw), np.arange(20_000)
  mass = np.exp(np.asarray(head.log_prob(outputs, jnp.array(counts)[:, None], scale), np.float64))
  mean = (mass * counts).sum()
  mu, alpha = scale * softplus(raw[0]), softplus(raw[1]) / np.sqrt(scale)
  assert mass.sum() == pytest.approx(1, abs=1e-4)
  assert mean == pytest.approx(mu, rel=2e-4)
  assert (mass * (counts - mean) ** 2).sum() == pytest.approx(mu + alpha * mu**2, rel=1e-3)
  assert int(head.mode(outputs, scale)[0]) == mass.argmax()


def test_negative_binomial_approaches_poisson():
  head = NegativeBinomial(1)
  outputs, counts = jnp.array([2.0, -12.0]), np.arange(15)
  log_prob = head.log_prob(outputs, jnp.array(counts)[:, None])
  expected = stats.poisson(softplus(2.0)).logpmf(counts)
  np.testing.assert_allclose(log_prob, expected, rtol=1e-4, atol=1e-4)  # α is 7e-6, not 0


def float32(*arrays):
  """The arrays as float32, and the same numbers in float64."""
  rounded = [np.ravel(np.asarray(x, np.float32)) for x in np.broadcast_arrays(*arrays)]
  return tuple(map(jnp.array, rounded)), tuple(x.astype(np.float64) for x in rounded)


def value_and_gradients(log_prob, arguments):
  """A log-density of each row, and its gradients with respect to all arguments but the first."""
  made = jax.vmap(jax.value_and_grad(log_prob, tuple(range(1, len(arguments)))))
  value, gradients = jax.jit(made)(*arguments)
  return np.asarray(value, np.float64), [np.asarray(g, np.float64) for g in gradients]


def test_negative_binomial_keeps_its_digits_at_any_mean_and_dispersion():
  """Against float64: the formula of log-gammas is off by 24 nats at a mean of 10⁷ in float32."""
  mean, alpha, away = np.meshgrid(
    [1e-3, 0.1, 1, 10, 1e3, 1e5, 1e7],
    [1e-6, 1e-4, 1e-2, 0.1, 1, 10, 100],
    [-10, -3, -1, -0.01, 0, 0.01, 1, 3, 10],
  )
  count = np.round(np.maximum(mean + away * np.sqrt(mean + alpha * mean**2), 0))
  arguments, (k, mu, a) = float32(np.minimum(count, 2**24), mean, alpha)
  value, (to_mean, to_alpha) = value_and_gradients(negative_binomial_log_prob, arguments)
  expected = stats.nbinom(1 / a, 1 / (1 + a * mu)).logpmf(k)
  np.testing.assert_allclose(value, expected, rtol=2e-6, atol=2e-6)
  # With respect to ln μ and ln α, in which the outputs of a network are of size 1.
  r = 1 / a
  np.testing.assert_allclose(to_mean * mu, (k - mu) / (1 + a * mu), rtol=2e-6, atol=2e-6)
  slope = special.digamma(k + r) - special.digamma(r) - np.log1p(a * mu) + (mu - k) / (r + mu)
  np.testing.assert_allclose(to_alpha * a, -r * slope, rtol=2e-6, atol=2e-6)


def test_student_t_keeps_its_digits_at_any_degrees_of_freedom():
  df, x = np.meshgrid([2.001, 3, 7.9, 8.1, 15.9, 16.1, 40, 1e3, 1e5, 1e8], [0, 0.1, 1, 5, 50])
  arguments, (z, n, _, _) = float32(x, df, 0.0, 1.0)
  value, (to_df, *_) = value_and_gradients(student_t_log_prob, arguments)
  np.testing.assert_allclose(value, stats.t(n).logpdf(z), rtol=2e-6, atol=2e-6)
  share = z**2 / n
  slope = (special.digamma((n + 1) / 2) - special.digamma(n / 2)) / 2 - 1 / (2 * n)
  slope += -np.log1p(share) / 2 + (n + 1) / (2 * n) * share / (1 + share)
  np.testing.assert_allclose(to_df * n, slope * n, rtol=1e-4, atol=1e-4)


def test_negative_binomial_samples():
  head = NegativeBinomial(1)
  outputs = jnp.array([2.0, -0.7])  # α is 0.4: at 0.5 it would be 0.97, hardly different from 1/α
  tiled = jnp.broadcast_to(outputs, (DRAWS, 2))
  draws = np.asarray(jax.jit(head.sample)(tiled, jax.random.key(0)))[:, 0]
  mu, alpha = softplus(2.0), softplus(-0.7)
  peer = stats.nbinom(1 / alpha, 1 / (1 + alpha * mu))
  counts = np.bincount(np.minimum(draws, 12).astype(int), minlength=13)
  expected = np.append(peer.pmf(np.arange(12)), peer.sf(11)) * DRAWS
  assert chi_square(counts, expected) > 1e-3


def outputs_for(quantiles):
  """Outputs whose quantiles are those given."""
  return jnp.array(np.append(quantiles[0], np.log(np.expm1(np.diff(quantiles)))))


def test_quantile_loss_integrates_to_the_crps():
  """CRPS(N(μ, σ), y) = σ(z(2Φ(z) - 1) + 2φ(z) - 1/√π) = 2∫ρ_τ(y - q_τ)dτ."""
  levels = tuple(((np.arange(2000) + 0.5) / 2000).tolist())
  head = Quantiles(1, levels)
  outputs = outputs_for(stats.norm(1.0, 2.0).ppf(levels))
  for y in (-3.0, 1.0, 4.5):
    z = (y - 1.0) / 2.0
    crps = 2 * (z * (2 * stats.norm.cdf(z) - 1) + 2 * stats.norm.pdf(z) - np.pi**-0.5)
    loss = -float(head.log_prob(outputs, jnp.array([y])))
    assert 2 * loss / 2000 == pytest.approx(crps, rel=2e-3)


def test_quantile_loss_is_least_at_the_quantiles():
  """The gradient over many draws is zero at the true quantiles, and points back elsewhere."""
  head = Quantiles(1, (0.1, 0.5, 0.8))
  draws = jnp.array(stats.expon.ppf((np.arange(4000) + 0.5) / 4000))[:, None]
  loss = jax.jit(jax.grad(lambda o: -head.log_prob(o, draws).mean()))
  right = outputs_for(stats.expon.ppf(head.levels))
  np.testing.assert_allclose(loss(right), 0, atol=1e-3)
  assert (loss(right + 0.3) > 0.01).all()
  # In units of the scale: a series that is seven times as large costs the same.
  score = head.log_prob(right, draws)
  np.testing.assert_allclose(head.log_prob(right, 7 * draws, 7.0), score, rtol=1e-4, atol=1e-5)


def test_quantiles_never_cross_and_samples_follow_them():
  head = Quantiles(1, (0.25, 0.5, 0.75))
  wild = 10 * some_outputs(head, (64,))
  assert (np.diff(head.quantiles(wild), axis=-1) >= 0).all()
  outputs = outputs_for([1.0, 2.0, 5.0])
  tiled = jnp.broadcast_to(outputs, (DRAWS, 3))
  draws = np.asarray(jax.jit(lambda k: head.sample(tiled, k, 2.0))(jax.random.key(0)))[:, 0]
  np.testing.assert_allclose(np.quantile(draws, [0.3, 0.5, 0.6, 0.7]), [2.4, 4, 6.4, 8.8], atol=0.2)
  np.testing.assert_allclose(head.mode(outputs, 2.0), [4.0])
  # The tails are exponential, with the slopes (2 - 1)/ln 2 and (5 - 2)/ln 2 of the outer steps.
  tails = [2 + 2 * np.log(0.1 / 0.25) / np.log(2), 10 - 6 * np.log(0.1 / 0.25) / np.log(2)]
  np.testing.assert_allclose(np.quantile(draws, [0.1, 0.9]), tails, atol=0.3)
  alone = Quantiles(1, (0.4,)).sample(jnp.ones((8, 1)), jax.random.key(0))
  np.testing.assert_array_equal(alone, 1.0)


def test_tails_of_quantiles_are_those_of_a_laplace_distribution():
  levels = (0.1, 0.3, 0.5, 0.7, 0.9)
  table = jnp.array(stats.laplace.ppf(levels), jnp.float32)
  outer = np.array([2.0**-24, 1e-4, 0.01, 0.1, 0.9, 0.99, 1 - 2.0**-10])
  made = quantile_function(jnp.array(outer), levels, jnp.broadcast_to(table, (len(outer), 5)))
  np.testing.assert_allclose(made, stats.laplace.ppf(outer.astype(np.float32)), rtol=1e-4)


@pytest.mark.parametrize('name', HEADS)
def test_scales_differ_by_example(name):
  head = HEADS[name]
  outputs, scales = some_outputs(head, (3,)), jnp.array([0.5, 2.0, 30.0])
  emission = jnp.array([[1.0, 2.0], [0.0, 7.0], [40.0, 3.0]])
  together = head.log_prob(outputs, emission, scales)
  for i in range(3):
    alone = head.log_prob(outputs[i], emission[i], scales[i])
    assert float(together[i]) == pytest.approx(float(alone), rel=1e-5)
  np.testing.assert_allclose(head.network_inputs(emission, scales), emission / scales[:, None])


def test_bernoulli():
  head = Bernoulli(3, 2)
  outputs = jnp.array([[0.5, -2.0, 1.0]])
  p = 1 / (1 + np.exp(-np.asarray(outputs[0])))
  for emission in ([0, 1, 1], [1, 0, 0]):
    expected = stats.bernoulli(p).logpmf(emission).sum()
    assert float(head.log_prob(outputs, jnp.array([emission]))[0]) == pytest.approx(expected)
  assert head.size == 3 and head.rows == 0
  assert head.mode(outputs).tolist() == [[1, 0, 1]]
  draws = head.sample(jnp.broadcast_to(outputs, (4000, 1, 3)), jax.random.key(0))
  np.testing.assert_allclose(draws.mean((0, 1)), p, atol=0.03)
  np.testing.assert_allclose(jax.nn.softmax(head.logits(outputs))[0, :, 1], p, rtol=1e-5)


@pytest.mark.parametrize(
  'levels, settings, message',
  [
    (17, dict(name='bernoulli'), 'the data has 17 levels'),
    (17, dict(name='gaussian'), r"'gaussian' does not suit emissions that are values in \[0, 17\)"),
    (17, dict(name='gausian'), "did you mean 'gaussian'"),
    (17, dict(name='categorical', scale=1), 'unknown setting head.scale'),
    (0, dict(name='categorical'), "'categorical' does not suit emissions that are numbers"),
    (
      0,
      dict(name='quantiles', levels=[0.5, 0.2]),
      r'head.levels must rise strictly, got \(0.5, 0.2\)',
    ),
    (0, dict(name='quantiles', levels=[]), 'must be a tuple of 1 or more numbers'),
  ],
)
def test_build_head_refuses(levels, settings, message):
  ordering = Patches(DataSpec('any', 'image', (4, 4, 1), levels)) if levels else Windows(SERIES)
  with pytest.raises(ConfigError, match=message) as error:
    build_head(settings, ordering)
  assert '\n' not in str(error.value)


def test_build_head():
  ordering = Patches(DataSpec('any', 'image', (4, 4, 1), 2), size=2)
  assert build_head({'name': 'bernoulli'}, ordering) == Bernoulli(4, 2)
  assert build_head({'name': 'categorical', 'pad_to': 4}, ordering) == Categorical(4, 2, 4)
