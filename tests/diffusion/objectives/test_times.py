"""Distributions of training times."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from common.config import ConfigError, component
from diffusion.objectives import TIME_DISTRIBUTIONS
from diffusion.objectives.times import LossHistory, uniforms
from diffusion.processes import build


@pytest.fixture(autouse=True)
def float64():
  with jax.enable_x64(True):
    yield


def draw(name, process, number=40_000, memory=(), **settings):
  times = component(TIME_DISTRIBUTIONS, {'name': name, **settings}, 'times')
  u = (jnp.arange(number) + 0.5) / number
  return times.sample(process, u, memory)


@pytest.mark.parametrize('name', ['uniform', 'log_normal', 'logit_normal'])
@pytest.mark.parametrize('process', ['vp_linear', 'edm', 'rectified_flow'])
def test_stated_densities_are_those_of_the_times(name, process):
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
  np.testing.assert_allclose(drawn.importance, 1)


def test_log_normal_agrees_with_edm():
  levels = np.log(np.asarray(draw('log_normal', build({'name': 'edm'})).t))
  assert scipy.stats.kstest(levels, scipy.stats.norm(-1.2, 1.2).cdf).statistic < 1e-3
  vp = build({'name': 'cosine'})
  t = draw('log_normal', vp).t
  levels = -0.5 * np.asarray(vp.log_snr(t))
  assert scipy.stats.kstest(levels, scipy.stats.norm(-1.2, 1.2).cdf).statistic < 1e-3
  assert float(np.median(levels)) == pytest.approx(-1.2, abs=1e-3)
  assert np.exp(levels).mean() == pytest.approx(0.6187833918, rel=1e-3)


def test_log_normal_is_cut_off_at_the_ends_of_the_process():
  process = build({'name': 'edm', 'sigma_min': 0.1, 'sigma_max': 1.0})
  levels = np.log(np.asarray(draw('log_normal', process, mean=-0.5, std=0.7).t))
  ends = (np.log([0.1, 1.0]) + 0.5) / 0.7
  assert scipy.stats.kstest(levels, scipy.stats.truncnorm(*ends, -0.5, 0.7).cdf).statistic < 1e-3


def test_logit_normal_away_from_its_defaults():
  process = build({'name': 'rectified_flow', 't_min': 0.2, 't_max': 0.7})
  share = (np.asarray(draw('logit_normal', process, mean=0.4, std=0.6).t) - 0.2) / 0.5
  logits = np.log(share / (1 - share))
  assert scipy.stats.kstest(logits, scipy.stats.norm(0.4, 0.6).cdf).statistic < 1e-3


def test_discrete_times_are_table_entries_equally_often():
  process = build({'name': 'ddpm', 'steps': 50})
  t = np.asarray(draw('uniform', process, 50_000).t)
  entries, counts = np.unique(np.round(t * 50, 9), return_counts=True)
  np.testing.assert_allclose(entries, np.arange(1, 51))
  assert (counts == 1000).all()
  times = component(TIME_DISTRIBUTIONS, {'name': 'uniform'}, 'times')
  assert times.sample(process, jnp.zeros(1), ()).t == 1 / 50  # the smallest number that is drawn


def test_terminal_times():
  drawn = draw('terminal', build({'name': 'edm'}))
  np.testing.assert_allclose(drawn.t, 80)


def test_low_discrepancy_times_are_spread_over_the_batch_and_split_alike():
  key, keys = jax.random.key(3), jax.random.split(jax.random.key(0), 16)
  index = jnp.arange(16)
  whole = uniforms(keys, key, index, 16, True)
  np.testing.assert_allclose(np.diff(np.sort(whole)), 1 / 16, rtol=1e-5)
  half = uniforms(keys[8:], key, index[8:], 16, True)
  np.testing.assert_array_equal(half, whole[8:])
  loose = uniforms(keys, key, index, 16, False)
  np.testing.assert_array_equal(uniforms(keys[8:], key, index[8:], 16, False), loose[8:])
  assert np.diff(np.sort(loose)).std() > 0.01


@pytest.mark.parametrize('process', ['ddpm', 'cosine'])
def test_loss_second_moment_learns_where_the_loss_is(process):
  process = build({'name': process} | ({'steps': 200} if process == 'ddpm' else {}))
  times = component(TIME_DISTRIBUTIONS, {'name': 'loss_second_moment', 'buckets': 20}, 'times')
  memory = times.init(process)
  rng = np.random.default_rng(0)
  ones = jnp.ones(256)
  first = times.sample(process, jnp.asarray(rng.uniform(size=256)), memory)
  np.testing.assert_allclose(first.importance, 1, rtol=1e-5)  # not enough losses yet
  loss_at = lambda t: 1.0 + 30.0 * (t > 0.8)
  update = jax.jit(
    lambda u, memory: times.update(
      memory, process, d := times.sample(process, u, memory), loss_at(d.t), ones
    )
  )
  for _ in range(60):
    memory = update(jnp.asarray(rng.uniform(size=256)), memory)
  u = (jnp.arange(20_000) + 0.5) / 20_000
  drawn = times.sample(process, u, memory)
  late = np.asarray(drawn.t) > 0.8
  # p ∝ √E[loss²]: a fifth of the times carries 31 of 31 + 4 parts.
  assert late.mean() == pytest.approx(0.2 * 31 / (0.2 * 31 + 0.8), abs=0.01)
  # With the correction, every mean equals the mean over uniform times.
  value = np.asarray(drawn.t) ** 2
  grid = np.arange(1, 201) / 200 if process.steps else np.linspace(1e-4, 0.999, 10_000)
  assert np.mean(value * np.asarray(drawn.importance)) == pytest.approx(np.mean(grid**2), rel=2e-3)
  # The density is that of the corrected times: a weighting over λ must not correct once more.
  low = 0 if process.steps else process.t_min
  np.testing.assert_allclose(drawn.density, 1 / (process.t_max - low))


def test_loss_second_moment_by_hand():
  """√E[loss²] of 1, 0, 0 and 3, with a fifth of uniform times; not before every bucket has five."""
  process = build({'name': 'rectified_flow'})
  settings = {'name': 'loss_second_moment', 'buckets': 4, 'floor': 0.2, 'history': 10.0}
  times = component(TIME_DISTRIBUTIONS, settings, 'times')
  u = (jnp.arange(20_000) + 0.5) / 20_000
  memory = LossHistory(jnp.asarray([6.0, 0.0, 0.0, 54.0]), jnp.full(4, 6.0))
  drawn = times.sample(process, u, memory)
  share = np.array([0.25, 0.05, 0.05, 0.65])  # 0.8·(1, 0, 0, 3)/4 + 0.2/4
  low, high = process.t_min, process.t_max
  bucket = np.floor((np.asarray(drawn.t) - low) / (high - low) * 4).clip(0, 3).astype(int)
  np.testing.assert_allclose(np.bincount(bucket) / 20_000, share, atol=1e-3)
  np.testing.assert_allclose(drawn.importance, 0.25 / share[bucket], rtol=1e-5)
  early = times.sample(process, u, memory._replace(counts=memory.counts.at[1].set(4.9)))
  np.testing.assert_allclose(early.importance, 1)
  # Of a history of 10 in each of 4 buckets, 8 new losses make an average forget a fifth.
  after = times.update(
    memory, process, drawn._replace(t=jnp.full(8, low)), jnp.full(8, 2.0), jnp.ones(8)
  )
  np.testing.assert_allclose(after.counts, [0.8 * 6 + 8, 4.8, 4.8, 4.8])
  np.testing.assert_allclose(after.squares, [0.8 * 6 + 8 * 4, 0, 0, 0.8 * 54])


def test_loss_second_moment_ignores_padding():
  process = build({'name': 'cosine'})
  times = component(TIME_DISTRIBUTIONS, {'name': 'loss_second_moment', 'buckets': 4}, 'times')
  drawn = times.sample(process, jnp.asarray([0.1, 0.9]), times.init(process))
  memory = times.update(
    times.init(process), process, drawn, jnp.asarray([2.0, 5.0]), jnp.asarray([1.0, 0.0])
  )
  np.testing.assert_allclose(memory.squares, [4, 0, 0, 0])
  np.testing.assert_allclose(memory.counts, [1, 0, 0, 0])


@pytest.mark.parametrize(
  ('settings', 'message'),
  [
    ({'name': 'log_normal', 'std': 0.0}, 'std=0.0 must be above 0'),
    ({'name': 'loss_second_moment', 'buckets': 1}, 'at least 2'),
    ({'name': 'lognormal'}, "did you mean 'log_normal'"),
  ],
)
def test_refusals(settings, message):
  with pytest.raises(ConfigError, match=message):
    component(TIME_DISTRIBUTIONS, settings, 'objective.times')
