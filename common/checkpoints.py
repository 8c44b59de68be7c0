"""Checkpoints: the whole of a run in one folder per step, verified when it is read.

`<directory>/<step>/` holds what Orbax wrote: `state` (every leaf of the state under its path) and
`record` (JSON: config, data position, metrics, and shape, type and digest of each leaf). A step has
its final name only once all of it is written. Other names in the directory:

  <step>.orbax-checkpoint-tmp...   a save that was cut off; removed when the directory is opened
  damaged-<step>                   a step that failed verification, moved aside and never read again

Orbax itself does not notice a flipped bit in an array file: hence the digests. Its free functions
are used rather than its managers, which in version 0.12.8 cannot open a directory that holds one
damaged metrics file and skip saves by policy without a word.
"""

import contextlib
import hashlib
import json
import logging as std_logging
import math
import shutil
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from absl import logging
from etils import epath
from jax.experimental import multihost_utils
from orbax.checkpoint import v1 as ocp

from common import digests
from common.config import pick, to_json
from common.method import PyTree
from common.optimizers import path_name

BEST = {'min': min, 'max': max}


class CheckpointError(RuntimeError):
  """A checkpoint that cannot be written or read: what is wrong and where, in one line."""


class Restored(NamedTuple):
  """What a checkpoint holds."""

  step: int
  state: PyTree
  config: dict[str, Any]
  position: dict[str, Any]
  metrics: dict[str, float]


class _Damaged(Exception):
  """A step that cannot be trusted; the message says what is wrong with which leaf or file."""


class Checkpoints:
  """The checkpoints of one run. A context manager; closing waits for the last save.

  Under several processes every method is called by all of them alike.

  Args:
    directory: where the steps are; made if it is missing.
    keep: how many of the newest steps are kept. The best one is kept beside them.
    best_metric: the metric that decides which step is best.
    best_mode: 'min' or 'max'.
    read_only: look, but change nothing: no saving, nothing removed or moved aside.
    verbose: let Orbax's own log messages through.

  Raises:
    CheckpointError: the directory cannot be read, or written where it should be.
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
    self.directory = epath.Path(directory).absolute()
    self._keep, self._metric = keep, best_metric
    self._best = pick(BEST, best_mode, 'best_mode')
    self._read_only = read_only
    self._pending: tuple[int, Any] | None = None
    self._quiet = contextlib.nullcontext() if verbose else _without_orbax_messages()
    self._quiet.__enter__()
    if not read_only:
      self._clean_up()
    self._records = self._read_records()

  def __enter__(self) -> 'Checkpoints':
    return self

  def __exit__(self, *exception) -> None:
    self.close()

  def close(self) -> None:
    """Waits for the last save. Raises CheckpointError if it failed."""
    try:
      self.wait()
    finally:
      self._quiet.__exit__(None, None, None)
      self._quiet = contextlib.nullcontext()

  @property
  def steps(self) -> list[int]:
    """The finished steps, oldest first. Finished says nothing of damage: `restore` verifies."""
    if not self.directory.exists():
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
    leaves = {name: _storable(name, x) for name, x in named_leaves(state).items()}
    record = {
      'step': int(step),
      'config': json.loads(to_json(config)),
      'position': dict(position),
      'metrics': {k: float(v) for k, v in (metrics or {}).items()},
      'leaves': _describe(leaves),
    }
    if step in self.steps:
      return self._refuse_to_overwrite(step, record)
    _sync('save')  # nobody may write before all have looked
    with self._saving(step):
      data = {name: x for name, x in leaves.items() if x.size}  # Orbax stores no empty arrays
      with ocp.Context(checkpointables_options=_record_as_json()):
        response = ocp.save_checkpointables_async(
          self._path(step), {'state': data, 'record': _seal(record)}
        )
    self._pending = step, response
    self._records[step] = record
    return True

  def wait(self) -> None:
    """Waits until the last save is finished. Raises CheckpointError if it failed."""
    if self._pending is None:
      return
    (step, response), self._pending = self._pending, None
    with self._saving(step):
      response.result()
    self._prune()

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
    asked = {name: _with_sharding(name, x) for name, x in named_leaves(abstract_state).items()}
    damage: dict[int, str] = {}
    for candidate in self._candidates(step):
      found = self._load(candidate, asked, partial)
      if isinstance(found, str):
        damage[candidate] = found
        logging.warning('checkpoint %s is damaged: %s', self._path(candidate), found)
        continue
      self._move_aside(damage)
      record, leaves = found
      state = jax.tree.unflatten(jax.tree.structure(abstract_state), leaves.values())
      return Restored(candidate, state, record['config'], record['position'], record['metrics'])
    reasons = '; '.join(f'step {s}: {reason}' for s, reason in damage.items())
    raise CheckpointError(f'no usable checkpoint in {self.directory}: {reasons}')

  # Which steps there are.

  def _path(self, step: int):
    return self.directory / str(step)

  def _read_records(self) -> dict[int, dict]:
    records = {}
    for step in self.steps:
      with contextlib.suppress(_Damaged):  # reported when somebody wants to restore it
        records[step] = _read_record(self._path(step))
    return records

  def _by_metric(self) -> list[int]:
    values = {s: self._records[s]['metrics'].get(self._metric) for s in self._finished_records()}
    known = [s for s, value in values.items() if value is not None and math.isfinite(value)]
    return sorted(known, key=lambda s: (values[s], -s), reverse=self._best is max)

  def _finished_records(self) -> list[int]:
    return [s for s in self.steps if s in self._records]

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
      raise CheckpointError(
        f'checkpoint {self._path(step)} could not be saved: {_one_line(e)}; '
        f'steps there: {self.steps}'
      ) from e

  def _refuse_to_overwrite(self, step: int, record: dict) -> bool:
    there = self._records.get(step)
    if there is not None and there['leaves'] == record['leaves']:
      return False
    raise CheckpointError(
      f'{self._path(step)} holds another state of step {step}; a finished step is not overwritten: '
      'use another workdir, or remove the step'
    )

  def _clean_up(self) -> None:
    """Makes the directory, tries that it can be written, removes what a cut-off save left."""
    try:
      if jax.process_index() == 0:
        self.directory.mkdir(parents=True, exist_ok=True)
        probe = self.directory / '.writable'
        probe.write_text('')
        probe.unlink()
      for name in self._remove_leftovers():
        logging.warning('%s: removed %s, a save that was cut off', self.directory, name)
    except OSError as e:
      raise CheckpointError(f'{self.directory} cannot hold checkpoints: {_one_line(e)}') from e

  def _remove_leftovers(self) -> list[str]:
    _sync('leftovers')
    left = [p for p in self.directory.iterdir() if '.orbax-checkpoint-tmp' in p.name]
    if jax.process_index() == 0:
      for path in left:
        shutil.rmtree(path)
    _sync('removed')
    return [p.name for p in left]

  def _prune(self) -> None:
    """Removes all but the newest steps and the best; under another name first, in one move."""
    keep = {*self.steps[-self._keep :], self.best}
    _sync('prune')
    for step in [s for s in self.steps if s not in keep]:
      if jax.process_index() == 0:
        doomed = self._path(step).rename(self.directory / f'{step}.orbax-checkpoint-tmp-removed')
        shutil.rmtree(doomed)
      self._records.pop(step, None)
    _sync('pruned')

  def _move_aside(self, damage: Mapping[int, str]) -> None:
    if self._read_only or not damage:
      return
    if jax.process_index() == 0:
      for step in damage:
        taken = len(list(self.directory.glob(f'damaged-{step}*')))
        self._path(step).rename(
          self.directory / (f'damaged-{step}' + (f'-{taken + 1}' if taken else ''))
        )
    for step in damage:
      self._records.pop(step, None)
    _sync('moved aside')

  # Reading.

  def _load(self, step: int, asked: Mapping, partial: bool) -> tuple[dict, dict] | str:
    """The record and the verified leaves of a step, or what is wrong with it."""
    try:
      record = _read_record(self._path(step))
      problem = ''
    except _Damaged as e:
      problem = str(e)
    if not (problem := _agree(problem)):
      _compare(self._path(step), record['leaves'], asked, partial)
      try:
        leaves = _read_leaves(self._path(step), asked)
      except (MemoryError, jax.errors.JaxRuntimeError):
        raise
      except Exception as e:  # whatever Orbax makes of a file that is cut off, missing or garbled
        problem = _one_line(e)
    if problem := _agree(problem):
      return problem
    found = digests.digests(leaves)
    wrong = [name for name in asked if found[name] != record['leaves'][name][2]]
    if wrong:
      return f'{wrong[0]} does not match its digest ({len(wrong)} of {len(asked)} leaves do not)'
    return record, leaves


def named_leaves(tree: PyTree) -> dict[str, Any]:
  """{'params/dense/kernel': leaf} for every leaf of a pytree, in the order of its leaves.

  A named tuple and a dict with the same names are alike.

  Raises:
    CheckpointError: two leaves have the same name.
  """
  paths = jax.tree_util.tree_leaves_with_path(tree)
  named = {path_name(path): leaf for path, leaf in paths}
  if len(named) < len(paths):
    raise CheckpointError('two leaves of the state have the same path; rename one of them')
  return named


def _storable(name: str, x: Any) -> jax.Array | np.ndarray:
  """The leaf as an array; one that every process holds for itself as a host array."""
  if isinstance(x, jax.Array):
    alone = jax.process_count() > 1 and x.is_fully_addressable
    return np.asarray(x) if alone else x
  try:
    return np.asarray(x, jax.dtypes.canonicalize_dtype(np.asarray(x).dtype))
  except TypeError as e:
    raise CheckpointError(f'{name} of the state is no array but {type(x).__name__}') from e


def _with_sharding(name: str, x: Any) -> jax.ShapeDtypeStruct:
  sharding = getattr(x, 'sharding', None)
  if sharding is None:
    sharding = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
  try:
    sharding.shard_shape(x.shape)
  except ValueError as e:
    raise CheckpointError(f'{name} cannot be sharded as asked: {_one_line(e)}') from e
  return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)


def _describe(leaves: Mapping[str, Any]) -> dict[str, list]:
  """{name: [shape, type, digest]}."""
  sums = digests.digests(leaves)
  return {name: [list(x.shape), str(x.dtype), sums[name]] for name, x in leaves.items()}


def _compare(path, there: Mapping[str, list], asked: Mapping, partial: bool) -> None:
  """Raises CheckpointError that names the first leaf in which checkpoint and state differ."""
  shown = lambda shape, dtype: f'{dtype}[{",".join(map(str, shape))}]'
  for name, x in asked.items():
    want = shown(x.shape, x.dtype)
    if name not in there:
      raise CheckpointError(f'{path} is of another model: it has no {name}, which here is {want}')
    if (have := shown(*there[name][:2])) != want:
      raise CheckpointError(f'{path} is of another model: {name} is {have} there and {want} here')
  extra = [name for name in there if name not in asked]
  if extra and not partial:
    have = shown(*there[extra[0]][:2])
    raise CheckpointError(f'{path} is of another model: it has {extra[0]} {have}, unknown here')


def _read_leaves(path, asked: Mapping) -> dict[str, jax.Array]:
  """The leaves as Orbax reads them. Each process by itself: one that fails holds up no other."""
  me = jax.process_index()
  context = ocp.Context(
    pytree_options=ocp.options.PyTreeOptions(
      loading=ocp.options.PyTreeOptions.Loading(partial_load=True)
    ),
    multiprocessing_options=ocp.options.MultiprocessingOptions(
      primary_host=me, active_processes={me}, barrier_sync_key_prefix=f'read{me}'
    ),
  )
  data = {name: x for name, x in asked.items() if math.prod(x.shape)}
  with context:
    read = ocp.load_checkpointables(path, {'state': data})['state'] if data else {}
  empty = lambda x: jax.jit(lambda: jax.numpy.zeros(x.shape, x.dtype), out_shardings=x.sharding)()
  return {name: read[name] if name in read else empty(x) for name, x in asked.items()}


def _record_as_json() -> ocp.options.CheckpointablesOptions:
  registry = ocp.handlers.local_registry()
  registry.add(ocp.handlers.JsonHandler, checkpointable_name='record')
  return ocp.options.CheckpointablesOptions(registry=registry)


def _seal(record: Mapping) -> dict[str, str]:
  text = json.dumps(record)
  return {'json': text, 'sha256': hashlib.sha256(text.encode()).hexdigest()}


def _read_record(path) -> dict:
  """The record of a step. Raises _Damaged."""
  file = path / 'record' / 'data.json'
  try:
    sealed = json.loads(file.read_text())
    text = sealed['json']
    whole = hashlib.sha256(text.encode()).hexdigest() == sealed['sha256']
  except (OSError, ValueError, KeyError, TypeError, AttributeError) as e:
    raise _Damaged(f'record/data.json: {_one_line(e)}') from e
  if not whole:
    raise _Damaged('record/data.json does not match its checksum')
  return json.loads(text)


def _agree(problem: str) -> str:
  """The same verdict for all processes: a step is sound where all of them found it so."""
  if jax.process_count() > 1 and multihost_utils.process_allgather(np.array(bool(problem))).any():
    return problem or 'another process could not read its part'
  return problem


def _sync(name: str) -> None:
  if jax.process_count() > 1:
    multihost_utils.sync_global_devices(f'checkpoints: {name}')


def _one_line(e: BaseException) -> str:
  text = ' '.join(str(e).split()) or type(e).__name__
  return text if len(text) <= 300 else text[:297] + '...'


@contextlib.contextmanager
def _without_orbax_messages():
  """Keeps what Orbax logs, step by step and at length, out of the program's log."""
  keep: Callable = lambda record: '/orbax/' not in record.pathname
  logger = std_logging.getLogger('absl')
  logger.addFilter(keep)
  try:
    yield
  finally:
    logger.removeFilter(keep)
