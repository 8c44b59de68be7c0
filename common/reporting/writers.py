"""Output of a run: metrics as JSON lines and TensorBoard events, and a line of progress."""

import collections
import errno
import io
import json
import math
import os
import pathlib
import sys
import time
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from absl import logging
from jaxtyping import UInt8

from common.buckets import Spool
from common.files import Path, atomic_write, in_bucket, to_path
from common.reporting.rates import ONE_EXAMPLE, StepWork, Usage

METRICS_FILE = 'metrics.jsonl'
BAR_WIDTH, LEAST_WIDTH = 12, 40  # columns of the bar with its spaces, and of the text next to it
NOT_FINITE = {'NaN': math.nan, 'Infinity': math.inf, '-Infinity': -math.inf}


def event_writer() -> type:
  """The class `tensorboardX.SummaryWriter`, imported without PyTorch.

  tensorboardX imports PyTorch wherever it is installed, to accept its tensors: seconds of processor
  time at the start of every training.
  """
  hidden = 'torch' not in sys.modules
  if hidden:
    sys.modules['torch'] = None  # `import torch` raises ImportError
  try:
    from tensorboardX import SummaryWriter
  finally:
    if hidden:
      del sys.modules['torch']
  return SummaryWriter


class Writer:
  """Metrics of one run: `metrics.jsonl`, and TensorBoard events in `tensorboard/`.

  Each line is a JSON object with `step`, `split`, `time` (seconds since 1970) and the scalars. JSON
  has no NaN or infinity, so these are written as the strings 'NaN', 'Infinity' and '-Infinity';
  `read` converts them back to floats. TensorBoard gets only the finite values.

  Only process 0 writes; on the others every method does nothing. A context manager.

  The files of a run in a bucket grow in a folder of this machine and are uploaded as a whole: at
  most once a minute, before each checkpoint (`flush`) and at the end.

  Args:
    workdir: the folder of the run; created if it is missing.
    step: the step at which the run starts or resumes. Lines of later steps are removed, because
      the run will write them again. None: keep all lines. An incomplete last line is removed in
      either case.
    tensorboard: whether to write TensorBoard events too.
  """

  def __init__(
    self, workdir: str | os.PathLike, *, step: int | None = None, tensorboard: bool = True
  ):
    self._file = self._events = self._spool = None
    if jax.process_index() != 0:
      return
    workdir = to_path(workdir)
    if in_bucket(workdir):
      self._spool = Spool(workdir)
      self._spool.fetch(METRICS_FILE)
      workdir = self._spool.folder
    workdir.mkdir(parents=True, exist_ok=True)
    # Before the file is opened for appending.
    _remove_lines_after(workdir / METRICS_FILE, math.inf if step is None else step)
    # Without a buffer: each line is one write, so that a kill cannot leave half of one.
    self._file = (workdir / METRICS_FILE).open('ab', buffering=0)
    if tensorboard:
      # purge_step: TensorBoard ignores events that an interrupted run wrote for later steps.
      self._events = event_writer()(
        str(workdir / 'tensorboard'),
        purge_step=step + 1 if step else None,
        # File names contain only seconds: two starts within one second would share a file.
        filename_suffix=f'.{time.time_ns()}',
      )
    self.flush()  # from here on, another process that writes there notices this one

  def __enter__(self) -> 'Writer':
    return self

  def __exit__(self, *exception) -> None:
    self.close()

  def scalars(self, step: int, values: Mapping[str, Any], split: str = 'train') -> None:
    """Writes one line, and a TensorBoard scalar '<split>/<name>' for each value.

    Args:
      step: the optimiser step.
      values: scalars by name; no name may be 'step', 'split' or 'time'.
      split: the data or samples that were measured: 'train', 'validation' or 'samples'.

    Raises:
      FileNotFoundError: the folder was removed, renamed or unmounted.
    """
    if self._file is None:
      return
    # `float` waits for values that are still on a device.
    values = {name: float(value) for name, value in values.items()}
    self._check_file()
    if reserved := values.keys() & {'step', 'split', 'time'}:
      raise ValueError(
        f"a metric must not be called 'step', 'split' or 'time'; rename {sorted(reserved)[0]!r}"
      )
    now = time.time()
    line = {'step': int(step), 'split': split, 'time': round(now, 3)}
    line |= {name: to_json_number(value) for name, value in values.items()}
    self._append(json.dumps(line, allow_nan=False) + '\n')
    if self._events is not None:
      for name, value in values.items():
        if math.isfinite(value):
          self._events.add_scalar(f'{split}/{name}', value, step, walltime=now)
    if self._spool is not None:
      self._spool.upload_now_and_then()

  def _append(self, line: str) -> None:
    """Writes a line, or nothing if the disk is full."""
    data, end = line.encode(), self._file.seek(0, os.SEEK_END)
    try:
      if self._file.write(data) < len(data):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self._file.name))
    except OSError:
      self._file.truncate(end)
      raise

  def _check_file(self) -> None:
    """Raises FileNotFoundError if the folder was removed, renamed or unmounted meanwhile.

    The open file would take all lines, and nobody would ever see them.
    """
    there, ours = pathlib.Path(self._file.name), os.fstat(self._file.fileno())
    if not there.exists() or not os.path.samestat(there.stat(), ours):
      raise FileNotFoundError(
        f'{there} was removed or replaced while the run was writing to it; its later results are '
        'lost: restore the folder and start the run again'
      )

  def images(self, step: int, name: str, grid: UInt8[np.ndarray, 'height width channels']) -> None:
    """Shows an image of 1, 3 or 4 channels under `name` in TensorBoard."""
    if self._events is not None:
      self._events.add_image(name, grid, step, dataformats='HWC')

  def text(self, step: int, name: str, text: str) -> None:
    """Shows a text under `name` in TensorBoard, line by line."""
    if self._events is not None:
      # TensorBoard renders Markdown; four spaces make it a block of code.
      self._events.add_text(name, '\n'.join(f'    {line}' for line in text.splitlines()), step)

  def flush(self) -> None:
    """Uploads all that was written, if the run is in a bucket; files on this machine have it."""
    if self._spool is not None:
      if self._events is not None:
        self._events.flush()
      self._spool.upload()

  def close(self) -> None:
    """Finishes both files. Nothing can be written afterwards."""
    closing = [each for each in (self._file, self._events, self._spool) if each is not None]
    self._file = self._events = self._spool = None
    for each in closing:
      each.close()


def read(workdir: str | os.PathLike, split: str | None = None) -> list[dict[str, Any]]:
  """The lines of `metrics.jsonl`, in the order in which they were written.

  An incomplete last line is left out. If there is no file, the list is empty.

  Args:
    workdir: the folder of the run.
    split: return only the lines of this split.

  Raises:
    ValueError: a complete line is not a JSON object with a step and a split.
  """
  lines = _complete_lines(to_path(workdir) / METRICS_FILE)
  rows = [
    {k: v if k == 'split' else from_json_number(v) for k, v in row.items()} for _, row in lines
  ]
  return [row for row in rows if split is None or row['split'] == split]


def training_seconds(workdir: str | os.PathLike) -> float:
  """Seconds that a run spent in training steps, without compilation, evaluation and sampling."""
  return sum(row.get('seconds', 0.0) for row in read(workdir, 'train'))


def _complete_lines(path: Path) -> list[tuple[str, dict]]:
  """(text, object) of each line, without an incomplete last line."""
  if not path.exists():
    return []
  texts = path.read_bytes().decode('utf-8', errors='replace').split('\n')
  texts.pop()  # the incomplete last line, or '' if the text ends with a line break
  lines = []
  for number, text in enumerate(texts, 1):
    try:
      row = json.loads(text)
      row['step'], row['split']  # raises unless both are there
    except (ValueError, KeyError, TypeError):
      raise ValueError(
        f'{path}, line {number} must be a JSON object with step and split, got {text[:80]!r}'
      ) from None
    lines.append((text, row))
  return lines


def _remove_lines_after(path: pathlib.Path, step: int | float) -> None:
  """Removes lines of steps after `step`, and an incomplete last line, atomically."""
  if path.exists():
    kept = ''.join(text + '\n' for text, row in _complete_lines(path) if row['step'] <= step)
    atomic_write(path, kept)


def to_json_number(value: float) -> float | str:
  """The number, or 'NaN', 'Infinity' or '-Infinity', which JSON has no numbers for."""
  if math.isfinite(value):
    return value
  return 'NaN' if math.isnan(value) else ('Infinity' if value > 0 else '-Infinity')


def from_json_number(value: Any) -> Any:
  """The value that `to_json_number` converted; any other value is returned unchanged."""
  return NOT_FINITE.get(value, value)


class Progress:
  """The progress of a run: one line, redrawn, on a terminal; plain log lines elsewhere.

  A terminal that tells no width, or too small a one, also gets plain lines.

  Rate and remaining time are estimated from the last `window` reports. The first report only starts
  the clock, because compilation happens before it.

  Args:
    total: the last step.
    step: the step at which the run starts or resumes.
    work: what a step works through.
    log_every: the least number of steps between two log lines, if there is no terminal.
    window: the number of reports over which the rate is measured.
    stream: the stream to write to; standard error by default.
  """

  def __init__(
    self,
    total: int,
    *,
    step: int = 0,
    work: StepWork = ONE_EXAMPLE,
    log_every: int = 100,
    window: int = 20,
    stream: io.TextIOBase | None = None,
  ):
    self._total, self._work, self._log_every = total, work, log_every
    self._seen = collections.deque(maxlen=window + 1)  # (step, time) of the last reports
    self._paused = 0.0  # seconds in which the run did not train
    self._reported = step
    self._bar = None
    stream = stream or sys.stderr
    self._silent = jax.process_index() != 0
    self._stream = stream
    if not self._silent and self._width >= LEAST_WIDTH:
      from tqdm import tqdm

      self._bar = tqdm(
        total=total,
        initial=step,
        file=stream,
        dynamic_ncols=True,
        bar_format='{desc} {bar} {postfix}',
      )

  def __enter__(self) -> 'Progress':
    return self

  def __exit__(self, *exception) -> None:
    self.close()

  @property
  def _width(self) -> int:
    """Columns for the text; asked for each time, because a terminal may be resized."""
    return _columns(self._stream) - BAR_WIDTH

  def rate(self) -> float | None:
    """Steps per second over the recent reports; None before there are two."""
    # Over the whole window, because the time between two reports varies.
    if len(self._seen) < 2:
      return None
    (first, start), (last, now) = self._seen[0], self._seen[-1]
    return (last - first) / max(now - start, 1e-9)

  def exclude_pause(self) -> None:
    """Excludes the time since the last report (evaluation, sampling) from the rate."""
    # Subtracts the time since the last report from all later values of `_now`.
    if self._seen:
      self._paused += self._now() - self._seen[-1][1]

  def _now(self) -> float:
    return time.monotonic() - self._paused

  def report(self, step: int, loss: float | None = None, usage: Usage | None = None) -> None:
    """Reports that `step` is done, with the latest known loss and use of the devices."""
    self._seen.append((step, self._now()))
    if self._silent:
      return
    # tqdm redraws once, in `update`; setting the text must not draw as well.
    if self._bar is not None:
      self._bar.set_description_str(self.text(step, loss, usage, self._width), refresh=False)
      self._bar.update(step - self._bar.n)
    # At multiples of `log_every`, also after a resumption between two of them.
    elif step // self._log_every > self._reported // self._log_every or step >= self._total:
      logging.info('%s', self.text(step, loss, usage))
    self._reported = step

  def text(
    self, step: int, loss: float | None, usage: Usage | None = None, width: int | None = None
  ) -> str:
    """'step 200/1000  loss 0.1234  5.1 steps/s  326 images/s  2:37 left', as far as known.

    Parts that a width has no room for are left out, the last of the rates first.
    """
    parts = [f'step {step}/{self._total}']
    if loss is not None:
      parts.append(f'loss {loss:.4g}')
    if rate := self.rate():
      parts += self._work.texts(rate) + ([] if usage is None else usage.texts())
      parts.append(f'{duration((self._total - step) / rate)} left')
    while width is not None and len('  '.join(parts)) > width and len(parts) > 1:
      parts.pop(-2 if len(parts) > 3 else -1)
    return '  '.join(parts)

  def close(self) -> None:
    """Ends the line."""
    if self._bar is not None:
      self._bar.close()


def _columns(stream: io.TextIOBase) -> int:
  """The width of a terminal; 0 if the stream is none, or does not tell."""
  try:
    return os.get_terminal_size(stream.fileno()).columns if stream.isatty() else 0
  except (OSError, ValueError):
    return 0


def duration(seconds: float) -> str:
  """'0:07', '2:37', '1:02:03', or, of more than 99 hours, '12 days'."""
  minutes, second = divmod(round(seconds), 60)
  hours, minute = divmod(minutes, 60)
  if hours > 99:
    return f'{round(seconds / 86_400):,} days'
  return f'{hours}:{minute:02}:{second:02}' if hours else f'{minute}:{second:02}'
