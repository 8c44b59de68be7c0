"""A run's training program, built from (config, spec, mesh) without any data or device.

The same program can therefore be compiled for another machine.
"""

import functools
import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from common import flops
from common.data.spec import DataSpec
from common.devices.limits import peak_flops
from common.devices.mesh import AXES, scope
from common.domains import domain_of
from common.method import Batch, Method
from common.precision import LossScaling, make_loss_scaling
from common.reporting.rates import StepWork
from common.training import averages, optimizers, parallel
from common.training.schedule import Schedule, make_schedule
from common.training.state import (
  TrainState,
  TrainStep,
  gradient_jaxpr,
  init_state,
  loss_jaxpr,
)

# The cost of training does not depend on the devices.
ONE_DEVICE = dict.fromkeys(AXES, 1)


class TrainingCost(NamedTuple):
  """The size of a model and the work of its training, known before anything is trained.

  Attributes:
    parameters: the number of parameters.
    steps: the number of optimiser steps.
    flops_per_step: floating-point operations of the loss of a batch and its gradient, in products
      and convolutions (common/flops.py).
    model_flops_per_step: by the convention of `StepWork.flops`: three times the forward pass.
    stage: the cost of the first stage, if the model is one of its latents.
  """

  parameters: int
  steps: int
  flops_per_step: int
  model_flops_per_step: int
  stage: 'TrainingCost | None' = None

  @property
  def flops(self) -> int:
    """Floating-point operations of the whole training, that of the first stage included."""
    return self.steps * self.flops_per_step + (self.stage.flops if self.stage else 0)

  @property
  def all_parameters(self) -> int:
    """The number of parameters, those of the first stage included."""
    return self.parameters + (self.stage.all_parameters if self.stage else 0)


class TrainProgram(NamedTuple):
  """The training step of a run, and its schedule.

  Attributes:
    schedule: when the run logs, evaluates, samples and saves.
    step: the training step on the devices of the mesh.
    init: returns the state before the first step; it takes the first training examples if the
      method needs some (`Method.init_examples`).
    lr_schedule: the learning rate at each step.
    work: what a step works through, for rates.
  """

  schedule: Schedule
  step: parallel.PlacedStep
  init: Callable[..., TrainState]
  lr_schedule: optax.Schedule
  work: StepWork


def build_program(config: Mapping, method: Method, spec: DataSpec, mesh: Mesh) -> TrainProgram:
  """Builds the training program of a config for a mesh.

  Args:
    config: a complete config.
    method: the method to train.
    spec: the `DataSpec` of the data.
    mesh: the devices, which may belong to another machine.

  Raises:
    ConfigError: for an invalid number of steps, batch size, optimiser, loss scale or mode.
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
  num_averages, loss_scaling = len(averaging.widths), make_loss_scaling(config)
  init = functools.partial(
    _initial_state, method, optimizer, spec, seed, num_averages, loss_scaling
  )
  shapes = jax.eval_shape(init)  # traces the initialisation without running it
  micro_batches, nan_to_num = settings['micro_batches'], config['optimizer']['nan_to_num']
  pure_step = TrainStep(
    method,
    optimizer,
    seed,
    averaging,
    micro_batches,
    nan_to_num=nan_to_num,
    loss_scaling=loss_scaling,
  )
  step = parallel.place_step(mode, pure_step, shapes, mesh)
  # With the mesh in scope, so that attention that its devices cannot run is refused here.
  with scope(mesh):
    loss = loss_jaxpr(method, shapes, spec.batch_struct(batch_size))
  on_cpu = mesh.devices.flat[0].platform == 'cpu'
  # XLA's CPU backend is slow at convolutions inside a loop: see `JitStep.unrolled`.
  if on_cpu and mode == 'jit' and flops.has_convolutions(loss):
    step = parallel.JitStep(pure_step, mesh, shapes, unrolled=True)
  domain = domain_of(spec)
  work = StepWork(
    unit=domain.unit,
    units=batch_size * domain.units(spec),
    flops=3 * flops.count(loss),  # the backward pass has two products for each of the forward pass
    peak=peak_flops(mesh.devices.flat[0].device_kind, mesh.size, config['precision']),
  )
  return TrainProgram(schedule, step, init, lr_schedule, work)


def training_cost(config: Mapping, method: Method, spec: DataSpec) -> TrainingCost:
  """The cost of training a config; traces its programs, and computes nothing.

  Operations are counted in the traced gradient, because a loss may stop gradients, or have one
  inside: then the backward pass has fewer than two products for each of the forward pass. Products
  that `remat` computes again do not count. Where they would be more than the gradient saves, the
  count is three times the forward pass.

  Args:
    config: a complete config.
    method: the method to train.
    spec: the `DataSpec` of the data.

  Raises:
    ConfigError: for a config that cannot be trained.
  """
  mesh = parallel.make_mesh(ONE_DEVICE, jax.devices()[:1])
  program = build_program(config, method, spec, mesh)
  shapes, model_flops = program.step.shapes, program.work.flops
  with scope(mesh):
    gradient = gradient_jaxpr(method, shapes, spec.batch_struct(config['data']['batch_size']))
  return TrainingCost(
    parameters=sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes.params)),
    steps=program.schedule.total,
    flops_per_step=min(flops.count(gradient), model_flops),
    model_flops_per_step=model_flops,
  )


def _initial_state(
  method: Method,
  optimizer: optax.GradientTransformation,
  spec: DataSpec,
  seed: int,
  num_averages: int,
  loss_scaling: LossScaling | None,
  batch: Batch | None = None,
) -> TrainState:
  if batch is None:
    # The caller traces this function, so the zeros are never placed on a device.
    batch = {k: jnp.zeros(v.shape, v.dtype) for k, v in spec.batch_struct(1).items()}
  return init_state(method, optimizer, batch, seed, num_averages, loss_scaling)
