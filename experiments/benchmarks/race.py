"""Shared parts of all races: their description, sizes, data in memory, and a bare training step."""

import functools
import math
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Key

from common.data import pipeline
from common.data.sources import given_examples
from common.data.spec import DataSpec
from common.method import Batch, Method, PyTree, Request
from common.training.parallel import make_mesh
from common.training.program import build_program
from experiments import families

OURS = 'twofold'
DATA_PARALLEL = 'twofold, a device per core'  # the batch split over virtual devices


class TransformerSizes(NamedTuple):
  """Sizes of a GPT-2 and of a batch of its sequences."""

  width: int
  layers: int
  heads: int
  length: int
  batch: int


class RecurrentSizes(NamedTuple):
  """Sizes of recurrent networks and of a batch of their sequences."""

  width: int
  layers: int
  length: int
  batch: int


class Sizes(NamedTuple):
  """Sizes of the models and batches of all races."""

  transformers: Mapping[str, TransformerSizes]  # 'default', and two character-level models
  recurrent: RecurrentSizes = RecurrentSizes(256, 2, 256, 8)
  image: int = 16
  unet_width: int = 64
  unet_blocks: int = 1
  unet_batch: int = 16
  dit_depth: int = 4
  draws: int = 64
  draw_steps: int = 50
  solver_steps: int = 16
  solver_batch: int = 16
  likelihood_batch: int = 64
  likelihood_image: int = 8
  likelihood_width: int = 48
  decode_batches: tuple[int, ...] = (1, 16)
  contexts: tuple[int, ...] = (64, 256, 1024)
  pixels: int = 16
  loop_steps: int = 300


SIZES = {
  'default': Sizes(
    {
      'default': TransformerSizes(192, 4, 6, 256, 8),
      'character-level, small': TransformerSizes(128, 4, 4, 64, 12),
      'character-level, 6 layers': TransformerSizes(384, 6, 6, 256, 4),
    }
  ),
  'smoke': Sizes(
    {'default': TransformerSizes(32, 1, 2, 16, 2)},
    recurrent=RecurrentSizes(16, 1, 16, 2),
    unet_width=16,
    unet_batch=2,
    dit_depth=1,
    draws=2,
    draw_steps=2,
    solver_steps=4,
    solver_batch=2,
    likelihood_batch=2,
    likelihood_width=16,
    decode_batches=(2,),
    contexts=(4, 16),
    pixels=4,
    loop_steps=40,
  ),
}


class Race(NamedTuple):
  """Contenders that do the same work, to compare their speed.

  Attributes:
    name: the work that is measured.
    unit: the unit of the rate.
    amount: the amount of work in one call, in units.
    contenders: {name: call}. A call returns once its work is done: None, or its seconds if it
      measures them itself. Ratios compare with the first contender.
    note: details for the reader, such as sizes and parameters.
    may_fail: contenders that may fail and are then left out (torch.compile needs a compiler).
    flops: FLOPs of the model per unit, for model FLOPs utilisation; 0: do not show it.
  """

  name: str
  unit: str
  amount: float
  contenders: Mapping[str, Callable[[], float | None]]
  note: str
  may_fail: tuple[str, ...] = ()
  flops: float = 0.0


def random_data(spec: DataSpec) -> pipeline.Data:
  """Random examples, in memory; with classes if the data has any."""
  rng, shape = np.random.default_rng(0), (spec.num_train, *spec.shape)
  if spec.levels:
    x = rng.integers(0, spec.levels, shape, spec.dtype)
  else:
    x = rng.standard_normal(shape, np.float32)
  label = rng.integers(0, spec.num_classes, spec.num_train) if spec.num_classes else None
  source = given_examples(spec, x, label)
  return pipeline.Data(spec, dict.fromkeys(('train', 'validation', 'test'), source))


class BareStep:
  """A compiled training step on one batch that stays on the devices; each call runs it.

  Args:
    config: a complete config.
    spec: the `DataSpec` of random data.
    steps: optimiser steps in one call.
    devices: the number of devices.
  """

  def __init__(self, config: dict, spec: DataSpec, steps: int = 1, devices: int = 1):
    method = families.build(config, spec)
    mesh = make_mesh(config['parallel'], jax.devices()[:devices])
    program = build_program(config, method, spec, mesh)
    self._step, self._state = program.step, program.step.create_state(program.init)
    self.parameters = sum(leaf.size for leaf in jax.tree.leaves(self._state.params))
    self.work = program.work  # of one optimiser step
    size = config['data']['batch_size']
    batches = pipeline.train_batches(
      random_data(spec), seed=0, batch_size=size, chunks=[(0, steps)]
    )
    self.batch = next(batches)
    self._on_devices = self._step.put_batches(self.batch)

  def __call__(self) -> None:
    # The step donates its state, so every call continues from the state of the previous call.
    self._state, metrics = self._step.run(self._state, self._on_devices)
    jax.block_until_ready((self._state.step, metrics))


def training_steps(config: dict, spec: DataSpec) -> tuple[BareStep, dict[str, Callable[[], Any]]]:
  """(the training step on one device, contenders: that step, and one on several devices)."""
  ours = BareStep(config, spec)
  contenders = {OURS: ours}
  # A number of devices that divides the batch evenly.
  devices = math.gcd(config['data']['batch_size'], jax.device_count())
  if devices > 1:
    contenders[DATA_PARALLEL] = BareStep(config, spec, devices=devices)
  return ours, contenders


def perturbed_params(method: Method, spec: DataSpec) -> PyTree:
  """Initial parameters plus noise, because new diffusion networks output only zeros."""
  zeros = {k: jnp.zeros(v.shape, v.dtype) for k, v in spec.batch_struct(1).items()}
  return jax.jit(functools.partial(_perturbed, method, zeros))(jax.random.key(0))


def _perturbed(method: Method, batch: Batch, key: Key[Array, '']) -> PyTree:
  params, _ = method.init(key, batch)
  leaves, tree = jax.tree.flatten(params)
  # One key per leaf, because leaves of the same shape must not get the same noise.
  keys = jax.random.split(key, len(leaves))
  noise = [0.02 * jax.random.normal(k, v.shape) for k, v in zip(keys, leaves, strict=True)]
  return jax.tree.unflatten(tree, [v + n for v, n in zip(leaves, noise, strict=True)])


def wait_for(function: Callable[..., PyTree], *args: Any) -> None:
  """Calls a function, and returns once its arrays are computed."""
  jax.block_until_ready(function(*args))


def sampler(method: Method, params: PyTree, request: Request) -> Callable[[], None]:
  """A call that draws samples."""
  return functools.partial(wait_for, _draw, method, params, request)


def _draw(method: Method, params: PyTree, request: Request) -> Array:
  return method.sample(params, jax.random.key(0), request).x


def per_unit(call: Callable[[], None], amount: int) -> Callable[[], float]:
  """A call that runs `call`, which does `amount` units of work, and returns seconds per unit."""
  return functools.partial(_seconds_per_unit, call, amount)


def _seconds_per_unit(call: Callable[[], None], amount: int) -> float:
  start = time.perf_counter()
  call()
  return (time.perf_counter() - start) / amount


def matmul_peak(size: int = 2048, repeats: int = 5) -> float:
  """FLOP/s of the fastest of several float32 matrix products on this machine."""
  product = jax.jit(jnp.matmul)
  x = jnp.ones((size, size))
  product(x, x).block_until_ready()  # compiles
  seconds = []
  for _ in range(repeats):
    start = time.perf_counter()
    product(x, x).block_until_ready()
    seconds.append(time.perf_counter() - start)
  return 2 * size**3 / min(seconds)  # size³ multiplications and as many additions


def square_images(length: int) -> DataSpec:
  """Square grey images of `length` pixels."""
  side = math.isqrt(length)
  return DataSpec('pixels', 'image', (side, side, 1), 256, num_train=1024)
