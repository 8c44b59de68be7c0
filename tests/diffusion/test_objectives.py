"""Weightings in every target, distributions of times, learned uncertainty."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from common.config import ConfigError, component
from diffusion import objectives
from diffusion.objectives import TIMES, WEIGHTINGS, target_weight
from diffusion.predictions import TARGETS, combine, split, target_pair
from diffusion.processes import PROCESSES, build
from diffusion.processes.process import rate

SNR = {  # the weight of the error in x0, from the papers
  'snr': lambda snr: snr,
  'snr_plus_one': lambda snr: snr + 1,
  'truncated_snr': lambda snr: np.maximum(snr, 1),
  'min_snr': lambda snr: np.minimum(snr, 5),
  'soft_min_snr': lambda snr: snr * 4 / (snr + 4),
  'p2': lambda snr: snr / (1 + snr),
  'sigmoid': lambda snr: snr / (1 + snr / np.exp(2)),
  'edm': lambda snr: (1 / snr + 0.25) / (1 / snr * 0.25),  # (σ² + σ_d²)/(σ·σ_d)², σ² = 1/SNR
}


@pytest.fixture(autouse=True)
def float64():
  with jax.enable_x64(True):
    yield


def times_inside(process):
  u = jnp.asarray(np.random.default_rng(0).uniform(0.02, 0.98, 200))
  high, low = process.log_snr(jnp.asarray([process.t_min, process.t_max]))
  return process.time_of(high + (jnp.maximum(low, -12) - high) * u)


@pytest.mark.parametrize('process', ['vp_linear', 'edm', 'rectified_flow', 'sub_vp', 'ddpm'])
@pytest.mark.parametrize('target', TARGETS)
def test_every_weighting_is_its_papers_in_every_target(target, process):
  """weight·(error in the target)² is the paper's weight times (error in x0)²."""
  process = build({'name': process})
  t = times_inside(process)
  rng = np.random.default_rng(1)
  x0, eps, mistake = (jnp.asarray(rng.normal(size=t.shape)) for _ in range(3))
  alpha, sigma = process.alpha(t), process.sigma(t)
  x = alpha * x0 + sigma * eps
  pair = target_pair(target, process, t)
  truth = combine(pair, x0, eps)
  error = (split(truth + mistake, x, pair, alpha, sigma).x0 - x0) ** 2
  snr = np.asarray(alpha / sigma) ** 2
  density = jnp.full_like(t, 1 / (process.t_max - process.t_min))
  for name, expected in SNR.items():
    weight = target_weight(component(WEIGHTINGS, {'name': name}, 'w'), process, pair, t, density)
    np.testing.assert_allclose(weight * mistake**2, expected(snr) * error, rtol=1e-6, err_msg=name)
  simple = target_weight(WEIGHTINGS['simple'](), process, pair, t, density)
  np.testing.assert_allclose(simple, 1, rtol=1e-12)
  vlb = target_weight(WEIGHTINGS['vlb'](), process, pair, t, density)
  exact = -0.5 * rate(lambda t: jnp.exp(process.log_snr(t)), t) / density  # −½ dSNR/dt
  np.testing.assert_allclose(vlb * mistake**2, exact * error, rtol=1e-6)
  likelihood = target_weight(WEIGHTINGS['likelihood'](), process, pair, t, density)
  score = process.g2(t) * (alpha / sigma**2) ** 2 / density  # g²·(error in the score)²
  np.testing.assert_allclose(likelihood * mistake**2, score * error, rtol=1e-6)


def test_published_weights_of_the_linear_table():
  process = build({'name': 'ddpm'})
  t = jnp.asarray([1, 100, 500, 1000]) / 1000
  snr = np.exp(process.log_snr(jnp.arange(1, 1001) / 1000))
  np.testing.assert_allclose(
    snr[[0, 99, 499, 999]], [9999, 8.710448569, 0.08528994446, 4.035992651e-05], 1e-8
  )
  assert [int(np.abs(snr - value).argmin()) for value in (5, 1)] == [130, 258]
  assert snr[130] == pytest.approx(4.983210512, rel=1e-8)
  ones = jnp.ones_like(t)
  weigh = lambda name, target: target_weight(
    WEIGHTINGS[name](), process, target_pair(target, process, t), t, ones
  )
  np.testing.assert_allclose(weigh('min_snr', 'eps'), [0.000500050005, 0.5740232504, 1, 1], 1e-8)
  np.testing.assert_allclose(
    weigh('min_snr', 'v'), [0.0005, 0.5149092716, 0.07858724288, 4.035829765e-05], 1e-8
  )
  np.testing.assert_allclose(
    weigh('p2', 'eps'), [0.0001, 0.1029818543, 0.9214127571, 0.9999596417], 1e-8
  )


def test_edm_weight_makes_the_preconditioned_loss_unweighted():
  process = build({'name': 'edm'})
  t = jnp.asarray([0.002, 0.05, 0.5, 1.0, 10.0, 80.0])
  weighting, ones = component(WEIGHTINGS, {'name': 'edm'}, 'w'), jnp.ones_like(t)
  np.testing.assert_allclose(
    target_weight(weighting, process, target_pair('x0', process, t), t, ones),
    [250004, 404, 8, 5, 4.01, 4.00015625],
    rtol=1e-8,
  )
  own = target_weight(weighting, process, target_pair('edm', process, t), t, ones)
  np.testing.assert_allclose(own, 1, rtol=1e-9)


def draw(name, process, number=40_000, memory=(), **settings):
  times = component(TIMES, {'name': name, **settings}, 'times')
  u = (jnp.arange(number) + 0.5) / number
  return times.draw(process, u, memory)


@pytest.mark.parametrize('name', ['uniform', 'log_normal', 'logit_normal'])
@pytest.mark.parametrize('process', ['vp_linear', 'edm', 'rectified_flow'])
def test_densities_of_times_are_theirs(name, process):
  """Stratified draws weighted by 1/density integrate to the length of the interval."""
  process = build({'name': process})
  drawn = draw(name, process)
  t = np.sort(np.asarray(drawn.t))
  assert t[0] >= process.t_min
  assert t[-1] <= process.t_max
  # The density integrates to the share of draws between any two of them.
  density = np.asarray(drawn.density)[np.argsort(np.asarray(drawn.t))]
  share = np.diff(t) * (density[1:] + density[:-1]) / 2
  np.testing.assert_allclose(share[200:-200] * len(t), 1, rtol=2e-2)
  np.testing.assert_allclose(drawn.correction, 1)


def test_log_normal_is_edms():
  levels = np.log(np.asarray(draw('log_normal', build({'name': 'edm'})).t))
  assert scipy.stats.kstest(levels, scipy.stats.norm(-1.2, 1.2).cdf).statistic < 1e-3
  vp = build({'name': 'cosine'})
  t = draw('log_normal', vp).t
  levels = -0.5 * np.asarray(vp.log_snr(t))
  assert scipy.stats.kstest(levels, scipy.stats.norm(-1.2, 1.2).cdf).statistic < 1e-3
  assert float(np.median(levels)) == pytest.approx(-1.2, abs=1e-3)
  assert np.exp(levels).mean() == pytest.approx(0.6187833918, rel=1e-3)


def test_discrete_times_are_table_entries_equally_often():
  process = build({'name': 'ddpm', 'steps': 50})
  t = np.asarray(draw('uniform', process, 50_000).t)
  entries, counts = np.unique(np.round(t * 50, 9), return_counts=True)
  np.testing.assert_allclose(entries, np.arange(1, 51))
  assert (counts == 1000).all()


def test_terminal_times():
  drawn = draw('terminal', build({'name': 'edm'}))
  np.testing.assert_allclose(drawn.t, 80)


def test_low_discrepancy_times_are_spread_over_the_batch_and_split_alike():
  key, keys = jax.random.key(3), jax.random.split(jax.random.key(0), 16)
  index = jnp.arange(16)
  whole = objectives.uniforms(keys, key, index, 16, True)
  np.testing.assert_allclose(np.diff(np.sort(whole)), 1 / 16, rtol=1e-5)
  half = objectives.uniforms(keys[8:], key, index[8:], 16, True)
  np.testing.assert_array_equal(half, whole[8:])
  loose = objectives.uniforms(keys, key, index, 16, False)
  np.testing.assert_array_equal(objectives.uniforms(keys[8:], key, index[8:], 16, False), loose[8:])
  assert np.diff(np.sort(loose)).std() > 0.01


@pytest.mark.parametrize('process', ['ddpm', 'cosine'])
def test_loss_second_moment_learns_where_the_loss_is(process):
  process = build({'name': process} | ({'steps': 200} if process == 'ddpm' else {}))
  times = component(TIMES, {'name': 'loss_second_moment', 'buckets': 20}, 'times')
  memory = times.init(process)
  rng = np.random.default_rng(0)
  ones = jnp.ones(256)
  first = times.draw(process, jnp.asarray(rng.uniform(size=256)), memory)
  np.testing.assert_allclose(first.correction, 1, rtol=1e-5)  # uniform until it knows enough
  loss_at = lambda t: 1 + 30 * (t > 0.8)
  update = jax.jit(
    lambda u, memory: times.update(
      memory, process, d := times.draw(process, u, memory), loss_at(d.t), ones
    )
  )
  for _ in range(60):
    memory = update(jnp.asarray(rng.uniform(size=256)), memory)
  u = (jnp.arange(20_000) + 0.5) / 20_000
  drawn = times.draw(process, u, memory)
  late = np.asarray(drawn.t) > 0.8
  # p ∝ √E[loss²]: a fifth of the times carries 31 of 31 + 4 parts.
  assert late.mean() == pytest.approx(0.2 * 31 / (0.2 * 31 + 0.8), abs=0.01)
  # Corrected, any mean is that of uniform times.
  value = np.asarray(drawn.t) ** 2
  grid = np.arange(1, 201) / 200 if process.steps else np.linspace(1e-4, 0.999, 10_000)
  assert np.mean(value * np.asarray(drawn.correction)) == pytest.approx(np.mean(grid**2), rel=2e-3)


def test_loss_second_moment_ignores_padding():
  process = build({'name': 'cosine'})
  times = component(TIMES, {'name': 'loss_second_moment', 'buckets': 4}, 'times')
  drawn = times.draw(process, jnp.asarray([0.1, 0.9]), times.init(process))
  memory = times.update(
    times.init(process), process, drawn, jnp.asarray([2.0, 5.0]), jnp.asarray([1.0, 0.0])
  )
  np.testing.assert_allclose(memory.squares, [4, 0, 0, 0])
  np.testing.assert_allclose(memory.counts, [1, 0, 0, 0])


def test_uncertainty_starts_at_zero_and_finds_the_logarithm_of_the_loss():
  params = objectives.uncertainty_init()
  log_snr = jnp.linspace(-8, 8, 64)
  np.testing.assert_array_equal(objectives.uncertainty(params, log_snr), 0)
  loss = jnp.exp(0.2 * log_snr)

  def objective(params):
    u = objectives.uncertainty(params, log_snr)
    return jnp.mean(loss * jnp.exp(-u) + u)

  step = jax.jit(lambda p: jax.tree.map(lambda v, g: v - 0.3 * g, p, jax.grad(objective)(p)))
  for _ in range(3000):
    params = step(params)
  found = objectives.uncertainty(params, log_snr)
  np.testing.assert_allclose(found[4:-4], jnp.log(loss)[4:-4], atol=0.1)


@pytest.mark.parametrize(
  ('table', 'settings', 'message'),
  [
    (WEIGHTINGS, {'name': 'min_srn'}, "did you mean 'min_snr'"),
    (WEIGHTINGS, {'name': 'min_snr', 'gama': 5.0}, "did you mean 'gamma'"),
    (WEIGHTINGS, {'name': 'min_snr', 'gamma': 0.0}, 'gamma=0.0 .* must be positive'),
    (WEIGHTINGS, {'name': 'edm', 'sigma_data': -1.0}, 'must be positive'),
    (TIMES, {'name': 'log_normal', 'std': 0.0}, 'std=0.0 .* must be positive'),
    (TIMES, {'name': 'loss_second_moment', 'buckets': 1}, 'at least 2'),
    (TIMES, {'name': 'lognormal'}, "did you mean 'log_normal'"),
  ],
)
def test_refusals(table, settings, message):
  with pytest.raises(ConfigError, match=message):
    component(table, settings, 'objective.weighting')


def test_vlb_ratio_of_discrete_to_continuous_steps():
  """T·(SNR(s) − SNR(t)) over −dSNR/dt for λ linear in time, as in VDM with λ from 13.3 to −5."""
  process = PROCESSES['learned']()
  slope = -rate(process.log_snr, jnp.asarray([0.5]))[0] * (1 - process.t_min)
  steps = np.array([1, 10, 100, 1000])
  ratio = steps * np.expm1(slope / steps) / slope
  np.testing.assert_allclose(ratio, [4843261.565, 2.860047354, 1.097346492, 1.009206071], 1e-8)
