"""Examples by index: from memory for small sets, from disk with threads for large ones."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import grain
import numpy as np

READ_THREADS = 16


class Source(Protocol):
  """A split: examples by index."""

  def __len__(self) -> int: ...

  def gather(self, indices: np.ndarray) -> dict[str, np.ndarray]:
    """{'x': uint8 [n, *shape], 'label': int32 [n]} of these examples, in this order."""
    ...


@dataclasses.dataclass(frozen=True, eq=False)
class Memory:
  """A split in memory.

  Attributes:
    arrays: 'x', uint8 [n, *shape], and, where there are classes, 'label', int32 [n].
  """

  arrays: Mapping[str, np.ndarray]

  def __len__(self) -> int:
    return len(self.arrays['x'])

  def gather(self, indices: np.ndarray) -> dict[str, np.ndarray]:
    return {key: np.take(array, indices, axis=0) for key, array in self.arrays.items()}


@dataclasses.dataclass(frozen=True, eq=False)
class Disk:
  """A split on disk: a TFDS data source, read by index with Grain's threads."""

  records: Sequence[Mapping[str, Any]]

  def __len__(self) -> int:
    return len(self.records)

  def gather(self, indices: np.ndarray) -> dict[str, np.ndarray]:
    wanted = grain.MapDataset.source(indices.tolist()).map(self.records.__getitem__)
    options = grain.ReadOptions(num_threads=READ_THREADS, prefetch_buffer_size=len(indices))
    return _stack(list(wanted.to_iter_dataset(options)))

  def to_memory(self) -> Memory:
    """The whole split, decoded."""
    return Memory(_stack(self.records.__getitems__(range(len(self)))))


def _stack(examples: Sequence[Mapping[str, Any]]) -> dict[str, np.ndarray]:
  batch = {'x': np.stack([example['x'] for example in examples])}
  if 'label' in examples[0]:
    batch['label'] = np.array([example['label'] for example in examples], np.int32)
  return batch
