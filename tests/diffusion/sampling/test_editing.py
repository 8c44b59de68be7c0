"""Editing against conditional distributions in closed form."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion import processes
from diffusion.sampling import driver, editing, grids, multistep, solvers
from tests.diffusion import exact

KEY = jax.random.key(0)
PROCESS = processes.VPLinear()
TIMES = np.linspace(1, 0, 65) ** 1.5
DATA = exact.Gaussians(np.ones(1), np.array([[0.5, -0.3]]), np.array([[[0.6, 0.4], [0.4, 0.5]]]))
NUM = 2000


@pytest.fixture(autouse=True)
def float64():
  with jax.enable_x64(True):
    yield


def start(num=NUM, dim=2):
  return PROCESS.prior_std * jax.random.normal(jax.random.key(7), (num, dim))


def conditional_moments(first):
  """Mean and variance of the second coordinate, given the first."""
  (m1, m2), c = DATA.means[0], DATA.covariances[0]
  return m2 + c[1, 0] / c[0, 0] * (first - m1), c[1, 1] - c[1, 0] ** 2 / c[0, 0]


def test_inpainting_keeps_the_known_part_and_resampling_corrects_the_rest():
  value = 1.5
  known, mask = jnp.full((NUM, 2), value), np.array([True, False])
  denoise = DATA.denoiser(PROCESS)
  mean, variance = conditional_moments(value)
  sampler = editing.inpaint(solvers.Ancestral(), known, mask)
  replaced, count = jax.jit(lambda x: driver.sample(sampler, PROCESS, denoise, TIMES, x, KEY))(
    start()
  )
  np.testing.assert_array_equal(replaced[:, 0], value)
  assert int(count) == 64
  resampled, count = jax.jit(
    lambda x: editing.resample(
      driver.ReverseChain(sampler, PROCESS, denoise), TIMES, x, KEY, jump=8, repeats=8
    )
  )(start())
  np.testing.assert_array_equal(resampled[:, 0], value)
  assert int(count) == 64 * 8
  # Replacement without resampling has a known bias: it ignores some of the known part.
  bias = [abs(float(x[:, 1].mean()) - mean) for x in (replaced, resampled)]
  assert bias[1] < 0.05 < bias[0]
  assert float(resampled[:, 1].var()) == pytest.approx(variance, rel=0.25)


def test_resampling_path_is_a_walk():
  np.testing.assert_array_equal(editing.resampling_path(4, 2, 1), [0, 1, 2, 3, 4])
  np.testing.assert_array_equal(
    editing.resampling_path(5, 2, 2), [0, 1, 2, 1, 0, 1, 2, 3, 4, 3, 2, 3, 4, 5, 4, 5]
  )
  path = editing.resampling_path(250, 10, 10)
  assert (np.abs(np.diff(path)) == 1).all() and (np.diff(path) == 1).sum() == 2500


def test_forward_noise_of_resampling_has_the_right_marginal():
  """Walking up and down without any known part still samples the data."""
  denoise = exact.MIXTURE.denoiser(PROCESS)
  nothing = editing.inpaint(solvers.Ancestral(), jnp.zeros((NUM, 2)), np.zeros(2, bool))
  x, _ = jax.jit(
    lambda x: editing.resample(
      driver.ReverseChain(nothing, PROCESS, denoise), TIMES, x, KEY, jump=16, repeats=2
    )
  )(start())
  data = exact.MIXTURE
  np.testing.assert_allclose(np.mean(x, 0), data.mean, atol=0.08)
  # 64 ancestral steps lose about 7 % of the variance; wrong noise on the way up would lose more.
  np.testing.assert_allclose(np.cov(np.asarray(x).T), data.covariance, atol=0.1)


def test_colourisation_keeps_grey_and_samples_colour():
  rng = np.random.default_rng(0)
  grey = jnp.asarray(rng.uniform(-1, 1, (50, 4, 4, 1)))
  spread = 0.3
  denoise_flat = exact.isotropic(spread, dim=48).denoiser(PROCESS)

  def denoise(x, t):
    pair = denoise_flat(x.reshape(-1, 48), t)
    return pair._replace(x0=pair.x0.reshape(x.shape), eps=pair.eps.reshape(x.shape))

  x0 = start(50, 48).reshape(50, 4, 4, 3)
  sampler = editing.colourise(solvers.DDIM(1.0), grey)
  x, _ = jax.jit(lambda x: driver.sample(sampler, PROCESS, denoise, TIMES, x, KEY))(x0)
  np.testing.assert_allclose(x.mean(-1, keepdims=True), grey, atol=1e-12)
  colour = np.asarray(x - grey)  # two of three dimensions free, each of variance spread²
  assert colour.var() == pytest.approx(2 / 3 * spread**2, rel=0.1)


@pytest.mark.parametrize('channels', [2, 3, 4])
def test_grey_basis(channels):
  basis = editing.grey_basis(channels)
  np.testing.assert_allclose(basis @ basis.T, np.eye(channels), atol=1e-12)
  np.testing.assert_allclose(basis[:, 0], channels**-0.5)


@pytest.mark.parametrize('strength', [0.25, 0.6])
def test_sdedit_draws_from_the_posterior_at_its_noise_level(strength):
  given = jnp.broadcast_to(jnp.asarray([2.0, -2.0]), (NUM, 2))
  x, rest = editing.perturb(PROCESS, given, TIMES, strength, KEY)
  assert len(rest) == round(64 * strength) + 1
  np.testing.assert_array_equal(rest, TIMES[-len(rest) :])
  alpha, sigma = (float(f(jnp.asarray(rest[0]))) for f in (PROCESS.alpha, PROCESS.sigma))
  np.testing.assert_allclose(np.mean(x, 0), alpha * given[0], atol=4 * sigma / NUM**0.5)
  np.testing.assert_allclose(np.std(x, 0), sigma, rtol=0.05)
  denoise = DATA.denoiser(PROCESS)
  edited, _ = jax.jit(
    lambda x: driver.sample(solvers.Ancestral(), PROCESS, denoise, rest, x, jax.random.key(1))
  )(x)
  (mean,), (covariance,) = DATA.means, DATA.covariances
  gain = alpha * covariance @ np.linalg.inv(alpha**2 * covariance + sigma**2 * np.eye(2))
  expected = mean + gain @ (alpha * (np.asarray(given[0]) - mean))
  np.testing.assert_allclose(np.mean(edited, 0), expected, atol=0.06)


@pytest.mark.parametrize(
  'sampler',
  [multistep.Adaptive(1e-9, 1e-9), solvers.Heun(), multistep.DPMpp2M()],
  ids=['adaptive', 'heun', 'dpmpp_2m'],
)
def test_codes(sampler):
  """The code of Gaussian data has a closed form, and decoding returns the data."""
  process = processes.EDM(0.05, 20.0)
  x = jnp.asarray(np.random.default_rng(0).normal(size=(5, 1)))
  denoise = exact.isotropic(0.7).denoiser(process)
  times = np.geomspace(20.0, 0.05, 301)
  code, up = editing.encode(sampler, process, denoise, times, x)
  again, down = editing.decode(sampler, process, denoise, times, code)
  factor = np.sqrt((0.49 + 20.0**2) / (0.49 + 0.05**2))
  np.testing.assert_allclose(code, factor * x, rtol=1e-3)
  np.testing.assert_allclose(again, x, rtol=1e-3)
  assert up == down > 0


@pytest.mark.parametrize(
  ('sampler', 'process'),
  [
    (multistep.DPMpp2M(), 'rectified_flow'),
    (multistep.DPMpp2M(), 'gvp'),
    (multistep.DPMpp2S(), 'rectified_flow'),
    (multistep.DPMpp3MSDE(eta=0.0), 'rectified_flow'),
    (multistep.UniPC(), 'rectified_flow'),
  ],
)
def test_codes_in_pure_noise(sampler, process):
  """Up to t_max, where α = 0 and log(α/σ) = −∞, and down again; α is far from 1 at the end."""
  process = processes.build({'name': process, 't_min': 0.3})
  x = jnp.asarray(np.random.default_rng(0).normal(size=(5, 1)))
  denoise = exact.isotropic(0.7).denoiser(process)
  times = grids.make_times({'name': 'log_snr', 'end': 't_min'}, process, 100)
  code, _ = editing.encode(sampler, process, denoise, times, x)
  again, _ = editing.decode(sampler, process, denoise, times, code)
  alpha, sigma = (float(f(jnp.asarray(process.t_min))) for f in (process.alpha, process.sigma))
  np.testing.assert_allclose(code, alpha * x / np.hypot(0.7 * alpha, sigma), rtol=2e-3)
  np.testing.assert_allclose(again, x, rtol=2e-3)


def test_slerp():
  rng = np.random.default_rng(0)
  a, b = (jnp.asarray(rng.normal(size=(3, 4, 4))) for _ in range(2))
  np.testing.assert_allclose(editing.slerp(a, b, 0.0), a)
  np.testing.assert_allclose(editing.slerp(a, b, 1.0), b, atol=1e-12)
  unit = lambda x: x / np.sqrt((np.asarray(x) ** 2).sum((1, 2), keepdims=True))
  a, b = unit(a), unit(b)
  third = editing.slerp(a, b, 1 / 3)
  np.testing.assert_allclose(unit(third), third)
  angle = lambda x, y: np.arccos((np.asarray(x) * np.asarray(y)).sum((1, 2)))
  np.testing.assert_allclose(3 * angle(a, third), angle(a, b))
  np.testing.assert_allclose(editing.slerp(a, 2 * a, 0.5), 1.5 * a)


X = np.zeros((2, 4, 4, 3))
DENOISE = DATA.denoiser(PROCESS)
GRID = [1.0, 0.5, 0.1]


@pytest.mark.parametrize(
  ('build', 'message'),
  [
    (lambda x: editing.inpaint(solvers.DDIM(), x, np.zeros((5, 4, 1))), r'\(5, 4, 1\)'),
    (lambda x: editing.inpaint(solvers.DDIM(), x, np.zeros((3, 2, 4, 4, 3))), 'does not fit'),
    (lambda x: editing.inpaint(solvers.DDIM(), x, np.full((4, 4, 1), 0.5)), '1 .known. and 0'),
    (lambda x: editing.inpaint(solvers.DDIM(), x, np.ones(3), np.ones((3, 3))), 'orthogonal'),
    (lambda x: editing.colourise(solvers.DDIM(), x), 'grey images'),
    (lambda x: editing.colourise(solvers.DDIM(), x[..., :1], 1), '2 channels'),
    (
      lambda x: editing.perturb(PROCESS, x, GRID, 0.0, KEY),
      r'must be in \(0, 1\], got 0.0',
    ),
    (lambda x: editing.perturb(PROCESS, x, GRID, 1.5, KEY), 'strength must be in .* got 1.5'),
    (lambda x: editing.perturb(PROCESS, x, [1.0], 0.5, KEY), 'at least one step'),
    (lambda x: editing.resampling_path(10, 0, 2), 'jump=0'),
    (lambda x: editing.resampling_path(10, 2, 0), 'repeats=0'),
    (lambda x: editing.encode(solvers.DDIM(1.0), PROCESS, DENOISE, GRID, x), 'deterministic'),
    (lambda x: editing.encode(solvers.DDIM(), PROCESS, DENOISE, [1.0, 0.0], x), 'above time 0'),
    (lambda x: editing.decode(solvers.DDIM(), PROCESS, DENOISE, [0.5, 1.0], x), 'decrease'),
  ],
)
def test_invalid_edits_are_refused(build, message):
  with pytest.raises(ValueError, match=message):
    build(jnp.asarray(X))
