"""The arrays of a checkpoint on disk: the only module that uses Orbax.

Orbax writes arrays of any sharding from all processes at once, under a temporary name until all are
complete. It does not notice a flipped bit in an array; `records.py` does. This module calls Orbax's
free functions and not its checkpoint managers, because the managers of version 0.12.8 cannot open a
directory with a damaged metrics file, and silently skip some saves.
"""

import contextlib
import functools
import logging
import math
import sys
from collections.abc import Callable, Mapping

import jax
from orbax.checkpoint import v1 as ocp

from common.checkpoints import records
from common.checkpoints.records import DamagedCheckpoint, one_line
from common.files import Path, children, in_bucket, remove_folder, sync_tree

UNFINISHED = '.orbax-checkpoint-tmp'  # part of the names that Orbax gives to unfinished folders
# Devices that hold one array share out its bytes if each gets this many to write. Orbax compiles a
# program that cuts a slice, for each device and shape: slower than writing a small array whole.
ARRAY_SAVING = ocp.options.ArrayOptions.Saving(min_slice_bytes_for_replica_parallel=2**20)
COMMITTED = 'commit_success.txt'  # Orbax writes it last in a bucket, where it renames nothing


def finished_steps(folder: Path) -> list[int]:
  """The steps in a folder that were written completely, oldest first; they may be damaged."""
  if in_bucket(folder):
    steps = [path.parent.name for path in folder.glob(f'*/{COMMITTED}')]
  else:
    steps = [path.name for path in children(folder)]
  return sorted(int(step) for step in steps if step.isdecimal())


def unfinished(folder: Path) -> list[Path]:
  """The folders in a folder that an interrupted save or removal has left."""
  if not in_bucket(folder):
    return [path for path in children(folder) if UNFINISHED in path.name]
  finished = set(map(str, finished_steps(folder)))
  return [p for p in children(folder) if p.name.isdecimal() and p.name not in finished]


def remove(path: Path) -> None:
  """Removes a step; an interrupted removal leaves no step that looks finished."""
  if not in_bucket(path):
    path = path.rename(path.with_name(f'{path.name}{UNFINISHED}-removed'))  # which is atomic
  remove_folder(path)


def start_to_write(path: Path, leaves: Mapping, record: Mapping) -> Callable[[], None]:
  """Starts an asynchronous save; returns once the values of the leaves are copied.

  Args:
    path: the final name of the folder, which it gets once everything is written.
    leaves: arrays by name. With several processes, global arrays, or host arrays that are the same
      on all of them.
    record: the record to save with the arrays, a JSON object.

  Returns:
    A function that waits until the save has finished, and raises its error if it failed.
  """
  # Only JSON needs a handler here: Orbax has one for arrays.
  registry = ocp.handlers.local_registry()
  registry.add(ocp.handlers.JsonHandler, checkpointable_name=records.RECORD.parent.name)
  context = ocp.Context(
    checkpointables_options=ocp.options.CheckpointablesOptions(registry=registry),
    array_options=ocp.options.ArrayOptions(saving=ARRAY_SAVING),
  )
  arrays = {name: x for name, x in leaves.items() if x.size}  # Orbax stores no empty arrays
  content = {'state': arrays, 'record': records.seal(record)}
  with context:
    response = ocp.save_checkpointables_async(path, content)

  def finish():
    response.result()
    # After Orbax has renamed the folder: the manifest lists the files of the finished step. In a
    # bucket it would have to read all of them again, and Cloud Storage has checksums of its own.
    if jax.process_index() == 0 and not in_bucket(path):
      records.write_manifest(path)
    # Only now the step counts as saved, and older steps may be removed.
    sync_tree(path)

  return finish


def read(path: Path, asked: Mapping) -> dict[str, jax.Array]:
  """Reads leaves with Orbax, without verification.

  Each process reads its part independently, so that a process that fails does not block the others.

  Args:
    path: the folder of the step.
    asked: name, shape, type and sharding of each leaf; the checkpoint must have all of them.

  Raises:
    DamagedCheckpoint: the leaves cannot be read.
  """
  # Each process is its own primary host with its own barrier, so that a process that fails to read
  # does not leave the others waiting. They agree on the outcome later (`checkpoints._agreed`).
  me = jax.process_index()
  options = ocp.options
  context = ocp.Context(
    pytree_options=options.PyTreeOptions(loading=options.PyTreeOptions.Loading(partial_load=True)),
    multiprocessing_options=options.MultiprocessingOptions(
      primary_host=me, active_processes={me}, barrier_sync_key_prefix=f'read{me}'
    ),
  )
  arrays = {name: x for name, x in asked.items() if math.prod(x.shape)}
  found = {}
  if arrays:
    try:
      with context:
        found = ocp.load(path, arrays, checkpointable_name='state')
    except (MemoryError, jax.errors.JaxRuntimeError):
      raise  # the file is not to blame: an older step would fail in the same way
    except Exception as e:  # Orbax raises many types for a truncated, missing or corrupt file
      raise DamagedCheckpoint(one_line(e)) from e
  leaves = {name: found[name] if name in found else _empty(x) for name, x in asked.items()}
  for name, x in asked.items():
    if not isinstance(leaves[name], jax.Array):
      raise DamagedCheckpoint(f'{name} is missing from the arrays')
    # For typed keys, Orbax returns the sharding of the key data.
    if leaves[name].sharding != x.sharding:
      leaves[name] = jax.device_put(leaves[name], x.sharding)
  return leaves


def _empty(x: jax.ShapeDtypeStruct) -> jax.Array:
  """An array without elements, which Orbax does not store."""
  zeros = functools.partial(jax.numpy.zeros, x.shape, x.dtype)
  return jax.jit(zeros, out_shardings=x.sharding)()


class _NotOrbax(logging.Filter):
  """Lets no message of Orbax pass."""

  def filter(self, record: logging.LogRecord) -> bool:
    return '/orbax/' not in record.pathname


@contextlib.contextmanager
def quietly():
  """Keeps Orbax's long log messages out of the program's log.

  After a read or write has failed, some of Orbax's threads keep running and print errors. These are
  hidden too: the failure itself is raised, and reported in one line.
  """
  logger, show = logging.getLogger('absl'), sys.unraisablehook
  others = _NotOrbax()  # its own for each use: one that ends must not end those around it

  def show_others(unraisable):
    if str(unraisable.exc_value) != 'Event loop is closed':
      show(unraisable)

  logger.addFilter(others)
  sys.unraisablehook = show_others
  try:
    yield
  finally:
    logger.removeFilter(others)
    if sys.unraisablehook is show_others:
      sys.unraisablehook = show
