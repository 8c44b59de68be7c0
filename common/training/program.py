"""A run's training program, built from (config, spec, mesh) without any data or device.

The same program can therefore be compiled for another machine.
"""

import functools
from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from common.data.spec import DataSpec
from common.method import Method
from common.training import averages, optimizers, parallel
from common.training.schedule import Schedule, make_schedule
from common.training.state import TrainState, TrainStep, has_convolutions, init_state


class TrainProgram(NamedTuple):
  """The training step of a run, and its schedule.

  Attributes:
    schedule: when the run logs, evaluates, samples and saves.
    step: the training step on the devices of the mesh.
    init: returns the state before the first step.
    lr_schedule: the learning rate at each step.
  """

  schedule: Schedule
  step: parallel.PlacedStep
  init: Callable[[], TrainState]
  lr_schedule: optax.Schedule


def build_program(config: Mapping, method: Method, spec: DataSpec, mesh: Mesh) -> TrainProgram:
  """Builds the training program of a config for a mesh.

  Args:
    config: a complete config.
    method: the method to train.
    spec: the `DataSpec` of the data.
    mesh: the devices, which may belong to another machine.

  Raises:
    ConfigError: for an invalid number of steps, batch size, optimiser or mode.
  """
  settings, batch_size = config['train'], config['data']['batch_size']
  epoch = max(spec.num_train // batch_size, 1)
  has_averages = bool(config['ema']['widths'])
  snapshot_every = config['ema']['snapshot_every'] if has_averages else 0
  schedule = make_schedule(settings, epoch, snapshot_every, batch_size)
  averaging = averages.make_averaging(config['ema'], epoch, schedule.total, batch_size)

  # Both axes split the batch, and each device splits its own part into micro-batches.
  shards = mesh.shape['data'] * mesh.shape['fsdp']
  parallel.check_batch_size(batch_size, shards, settings['micro_batches'])

  lengths = (schedule.total, epoch, batch_size)
  lr_schedule = optimizers.make_lr_schedule(config['optimizer'], *lengths)
  groups = optimizers.make_group_lr_schedules(config['optimizer'], *lengths)
  optimizer = optimizers.make_optimizer(config['optimizer'], lr_schedule, groups)

  seed, mode = config['seed'], config['parallel']['mode']
  init = functools.partial(_initial_state, method, optimizer, spec, seed, len(averaging.widths))
  shapes = jax.eval_shape(init)  # traces the initialisation without running it
  pure_step = TrainStep(
    *(method, optimizer, seed, averaging, settings['micro_batches']),
    nan_to_num=config['optimizer']['nan_to_num'],
  )
  step = parallel.place_step(mode, pure_step, shapes, mesh)
  on_cpu = mesh.devices.flat[0].platform == 'cpu'
  # XLA's CPU backend is slow at convolutions inside a loop: see `JitStep.unrolled`.
  if on_cpu and mode == 'jit' and has_convolutions(method, shapes, spec.batch_struct(1)):
    step = parallel.JitStep(pure_step, mesh, shapes, unrolled=True)
  return TrainProgram(schedule, step, init, lr_schedule)


def _initial_state(
  method: Method,
  optimizer: optax.GradientTransformation,
  spec: DataSpec,
  seed: int,
  num_averages: int,
) -> TrainState:
  # The caller traces this function, so the zeros are never placed on a device.
  batch = {k: jnp.zeros(v.shape, v.dtype) for k, v in spec.batch_struct(1).items()}
  return init_state(method, optimizer, batch, seed, num_averages)
