"""Checkpoints: the whole of a run in one folder per step, verified when it is read.

`<directory>/<step>/` holds `state`, every leaf of the state under its path (`common.storage`), and
what is said of it: config, data position, metrics, digests (`common.records`). A step has its final
name only once all of it is written. Other names in the directory:

  <step>.orbax-checkpoint-tmp...   a save or a removal that was cut off; removed at the next opening
  damaged-<step>                   a step that failed verification, moved aside and never read again
"""

import concurrent.futures
import contextlib
import json
import math
import pathlib
import shutil
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from absl import logging
from jax.experimental import multihost_utils

from common.checkpoints import records, storage
from common.checkpoints.records import CheckpointError, Damaged, one_line
from common.config import pick, to_json
from common.method import PyTree

BEST = {'min': 1, 'max': -1}  # the sign with which the best value is the lowest
UNFINISHED = '.orbax-checkpoint-tmp'  # Orbax's own mark


class Restored(NamedTuple):
  """What a checkpoint holds."""

  step: int
  state: PyTree
  config: dict[str, Any]
  position: dict[str, Any]
  metrics: dict[str, float]


class Checkpoints:
  """The checkpoints of one run. A context manager; closing waits for the last save.

  Under several processes every method is called by all of them alike, and all see the same folder.

  Args:
    directory: where the steps are, on a mounted file system; made if it is missing.
    keep: how many of the newest steps are kept. The best one is kept beside them.
    best_metric: the metric that decides which step is best.
    best_mode: 'min' or 'max'.
    read_only: look, but change nothing: no saving, nothing removed or moved aside.
    verbose: let Orbax's own log messages through.

  Raises:
    CheckpointError: the directory cannot be written, or the settings make no sense.
  """

  def __init__(
    self,
    directory,
    *,
    keep: int = 2,
    best_metric: str = 'loss',
    best_mode: str = 'min',
    read_only: bool = False,
    verbose: bool = False,
  ):
    if keep < 1:
      raise CheckpointError(f'checkpoints: keep={keep}; at least 1 step must be kept')
    if '://' in str(directory):
      raise CheckpointError(f'{directory}: mount it as a file system and give its path')
    self.directory = pathlib.Path(directory).absolute()
    self._keep, self._metric = keep, best_metric
    self._sign = pick(BEST, best_mode, 'best_mode')
    self._read_only = read_only
    self._pending: tuple[int, concurrent.futures.Future] | None = None
    self._background = concurrent.futures.ThreadPoolExecutor(1, 'checkpoints')
    if not read_only:
      self._clean_up()
    self._records = {}
    for step in self.steps:
      with contextlib.suppress(Damaged):  # reported when somebody wants to restore it
        self._records[step] = records.read_sealed(self._path(step), records.RECORD)
    self._quiet = contextlib.nullcontext() if verbose else storage.quietly()
    self._quiet.__enter__()

  def __enter__(self) -> 'Checkpoints':
    return self

  def __exit__(self, *exception) -> None:
    self.close()

  def close(self) -> None:
    """Waits for the last save. Raises CheckpointError if it failed."""
    try:
      self.wait()
    finally:
      self._background.shutdown()
      self._quiet.__exit__(None, None, None)
      self._quiet = contextlib.nullcontext()

  @property
  def steps(self) -> list[int]:
    """The finished steps, oldest first. Finished says nothing of damage: `restore` verifies."""
    if not self.directory.is_dir():
      return []
    return sorted(int(p.name) for p in self.directory.iterdir() if p.name.isdecimal())

  @property
  def latest(self) -> int | None:
    """The newest finished step, or None."""
    return max(self.steps, default=None)

  @property
  def best(self) -> int | None:
    """The finished step with the best metric, or None where no step has that metric."""
    return next(iter(self._by_metric()), None)

  def save(
    self,
    step: int,
    state: PyTree,
    *,
    config: Mapping,
    position: Mapping,
    metrics: Mapping[str, Any] | None = None,
  ) -> bool:
    """Starts to save `state`; returns once its values are copied, so its buffers may be donated.

    Waits for the save before this one, and removes steps that are no longer to be kept.

    Args:
      step: the number of the step.
      state: a pytree of arrays, typed keys included.
      config: the frozen config of the run.
      position: the position in the data, or anything else that is JSON.
      metrics: scalars; the one named `best_metric` decides what is best.

    Returns:
      False if this very state is there already under this number, and nothing was to do.

    Raises:
      CheckpointError: this save cannot be started or the one before it failed; a finished step is
        never overwritten by a different state.
    """
    if self._read_only:
      raise CheckpointError(f'{self.directory} was opened for reading: step {step} not saved')
    self.wait()
    leaves = {name: records.storable(name, x) for name, x in records.named_leaves(state).items()}
    record = {
      'step': int(step),
      'config': json.loads(to_json(config)),
      'position': dict(position),
      'metrics': {k: float(v) for k, v in (metrics or {}).items()},
      'leaves': records.describe(leaves),
    }
    if step in self.steps:
      return self._refuse_to_overwrite(step, record)
    _sync('save')  # nobody may write before all have looked
    with self._saving(step):
      finish = storage.start_to_write(self._path(step), leaves, record)
      self._pending = step, self._background.submit(finish)
    self._records[step] = record
    return True

  def wait(self) -> None:
    """Waits until the last save is finished. Raises CheckpointError if it failed."""
    if self._pending is None:
      return
    (step, written), self._pending = self._pending, None
    with self._saving(step):
      written.result()
      self._prune()

  def shapes(self, step: int | str = 'last') -> dict[str, jax.ShapeDtypeStruct]:
    """Shape and type of every leaf of a step, by path.

    Args:
      step: 'last', 'best' or a number.

    Raises:
      CheckpointError: there is no such step that can be read.
    """
    for candidate in self._candidates(step):
      if candidate in self._records:
        leaves = self._records[candidate]['leaves'].items()
        return {name: jax.ShapeDtypeStruct(shape, kind) for name, (shape, kind, _) in leaves}
    raise CheckpointError(f'no usable checkpoint in {self.directory}')

  def restore(
    self, abstract_state: PyTree, step: int | str = 'last', *, partial: bool = False
  ) -> Restored:
    """Reads a step and verifies every leaf that was asked for.

    A damaged step is reported in one warning, and for 'last' and 'best' the next in line is used:
    the step before it, or the next best. Unless opened for reading only, the damaged one is then
    moved aside to `damaged-<step>`.

    Args:
      abstract_state: the state as `jax.ShapeDtypeStruct`s (or arrays), each with the sharding it is
        to have; without a sharding it goes to the first device.
      step: 'last', 'best' or a number.
      partial: the state may lack leaves that the checkpoint has: {'params': ...} alone, say.

    Raises:
      CheckpointError: no such step; every candidate is damaged; or the checkpoint is of another
        model, in which case the first leaf that differs is named and no older step is tried.
    """
    self.wait()
    asked = records.named_leaves(abstract_state)
    asked = {name: records.placed(name, x) for name, x in asked.items()}
    damage: dict[int, str] = {}
    for candidate in self._candidates(step):
      try:
        record, leaves = self._load(candidate, asked, partial)
      except Damaged as e:
        damage[candidate] = str(e)
        logging.warning('checkpoint %s is damaged: %s', self._path(candidate), e)
        continue
      self._move_aside(damage)
      state = jax.tree.unflatten(jax.tree.structure(abstract_state), leaves)
      return Restored(candidate, state, record['config'], record['position'], record['metrics'])
    reasons = '; '.join(f'step {s}: {reason}' for s, reason in damage.items())
    raise CheckpointError(f'no usable checkpoint in {self.directory}: {reasons}')

  # Which steps there are.

  def _path(self, step: int) -> pathlib.Path:
    return self.directory / str(step)

  def _by_metric(self) -> list[int]:
    """The finished steps that have the metric, best first, of equals the newest first."""
    metrics = {s: self._records[s]['metrics'] for s in self.steps if s in self._records}
    values = {s: m[self._metric] for s, m in metrics.items() if self._metric in m}
    known = [s for s in values if math.isfinite(values[s])]
    return sorted(known, key=lambda s: (self._sign * values[s], -s))

  def _candidates(self, step: int | str) -> list[int]:
    steps = self.steps
    if step == 'last':
      chosen = steps[::-1]
    elif step == 'best':
      chosen = self._by_metric()
    else:
      chosen = [step] if step in steps else []
    if not chosen:
      there = ', '.join(map(str, steps)) or 'none'
      what = f'with a metric {self._metric!r} ' if step == 'best' else ''
      raise CheckpointError(f'no checkpoint {step!r} {what}in {self.directory}; there: {there}')
    return chosen

  # Writing.

  @contextlib.contextmanager
  def _saving(self, step: int):
    try:
      yield
    except Exception as e:
      self._records.pop(step, None)
      with contextlib.suppress(OSError):
        self._remove_leftovers()
      steps = ', '.join(map(str, self.steps)) or 'none'
      raise CheckpointError(
        f'checkpoint {self._path(step)} could not be saved: {one_line(e)}; steps there: {steps}'
      ) from e

  def _refuse_to_overwrite(self, step: int, record: dict) -> bool:
    there = self._records.get(step)
    if there is not None and there['leaves'] == record['leaves']:
      return False
    raise CheckpointError(
      f'{self._path(step)} holds another state of step {step}, and a finished step is not '
      'overwritten; use another workdir or remove the step'
    )

  def _clean_up(self) -> None:
    """Makes the directory, tries that it can be written, removes what was cut off."""
    try:
      if jax.process_index() == 0:
        self.directory.mkdir(parents=True, exist_ok=True)
        probe = self.directory / '.writable'
        probe.write_bytes(b'')
        probe.unlink()
      for name in self._remove_leftovers():
        logging.warning('%s: removed %s, which was cut off', self.directory, name)
    except OSError as e:
      raise CheckpointError(f'{self.directory} cannot hold checkpoints: {one_line(e)}') from e

  def _remove_leftovers(self) -> list[str]:
    _sync('leftovers')
    left = [p for p in self.directory.iterdir() if UNFINISHED in p.name]
    _sync('leftovers seen')
    if jax.process_index() == 0:
      for path in left:
        shutil.rmtree(path)
    _sync('leftovers removed')
    return [p.name for p in left]

  def _prune(self) -> None:
    """Removes all but the newest steps and the best; under another name first, in one move."""
    steps = self.steps
    doomed = sorted(set(steps) - set(steps[-self._keep :]) - {self.best})
    _sync('prune')
    for step in doomed:
      if jax.process_index() == 0:
        path = self.directory / f'{step}{UNFINISHED}-removed'
        shutil.rmtree(self._path(step).rename(path))
      self._records.pop(step, None)
    _sync('pruned')

  def _move_aside(self, damage: Mapping[int, str]) -> None:
    if self._read_only or not damage:
      return
    for step in damage:
      self._records.pop(step, None)
      if jax.process_index() == 0:
        taken = len(list(self.directory.glob(f'damaged-{step}*')))
        name = f'damaged-{step}' + (f'-{taken + 1}' if taken else '')
        self._path(step).rename(self.directory / name)
    _sync('moved aside')

  # Reading.

  def _load(self, step: int, asked: Mapping, partial: bool) -> tuple[dict, list[jax.Array]]:
    """The record and the verified leaves of a step. Raises Damaged, on all processes or none."""
    path = self._path(step)
    with _agreed():
      record = records.read_sealed(path, records.RECORD)
    records.compare(path, record['leaves'], asked, partial)
    with _agreed():
      records.verify_files(path, jax.process_index(), jax.process_count())
    with _agreed():
      leaves = storage.read(path, asked)
    with _agreed():
      records.verify_leaves(record['leaves'], leaves)
    return record, list(leaves.values())


@contextlib.contextmanager
def _agreed():
  """Raises Damaged on all processes where it is raised on one: else they would part ways."""
  problem = None
  try:
    yield
  except Damaged as e:
    problem = e
  if jax.process_count() > 1:
    anywhere = multihost_utils.process_allgather(np.array(problem is not None)).any()
    if anywhere and problem is None:
      problem = Damaged('another process could not read its part')
  if problem is not None:
    raise problem


def _sync(name: str) -> None:
  if jax.process_count() > 1:
    multihost_utils.sync_global_devices(f'checkpoints: {name}')
