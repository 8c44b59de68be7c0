"""What a run measures about its own steps: metrics, fetched one call late; time; a profile."""

import pathlib
import time
from collections.abc import Mapping

import jax
import numpy as np
from absl import logging
from jaxtyping import Array

from common.checkpoints.checkpoints import Checkpoints
from common.reporting.writers import Progress


class TrainingError(RuntimeError):
  """A run that cannot go on: what happened, and which checkpoint is intact."""


class StepMetrics:
  """The metrics of compiled calls, fetched only when the next call is under way.

  Fetching waits for the devices. One call late, they already have work when the host waits.

  Args:
    clock: sums the metrics and the time.
    progress: shows the step and its loss.
    checkpoints: of the run, to name the last good one.
    max_bad_steps: the run ends after this number of bad steps in a row.
  """

  def __init__(
    self, clock: 'Clock', progress: Progress, checkpoints: Checkpoints, max_bad_steps: int
  ):
    self._clock, self._progress = clock, progress
    self._checkpoints, self._max_bad_steps = checkpoints, max_bad_steps
    self._pending: tuple[int, Mapping[str, Array]] | None = None  # (last step of a call, metrics)

  def put(self, step: int, metrics: Mapping[str, Array]) -> None:
    """Keeps the metrics, still on the devices, of the call that ends with `step`."""
    self._pending = step, metrics

  def fetch(self) -> None:
    """Fetches the metrics that were put last, unless that was done.

    Raises:
      TrainingError: too many steps in a row had a gradient that was not finite.
    """
    if self._pending is None:
      return
    (step, metrics), self._pending = self._pending, None
    metrics = jax.device_get(metrics)  # waits for the call that computes them
    self._clock.add(metrics)
    self._progress.report(step, float(metrics['loss'][-1]))
    # Checked at every fetch, not only when something is logged: a diverged run ends soon.
    bad = int(metrics['bad_in_a_row'].max())
    if bad >= self._max_bad_steps:
      raise TrainingError(
        f'the gradient was not finite in {bad} steps in a row up to step {step} '
        f'(train.max_bad_steps={self._max_bad_steps}); last good checkpoint: '
        f'{self._checkpoints.latest}. Lower optimizer.learning_rate, or set optimizer.clip'
      )


class Clock:
  """Sums metrics, and the time of the compiled calls, from one log line to the next.

  The first call includes compilation: its metrics count, its time does not.
  """

  def __init__(self):
    self._last: float | None = None  # when the call before returned; None until the first has
    self._reset()

  def _reset(self) -> None:
    self._sums: dict[str, float] = {}
    self._good = self._bad = self._timed_steps = 0
    self._seconds = 0.0

  def add(self, metrics: Mapping[str, np.ndarray]) -> None:
    """Adds the fetched metrics of one call, each [steps]."""
    # Skipped steps would make every mean NaN: they are counted instead.
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

  def restart(self) -> None:
    """Leaves out the time since the last call: it did not go into training steps."""
    if self._last is not None:
      self._last = time.perf_counter()

  def means(self) -> dict[str, float]:
    """Means over the good steps since this was last called, with the rate and the seconds."""
    means = {name: total / max(self._good, 1) for name, total in self._sums.items()}
    means['bad_steps'] = float(self._bad)
    means['seconds'] = self._seconds
    if self._seconds:
      means['steps_per_second'] = self._timed_steps / self._seconds
    self._reset()
    return means


class Profile:
  """Traces some steps of a run into WORKDIR/profile.

  Args:
    steps: the first step to trace and the one after the last, or None.
    workdir: the folder of the run.
  """

  def __init__(self, steps: tuple[int, int] | None, workdir: pathlib.Path):
    self._folder, self._running = workdir / 'profile', False
    self._first, self._last = steps or (-1, -1)

  def before(self, step: int) -> None:
    """Starts or ends the trace; called when `step` is about to run."""
    # `>=`, since a compiled call may jump over either end.
    if self._running and step >= self._last:
      jax.profiler.stop_trace()
      self._running, self._first = False, -1  # never again in this run
      logging.info('profile written to %s', self._folder)
    elif not self._running and 0 <= self._first <= step:
      jax.profiler.start_trace(str(self._folder))
      self._running = True
