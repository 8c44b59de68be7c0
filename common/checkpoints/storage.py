"""The arrays of a checkpoint on the disk: everything that knows Orbax.

Orbax writes arrays of any sharding from all processes at once, under a temporary name until all are
there. It does not notice a flipped bit in an array: `common.records` does. Its free functions are
used rather than its managers: those of version 0.12.8 cannot open a directory in which one metrics
file is damaged, and skip saves by policy without a word.
"""

import contextlib
import logging
import math
import pathlib
import sys
from collections.abc import Callable, Mapping

import jax
from orbax.checkpoint import v1 as ocp

from common.checkpoints import records
from common.checkpoints.records import Damaged, one_line


def start_to_write(path: pathlib.Path, leaves: Mapping, record: Mapping) -> Callable[[], None]:
  """Starts an asynchronous save; returns once the values of the leaves are copied.

  Args:
    path: the final name of the step, which it gets when all is written.
    leaves: arrays by name. Under several processes global ones, or host arrays that are the same
      everywhere.
    record: what is saved beside them, as JSON.

  Returns:
    A function that waits for the end, and raises whatever went wrong on the way.
  """
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
    if jax.process_index() == 0:
      records.write_manifest(path)

  return finish


def read(path: pathlib.Path, asked: Mapping) -> dict[str, jax.Array]:
  """The leaves as Orbax reads them, not verified.

  Each process reads its part by itself, so that one that fails holds up no other.

  Args:
    path: the step.
    asked: name, shape, type and sharding of each leaf; all of them are in the checkpoint.

  Raises:
    Damaged: they cannot be read.
  """
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
      raise
    except Exception as e:  # whatever Orbax makes of a file that is cut off, missing or garbled
      raise Damaged(one_line(e)) from e
  empty = lambda x: jax.jit(lambda: jax.numpy.zeros(x.shape, x.dtype), out_shardings=x.sharding)()
  leaves = {name: found[name] if name in found else empty(x) for name, x in asked.items()}
  for name, x in asked.items():
    if not isinstance(leaves[name], jax.Array):
      raise Damaged(f'{name} is not among the arrays')
    if leaves[name].sharding != x.sharding:  # of typed keys Orbax returns that of their words
      leaves[name] = jax.device_put(leaves[name], x.sharding)
  return leaves


@contextlib.contextmanager
def quietly():
  """Keeps what Orbax logs, step by step and at length, out of the program's log.

  Also what is printed for its threads that outlive a read or write it has given up: the reason it
  gave up for is raised, and reported in one line.
  """
  keep: Callable = lambda record: '/orbax/' not in record.pathname
  logger, show = logging.getLogger('absl'), sys.unraisablehook

  def show_others(unraisable):
    if str(unraisable.exc_value) != 'Event loop is closed':
      show(unraisable)

  logger.addFilter(keep)
  sys.unraisablehook = show_others
  try:
    yield
  finally:
    logger.removeFilter(keep)
    if sys.unraisablehook is show_others:
      sys.unraisablehook = show
