"""The programs that runs compile, for devices that may not be there."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from common.config import ConfigError
from common.data.sources import given_examples
from common.data.spec import DataSpec
from common.devices.mesh import even_index
from common.domains import domain_of
from common.evaluation.likelihood import nll
from common.method import Method, Program, PyTree, Request
from common.training.parallel import JitStep, make_mesh, mesh_for_reading
from common.training.program import build_program
from common.training.sharding import abstract_params


class Placed(NamedTuple):
  """A program on a mesh.

  Attributes:
    program: the jitted function and its arguments, as shapes, types and shardings.
    mesh: the devices.
    kept: {what: arrays that stay on the devices between calls}.
    batch: a line on what one call works through.
  """

  program: Program
  mesh: Mesh
  kept: Mapping[str, PyTree]
  batch: str


def bytes_on_device(arrays: PyTree) -> int:
  """Bytes of arrays with shardings on each device."""
  return sum(
    math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
    for leaf in jax.tree.leaves(arrays)
  )


def train(config: Mapping, method: Method, spec: DataSpec, devices: Sequence) -> Placed:
  """The training step, for as many steps as one call has."""
  program = build_program(config, method, spec, make_mesh(config['parallel'], devices))
  step, steps, size = program.step, program.schedule.per_call, config['data']['batch_size']
  if not isinstance(step, JitStep):
    raise ConfigError("only parallel.mode='jit' can be compiled for other devices, got 'pmap'")
  batches = {
    name: jax.ShapeDtypeStruct((steps, *x.shape), x.dtype, sharding=step.batch_sharding)
    for name, x in spec.batch_struct(size).items()
  }
  state = step.abstract_state
  kept = {
    'parameters': state.params,
    'optimiser state': state.opt_state,
    'averages': (state.ema, state.averages),
  }
  batch = f'{steps} step{"s" if steps > 1 else ""} of {size:,} examples'
  return Placed(Program(step.compiled, (state, batches)), step.mesh, kept, batch)


def likelihood(config: Mapping, method: Method, spec: DataSpec, devices: Sequence) -> Placed:
  """The likelihood of a batch of an evaluation."""
  if not method.has_likelihood:
    raise ConfigError('--step=nll: this config has no likelihood')
  mesh = mesh_for_reading(config['parallel'], devices)
  params, size = abstract_params(method, spec, mesh), config['evaluation']['batch_size']
  rows = len(even_index(size, mesh))
  batch = spec.batch_struct(rows) | {'weight': jax.ShapeDtypeStruct((rows,), jnp.float32)}
  program = Program(nll, (method, params, batch, jax.random.key(0)))
  return Placed(program, mesh, {'parameters': params}, f'{size:,} examples')


def sample(config: Mapping, method: Method, spec: DataSpec, devices: Sequence) -> Placed:
  """The program that draws a batch of samples, as an evaluation does."""
  mesh = mesh_for_reading(config['parallel'], devices)
  params, size = abstract_params(method, spec, mesh), config['evaluation']['batch_size']
  # Labels, prompts and keys are arrays of this process, which the program takes whole.
  program = method.sampling_program(params, sample_request(method, spec, size))
  return Placed(program, mesh, {'parameters': params}, f'{size:,} samples')


def sample_request(method: Method, spec: DataSpec, num: int) -> Request:
  """A request like those with which training shows its progress, for `num` samples."""
  domain = domain_of(spec)
  zeros, label = (np.zeros((domain.preview_num, *shape), np.int32) for shape in (spec.shape, ()))
  source = given_examples(spec, zeros, label if spec.num_classes else None)
  request = domain.preview_request(spec, method.labelled, source)
  return request.part(np.arange(num) % request.num)


# {--step: (the program, the families it is for; (): all)}
STEPS: Mapping[str, tuple[Callable[..., Placed], tuple[str, ...]]] = {
  'train': (train, ()),
  'sample': (sample, ('diffusion', 'gan', 'vae')),
  'nll': (likelihood, ()),
  'decode': (sample, ('autoregressive',)),
}


def place(step: str, config: Mapping, method: Method, spec: DataSpec, devices: Sequence) -> Placed:
  """The program of a step of a config on devices.

  Raises:
    ConfigError: the family has no such step, or the config does not suit the devices.
  """
  build, able = STEPS[step]
  if able and config['family'] not in able:
    family = config['family']
    others = [name for name, (_, known) in STEPS.items() if name != step and family in known]
    raise ConfigError(
      f'--step={step} is for {" and ".join(able)}, and this config is {family}: write '
      f'--step={others[0] if others else "train"}'
    )
  return build(config, method, spec, devices)
