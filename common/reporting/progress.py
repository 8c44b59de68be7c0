"""The progress of long work outside training, such as an evaluation."""

import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

import jax
from absl import logging

from common.reporting.writers import duration

T = TypeVar('T')
LINE_EVERY = 30.0  # seconds


def reported(items: Iterable[T], total: int, what: str) -> Iterator[T]:
  """The items, while their progress is shown: a bar on a terminal, a line now and then elsewhere.

  Short work shows nothing.

  Args:
    items: what is worked on.
    total: number of items.
    what: the work, for readers: 'sampling'.
  """
  if jax.process_index() == 0 and sys.stderr.isatty():
    from tqdm import tqdm

    # dynamic_ncols needs a size; a terminal without one gets tqdm's own default.
    yield from tqdm(items, what, total, leave=False, dynamic_ncols=True, delay=2.0)
    return
  start = last = time.monotonic()
  for done, item in enumerate(items, 1):
    yield item
    now = time.monotonic()
    if now - last >= LINE_EVERY and done < total and jax.process_index() == 0:
      last, left = now, duration((now - start) / done * (total - done))
      logging.info('%s: %d of %d, about %s left', what, done, total, left)
