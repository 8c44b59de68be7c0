"""Every weighting in every target, against the papers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from common.config import ConfigError, component
from diffusion.objectives import TIME_DISTRIBUTIONS, WEIGHTINGS
from diffusion.objectives.weightings import target_weight
from diffusion.predictions import TARGETS, combine, determinant, split, target_pair
from diffusion.processes import PROCESSES, build
from diffusion.processes.process import rate

WEIGHTS = [  # the weight of the error in x0, from the papers; also away from the defaults
  ({'name': 'snr'}, lambda snr: snr),
  ({'name': 'snr_plus_one'}, lambda snr: snr + 1),
  ({'name': 'truncated_snr'}, lambda snr: np.maximum(snr, 1)),
  ({'name': 'min_snr'}, lambda snr: np.minimum(snr, 5)),
  ({'name': 'min_snr', 'gamma': 3.0}, lambda snr: np.minimum(snr, 3)),
  ({'name': 'soft_min_snr'}, lambda snr: snr * 4 / (snr + 4)),
  ({'name': 'soft_min_snr', 'gamma': 2.5}, lambda snr: snr * 2.5 / (snr + 2.5)),
  ({'name': 'p2'}, lambda snr: snr / (1 + snr)),
  ({'name': 'p2', 'k': 0.3, 'gamma': 0.5}, lambda snr: snr / np.sqrt(0.3 + snr)),
  ({'name': 'p2', 'k': 2.0, 'gamma': 2.0}, lambda snr: snr / (2 + snr) ** 2),
  # (σ² + σ_d²)/(σ·σ_d)², σ² = 1/SNR
  ({'name': 'edm'}, lambda snr: (1 / snr + 0.25) / (1 / snr * 0.25)),
  ({'name': 'edm', 'sigma_data': 1.5}, lambda snr: (1 / snr + 2.25) / (1 / snr * 2.25)),
]


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
def test_every_weighting_agrees_with_its_paper_in_every_target(target, process):
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
  weigh = lambda **settings: target_weight(
    component(WEIGHTINGS, settings, 'w'), process, pair, t, density
  )
  for settings, expected in WEIGHTS:
    np.testing.assert_allclose(
      weigh(**settings) * mistake**2, expected(snr) * error, rtol=1e-6, err_msg=str(settings)
    )
  simple = target_weight(WEIGHTINGS['simple'](), process, pair, t, density)
  np.testing.assert_allclose(simple, 1, rtol=1e-12)
  vlb = target_weight(WEIGHTINGS['vlb'](), process, pair, t, density)
  exact = -0.5 * rate(lambda t: jnp.exp(process.log_snr(t)), t) / density  # −½ dSNR/dt
  np.testing.assert_allclose(vlb * mistake**2, exact * error, rtol=1e-6)
  for bias in (2.0, -1.0):
    share = 1 / (1 + snr / np.exp(bias))  # sigmoid(b − λ)
    np.testing.assert_allclose(weigh(name='sigmoid', bias=bias), share * vlb, rtol=1e-6)
  likelihood = target_weight(WEIGHTINGS['likelihood'](), process, pair, t, density)
  score = (
    process.squared_diffusion(t) * (alpha / sigma**2) ** 2 / density
  )  # g²·(error in the score)²
  np.testing.assert_allclose(likelihood * mistake**2, score * error, rtol=1e-6)


def test_sigmoid_weight_of_the_noise_on_the_cosine_schedule():
  """½·w(λ)·|dλ/dt| by hand: λ = −2·log tan(πt/2), |dλ/dt| = 2π/sin(πt) (Kingma & Gao 2023)."""
  process = build({'name': 'gvp', 't_max': 0.9})
  t = jnp.asarray([0.25, 0.5, 0.75])
  weighting = component(WEIGHTINGS, {'name': 'sigmoid', 'bias': 1.0}, 'w')
  uniform = jnp.ones_like(t)
  got = target_weight(weighting, process, target_pair('eps', process, t), t, uniform)
  expected = [
    np.pi * np.sqrt(2) / (1 + np.exp(-1) / np.tan(np.pi / 8) ** 2),
    np.pi / (1 + np.exp(-1)),
    np.pi * np.sqrt(2) / (1 + np.exp(-1) * np.tan(np.pi / 8) ** 2),
  ]
  np.testing.assert_allclose(got, expected, rtol=1e-9)
  # Twice the density of the times, half the weight: only the integral over λ counts.
  got = target_weight(weighting, process, target_pair('eps', process, t), t, 2 * uniform)
  np.testing.assert_allclose(got, np.asarray(expected) / 2, rtol=1e-9)


@pytest.mark.parametrize(
  ('process', 'target', 'weighting', 'times', 'expected'),
  [
    ('gvp', 'eps', {'name': 'simple'}, 'uniform', lambda l: 1 / np.cosh(l / 2)),
    ('gvp', 'v', {'name': 'simple'}, 'uniform', lambda l: np.exp(-l / 2)),
    ('rectified_flow', 'velocity', {'name': 'simple'}, 'uniform', lambda l: np.exp(-l / 2)),
    # N(λ; 2.4, 2.4²)·(e^−λ + 0.5²)
    (
      'edm',
      'edm',
      {'name': 'edm'},
      'log_normal',
      lambda l: np.exp(-((l / 2.4 - 1) ** 2) / 2) * (np.exp(-l) + 0.25),
    ),
    ('gvp', 'v', {'name': 'p2'}, 'uniform', lambda l: 1 / np.cosh(l / 2) / (1 + np.exp(l))),
    (
      'gvp',
      'x0',
      {'name': 'min_snr'},
      'uniform',
      lambda l: np.minimum(1, 5 * np.exp(-l)) / np.cosh(l / 2),
    ),
    # A logit-normal density of t: w = e^(−λ/2)·π(t), and π(t) = N(λ/2; 0, 1)/(t·(1 − t)).
    (
      'rectified_flow',
      'velocity',
      {'name': 'simple'},
      'logit_normal',
      lambda l: np.exp(-l / 2 - l**2 / 8) * np.cosh(l / 4) ** 2,
    ),
    # Weighings of the integral over λ, whichever process and times.
    ('edm', 'edm', {'name': 'vlb'}, 'log_normal', np.ones_like),
    ('rectified_flow', 'v', {'name': 'sigmoid'}, 'uniform', lambda l: 1 / (1 + np.exp(l - 2))),
  ],
)
def test_a_loss_implies_a_weight_of_the_log_snr(process, target, weighting, times, expected):
  """w in ½·∫ w(λ)·‖ε − ε̂‖² dλ, up to a factor (Kingma & Gao 2023; Esser et al. 2024, section 3)."""
  # From t = 0 almost exactly, so that the logit of t is that of the whole unit interval.
  process = build({'name': process} | ({} if process == 'edm' else {'t_min': 1e-9}))
  drawn = TIME_DISTRIBUTIONS[times]().sample(process, jnp.linspace(0.02, 0.98, 101), ())
  pair = target_pair(target, process, drawn.t)
  log_snr, alpha, sigma = (f(drawn.t) for f in (process.log_snr, process.alpha, process.sigma))
  weight = target_weight(
    component(WEIGHTINGS, weighting, 'w'), process, pair, drawn.t, drawn.density
  )
  # An error in ε is one in the target of (α·b − σ·a)/α = Δ/α, and p(λ) = p(t)/|dλ/dt|.
  factor = (determinant(pair, alpha, sigma) / alpha) ** 2
  implied = weight * factor * drawn.density / -rate(process.log_snr, drawn.t)
  ratio = np.asarray(implied) / expected(np.asarray(log_snr))
  np.testing.assert_allclose(ratio, ratio[50], rtol=1e-6)


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


def test_vlb_ratio_of_discrete_to_continuous_steps():
  """T·(SNR(s) − SNR(t)) over −dSNR/dt for λ linear in time, as in VDM with λ from 13.3 to −5."""
  process = PROCESSES['learned']()
  slope = -rate(process.log_snr, jnp.asarray([0.5]))[0] * (1 - process.t_min)
  steps = np.array([1, 10, 100, 1000])
  ratio = steps * np.expm1(slope / steps) / slope
  np.testing.assert_allclose(ratio, [4843261.565, 2.860047354, 1.097346492, 1.009206071], 1e-8)


@pytest.mark.parametrize(
  ('settings', 'message'),
  [
    ({'name': 'min_srn'}, "did you mean 'min_snr'"),
    ({'name': 'min_snr', 'gama': 5.0}, "did you mean 'gamma'"),
    ({'name': 'min_snr', 'gamma': 0.0}, 'gamma=0.0 must be above 0'),
    ({'name': 'edm', 'sigma_data': -1.0}, 'must be above 0'),
  ],
)
def test_refusals(settings, message):
  with pytest.raises(ConfigError, match=message):
    component(WEIGHTINGS, settings, 'objective.weighting')
