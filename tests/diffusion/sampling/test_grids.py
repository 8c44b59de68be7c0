"""Grids against the papers' numbers, and refusals."""

import jax.numpy as jnp
import numpy as np
import pytest

from common.config import ConfigError
from diffusion.processes import PROCESSES, build, discrete
from diffusion.sampling.grids import GRIDS, adm_timesteps, make_times

EDM = build({'name': 'edm'})
DDPM = build({'name': 'ddpm'})


def test_karras_on_edm():
  times = make_times({'name': 'karras'}, EDM, 18)
  expected = [80, 57.58598472, 40.7855738, 28.3745846, 19.35245298, 12.91008238, 8.400935309]
  expected += [5.315194522, 3.25682152, 1.923339837, 1.088170637, 0.5853481232, 0.2964422845]
  expected += [0.1395164687, 0.05994731124, 0.02293451837, 0.007528019963, 0.002, 0]
  np.testing.assert_allclose(times, expected, rtol=1e-8)
  longer = make_times({'name': 'karras'}, EDM, 40)
  np.testing.assert_allclose(
    longer[[0, 1, 20, 38, 39]], [80, 69.45094604, 2.240439759, 0.003676589168, 0.002], rtol=1e-8
  )


def test_karras_spaces_noise_levels_not_times():
  process = build({'name': 'vp_linear'})
  times = make_times({'name': 'karras', 'rho': 3.0, 'end': 't_min'}, process, 20)
  level = np.exp(-0.5 * np.asarray(process.log_snr(jnp.asarray(times))))
  np.testing.assert_allclose(np.diff(level ** (1 / 3.0), 2), 0, atol=1e-4)


def test_uniform_times_may_end_earlier_than_training_begins():
  """Song et al. 2021, code: linspace(1, 1e-3, 1000), then clean data."""
  process = build({'name': 'vp_linear'})  # trained from 1e-5 on
  times = make_times({'name': 'uniform', 'last': 1e-3}, process, 1000)
  np.testing.assert_allclose(times, np.append(np.linspace(1, 1e-3, 1000), 0), atol=1e-12)
  assert make_times({'name': 'uniform'}, process, 10)[-2] == process.t_min
  assert make_times({'name': 'uniform', 'last': 1e-9}, process, 10)[-2] == process.t_min


def test_log_snr_and_quadratic():
  process = build({'name': 'sub_vp'})
  times = make_times({'name': 'log_snr', 'end': 't_min'}, process, 10)
  np.testing.assert_allclose(
    np.diff(np.asarray(process.log_snr(jnp.asarray(times))), 2), 0, atol=1e-3
  )
  # A process that ends in pure noise counts as ending at log-SNR −15: exp(7.5) in σ/α = t/(1 − t).
  line = build({'name': 'rectified_flow'})
  second = make_times({'name': 'log_snr', 'end': 't_min'}, line, 10)[1]
  low, high = np.exp(7.5), 0.001 / 0.999
  ratio = low * (high / low) ** 0.1
  assert second == pytest.approx(ratio / (1 + ratio), rel=1e-9)
  roots = np.sqrt(make_times({'name': 'quadratic', 'end': 't_min'}, EDM, 10) - EDM.t_min)
  np.testing.assert_allclose(np.diff(roots, 2), 0, atol=1e-9)


@pytest.mark.parametrize('steps', [10, 20, 50, 100])
def test_quadratic_is_that_of_ddims_code(steps):
  """τ = int(linspace(0, √(0.8·T), S)²) of 0..T−1; timesteps that it repeats move up by one."""
  authors = (np.linspace(0, np.sqrt(0.8 * 1000), steps) ** 2).astype(int)
  entries = np.round(make_times({'name': 'quadratic'}, DDPM, steps)[-2::-1] * 1000).astype(int)
  assert entries[-1] == 801
  assert (np.diff(entries) > 0).all()
  assert set(authors + 1) <= set(entries)
  if steps <= 20:
    np.testing.assert_array_equal(entries, authors + 1)
  whole = make_times({'name': 'quadratic', 'span': 1.0}, DDPM, steps)
  assert whole[0] == 1 and (np.diff(whole) < 0).all()


def test_quadratic_timesteps_that_are_whole_stay_so():
  """24·(1, 9/16, 1/4, 1/16, 0) of 0..29: in floating point √24² is below 24, and √6² below 6."""
  process = build({'name': 'ddpm', 'schedule': 'cosine', 'steps': 30})
  times = make_times({'name': 'quadratic'}, process, 5)
  np.testing.assert_allclose(times * 30, [25, 14, 7, 2, 1, 0])


@pytest.mark.parametrize(('name', 'rho'), [('karras', 3.0), ('log_snr', None)])
def test_noise_levels_of_a_table_are_the_nearest_entries(name, rho):
  process = build({'name': 'ddpm', 'steps': 400})
  settings = {'name': name} | ({'rho': rho} if rho else {})
  table = np.asarray(process.log_snr(jnp.arange(1, 401) / 400), np.float64)
  # λ at equal steps in (σ/α)^(1/ρ), σ/α = e^(−λ/2), or in λ.
  warp = (lambda x: np.exp(-x / 2 / rho)) if rho else (lambda x: x)
  back = (lambda y: -2 * rho * np.log(y)) if rho else (lambda y: y)
  wanted = back(np.linspace(warp(table[-1]), warp(table[0]), 12))
  nearest = np.abs(table[:, None] - wanted).argmin(axis=0) + 1
  assert (np.diff(nearest) < 0).all()
  np.testing.assert_allclose(make_times(settings, process, 12)[:-1] * 400, nearest)


def test_adm_respacing():
  assert adm_timesteps(1000, (10,)) == [0, 111, 222, 333, 444, 555, 666, 777, 888, 999]
  assert adm_timesteps(300, (10, 15, 20))[:11] == [0, 11, 22, 33, 44, 55, 66, 77, 88, 99, 100]
  # A half by rule, 499.5: the sums of the authors' code fall just below it.
  assert adm_timesteps(1000, (21,))[9:12] == [450, 499, 549]
  times = make_times({'name': 'respaced'}, DDPM, 10)
  np.testing.assert_allclose(times * 1000, [1000, 889, 778, 667, 556, 445, 334, 223, 112, 1, 0])
  stride = make_times({'name': 'respaced', 'spacing': 'stride'}, DDPM, 10)
  np.testing.assert_allclose(stride * 1000, [*range(901, 0, -100), 0])
  trailing = make_times({'name': 'respaced', 'spacing': 'trailing'}, DDPM, 10)
  np.testing.assert_allclose(trailing * 1000, range(1000, -1, -100))


def test_respaced_betas():
  """The steps of a respaced grid are those of the respaced process: β' = 1 − ᾱ(t)/ᾱ(s)."""
  times = make_times({'name': 'respaced'}, DDPM, 250)[::-1]
  entries = np.round(times * 1000).astype(int)
  signal = np.append(1.0, np.cumprod(1 - discrete.linear_betas(1000)))[entries]
  betas = 1 - signal[1:] / signal[:-1]
  np.testing.assert_allclose(
    betas[[0, 1, 249]], [0.0001, 0.0005990655645, 0.07751934499], rtol=1e-8
  )


LATE = ('quadratic', 'ddpm')


@pytest.mark.parametrize('process', PROCESSES)
@pytest.mark.parametrize('grid', sorted(set(GRIDS) - {'given', 'respaced'}))
def test_every_grid_serves_every_process(grid, process):
  process = build({'name': process})
  for steps in (1, 2, 20):
    times = make_times({'name': grid}, process, steps)
    assert times.shape == (steps + 1,)
    # DDIM's quadratic grid leaves out the noisiest fifth of a table.
    assert times[0] == pytest.approx(0.801 if (grid, process.name) == LATE else process.t_max)
    if process.steps:
      np.testing.assert_allclose(times * process.steps, np.round(times * process.steps), atol=1e-9)
    assert times[-1] == 0
    if steps > 1:
      assert times[-2] == pytest.approx(process.t_min, rel=1e-6)
    open_ended = make_times({'name': grid, 'end': 't_min'}, process, steps)
    assert open_ended.shape == (steps + 1,)
    assert open_ended[-1] == pytest.approx(process.t_min, rel=1e-6)


@pytest.mark.parametrize('grid', sorted(set(GRIDS) - {'given'}))
def test_whole_table(grid):
  """As many steps as entries: every entry once, wherever the grid would rather be."""
  np.testing.assert_allclose(make_times({'name': grid}, DDPM, 1000), np.arange(1000, -1, -1) / 1000)


@pytest.mark.parametrize(
  ('settings', 'process', 'steps', 'message'),
  [
    ({'name': 'uniform'}, EDM, 0, 'steps must be at least 1, got 0'),
    ({'name': 'uniformly'}, EDM, 5, "did you mean 'uniform'"),
    ({'name': 'karras', 'ro': 7.0}, EDM, 5, "did you mean 'rho'"),
    ({'name': 'karras', 'rho': -1.0}, EDM, 5, 'must be above 0'),
    ({'name': 'uniform', 'end': 'zero'}, EDM, 5, 'clean, t_min'),
    ({'name': 'uniform'}, DDPM, 1001, "at most 1000 on process 'ddpm', .* 1000 entries, got 1001"),
    ({'name': 'karras', 'end': 't_min'}, DDPM, 1000, 'at most 999 .* got 1000'),
    ({'name': 'quadratic', 'span': 1.5}, DDPM, 5, r'span=1.5 must be in \(0, 1\]'),
    ({'name': 'given', 'times': (0.5, 0.0015)}, DDPM, 2, 'multiples of 1/1000, the entries'),
    ({'name': 'respaced'}, EDM, 5, 'needs a discrete process'),
    ({'name': 'respaced'}, DDPM, 2000, 'at most 1000 on process .*got 2000'),
    ({'name': 'respaced', 'sections': (3, 4)}, DDPM, 8, 'sum to 7'),
    ({'name': 'given', 'times': (3.0, 2.0)}, EDM, 3, 'lists 2 times, but 3'),
    ({'name': 'given', 'times': (2.0, 3.0)}, EDM, 2, 'decrease'),
    ({'name': 'given', 'times': (2.0, -3.0), 'end': 't_min'}, EDM, 1, 'at least 0'),
    ({'name': 'given', 'times': (80.01, 3.0)}, EDM, 2, 'must not pass t_max = 80'),
    (
      {'name': 'respaced', 'sections': (499, 501)},
      DDPM,
      1000,
      'section 1 of 500 steps can keep 1 to 500 of them, got 501',
    ),
  ],
)
def test_refusals(settings, process, steps, message):
  with pytest.raises(ValueError, match=message):
    make_times(settings, process, steps)


def test_refusals_are_config_errors_where_the_config_is_at_fault():
  with pytest.raises(ConfigError):
    make_times({'name': 'uniform'}, EDM, 0)
