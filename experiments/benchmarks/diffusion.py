"""Races of the diffusion family: training, sampling, solvers, likelihood."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from common.data.spec import DataSpec
from common.method import Request
from configs.diffusion import base
from diffusion.likelihood.flow import flow_log_density
from diffusion.model import build_model
from diffusion.predictions import velocity
from diffusion.sampling.driver import SAMPLERS
from experiments import families
from experiments.benchmarks.race import (
  OURS,
  Race,
  Sizes,
  per_unit,
  perturbed_params,
  sampler,
  training_steps,
  wait_for,
)

TOLERANCE = 1e-5


def spec_of(image: int) -> DataSpec:
  """Square colour images."""
  return DataSpec('images', 'image', (image, image, 3), 256, num_train=1024)


def unet_config(sizes: Sizes) -> dict:
  """DDPM's U-Net with two resolutions, attention at the lower one, predicting the noise."""
  config = base.get_base()
  config.network = dict(
    name='unet', width=sizes.unet_width, multipliers=(1, 2), blocks=sizes.unet_blocks,
    attention=(sizes.image // 2,), dropout=0.0,
  )  # fmt: skip
  config.process = dict(name='ddpm')
  config.prediction.update(target='eps', noise='time')
  config.data.batch_size = sizes.unet_batch
  return families.complete(config)


def dit_config(width: int, steps: int = 1) -> dict:
  """A small DiT and a process that every sampler supports, sampled in `steps` steps."""
  config = base.get_base()
  config.process = dict(name='vp_linear')
  config.network.update(patch=2, width=width, depth=4, heads=4, scan=False)
  config.sampling.steps = steps
  return families.complete(config)


def _torch_unet(sizes: Sizes):
  from experiments.benchmarks import peers as torch_peers

  return torch_peers.unet(sizes.image, sizes.unet_width, sizes.unet_blocks)


def train(sizes: Sizes, peers: bool) -> list[Race]:
  """Training steps of a U-Net."""
  ours, contenders = training_steps(unet_config(sizes), spec_of(sizes.image))
  note = (
    f"DDPM's, two resolutions of {sizes.image}×{sizes.image}×3, width {sizes.unet_width}, batch "
    f'{sizes.unet_batch}: {ours.parameters:,} parameters'
  )
  if peers:
    from experiments.benchmarks import peers as torch_peers

    # PyTorch needs channels first; values are scaled to [-1, 1], as in our own step.
    pixels = ours.batch['x'][0].transpose(0, 3, 1, 2).astype(np.float32) / 127.5 - 1
    for compiled, name in ((False, 'PyTorch, eager'), (True, 'PyTorch, compiled')):
      unet = _torch_unet(sizes)
      contenders[name] = torch_peers.train_unet(unet, pixels, compiled)
    note += f', of the peer {torch_peers.parameters(unet):,}'
  name = 'training step, U-Net'
  return [Race(name, 'images/s', sizes.unet_batch, contenders, note, ('PyTorch, compiled',))]


def sample(sizes: Sizes, peers: bool) -> list[Race]:
  """DDIM sampling with the U-Net."""
  spec = spec_of(sizes.image)
  config = unet_config(sizes)
  config['sampling'] |= dict(sampler=dict(name='ddim', eta=0.0), steps=sizes.draw_steps)
  method = families.build(config, spec)
  contenders = {OURS: sampler(method, perturbed_params(method, spec), Request(sizes.draws))}
  if peers:
    from experiments.benchmarks import peers as torch_peers

    contenders['diffusers DDIMPipeline'] = torch_peers.sample_ddim(
      _torch_unet(sizes), sizes.draws, sizes.draw_steps
    )
  name = f'DDIM, {sizes.draw_steps} steps, {sizes.draws} images at once'
  return [Race(name, 'images/s', sizes.draws, contenders, 'the U-Net')]


def solvers(sizes: Sizes, peers: bool) -> list[Race]:
  """The time per network evaluation of each sampler, compared with the bare network."""
  del peers
  spec, batch = spec_of(sizes.image), sizes.solver_batch
  config = dit_config(2 * sizes.unet_width, sizes.solver_steps)
  method, model = families.build(config, spec), build_model(config, spec)
  params = perturbed_params(method, spec)
  x, t = jnp.zeros((batch, *spec.shape)), jnp.full(batch, 0.5)
  network = jax.jit(lambda x: model.denoiser(params)(x, t, None).x0)

  bare = functools.partial(_repeat, network, x, sizes.solver_steps)
  contenders = {'the bare network': per_unit(bare, sizes.solver_steps)}
  for name in SAMPLERS:
    request = Request(batch, options={'sampler': name})
    count = method.sample(params, jax.random.key(0), request).evaluations
    contenders[name] = per_unit(sampler(method, params, request), count)
  note = (
    f'a DiT, {batch} images of {sizes.image}×{sizes.image}×3, {sizes.solver_steps} steps; a ratio '
    'is the time per evaluation divided by that of the bare network'
  )
  return [Race('network evaluations of a sampler', 'evaluations/s', 1, contenders, note)]


def _repeat(network: Callable, x: Array, number: int) -> None:
  for _ in range(number):
    result = network(x)
  jax.block_until_ready(result)  # only the last, because a device runs its calls in order


def likelihood(sizes: Sizes, peers: bool) -> list[Race]:
  """The likelihood by the probability flow ODE: solved on the device against on the host.

  The version on the host works like score_sde: the drift and its divergence are two compiled
  functions, and SciPy's RK45 calls both at every stage.
  """
  del peers
  spec, batch = spec_of(sizes.likelihood_image), sizes.likelihood_batch
  config = dit_config(sizes.likelihood_width)
  model, params = build_model(config, spec), perturbed_params(families.build(config, spec), spec)
  process = model.process
  z, probe = jax.random.normal(jax.random.key(1), (2, batch, *spec.shape))
  probe = jnp.sign(probe)  # Rademacher: ±1 with equal probability
  denoise = lambda x, t: model.denoiser(params)(x, t, None)

  @jax.jit
  def log_density(z, probe):
    return flow_log_density(process, denoise, z, probe[None], rtol=TOLERANCE, atol=TOLERANCE)

  contenders = {
    OURS: functools.partial(wait_for, log_density, z, probe),
    'separate drift and divergence, SciPy on the host': _on_the_host(process, denoise, z, probe),
  }
  note = (
    f'a DiT, width {sizes.likelihood_width}, {spec.shape[0]}×{spec.shape[1]}×3 pixels, one '
    f'Hutchinson probe, Dormand–Prince, tolerances {TOLERANCE:g}; the version on the host works '
    'like score_sde'
  )
  return [Race(f'likelihood of {batch} images', 'images/s', batch, contenders, note)]


def _on_the_host(process, denoise, z, probe):
  from scipy import integrate

  @jax.jit
  def drift(x, t):
    return velocity(process, denoise(x, jnp.full(len(x), t)), t)

  # Hutchinson's estimate probeᵀ · J · probe of the trace, from one vector-Jacobian product.
  divergence = jax.jit(
    lambda x, t: (jax.grad(lambda x: (drift(x, t) * probe).sum())(x) * probe).sum((1, 2, 3))
  )

  def field(t, state):
    # The solver's state is a flat float64 vector: all pixels, then one log-density per image.
    x = jnp.asarray(state[: z.size].reshape(z.shape), jnp.float32)
    t = jnp.float32(t)
    return np.concatenate([np.asarray(drift(x, t)).ravel(), np.asarray(divergence(x, t))])

  def solve() -> None:
    start = np.concatenate([np.asarray(z).ravel(), np.zeros(len(z))])
    span = (process.t_min, process.t_max)
    integrate.solve_ivp(field, span, start, rtol=TOLERANCE, atol=TOLERANCE, method='RK45')

  return solve
