"""Races of the diffusion family: training, sampling, solvers, likelihood."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from common.data.spec import DataSpec
from common.method import PyTree, Request
from configs.diffusion import base
from diffusion.likelihood.flow import LogDensity, flow_log_density
from diffusion.model import Model, build_model
from diffusion.predictions import Pair, velocity
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


def dit_config(width: int, depth: int, steps: int = 1) -> dict:
  """A small DiT and a process that every sampler supports, sampled in `steps` steps."""
  config = base.get_base()
  config.process = dict(name='vp_linear')
  config.network.update(patch=2, width=width, depth=depth, heads=4, scan=False)
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
  config = dit_config(2 * sizes.unet_width, sizes.dit_depth, sizes.solver_steps)
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
  config = dit_config(sizes.likelihood_width, sizes.dit_depth)
  contenders = {
    OURS: flow_on_device(config, spec, batch, TOLERANCE),
    'separate drift and divergence, SciPy on the host': flow_on_host(
      config, spec, batch, TOLERANCE
    ),
  }
  note = (
    f'a DiT, width {sizes.likelihood_width}, {spec.shape[0]}×{spec.shape[1]}×3 pixels, one '
    f'Hutchinson probe, Dormand–Prince, tolerances {TOLERANCE:g}; the version on the host works '
    'like score_sde'
  )
  return [Race(f'likelihood of {batch} images', 'images/s', batch, contenders, note)]


class _Flow(NamedTuple):
  """A model and its parameters, points at time t_min, and one Rademacher probe for each point."""

  model: Model
  params: PyTree
  z: Array
  probe: Array

  def denoise(self, params: PyTree, x: Array, t: Array) -> Pair:
    """The estimate at times t [batch]."""
    return self.model.denoiser(params)(x, t, None)

  def log_density(self, tolerance: float, params: PyTree, z: Array, probe: Array) -> LogDensity:
    """The log-density at z."""
    denoise = functools.partial(self.denoise, params)
    return flow_log_density(
      self.model.process, denoise, z, probe[None], rtol=tolerance, atol=tolerance
    )

  def drift(self, params: PyTree, x: Array, t: Array) -> Array:
    """dx/dt of the flow."""
    return velocity(self.model.process, self.denoise(params, x, jnp.full(len(x), t)), t)

  def divergence(self, params: PyTree, x: Array, t: Array) -> Array:
    """Hutchinson's estimate probeᵀ · J · probe of the trace, by one vector-Jacobian product."""
    pull = jax.vjp(lambda x: self.drift(params, x, t), x)[1]
    return (pull(self.probe)[0] * self.probe).sum((1, 2, 3))


def _flow(config: dict, spec: DataSpec, batch: int) -> _Flow:
  params = perturbed_params(families.build(config, spec), spec)
  z, probe = jax.random.normal(jax.random.key(1), (2, batch, *spec.shape))
  # Rademacher: ±1 with equal probability.
  return _Flow(build_model(config, spec), params, z, jnp.sign(probe))


def flow_on_device(
  config: dict, spec: DataSpec, batch: int, tolerance: float
) -> Callable[[], None]:
  """A call that computes the likelihood of `batch` images in one compiled program."""
  flow = _flow(config, spec, batch)
  log_density = jax.jit(functools.partial(flow.log_density, tolerance))
  return functools.partial(wait_for, log_density, flow.params, flow.z, flow.probe)


def flow_on_host(config: dict, spec: DataSpec, batch: int, tolerance: float) -> Callable[[], None]:
  """A call that does so as score_sde does: SciPy calls two compiled functions in turn."""
  from scipy import integrate

  flow = _flow(config, spec, batch)
  process, z = flow.model.process, flow.z
  drift, divergence = jax.jit(flow.drift), jax.jit(flow.divergence)

  def field(t, state):
    # The solver's state is a flat float64 vector: all pixels, then one log-density per image.
    x = jnp.asarray(state[: z.size].reshape(z.shape), jnp.float32)
    inputs = flow.params, x, jnp.float32(t)
    return np.concatenate([np.asarray(drift(*inputs)).ravel(), np.asarray(divergence(*inputs))])

  def solve() -> None:
    start = np.concatenate([np.asarray(z).ravel(), np.zeros(len(z))])
    span = (process.t_min, process.t_max)
    integrate.solve_ivp(field, span, start, rtol=tolerance, atol=tolerance, method='RK45')

  return solve
