"""Checkpoints: the complete state of a run in one folder per step, verified when it is read.

`<directory>/<step>/` contains `state`, with every leaf of the state under its path (`storage.py`),
and a record: config, data position, metrics, digests (`records.py`). A step gets its final name
only after everything has been written. Other names in the directory:

  <step>.orbax-checkpoint-tmp...   a save or removal that was interrupted; removed at the next start
  damaged-<step>                   a step that failed verification; never read again

In a bucket no folder can be renamed: there the object `commit_success.txt` marks a finished step.
"""

import concurrent.futures
import contextlib
import json
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
from absl import logging
from jax.experimental import multihost_utils

from common.checkpoints import records, storage
from common.checkpoints.records import CheckpointError, DamagedCheckpoint, one_line
from common.config import pick, to_json
from common.devices.processes import agreed
from common.files import Path, in_bucket, remove_folder, rename_folder, to_path
from common.method import PyTree

SIGNS = {'min': 1, 'max': -1}  # the best step has the lowest sign · metric


class Restored(NamedTuple):
  """The contents of a checkpoint, and a line that says which step it is and which is best."""

  step: int
  state: PyTree
  config: dict[str, Any]
  position: dict[str, Any]
  metrics: dict[str, float]
  about: str


class Checkpoints:
  """The checkpoints of one run. A context manager; closing waits for the last save.

  With several processes, all of them call every method, in the same order and on the same folder.

  Args:
    directory: the folder for the steps, also in a bucket; created if it is missing.
    keep: the number of newest steps to keep, in addition to the best step.
    best_metric: the metric that decides which step is best.
    best_mode: 'min' or 'max'.
    read_only: whether to save, remove and move nothing.
    verbose: whether to show Orbax's own log messages.

  Raises:
    CheckpointError: the directory cannot be written, or a setting is invalid.
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
      raise CheckpointError(f'checkpoints: keep must be at least 1, got {keep}')
    try:
      folder = to_path(directory)
    except ValueError as e:
      raise CheckpointError(f'the folder of checkpoints {directory} {e}') from e
    self.directory = folder if in_bucket(folder) else folder.absolute()
    self._keep, self._metric = keep, best_metric
    self._sign = pick(SIGNS, best_mode, 'best_mode')
    self._read_only = read_only
    self._pending: tuple[int, concurrent.futures.Future] | None = None
    self._background = concurrent.futures.ThreadPoolExecutor(1, 'checkpoints')
    if not read_only:
      self._clean_up()
    self._records = {}
    for step in self.steps:
      with contextlib.suppress(DamagedCheckpoint):  # `restore` reports the damage
        self._records[step] = records.read_record(self._path(step), step)
    # Entered last, so that an error above has nothing to undo.
    self._quiet = contextlib.nullcontext() if verbose else storage.quietly()
    self._quiet.__enter__()

  def __enter__(self) -> 'Checkpoints':
    return self

  def __exit__(self, kind: type[BaseException] | None, *exception) -> None:
    # After an error of this process alone, the others would not take part in removing old steps.
    self.close(prune=kind is None or jax.process_count() == 1)

  def close(self, prune: bool = True) -> None:
    """Waits for the last save, and removes the steps that are no longer needed if `prune`.

    Raises:
      CheckpointError: the last save failed.
    """
    try:
      self.wait(prune)
    finally:
      self._background.shutdown()
      self._quiet.__exit__(None, None, None)
      self._quiet = contextlib.nullcontext()

  @property
  def steps(self) -> list[int]:
    """The finished steps, oldest first. They may be damaged: only `restore` verifies them."""
    return storage.finished_steps(self.directory)

  @property
  def latest(self) -> int | None:
    """The newest finished step, or None."""
    return max(self.steps, default=None)

  @property
  def best(self) -> int | None:
    """The finished step with the best metric, or None if no step has that metric."""
    return next(iter(self._best_first()), None)

  @property
  def last_good(self) -> int | None:
    """The newest finished step whose metrics, if it has any, are all finite; or None."""
    metrics = {s: self._records[s]['metrics'] for s in self.steps if s in self._records}
    return max((s for s, m in metrics.items() if all(map(math.isfinite, m.values()))), default=None)

  def describe(self, step: int) -> str:
    """'step 40 (validation loss 1.31; best: step 30, validation loss 1.23)'."""
    best = self.best
    if best is None:
      return f'step {step}'
    if step == best:
      return f'step {step} (best: {self._shown_metric(step)})'
    own = f'{self._shown_metric(step)}; ' if step in self._best_first() else ''
    return f'step {step} ({own}best: step {best}, {self._shown_metric(best)})'

  def _shown_metric(self, step: int) -> str:
    return f'validation {self._metric} {self._records[step]["metrics"][self._metric]:.4g}'

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

    First waits for the previous save, and removes the steps that are no longer needed.

    Args:
      step: the number of the step.
      state: a pytree of arrays, which may be typed keys.
      config: the config of the run.
      position: the position in the data, or any other JSON object.
      metrics: scalars; the one named `best_metric` decides which step is best.

    Returns:
      False if this step already holds the same state, in which case nothing is saved.

    Raises:
      CheckpointError: this save cannot start, the previous save failed, or the step is already
        finished with a different state, because a finished step is never overwritten.
    """
    if self._read_only:
      raise CheckpointError(f'{self.directory} was opened read-only: cannot save step {step}')
    self.wait()
    leaves = {name: records.storable(name, x) for name, x in records.named_leaves(state).items()}
    # Digests are computed here, on the devices, because the caller may donate the buffers later.
    record = {
      'step': int(step),
      'config': json.loads(to_json(config)),
      'position': dict(position),
      'metrics': {k: float(v) for k, v in (metrics or {}).items()},
      'leaves': records.describe(leaves),
    }
    if step in self.steps:
      return self._refuse_to_overwrite(step, record)
    _sync('save')  # all processes check that the step is absent before any of them writes it
    with self._saving(step):
      finish = storage.start_to_write(self._path(step), leaves, record)
      self._pending = step, self._background.submit(finish)
    self._records[step] = record
    return True

  def wait(self, prune: bool = True) -> None:
    """Waits until the last save has finished, and then removes the steps that it replaces.

    Args:
      prune: whether to remove steps.

    Raises:
      CheckpointError: the save failed.
    """
    if self._pending is None:
      return
    (step, written), self._pending = self._pending, None
    with self._saving(step):
      written.result()
      if prune:
        self._prune()  # only now: old steps are needed until the new one is complete

  def shapes(self, step: int | str = 'last') -> dict[str, jax.ShapeDtypeStruct]:
    """Shape and type of every leaf of a step, by path.

    Args:
      step: 'last', 'best' or a number.

    Raises:
      CheckpointError: there is no such step, or it cannot be read.
    """
    for candidate in self._candidates(step):
      if candidate in self._records:
        leaves = self._records[candidate]['leaves'].items()
        return {name: jax.ShapeDtypeStruct(shape, kind) for name, (shape, kind, _) in leaves}
    raise CheckpointError(f'no usable checkpoint in {self.directory}')

  def restore(
    self, abstract_state: PyTree, step: int | str = 'last', *, partial: bool = False
  ) -> Restored:
    """Reads a step and verifies every requested leaf.

    A damaged step is reported in one warning. For 'last' and 'best' the next candidate is then
    tried: the step before, or the next best. Unless the directory was opened read-only, the damaged
    step is renamed to `damaged-<step>`.

    Args:
      abstract_state: the state as `jax.ShapeDtypeStruct`s (or arrays), each with the sharding to
        restore it to; a leaf without a sharding goes to the first device.
      step: 'last', 'best' or a number.
      partial: allow a state without some of the checkpoint's leaves, such as only {'params': ...}.

    Raises:
      CheckpointError: there is no such step; or every candidate is damaged; or the checkpoint comes
        from another model. In the last case the message names the first leaf that differs, and no
        older step is tried.
    """
    self.wait()
    asked = records.named_leaves(abstract_state)
    asked = {name: records.restore_target(name, x) for name, x in asked.items()}
    damage: dict[int, str] = {}
    for candidate in self._candidates(step):
      try:
        record, leaves = self._load(candidate, asked, partial)
      except DamagedCheckpoint as e:
        damage[candidate] = str(e)
        logging.warning('checkpoint %s is damaged: %s', self._path(candidate), e)
        continue
      self._move_aside(damage)  # only now: if every step is damaged, all stay where they are
      state = jax.tree.unflatten(jax.tree.structure(abstract_state), leaves)
      config, position, metrics = (record[key] for key in ('config', 'position', 'metrics'))
      return Restored(candidate, state, config, position, metrics, self.describe(candidate))
    reasons = '; '.join(f'step {s}: {reason}' for s, reason in damage.items())
    raise CheckpointError(f'no usable checkpoint in {self.directory}: {reasons}')

  # The steps in the folder.

  def _path(self, step: int) -> Path:
    return self.directory / str(step)

  def _best_first(self) -> list[int]:
    """The finished steps that have the metric, best first; among equals the newest first."""
    metrics = {s: self._records[s]['metrics'] for s in self.steps if s in self._records}
    values = {s: m[self._metric] for s, m in metrics.items() if self._metric in m}
    known = [s for s in values if math.isfinite(values[s])]  # NaN cannot be sorted
    return sorted(known, key=lambda s: (self._sign * values[s], -s))

  def _candidates(self, step: int | str) -> list[int]:
    steps = self.steps
    if step == 'last':
      chosen = steps[::-1]
    elif step == 'best':
      chosen = self._best_first()
    else:
      chosen = [step] if step in steps else []
    if not chosen:
      there = ', '.join(map(str, steps)) or 'none'
      what = f'with a metric {self._metric!r} ' if step == 'best' else ''
      raise CheckpointError(f'no checkpoint {step!r} {what}in {self.directory}; steps: {there}')
    return chosen

  # Writing.

  @contextlib.contextmanager
  def _saving(self, step: int):
    """Turns an error in a save into a CheckpointError; one process removes what is unfinished."""
    try:
      yield
    except Exception as e:
      self._records.pop(step, None)
      # Of several processes perhaps only this one has failed: the next start removes them.
      if jax.process_count() == 1:
        with contextlib.suppress(OSError):
          self._remove_leftovers()
      steps = ', '.join(map(str, self.steps)) or 'none'
      raise CheckpointError(
        f'checkpoint {self._path(step)} could not be saved: {one_line(e)}; finished steps: {steps}'
      ) from e

  def _refuse_to_overwrite(self, step: int, record: dict) -> bool:
    there = self._records.get(step)
    if there is not None and there['leaves'] == record['leaves']:
      return False
    raise CheckpointError(
      f'{self._path(step)} already holds a different state of step {step}, and a finished step is '
      'never overwritten; choose another workdir or remove the step'
    )

  def _clean_up(self) -> None:
    """Creates the directory, checks that it can be written, removes interrupted saves."""
    try:
      if jax.process_index() == 0:
        self.directory.mkdir(parents=True, exist_ok=True)
        probe = self.directory / '.writable'
        probe.write_bytes(b'')
        probe.unlink()
      for name in self._remove_leftovers():
        logging.warning('%s: removed %s, an interrupted save', self.directory, name)
    except OSError as e:
      raise CheckpointError(f'{self.directory} cannot hold checkpoints: {one_line(e)}') from e

  def _remove_leftovers(self) -> list[str]:
    # Every process lists the folder between the first two barriers, before process 0 removes any.
    _sync('leftovers')
    left = storage.unfinished(self.directory)
    _sync('leftovers seen')
    if jax.process_index() == 0:
      for path in left:
        remove_folder(path)
    _sync('leftovers removed')
    return [p.name for p in left]

  def _prune(self) -> None:
    """Removes all steps except the newest ones and the best."""
    steps = self.steps
    surplus = sorted(set(steps) - set(steps[-self._keep :]) - {self.best})
    _sync('prune')
    for step in surplus:
      if jax.process_index() == 0:
        storage.remove(self._path(step))
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
        rename_folder(self._path(step), self.directory / name)
    _sync('moved aside')

  # Reading.

  def _load(self, step: int, asked: Mapping, partial: bool) -> tuple[dict, list[jax.Array]]:
    """The record and the verified leaves of a step.

    Raises:
      DamagedCheckpoint: on all processes or on none.
    """
    path = self._path(step)
    # From cheap to expensive: the record, its leaves compared with those of the state, the CRCs of
    # the files, and finally the arrays and their digests.
    with _agreed():
      record = records.read_record(path, step)
    records.compare(path, record['leaves'], asked, partial)
    with _agreed():
      records.verify_files(path, jax.process_index(), jax.process_count())
    with _agreed():
      leaves = storage.read(path, asked)
    with _agreed():
      records.verify_leaves(record['leaves'], leaves)
    return record, list(leaves.values())


def _agreed() -> contextlib.AbstractContextManager[None]:
  """Raises DamagedCheckpoint on all processes if one raises it."""
  return agreed(DamagedCheckpoint, DamagedCheckpoint, 'could not read its part')


def _sync(name: str) -> None:
  """A barrier: returns once all processes have reached it."""
  if jax.process_count() > 1:
    multihost_utils.sync_global_devices(f'checkpoints: {name}')
