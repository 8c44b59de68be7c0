"""Examples by index: from memory for small sets, from disk with threads for large ones."""

import contextlib
import dataclasses
import functools
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np

from common.config import ConfigError

READ_THREADS = 16
READ_TOGETHER = 64  # records that a thread reads at once: six times as fast as one by one


@runtime_checkable
class Source(Protocol):
  """A split: examples by index."""

  def __len__(self) -> int: ...

  def gather(self, indices: np.ndarray) -> dict[str, np.ndarray]:
    """{'x': [n, *shape], 'label': int32 [n]} of these examples, in this order.

    No label where the data has no classes.

    Raises:
      ConfigError: where the files are damaged.
    """
    ...


@dataclasses.dataclass(frozen=True, eq=False)
class Disk:
  """A split on disk: a TFDS data source, read by index with Grain's threads.

  Attributes:
    records: what `as_data_source` of a TFDS builder gives: examples decoded one by one.
    folder: where they are, for messages.
  """

  records: Any
  folder: pathlib.Path

  def __len__(self) -> int:
    return len(self.records)

  def gather(self, indices: np.ndarray) -> dict[str, np.ndarray]:
    import grain  # here: a command without records on disk starts without it

    blocks = [
      indices[i : i + READ_TOGETHER].tolist() for i in range(0, len(indices), READ_TOGETHER)
    ]
    wanted = grain.MapDataset.source(blocks).map(self.records.__getitems__)
    options = grain.ReadOptions(num_threads=READ_THREADS, prefetch_buffer_size=READ_THREADS)
    with self._damage_named():
      return _stack([example for block in wanted.to_iter_dataset(options) for example in block])

  @contextlib.contextmanager
  def _damage_named(self) -> Iterator[None]:
    try:
      yield
    except Exception as error:  # ArrayRecord has no type of its own for a damaged file
      raise ConfigError(
        f'{self.folder} is damaged; delete and prepare it again: {error}'
      ) from error


@dataclasses.dataclass(frozen=True, eq=False)
class Memory:
  """A split in memory, decoded when it is first asked for."""

  disk: Disk

  @functools.cached_property
  def arrays(self) -> dict[str, np.ndarray]:
    """'x', [n, *shape], and, where there are classes, 'label', int32 [n]."""
    return self.disk.gather(np.arange(len(self.disk)))

  def __len__(self) -> int:
    return len(self.disk)

  def gather(self, indices: np.ndarray) -> dict[str, np.ndarray]:
    return {key: np.take(array, indices, axis=0) for key, array in self.arrays.items()}


def _stack(examples: Sequence[Mapping[str, Any]]) -> dict[str, np.ndarray]:
  batch = {'x': np.stack([example['x'] for example in examples])}
  if 'label' in examples[0]:
    batch['label'] = np.array([example['label'] for example in examples], np.int32)
  return batch
