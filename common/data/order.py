"""The endless sequence of training examples: their order, and what is random about each.

Everything depends only on the seed, the epoch and the example, so that a run that resumes, or is
spread over more processes, sees the same examples.
"""

import functools
from collections.abc import Callable

import numpy as np

# Streams of random numbers for different purposes: Philox with the same key and another counter.
ORDER, FLIPS, SHIFTS = 0, 1, 2


def _words(seed: int, epoch: int, size: int, purpose: int = ORDER) -> np.ndarray:
  """Random 64-bit numbers: raw ones of Philox, keyed by (seed, epoch).

  The stream of the bit generator is fixed for good, while the methods of NumPy's generators may
  change between versions.
  """
  key = np.array([seed % 2**64, epoch], np.uint64)
  return np.random.Philox(key=key, counter=[0, 0, 0, purpose]).random_raw(size)


@functools.lru_cache(maxsize=4)
def _permutation(seed: int, epoch: int, size: int) -> np.ndarray:
  """The order of an epoch: the ranks of random numbers, which are a uniform permutation.

  Grain's own shuffle takes more than a millisecond per batch of 128, because it is evaluated index
  by index. It also seeds an epoch with seed + epoch, so runs with seeds 0 and 1 share their orders.
  """
  # Stable, so that the order is defined even if two numbers are equal.
  return np.argsort(_words(seed, epoch, size), kind='stable')


def train_indices(seed: int, first: int, last: int, size: int) -> np.ndarray:
  """Indices of the examples at positions [first, last) of the endless training sequence, int64.

  Args:
    seed: chooses the order of the examples.
    first, last: the range of positions, which may span several epochs.
    size: number of training examples.
  """
  parts = []
  while first < last:
    epoch, start = divmod(first, size)
    part = _permutation(seed, epoch, size)[start : start + last - first]
    parts.append(part)
    first += len(part)
  return np.concatenate(parts)


@functools.lru_cache(maxsize=4)
def _coins(seed: int, epoch: int, size: int) -> np.ndarray:
  """For each example, whether it is mirrored in an epoch."""
  words = _words(seed, epoch, -(-size // 64), FLIPS)
  return np.unpackbits(words.astype('<u8').view(np.uint8))[:size].astype(bool)


@functools.lru_cache(maxsize=4)
def _shifts(seed: int, epoch: int, size: int, length: int) -> np.ndarray:
  """For each window, by how many elements it is shifted in an epoch: 0 to length - 1."""
  return (_words(seed, epoch, size, SHIFTS) % np.uint64(length)).astype(np.int64)


def train_flips(seed: int, first: int, last: int, size: int) -> np.ndarray:
  """Which examples at positions [first, last) of the training sequence are mirrored; about half."""
  return _of_examples(_coins, seed, first, last, size)


def train_shifts(seed: int, first: int, last: int, size: int, length: int) -> np.ndarray:
  """By how many elements the windows at positions [first, last) are shifted: 0 to length - 1."""
  return _of_examples(_shifts, seed, first, last, size, length)


def _of_examples(
  draw: Callable[..., np.ndarray], seed: int, first: int, last: int, size: int, *limits: int
) -> np.ndarray:
  """What `draw` draws for each example in an epoch, in the order of the training sequence."""
  indices, epochs = train_indices(seed, first, last, size), np.arange(first, last) // size
  return np.concatenate(
    [draw(seed, e, size, *limits)[indices[epochs == e]] for e in np.unique(epochs).tolist()]
  )
