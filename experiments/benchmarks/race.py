"""What every race is made of: its description, sizes, data in memory, and a bare training step."""

import dataclasses
import math
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from common.data import pipeline
from common.data.sources import Source
from common.data.spec import DataSpec
from common.method import Method, PyTree, Request
from common.training.parallel import make_mesh
from common.training.program import build_program
from experiments import families

OURS = 'twofold'
SHARED = 'twofold, a device per core'  # the batch shared out over virtual devices


class Transformer(NamedTuple):
  """Sizes of a GPT-2 and of a batch of its sequences."""

  width: int
  layers: int
  heads: int
  length: int
  batch: int


class Sizes(NamedTuple):
  """How large the models and batches of the races are."""

  transformers: Mapping[str, Transformer]  # 'default' and those of Shakespeare's text
  image: int = 16
  unet_width: int = 64
  unet_blocks: int = 1
  unet_batch: int = 16
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
      'default': Transformer(192, 4, 6, 256, 8),
      'character-level, small': Transformer(128, 4, 4, 64, 12),
      'character-level, 6 layers': Transformer(384, 6, 6, 256, 4),
    }
  ),
  'smoke': Sizes(
    {'default': Transformer(32, 1, 2, 16, 2)},
    unet_width=16,
    unet_batch=2,
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
  """Contenders that do the same work.

  Attributes:
    name: what is measured.
    unit: of the rate.
    amount: units in one call.
    contenders: by name, calls that return once the work is done: None, or seconds by a clock of
      their own. The others' ratios are over the first.
    note: what a reader must know: sizes, parameters.
    may_fail: contenders that are left out where they fail (torch.compile needs a compiler).
    flops: of the model, in one unit, for model FLOPs utilisation; 0: not shown.
  """

  name: str
  unit: str
  amount: float
  contenders: Mapping[str, Callable[[], float | None]]
  note: str
  may_fail: tuple[str, ...] = ()
  flops: float = 0.0


@dataclasses.dataclass(frozen=True, eq=False)
class Arrays(Source):
  """A source of images held in memory."""

  x: np.ndarray

  def __len__(self) -> int:
    return len(self.x)

  def gather(self, indices: np.ndarray) -> dict[str, np.ndarray]:
    """The examples at `indices`."""
    return {'x': np.take(self.x, indices, axis=0)}


def random_data(spec: DataSpec) -> pipeline.Data:
  """Random images, in memory."""
  x = np.random.default_rng(0).integers(0, spec.levels, (spec.num_train, *spec.shape), np.uint8)
  return pipeline.Data(spec, dict.fromkeys(('train', 'validation', 'test'), Arrays(x)))


class Bare(NamedTuple):
  """A compiled training step, its state held by the caller, and its number of parameters."""

  call: Callable[[], Any]
  parameters: int
  batch: Mapping[str, np.ndarray]


def bare_step(config: dict, spec: DataSpec, steps: int = 1, devices: int = 1) -> Bare:
  """A call that takes `steps` optimiser steps on one batch that stays where it is."""
  method = families.build(config, spec)
  mesh = make_mesh(config['parallel'], jax.devices()[:devices])
  program = build_program(config, method, spec, mesh)
  holder = [program.step.create_state(program.init)]
  number = sum(leaf.size for leaf in jax.tree.leaves(holder[0].params))
  batch = next(
    pipeline.train_batches(
      random_data(spec), seed=0, batch_size=config['data']['batch_size'], chunks=[(0, steps)]
    )
  )
  placed = program.step.put_batches(batch)

  def call():
    holder[0], metrics = program.step.run(holder[0], placed)
    jax.block_until_ready((holder[0].step, metrics))

  return Bare(call, number, batch)


def training_steps(config: dict, spec: DataSpec) -> tuple[Bare, dict[str, Callable[[], Any]]]:
  """A training step on one device, and the contenders: it, and the same on all that there are."""
  ours = bare_step(config, spec)
  contenders = {OURS: ours.call}
  devices = math.gcd(config['data']['batch_size'], jax.device_count())
  if devices > 1:
    contenders[SHARED] = bare_step(config, spec, devices=devices).call
  return ours, contenders


def initial(method: Method, spec: DataSpec) -> PyTree:
  """Parameters of a method, a little away from their start, where networks of diffusion are 0."""
  zeros = {k: jnp.zeros(v.shape, v.dtype) for k, v in spec.batch_struct(1).items()}

  @jax.jit
  def make(key):
    params, _ = method.init(key, zeros)
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(key, len(leaves))
    noise = [0.02 * jax.random.normal(k, v.shape) for k, v in zip(keys, leaves, strict=True)]
    return jax.tree.unflatten(tree, [v + n for v, n in zip(leaves, noise, strict=True)])

  return make(jax.random.key(0))


def done(call: Callable[[], PyTree]) -> Callable[[], None]:
  """The call, over once its arrays are there."""

  def wait() -> None:
    jax.block_until_ready(call())

  return wait


def sampler(method: Method, params: PyTree, request: Request) -> Callable[[], None]:
  """A call that draws samples."""
  return done(lambda: method.sample(params, jax.random.key(0), request).x)


def per_unit(call: Callable[[], None], amount: int) -> Callable[[], float]:
  """The call, by a clock of its own: seconds per unit."""

  def timed() -> float:
    start = time.perf_counter()
    call()
    return (time.perf_counter() - start) / amount

  return timed


def matmul_peak(size: int = 2048, repeats: int = 5) -> float:
  """FLOP/s of the fastest of some float32 matrix products on this machine."""
  product = jax.jit(jnp.matmul)
  x = jnp.ones((size, size))
  product(x, x).block_until_ready()
  seconds = []
  for _ in range(repeats):
    start = time.perf_counter()
    product(x, x).block_until_ready()
    seconds.append(time.perf_counter() - start)
  return 2 * size**3 / min(seconds)


def square(length: int) -> DataSpec:
  """Square grey images of `length` pixels."""
  side = math.isqrt(length)
  return DataSpec('pixels', 'image', (side, side, 1), 256, num_train=1024)
