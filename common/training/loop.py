"""The one training loop, over any `Method`.

A run is a sequence of compiled calls of several optimiser steps each. The host hands over batches,
fetches the metrics of a call only once the next one is under way, and stops at the plan's marks to
evaluate, draw samples and save.
"""

import functools
import pathlib
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl import logging

from common.checkpoints.checkpoints import Checkpoints
from common.data.pipeline import Data, evaluation_batches, train_batches
from common.domains import domain_of
from common.method import Context, Method, PyTree
from common.reporting.writers import Progress, Writer
from common.training import averages, optimizers, parallel
from common.training.schedule import Plan, make_plan
from common.training.snapshots import Snapshots, forget_after
from common.training.state import (
  TrainState,
  has_convolutions,
  init_state,
  make_train_step,
  one_by_one,
)


class TrainingError(RuntimeError):
  """A run that cannot go on: what happened, and which checkpoint is intact."""


class Setup(NamedTuple):
  """A training step made ready, from (config, spec, mesh) alone: no data and no device is touched.

  Attributes:
    plan: when the run does what.
    place: the compiled step and where its arrays live.
    initial: makes the state before the first step.
    schedule: learning rate by step.
  """

  plan: Plan
  place: parallel.Placement
  initial: Callable[[], TrainState]
  schedule: optax.Schedule


def set_up(config: Mapping, method: Method, spec, mesh: jax.sharding.Mesh) -> Setup:
  """Builds the training step of a config for a mesh.

  Args:
    config: a whole config.
    method: what is trained.
    spec: the `DataSpec` of the data.
    mesh: devices, which need not be there.

  Raises:
    ConfigError: for lengths, batch sizes, optimisers or modes that cannot be.
  """
  settings, batch_size = config['train'], config['data']['batch_size']
  epoch = max(spec.num_train // batch_size, 1)
  stored = config['ema']['widths']
  plan = make_plan(settings, epoch, config['ema']['snapshot_every'] if stored else 0)
  ema = averages.in_steps(config['ema'], epoch, plan.total)
  shares = mesh.shape['data'] * mesh.shape['fsdp']
  parallel.check_batch_size(batch_size, shares, settings['micro_batches'])
  schedule = optimizers.make_schedule(config['optimizer'], plan.total, epoch)
  schedules = optimizers.make_schedules(config['optimizer'], plan.total, epoch)
  optimizer = optimizers.make_optimizer(config['optimizer'], schedule, schedules)

  def initial() -> TrainState:
    batch = {k: jnp.zeros(v.shape, v.dtype) for k, v in spec.batch_struct(1).items()}
    return init_state(method, optimizer, batch, config['seed'], len(stored))

  def make_step(axis: str | None):
    return make_train_step(
      method,
      optimizer,
      seed=config['seed'],
      ema=ema,
      micro_batches=settings['micro_batches'],
      axis=axis,
    )

  mode = config['parallel']['mode']
  abstract = jax.eval_shape(initial)
  place = parallel.place(mode, make_step, abstract, mesh)
  on_cpu = mesh.devices.flat[0].platform == 'cpu'
  if on_cpu and mode == 'jit' and has_convolutions(method, abstract, spec.batch_struct(1)):
    # Within a compiled loop, XLA's CPU backend takes the gradients of convolutions' weights by a
    # path that is some fifty times slower.
    place = place._replace(run=one_by_one(place.run))
  return Setup(plan, place, initial, schedule)


def train(
  config: Mapping,
  method: Method,
  data: Data,
  setup: Setup,
  workdir: pathlib.Path,
  stop: Callable[[], bool] = lambda: False,
) -> bool:
  """Trains, or goes on where `workdir` left off.

  Args:
    config: a whole config.
    method: what is trained.
    data: what it is trained on.
    setup: from `set_up`.
    workdir: where checkpoints, metrics and samples go.
    stop: asked after every compiled call; True saves and returns.

  Returns:
    Whether the run reached its end.

  Raises:
    CheckpointError: a checkpoint cannot be read or written.
    TrainingError: too many steps in a row had a gradient that is not finite.
  """
  settings = config['train']
  with Checkpoints(
    workdir / 'checkpoints',
    keep=settings['keep'],
    best_metric=settings['best_metric'],
    best_mode=settings['best_mode'],
  ) as checkpoints:
    if checkpoints.latest is None:
      start, state = 0, setup.place.put_state(setup.initial)
    else:
      restored = checkpoints.restore(setup.place.abstract)
      start, state = restored.step, setup.place.put_state(restored.state)
      logging.info('resuming at step %d of %d', start, setup.plan.total)
    forget_after(workdir, start)
    with Writer(workdir, step=start) as writer:
      run = _Run(config, method, data, setup, checkpoints, writer, workdir, stop)
      return run.go(start, state)


class _Run:
  """The loop, and what it must remember between calls."""

  def __init__(self, config, method, data, setup, checkpoints, writer, workdir, stop):
    self.config, self.method, self.data, self.setup = config, method, data, setup
    self.checkpoints, self.writer, self.workdir, self.stop = checkpoints, writer, workdir, stop
    self.pending: list[tuple[int, Mapping]] = []  # (last step, metrics) not yet fetched
    self.clock = _Clock()
    self.profile = _Profile(setup.plan.profile, workdir)

  def go(self, start: int, state: TrainState) -> bool:
    """Runs from `start` to the end, or until asked to stop; returns whether it is the end."""
    plan, place = self.setup.plan, self.setup.place
    size = self.config['data']['batch_size']
    batches = train_batches(
      self.data,
      seed=self.config['seed'],
      batch_size=size,
      chunks=plan.calls(start),
      process_index=jax.process_index(),
      process_count=jax.process_count(),
    )
    with Progress(
      plan.total, step=start, batch_size=size, log_every=plan.log or plan.total
    ) as self.progress:
      for (first, steps), batch in zip(plan.calls(start), batches, strict=True):
        self.profile.at(first)
        state, metrics = place.run(state, place.put_batch(batch))
        last = first + steps
        self.fetch_metrics()  # of the call before: this one is under way
        self.pending.append((last, metrics))
        stopping = self.stop()
        if stopping or plan.is_mark(last):
          self.mark(last, state, stopping)
        if stopping and last < plan.total:
          return False
    return True

  def fetch_metrics(self) -> None:
    """Fetches what is pending, and stops the run where nothing but bad steps came of it."""
    for last, metrics in self.pending:
      metrics = jax.device_get(metrics)
      self.clock.add(metrics)
      self.progress.report(last, float(metrics['loss'][-1]))
      bad, limit = int(metrics['bad_in_a_row'].max()), self.config['train']['max_bad_steps']
      if bad >= limit:
        raise TrainingError(
          f'the gradient was not finite in {bad} steps in a row up to step {last} '
          f'(train.max_bad_steps={limit}); last good checkpoint: {self.checkpoints.latest}. '
          'Lower optimizer.learning_rate, or set optimizer.clip'
        )
    self.pending.clear()

  def mark(self, step: int, state: TrainState, stopping: bool) -> None:
    """What is due at a mark of the plan: log, evaluate, draw samples, save."""
    plan = self.setup.plan
    self.fetch_metrics()
    jax.block_until_ready(state.step)
    if plan.due(step, plan.log) or stopping:
      self.log(step)
    view, found = self.setup.place.view(state), None
    saving = plan.due(step, plan.checkpoint) or step == plan.total
    if plan.due(step, plan.evaluate) or saving:
      found = self.evaluate(view)
      self.writer.scalars(step, found, 'validation')
      logging.info('step %d validation: %s', step, _shown(found))
    if plan.due(step, plan.sample):
      self.draw(step, view)
    if plan.due(step, plan.snapshot):  # before the checkpoint: a run that goes on from it has them
      with Snapshots(self.workdir, self.config['ema']['keep']) as snapshots:
        snapshots.save(step, view.averages, self.config)
    if saving or stopping:
      position = {'step': step, 'examples': step * self.config['data']['batch_size']}
      self.checkpoints.save(step, view, config=self.config, position=position, metrics=found)
    self.clock.restart()
    self.progress.pause()

  def log(self, step: int) -> None:
    """Writes the means since the last line, with the rate and the time spent in steps."""
    scalars = self.clock.means()
    scalars['learning_rate'] = float(self.setup.schedule(step - 1))
    self.writer.scalars(step, scalars, 'train')

  def evaluate(self, state: TrainState) -> dict[str, float]:
    """Loss and metrics of the averaged parameters on the validation split."""
    return validation_loss(
      self.method,
      state,
      self.data,
      self.config['data']['batch_size'],
      self.setup.place.batch_sharding,
      self.config['seed'],
    )

  def draw(self, step: int, state: TrainState) -> None:
    """A grid of images, a page of texts or plots of forecasts, from the same key every time."""
    spec, domain = self.data.spec, domain_of(self.data.spec)
    key = jax.random.fold_in(jax.random.key(self.config['seed']), 2**31 - 3)
    source = self.data.splits['validation']
    request = domain.preview_request(spec, self.method.labelled, source)
    samples = self.method.sample(state.ema, key, request)
    if jax.process_index() == 0:
      folder = self.workdir / 'samples'
      domain.save_preview(spec, np.asarray(samples.x), request, step, folder, self.writer)


class _Clock:
  """Sums metrics and the time between a call's start and its end, from one log line to the next.

  The first call compiles: it counts for the metrics, not for the rate.
  """

  def __init__(self):
    self.sums: dict[str, float] = {}
    self.counted = self.timed_steps = self.bad = 0
    self.seconds = 0.0
    self.mark: float | None = None  # None until the first call has returned

  def add(self, metrics: Mapping[str, np.ndarray]) -> None:
    """Takes the fetched metrics of one call."""
    good = np.isfinite(metrics['loss']) & np.isfinite(metrics['gradient_norm'])
    for name, values in metrics.items():
      if name != 'bad_in_a_row':
        self.sums[name] = self.sums.get(name, 0.0) + float(values[good].sum())
    self.counted += int(good.sum())
    self.bad += int((~good).sum())
    if self.mark is not None:
      self.seconds += time.perf_counter() - self.mark
      self.timed_steps += len(good)
    self.mark = time.perf_counter()

  def restart(self) -> None:
    """Leaves out the time since the last call: it went into something else than training."""
    if self.mark is not None:
      self.mark = time.perf_counter()

  def means(self) -> dict[str, float]:
    """Means since this was asked last, and begins anew."""
    means = {name: total / max(self.counted, 1) for name, total in self.sums.items()}
    means['bad_steps'] = float(self.bad)
    means['seconds'] = self.seconds
    if self.seconds:
      means['steps_per_second'] = self.timed_steps / self.seconds
    self.sums, self.counted, self.timed_steps, self.bad, self.seconds = {}, 0, 0, 0, 0.0
    return means


class _Profile:
  """Traces the steps of `train.profile`, 'first:last', into WORKDIR/profile."""

  def __init__(self, steps: tuple[int, int] | None, workdir: pathlib.Path):
    self.folder, self.running = workdir / 'profile', False
    self.first, self.last = steps or (-1, -1)

  def at(self, step: int) -> None:
    """Starts or ends the trace when `step` is about to run."""
    if self.running and step >= self.last:
      jax.profiler.stop_trace()
      self.running, self.first = False, -1
      logging.info('profile written to %s', self.folder)
    elif not self.running and 0 <= self.first <= step:
      jax.profiler.start_trace(str(self.folder))
      self.running = True


def validation_loss(
  method: Method,
  state: TrainState,
  data: Data,
  batch_size: int,
  sharding: jax.sharding.Sharding,
  seed: int,
) -> dict[str, float]:
  """Means over the validation split of the loss and its metrics, with the averaged parameters.

  The keys are the same at every call: two checkpoints are compared on the same noise.
  """
  key = jax.random.fold_in(jax.random.key(seed), 2**31 - 2)
  totals: dict[str, float] = {}
  weights = 0.0
  for n, batch in enumerate(evaluation_batches(data.splits['validation'], batch_size)):
    batch = {k: jax.device_put(v, sharding) for k, v in batch.items()}
    metrics, count = _evaluation_step(method, batch_size)(
      state.ema, state.memory, batch, jax.random.fold_in(key, n), state.step
    )
    for name, value in jax.device_get(metrics).items():
      totals[name] = totals.get(name, 0.0) + float(value * count)
    weights += float(count)
  return {name: total / weights for name, total in totals.items()}


def _shown(scalars: Mapping[str, float]) -> str:
  return '  '.join(f'{name} {value:.4g}' for name, value in scalars.items())


@functools.lru_cache(maxsize=8)
def _evaluation_step(method: Method, batch_size: int):
  @jax.jit
  def step(params: PyTree, memory: PyTree, batch, key, number):
    context = Context(number, params, False, jnp.arange(batch_size, dtype=jnp.int32), batch_size)
    loss, aux = method.loss(params, memory, batch, key, context)
    return dict(aux.metrics, loss=loss), aux.count

  return step
