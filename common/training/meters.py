"""Measurements of a run's own steps: metrics, fetched one call late; time; a profile."""

import collections
import concurrent.futures
import time
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from absl import logging
from jaxtyping import Array

from common.buckets import Spool
from common.checkpoints.checkpoints import Checkpoints
from common.devices.limits import peak_memory
from common.files import Path, in_bucket
from common.method import Batch
from common.reporting.rates import StepWork, Usage, gibibytes
from common.reporting.writers import Progress
from common.training.parallel import PlacedStep
from common.training.state import Metrics, TrainState


class TrainingError(RuntimeError):
  """Training cannot continue: the run diverged.

  Args:
    step: the step at which it ends.
    reason: why, without paths.
    advice: the last good checkpoint, and what to change. The message has both.
  """

  def __init__(self, step: int, reason: str, advice: str):
    super().__init__(f'{reason}; {advice}')
    self.step, self.reason = step, reason


def advice(checkpoints: Checkpoints) -> str:
  """The end of the message of a run that diverged."""
  return (
    f'last good checkpoint: {checkpoints.last_good}. Lower optimizer.learning_rate, or set '
    'optimizer.clip'
  )


class StepMetrics:
  """The metrics of compiled calls, fetched only after the next call has started.

  Fetching waits for the devices. While the host waits for one call, they work on the next.

  Args:
    log_means: sums the metrics and the time.
    progress: shows the step and its loss.
    checkpoints: the run's checkpoints; an error names the last one.
    max_bad_steps: the run ends after this number of bad steps in a row.
    goodput: measures the share of time in steps.
  """

  def __init__(
    self,
    log_means: 'LogMeans',
    progress: Progress,
    checkpoints: Checkpoints,
    max_bad_steps: int,
    goodput: 'Goodput',
  ):
    self._log_means, self._progress, self._goodput = log_means, progress, goodput
    self._checkpoints, self._max_bad_steps = checkpoints, max_bad_steps
    self._pending: tuple[int, Mapping[str, Array]] | None = None  # (last step of a call, metrics)

  def put(self, step: int, metrics: Mapping[str, Array], started: float) -> None:
    """Keeps the metrics (still on the devices) of the call whose last step is `step`.

    `started` is the time at which the host started the call.
    """
    self._pending = step, metrics
    self._goodput.put(metrics['loss'], started)

  def fetch(self) -> None:
    """Fetches the metrics from the last `put`, unless that is already done.

    Raises:
      TrainingError: too many steps in a row had a gradient that was not finite.
    """
    if self._pending is None:
      return
    (step, metrics), self._pending = self._pending, None
    metrics = jax.device_get(metrics)  # waits for the devices
    self._log_means.add(metrics)
    self._goodput.fetch()
    self._progress.report(step, float(metrics['loss'][-1]), self.usage())
    # Checked at every fetch, not only at log lines, so that a diverged run ends early.
    bad = int(metrics['bad_in_a_row'].max())
    if bad >= self._max_bad_steps:
      scale = metrics.get('log2_loss_scale')
      at_scale = '' if scale is None else f' while the loss scale fell to 2^{scale[-1]:.3g}'
      raise TrainingError(
        step,
        f'the gradient was not finite in {bad} steps in a row up to step {step}{at_scale} '
        f'(train.max_bad_steps={self._max_bad_steps})',
        advice(self._checkpoints),
      )

  def usage(self) -> Usage:
    """How the run has used its devices up to the last fetch."""
    return Usage(self._goodput.share(), peak_memory())


class Goodput:
  """The share of wall time in which the devices ran training steps, since this object was made.

  The rest is restoring, compilation, waiting for data, evaluation, sampling and saving. A thread
  waits for the end of each call and notes its time, because the host may be busy when a call ends.
  """

  def __init__(self):
    self._begin = self._free = time.perf_counter()  # the devices are free since `_free`
    self._in_steps = 0.0
    self._calls = collections.deque()  # (start of a call, future of its end)
    self._thread = concurrent.futures.ThreadPoolExecutor(1, 'goodput')

  def put(self, result: Array, started: float) -> None:
    """Adds a call: one of its results, and the time at which the host started it."""
    self._calls.append((started, self._thread.submit(_time_when_ready, result)))

  def fetch(self) -> None:
    """Adds the time of the oldest call to the sum; waits for its end."""
    started, end = self._calls.popleft()
    # A call that the host starts early waits for the one before it.
    self._in_steps += max(end.result() - max(started, self._free), 0.0)
    self._free = end.result()

  def share(self) -> float:
    """The share, in [0, 1], up to now."""
    return self._in_steps / (time.perf_counter() - self._begin)


def _time_when_ready(result: Array) -> float:
  jax.block_until_ready(result)
  return time.perf_counter()


class LogMeans:
  """Means of the metrics, and the training time, from one log line to the next.

  The first call includes compilation: its metrics count, but its time does not.

  Args:
    work: what a step works through.
    sums: those of the run up to its checkpoint, from `sums`; None: nothing to add to.
  """

  def __init__(self, work: StepWork, sums: Mapping[str, Any] | None = None):
    self._work = work
    self._last: float | None = None  # time of the last `add`; None before the first
    self._reset()
    if sums is not None:
      self._sums = dict(sums['metrics'])
      self._good, self._bad = sums['good'], sums['bad']
      self._seconds, self._timed_steps = sums['seconds'], sums['timed_steps']

  def _reset(self) -> None:
    self._sums: dict[str, float] = {}
    self._good = self._bad = self._timed_steps = 0
    self._seconds = 0.0

  def sums(self) -> dict[str, Any]:
    """The sums since the last log line, for a checkpoint: a resumed run adds to them.

    A row of metrics is therefore the mean over the same steps with and without an interruption.
    """
    return {
      'metrics': self._sums,
      'good': self._good,
      'bad': self._bad,
      'seconds': self._seconds,
      'timed_steps': self._timed_steps,
    }

  @property
  def empty(self) -> bool:
    """Whether no step was added since the last log line."""
    return not (self._good or self._bad)

  def add(self, metrics: Mapping[str, np.ndarray]) -> None:
    """Adds the fetched metrics of one call, each [steps]."""
    # One skipped step would make every mean NaN, so skipped steps are only counted.
    good = np.isfinite(metrics['loss']) & np.isfinite(metrics['gradient_norm'])
    for name, values in metrics.items():
      if name != 'bad_in_a_row':
        self._sums[name] = self._sums.get(name, 0.0) + float(values[good].sum())
    self._good += int(good.sum())
    self._bad += int((~good).sum())
    if self._last is not None:
      self._seconds += time.perf_counter() - self._last
      self._timed_steps += len(good)
    self._last = time.perf_counter()

  def exclude_pause(self) -> None:
    """Excludes the time since the last `add` (evaluation, sampling, saving)."""
    if self._last is not None:
      self._last = time.perf_counter()

  def means(self) -> dict[str, float]:
    """Means over the good steps since the last call of `means`, with rates and seconds.

    Without a good step there are no means: they are left out.
    """
    means = {name: total / self._good for name, total in self._sums.items() if self._good}
    means['bad_steps'] = float(self._bad)
    means['seconds'] = self._seconds
    if self._seconds:
      means |= self._work.rates(self._timed_steps / self._seconds)
    self._reset()
    return means


class CallTimer:
  """Starts the compiled calls of a run: notes the time, and says when a call is compiled first.

  Args:
    step: the training step.
  """

  def __init__(self, step: PlacedStep):
    self._step = step
    self._compiled: set[int] = set()  # lengths of the programs that are compiled

  def run(self, state: TrainState, batches: Batch) -> tuple[TrainState, Metrics, float]:
    """Runs a call; returns its state, its metrics and the time at which the devices got it."""
    started, length = time.perf_counter(), self._step.length(batches['x'].shape[0])
    first = length not in self._compiled
    if first:
      logging.info('compiling the training step ...')
    state, metrics = self._step.run(state, batches)
    if first:
      # The call returns as soon as the program is compiled and its work is handed to the devices.
      compiled = time.perf_counter()
      self._compiled.add(length)
      memory = self._step.memory(state, batches)
      needs = '' if memory is None else f'; a step needs {gibibytes(memory)} of each device'
      logging.info('compiled in %.1f s%s', compiled - started, needs)
      started = compiled
    return state, metrics, started


class Profile:
  """Traces some steps of a run into WORKDIR/profile.

  Args:
    steps: (first step to trace, step after the last), or None.
    workdir: the folder of the run.
  """

  def __init__(self, steps: tuple[int, int] | None, workdir: Path):
    self._folder, self._running = workdir / 'profile', False
    self._spool = None
    self._first, self._end = steps or (-1, -1)

  def before(self, step: int) -> None:
    """Starts or ends the trace; called before the call whose first step is `step`."""
    # `>=` and `<=`, because either end may lie in the middle of a compiled call.
    if self._running and step >= self._end:
      jax.profiler.stop_trace()
      if self._spool is not None:
        self._spool.close()
      self._running, self._first = False, -1  # only one trace per run
      logging.info('profile written to %s', self._folder)
    elif not self._running and 0 <= self._first <= step:
      if in_bucket(self._folder):
        self._spool = Spool(self._folder)
      jax.profiler.start_trace(str(self._folder if self._spool is None else self._spool.folder))
      self._running = True
