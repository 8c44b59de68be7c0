"""A run's training program, from (config, spec, mesh) alone: neither data nor devices are touched.

The same program can therefore be compiled for a machine that is not there.
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
  """What a run executes, and when.

  Attributes:
    schedule: when the run logs, evaluates, samples and saves.
    step: the training step on the devices of the mesh.
    init: makes the state before the first step.
    lr_schedule: learning rate by step.
  """

  schedule: Schedule
  step: parallel.PlacedStep
  init: Callable[[], TrainState]
  lr_schedule: optax.Schedule


def build_program(config: Mapping, method: Method, spec: DataSpec, mesh: Mesh) -> TrainProgram:
  """Builds the training program of a config for a mesh.

  Args:
    config: a whole config.
    method: the method to train.
    spec: the `DataSpec` of the data.
    mesh: devices, which need not be there.

  Raises:
    ConfigError: for invalid lengths, batch sizes, optimisers or modes.
  """
  settings, batch_size = config['train'], config['data']['batch_size']
  epoch = max(spec.num_train // batch_size, 1)
  has_averages = bool(config['ema']['widths'])
  schedule = make_schedule(settings, epoch, config['ema']['snapshot_every'] if has_averages else 0)
  averaging = averages.make_averaging(config['ema'], epoch, schedule.total)

  # Both axes split the batch, and each device cuts its own share into micro-batches.
  shares = mesh.shape['data'] * mesh.shape['fsdp']
  parallel.check_batch_size(batch_size, shares, settings['micro_batches'])

  lr_schedule = optimizers.make_lr_schedule(config['optimizer'], schedule.total, epoch)
  groups = optimizers.make_group_lr_schedules(config['optimizer'], schedule.total, epoch)
  optimizer = optimizers.make_optimizer(config['optimizer'], lr_schedule, groups)

  seed, mode = config['seed'], config['parallel']['mode']
  init = functools.partial(_initial_state, method, optimizer, spec, seed, len(averaging.widths))
  shapes = jax.eval_shape(init)  # traces the initialisation without running it
  pure_step = TrainStep(method, optimizer, seed, averaging, settings['micro_batches'])
  step = parallel.place_step(mode, pure_step, shapes, mesh)
  on_cpu = mesh.devices.flat[0].platform == 'cpu'
  # See `JitStep.unrolled`.
  if on_cpu and mode == 'jit' and has_convolutions(method, shapes, spec.batch_struct(1)):
    step = parallel.JitStep(pure_step, mesh, shapes, unrolled=True)
  return TrainProgram(schedule, step, init, lr_schedule)


def _initial_state(
  method: Method,
  optimizer: optax.GradientTransformation,
  spec: DataSpec,
  seed: int,
  averages: int,
) -> TrainState:
  # The batch is made here, while the caller traces, so that no array is put on a device.
  batch = {k: jnp.zeros(v.shape, v.dtype) for k, v in spec.batch_struct(1).items()}
  return init_state(method, optimizer, batch, seed, averages)
