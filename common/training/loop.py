"""The one training loop for every `Method`: batch, step, metrics, log, evaluate, sample, save.

A run is a sequence of compiled calls, each of several optimiser steps. The host passes batches to a
call and fetches its metrics only after it has started the next call. It waits for the devices only
when the schedule says to log, evaluate, draw samples or save.
"""

import contextlib
import functools
import math
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import jax
import numpy as np
from absl import logging

from common.checkpoints.checkpoints import Checkpoints
from common.data.pipeline import Data, train_batches
from common.devices.limits import out_of_memory
from common.domains import domain_of
from common.files import Path
from common.finetuning import open_checkpoints
from common.method import Method, NotFiniteError, PyTree
from common.reporting.writers import Progress, Writer
from common.training.meters import (
  CallTimer,
  Goodput,
  LogMeans,
  Profile,
  StepMetrics,
  TrainingError,
  advice,
)
from common.training.program import TrainProgram
from common.training.snapshots import Snapshots, remove_snapshots_after
from common.training.state import PREVIEW_STREAM, TrainState, is_finite, stream_key
from common.training.validation import validation_loss


def never_stop() -> bool:
  """The default for `stop`: run to the end."""
  return False


def train(
  config: Mapping,
  method: Method,
  data: Data,
  program: TrainProgram,
  workdir: Path,
  stop: Callable[[], bool] = never_stop,
) -> bool:
  """Trains, or resumes the run in `workdir`.

  Args:
    config: a complete config.
    method: the method to train.
    data: the data to train it on.
    program: the training program, from `build_program`.
    workdir: the folder for checkpoints, metrics and samples.
    stop: called after every compiled call; if it returns True, the run saves and returns.

  Returns:
    Whether the run is finished.

  Raises:
    CheckpointError: a checkpoint cannot be read or written.
    TrainingError: too many steps in a row had a gradient that was not finite; or the parameters, or
      the last validation loss, are not finite.
    FileNotFoundError: the folder was removed while the run was training.
    OutOfMemoryError: the memory of a device is exhausted.
  """
  schedule, step, size = program.schedule, program.step, config['data']['batch_size']
  goodput = Goodput()
  with (
    out_of_memory('training', memory_advice(config)),
    open_checkpoints(config, workdir) as checkpoints,
  ):
    init = functools.partial(initial_state, config, method, data, program)
    start = first_state(program, checkpoints, init)
    state, loss = start.state, start.loss
    # The run repeats the steps after its last checkpoint, so it will write these snapshots again.
    remove_snapshots_after(workdir, start.step)
    log_every = schedule.log or schedule.total
    with (
      Writer(workdir, step=start.step) as writer,
      Progress(schedule.total, step=start.step, work=program.work, log_every=log_every) as progress,
      logging_the_end(writer, start.log_means),
    ):
      profile, timer = Profile(schedule.profile, workdir), CallTimer(step)
      log_means, max_bad_steps = start.log_means, config['train']['max_bad_steps']
      meter = StepMetrics(log_means, progress, checkpoints, max_bad_steps, goodput)
      for first, now, batches in batches_by_call(config, data, program, start.step):
        # Batch and step. The call returns before the devices have finished it.
        profile.before(first)
        state, metrics, started = timer.run(state, step.put_batches(batches))

        # Metrics: of the previous call, while the devices work on this one.
        meter.fetch()
        meter.put(now, metrics, started)
        stopping = stop()
        if not (stopping or schedule.anything_due(now)):
          continue
        meter.fetch()  # of this call too; from here on the host waits for the devices
        jax.block_until_ready(state.step)

        # Log. A run that stops between two log lines does not: its checkpoint has the sums.
        if schedule.due(now, schedule.log):
          lr = {'learning_rate': float(program.lr_schedule(now - 1))}  # of the step just taken
          writer.scalars(now, log_means.means() | lr | meter.usage().metrics(), 'train')

        # Evaluate. Also before a checkpoint: validation metrics decide which checkpoint is best.
        logical, validation = step.logical_state(state), None
        saving = now == schedule.total or schedule.due(now, schedule.checkpoint)
        if saving or schedule.due(now, schedule.evaluate):
          sharding, seed = step.evaluation_sharding, config['seed']
          with out_of_memory('computing the validation loss', memory_advice(config, False)):
            number = config['train']['evaluate_examples']
            validation = validation_loss(method, logical, data, size, sharding, seed, number)
          loss = validation['loss']
          writer.scalars(now, validation, 'validation')
          logging.info('step %d validation: %s', now, as_text(validation))

        # Sample.
        if schedule.due(now, schedule.sample):
          save_samples(config, method, data, logical.ema, now, workdir, writer)

        # Save. Averages before the checkpoint: a run that resumes from the checkpoint needs them.
        if schedule.due(now, schedule.snapshot):
          with Snapshots(workdir, config['ema']['keep']) as snapshots:
            snapshots.save(now, logical.averages, config)
        if saving or stopping:
          check_parameters(logical, now, checkpoints)
          writer.flush()  # the lines up to a checkpoint are not written again
          position = {'step': now, 'examples': now * size, 'log': log_means.sums()}
          checkpoints.save(now, logical, config=config, position=position, metrics=validation)

        # The time since the call was not spent on training.
        log_means.exclude_pause()
        progress.exclude_pause()
        if stopping and now < schedule.total:
          return False
    # Also if nothing was left to do: a run that failed once fails again.
    check_loss(loss, schedule.total, checkpoints)
  return True


class Start(NamedTuple):
  """Where a run starts or resumes.

  Attributes:
    step: the number of steps already taken.
    state: the state on the devices.
    loss: the validation loss of the checkpoint, or 0 if it has none.
    log_means: the means of metrics, with their sums since the last log line.
  """

  step: int
  state: TrainState
  loss: float
  log_means: LogMeans


def initial_state(config: Mapping, method: Method, data: Data, program: TrainProgram) -> TrainState:
  """The state before the first step, on the devices."""
  if not method.init_examples:
    return program.step.create_state(program.init)
  # The first examples of training. Every process reads all of them.
  first = dict(batch_size=method.init_examples, chunks=[(0, 1)])
  (examples,) = train_batches(data, seed=config['seed'], **first)
  batch = {name: value[0] for name, value in examples.items()}
  return program.step.create_state(functools.partial(program.init, batch))


def first_state(
  program: TrainProgram, checkpoints: Checkpoints, init: Callable[[], TrainState]
) -> Start:
  """The last checkpoint, or the state that `init` returns if there is none."""
  if checkpoints.latest is None:
    return Start(0, init(), 0.0, LogMeans(program.work))
  restored = checkpoints.restore(program.step.abstract_state)
  logging.info('resuming at step %d of %d', restored.step, program.schedule.total)
  state, loss = program.step.put_state(restored.state), restored.metrics.get('loss', 0.0)
  log_means = LogMeans(program.work, restored.position.get('log'))
  return Start(restored.step, state, loss, log_means)


def memory_advice(config: Mapping, backward: bool = True) -> str:
  """The settings that need less memory of a device, with their present values.

  Args:
    config: the config of the run.
    backward: whether the backward pass needs the memory, or only an evaluation does.
  """
  network, advice = config.get('network', {}), []
  if backward:
    advice.append(f'raise train.micro_batches (now {config["train"]["micro_batches"]})')
    # Not every network has these settings.
    if not network.get('remat', True):
      advice.append('switch network.remat on')
  if config['precision'] == 'float32':
    advice.append("set precision='bfloat16'")
  if jax.device_count() > 1:
    advice.append(f'raise parallel.fsdp (now {config["parallel"]["fsdp"]})')
  return ', '.join([*advice, f'or lower data.batch_size (now {config["data"]["batch_size"]})'])


@contextlib.contextmanager
def logging_the_end(writer: Writer, log_means: LogMeans) -> Iterator[None]:
  """Writes a last log line for a run that diverges between two of them."""
  try:
    yield
  except TrainingError as error:
    if not log_means.empty:
      writer.scalars(error.step, log_means.means(), 'train')
    raise


def check_parameters(state: TrainState, step: int, checkpoints: Checkpoints) -> None:
  """Raises TrainingError unless the parameters are finite: such a state is never saved."""
  if not is_finite((state.params, state.ema)):
    raise TrainingError(step, f'the parameters are not finite at step {step}', advice(checkpoints))


def check_loss(loss: float, step: int, checkpoints: Checkpoints) -> None:
  """Raises TrainingError unless the last validation loss is finite."""
  if not math.isfinite(loss):
    reason = f'the validation loss at the last step, {step}, is {loss}'
    raise TrainingError(step, reason, advice(checkpoints))


def batches_by_call(
  config: Mapping, data: Data, program: TrainProgram, start: int
) -> Iterator[tuple[int, int, dict[str, np.ndarray]]]:
  """(step before, step after, this process's rows of stacked batches) for each compiled call.

  Batch n depends only on (seed, n), so a resumed run sees the same batches as an uninterrupted one.
  """
  size, schedule = config['data']['batch_size'], program.schedule
  batches = train_batches(
    data,
    seed=config['seed'],
    batch_size=size,
    chunks=schedule.calls(start),
    rows=program.step.local_rows(size),
  )
  for (first, steps), batch in zip(schedule.calls(start), batches, strict=True):
    yield first, first + steps, batch


def save_samples(
  config: Mapping,
  method: Method,
  data: Data,
  params: PyTree,
  step: int,
  workdir: Path,
  writer: Writer,
) -> None:
  """Draws and saves some samples, with the same key at every step of the run.

  Samples that are not finite are only reported: later ones may be.
  """
  spec, domain = data.spec, domain_of(data.spec)
  request = domain.preview_request(spec, method.labelled, data.splits['validation'])
  key = stream_key(config['seed'], PREVIEW_STREAM)
  # All processes sample, because the arrays may be global; only process 0 writes.
  try:
    with out_of_memory('sampling', 'set train.sample_every=0, so that training draws no samples'):
      samples = method.draw(params, key, request)
  except NotFiniteError as error:
    logging.warning('step %d: no picture: %s', step, error)
    return
  if jax.process_index() == 0:
    folder = workdir / 'samples'
    domain.save_preview(data, np.asarray(samples.x), request, step, folder, writer)


def as_text(scalars: Mapping[str, float]) -> str:
  """'loss 1.234  mse 0.5678'."""
  return '  '.join(f'{name} {value:.4g}' for name, value in scalars.items())
