"""The arrays of a checkpoint on disk: the only module that uses Orbax.

Orbax writes arrays of any sharding from all processes at once, under a temporary name until all are
complete. It does not notice a flipped bit in an array; `records.py` does. This module calls Orbax's
free functions, not its checkpoint managers: those of version 0.12.8 cannot open a directory in
which one metrics file is damaged, and skip some saves silently.
"""

import contextlib
import functools
import logging
import math
import pathlib
import sys
from collections.abc import Callable, Mapping

import jax
from orbax.checkpoint import v1 as ocp

from common.checkpoints import records
from common.checkpoints.records import DamagedCheckpoint, one_line


def start_to_write(path: pathlib.Path, leaves: Mapping, record: Mapping) -> Callable[[], None]:
  """Starts an asynchronous save; returns once the values of the leaves are copied.

  Args:
    path: the final name of the step, given to it once everything is written.
    leaves: arrays by name. With several processes, global arrays, or host arrays that are the same
      on all of them.
    record: the record to save with them, as JSON.

  Returns:
    A function that waits for the end of the save, and raises the error of one that failed.
  """
  # Only JSON needs a handler here: Orbax knows how to save arrays.
  registry = ocp.handlers.local_registry()
  registry.add(ocp.handlers.JsonHandler, checkpointable_name=records.RECORD.parent.name)
  context = ocp.Context(
    checkpointables_options=ocp.options.CheckpointablesOptions(registry=registry)
  )
  arrays = {name: x for name, x in leaves.items() if x.size}  # Orbax stores no empty arrays
  content = {'state': arrays, 'record': records.seal(record)}
  with context:
    response = ocp.save_checkpointables_async(path, content)

  def finish():
    response.result()
    # After Orbax's own renaming: the manifest lists the files of the finished folder.
    if jax.process_index() == 0:
      records.write_manifest(path)

  return finish


def read(path: pathlib.Path, asked: Mapping) -> dict[str, jax.Array]:
  """The leaves as Orbax reads them, without verification.

  Each process reads its part independently, so that one that fails does not block the others.

  Args:
    path: the folder of the step.
    asked: name, shape, type and sharding of each leaf; all of them are in the checkpoint.

  Raises:
    DamagedCheckpoint: they cannot be read.
  """
  # Each process is its own primary host, with a barrier of its own: a process that fails to read
  # must not leave the others waiting. They agree on the outcome afterwards (`checkpoints._agreed`).
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
      raise  # not the file's fault: an older step would fail alike
    except Exception as e:  # whatever Orbax raises for a truncated, missing or garbled file
      raise DamagedCheckpoint(one_line(e)) from e
  leaves = {name: found[name] if name in found else _empty(x) for name, x in asked.items()}
  for name, x in asked.items():
    if not isinstance(leaves[name], jax.Array):
      raise DamagedCheckpoint(f'{name} is not among the arrays')
    # For typed keys, Orbax returns the sharding of their words.
    if leaves[name].sharding != x.sharding:
      leaves[name] = jax.device_put(leaves[name], x.sharding)
  return leaves


def _empty(x: jax.ShapeDtypeStruct) -> jax.Array:
  """An array without elements, which Orbax does not store."""
  zeros = functools.partial(jax.numpy.zeros, x.shape, x.dtype)
  return jax.jit(zeros, out_shardings=x.sharding)()


def _is_not_orbax(record: logging.LogRecord) -> bool:
  return '/orbax/' not in record.pathname


@contextlib.contextmanager
def quietly():
  """Keeps Orbax's long log of every step out of the program's log.

  Also hides the messages of its threads that are still running after a read or write was given up:
  the reason for giving up is raised, and reported in one line.
  """
  logger, show = logging.getLogger('absl'), sys.unraisablehook

  def show_others(unraisable):
    if str(unraisable.exc_value) != 'Event loop is closed':
      show(unraisable)

  logger.addFilter(_is_not_orbax)
  sys.unraisablehook = show_others
  try:
    yield
  finally:
    logger.removeFilter(_is_not_orbax)
    if sys.unraisablehook is show_others:
      sys.unraisablehook = show
