"""What the processes of one run agree on. They compare by collectives of all devices.

All processes call each function, in the same order, while their devices do nothing else.
"""

import contextlib
import json
import secrets
import time
from collections.abc import Iterator, Mapping

import jax
import numpy as np
from jax.experimental import multihost_utils

from common.config import ConfigError, differences, to_json
from common.files import Path, nearest_folder

VISIBLE_WITHIN = 10.0  # seconds: network file systems remember for a while what a folder holds
MOST_SHOWN = 5  # differences that a message lists


@contextlib.contextmanager
def agreed(caught: type[Exception], raised: type[Exception], failure: str) -> Iterator[None]:
  """Raises an error on all processes if one of them raises it: otherwise the others would wait.

  Args:
    caught: the errors to agree on.
    raised: what a process raises that has no error of its own.
    failure: what the other process failed to do, after its number: 'could not start'.
  """
  error = None
  try:
    yield
  except caught as own:
    error = own
  if jax.process_count() > 1:
    failed = multihost_utils.process_allgather(np.array(error is not None))
    if error is None and failed.any():
      error = raised(f'process {failed.argmax()} {failure}')
  if error is not None:
    raise error


def texts_of_all(text: str) -> list[str]:
  """A text of each process, by the number of the process."""
  if jax.process_count() == 1:
    return [text]
  own = np.frombuffer(text.encode(), np.uint8)
  sizes = multihost_utils.process_allgather(np.array(own.size))
  padded = np.pad(own, (0, sizes.max() - own.size))
  rows = multihost_utils.process_allgather(padded)
  return [row[:size].tobytes().decode() for row, size in zip(rows, sizes, strict=True)]


def check_equal(what: str, values: Mapping, advice: str) -> None:
  """Raises ConfigError on all processes unless all of them have the same values.

  Args:
    what: the values together, for the message: 'config'.
    values: a JSON object.
    advice: what to do.
  """
  first, *others = map(json.loads, texts_of_all(to_json(values)))
  for number, other in enumerate(others, 1):
    if changed := differences(other, first):
      shown = [f'{key}: there {new!r}, on process 0 {old!r}' for key, (old, new) in changed.items()]
      if len(shown) > MOST_SHOWN:
        shown[MOST_SHOWN:] = [f'{len(shown) - MOST_SHOWN} more']
      raise ConfigError(
        f'process {number} holds another {what} than process 0 ({"; ".join(shown)}): {advice}'
      )


def check_shared(folder: Path) -> None:
  """Raises ConfigError on all processes unless all of them see the files of process 0 in a folder.

  Args:
    folder: the folder; if it does not exist yet, the nearest one above it is tried.
  """
  if jax.process_count() == 1:
    return
  name = texts_of_all(f'.shared-{secrets.token_hex(8)}')[0]
  with contextlib.ExitStack() as stack:
    with agreed(OSError, ConfigError, f'cannot write to {folder}'):
      if jax.process_index() == 0:
        probe = nearest_folder(folder) / name
        probe.write_bytes(b'')
        stack.callback(probe.unlink, missing_ok=True)
    end = time.monotonic() + VISIBLE_WITHIN
    while not (seen := (nearest_folder(folder) / name).exists()) and time.monotonic() < end:
      time.sleep(0.1)
    seen = multihost_utils.process_allgather(np.array(seen))
  if not seen.all():
    raise ConfigError(
      f'process {seen.argmin()} does not see the files that process 0 writes to {folder}: give a '
      'folder on a file system that all processes share'
    )
