"""Step by step against the schedulers of diffusers, on the same model outputs, in float32.

A model's outputs are drawn beforehand, one per call, so that neither side's rounding reaches the
other. The test compares x after every step.
"""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion import processes
from diffusion.predictions import Pair, split, target_pair
from diffusion.sampling import grids, multistep, solvers

pytestmark = pytest.mark.peers
torch = pytest.importorskip('torch')
diffusers = pytest.importorskip('diffusers')

SHAPE = (2, 3, 4, 4)
KEYS = jax.random.split(jax.random.key(0), SHAPE[0])
TOLERANCE = 1e-5


class Replay:
  """A denoiser that gives prepared outputs, in the order of its calls."""

  def __init__(self, process, target, outputs, learned=None):
    self._process, self._target = process, target
    self._outputs = iter(outputs)
    self._learned = None if learned is None else iter(learned)

  def __call__(self, x, t):
    pair = target_pair(self._target, self._process, t)
    alpha, sigma = self._process.alpha(t), self._process.sigma(t)
    both = split(jnp.asarray(next(self._outputs)), x, pair, alpha, sigma)
    fraction = None if self._learned is None else (jnp.asarray(next(self._learned)) + 1) / 2
    return Pair(both.x0, both.eps, fraction)

  def when(self, needed, x, t, otherwise):
    return self(x, t) if bool(needed) else otherwise


def draws(number, seed=0):
  return np.random.default_rng(seed).normal(size=(number, *SHAPE)).astype(np.float32)


def ours(sampler, process, times, outputs, start, target='eps', learned=None, follow=None):
  """x after every step; each step starts from the peer's x where there is one to `follow`."""
  denoise = Replay(process, target, outputs, learned)
  x, path = jnp.asarray(start), []
  carry = sampler.init(x, len(times) - 1)
  for t, s in itertools.pairwise(jnp.asarray(times, jnp.float32)):
    x, carry = sampler.step(process, x, t, s, denoise, KEYS, carry)
    path.append(np.asarray(x))
    x = x if follow is None else jnp.asarray(follow[len(path) - 1])
  return path


def theirs(scheduler, outputs, start, **options):
  """x after every call of `step`."""
  x, path = torch.from_numpy(start), []
  for t, output in zip(scheduler.timesteps, outputs, strict=True):
    extra = {name: value(len(path)) for name, value in options.items()}
    x = scheduler.step(torch.from_numpy(output), t, x, **extra).prev_sample
    path.append(x.numpy())
  return path


def assert_paths(path, peer):
  assert len(path) == len(peer)
  for x, y in zip(path, peer, strict=True):
    assert np.abs(x - y).max() <= TOLERANCE * max(1, np.abs(y).max())


def table_times(scheduler):
  """Timesteps k of a table of 1000 as times (k + 1)/1000, then clean data."""
  return np.append((scheduler.timesteps.numpy() + 1) / 1000, 0)


BETAS = dict(num_train_timesteps=1000, beta_start=1e-4, beta_end=0.02, beta_schedule='linear')


def test_float32_throughout():
  assert jnp.ones(1).dtype == jnp.float32


@pytest.mark.parametrize('variance', ['fixed_small', 'fixed_large', 'learned'])
def test_ddpm(variance, monkeypatch):
  named = 'learned_range' if variance == 'learned' else variance
  scheduler = diffusers.DDPMScheduler(**BETAS, variance_type=named, clip_sample=False)
  scheduler.set_timesteps(50)
  outputs, learned = draws(50), np.tanh(draws(50, seed=2))
  generators = [torch.Generator().manual_seed(n) for n in range(50)]
  noises = iter([torch.randn(SHAPE, generator=g).numpy() for g in generators])
  monkeypatch.setattr(solvers, 'normal_like', lambda keys, x: jnp.asarray(next(noises)))
  start = draws(1, seed=1)[0]
  given = np.concatenate([outputs, learned], axis=2) if variance == 'learned' else outputs
  peer = theirs(scheduler, given, start, generator=lambda n: torch.Generator().manual_seed(n))
  path = ours(
    solvers.Ancestral(variance),
    processes.DDPM(),
    table_times(scheduler),
    outputs,
    start,
    learned=learned if variance == 'learned' else None,
  )
  assert_paths(path, peer)


@pytest.mark.parametrize('eta', [0.0, 0.7, 1.0])
def test_ddim(eta, monkeypatch):
  scheduler = diffusers.DDIMScheduler(**BETAS, clip_sample=False)
  scheduler.set_timesteps(50)
  outputs, start, noises = draws(50), draws(1, seed=1)[0], draws(50, seed=3)
  following = iter(noises)
  monkeypatch.setattr(solvers, 'normal_like', lambda keys, x: jnp.asarray(next(following)))
  peer = theirs(
    scheduler,
    outputs,
    start,
    eta=lambda n: eta,
    variance_noise=lambda n: torch.from_numpy(noises[n]) if eta else None,
  )
  path = ours(solvers.DDIM(eta), processes.DDPM(), table_times(scheduler), outputs, start)
  assert_paths(path, peer)


@pytest.mark.parametrize(
  ('option', 'settings'),
  [
    ('use_karras_sigmas', {'name': 'karras'}),
    ('use_lu_lambdas', {'name': 'log_snr'}),
  ],
)
def test_noise_levels_of_a_table(option, settings):
  """Equal steps in a function of σ, rounded to the table's timesteps."""
  scheduler = diffusers.DPMSolverMultistepScheduler(**BETAS, **{option: True})
  scheduler.set_timesteps(12)
  np.testing.assert_allclose(
    grids.make_times(settings, processes.DDPM(), 12), table_times(scheduler), atol=1e-9
  )


@pytest.mark.parametrize(
  ('spacing', 'grid'), [('leading', 'stride'), ('trailing', 'trailing'), ('linspace', 'adm')]
)
def test_spacings_of_a_table(spacing, grid):
  scheduler = diffusers.DDIMScheduler(**BETAS, timestep_spacing=spacing)
  for steps in (10, 30, 50):
    scheduler.set_timesteps(steps)
    times = grids.make_times({'name': 'respaced', 'spacing': grid}, processes.DDPM(), steps)
    np.testing.assert_allclose(times, table_times(scheduler), atol=1e-9)


def test_euler():
  scheduler = diffusers.EulerDiscreteScheduler(**BETAS)
  scheduler.set_timesteps(30)
  sigmas = scheduler.sigmas.numpy()
  outputs, start = draws(30), draws(1, seed=1)[0] * sigmas[0]
  scheduler.is_scale_input_called = True
  peer = theirs(scheduler, outputs, start)
  for sampler in (solvers.Euler(), solvers.DDIM()):
    assert_paths(ours(sampler, processes.EDM(), sigmas, outputs, start), peer)


def test_heun():
  scheduler = diffusers.HeunDiscreteScheduler(**BETAS)
  scheduler.set_timesteps(20)
  sigmas = np.append(np.unique(scheduler.sigmas.numpy())[:0:-1], 0)
  assert len(scheduler.timesteps) == 39
  outputs, start = draws(39), draws(1, seed=1)[0] * sigmas[0]
  # A step of this scheduler takes one evaluation, so two of its steps are one of ours.
  calls = theirs(scheduler, outputs, start)
  for sampler in (solvers.Heun(), solvers.Heun('ratio'), solvers.EDMSampler()):
    assert_paths(ours(sampler, processes.EDM(), sigmas, outputs, start), [*calls[1::2], calls[-1]])


@pytest.mark.parametrize(
  ('order', 'sampler'), [(2, multistep.DPMpp2M()), (3, multistep.DPMpp3MSDE(eta=0.0))]
)
def test_dpm_solver_multistep(order, sampler):
  scheduler = diffusers.DPMSolverMultistepScheduler(
    **BETAS, algorithm_type='dpmsolver++', solver_order=order
  )
  scheduler.set_timesteps(20)
  outputs, start = draws(20), draws(1, seed=1)[0]
  peer = theirs(scheduler, outputs, start)
  path = ours(
    sampler,
    processes.DDPM(),
    table_times(scheduler),
    outputs,
    start,
    follow=peer if order == 3 else None,
  )
  if order == 3:  # with two estimates, its slope is weighted as in 2M, ours as in k-diffusion
    del path[1], peer[1]
  assert_paths(path, peer)


@pytest.mark.parametrize('variant', ['bh1', 'bh2'])
@pytest.mark.parametrize('order', [2, 3])
def test_unipc(order, variant):
  scheduler = diffusers.UniPCMultistepScheduler(**BETAS, solver_order=order, solver_type=variant)
  scheduler.set_timesteps(20)
  outputs, start = draws(20), draws(1, seed=1)[0]
  peer = theirs(scheduler, outputs, start)
  sampler = multistep.UniPC(order, variant)
  path = ours(sampler, processes.DDPM(), table_times(scheduler), outputs, start)
  # Ours falls to first order on the step to clean data; theirs counts down: 3, 2, 1. With bh1 its
  # step to clean data multiplies infinity by 0, and gives NaN.
  compared = {(2, 'bh1'): 19, (2, 'bh2'): 20, (3, 'bh1'): 18, (3, 'bh2'): 18}[order, variant]
  assert np.isfinite(path[-1]).all()
  assert_paths(path[:compared], peer[:compared])


def test_flow_match_euler():
  scheduler = diffusers.FlowMatchEulerDiscreteScheduler()
  scheduler.set_timesteps(25)
  sigmas = scheduler.sigmas.numpy()
  assert sigmas[0] == 1
  outputs, start = draws(25), draws(1, seed=1)[0]
  peer = theirs(scheduler, outputs, start)
  flow = processes.RectifiedFlow()
  assert_paths(ours(solvers.Euler(), flow, sigmas, outputs, start, 'velocity'), peer)
