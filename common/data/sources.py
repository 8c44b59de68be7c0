"""Sources: the examples of one split, read by index.

A small split is decoded once and kept in memory. A large one stays on disk and is read by Grain's
threads. Both return the same examples.
"""

import abc
import dataclasses
import functools
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from common.config import ConfigError
from common.data.spec import DataSpec

READ_THREADS = 16
RECORDS_PER_READ = 64  # by one thread; reading 64 at a time is six times as fast as one by one


class Source(abc.ABC):
  """The examples of one split, by index.

  Attributes:
    in_memory: whether all examples are held in memory once the first has been read.
  """

  in_memory: ClassVar[bool] = False

  @abc.abstractmethod
  def __len__(self) -> int:
    """Number of examples."""

  @abc.abstractmethod
  def gather(self, indices: np.ndarray) -> dict[str, np.ndarray]:
    """The examples at `indices`, in that order.

    Returns:
      {'x': [n, *shape], 'label': int32 [n]}; without 'label' if the data has no classes. Windows of
      time series have 'start' too, int32 [n] (`DataSpec.domain`), dialogues and piano rolls
      'counted', bool, and stacked images 'mode', int32 [n].

    Raises:
      ConfigError: if the files of the dataset are damaged.
    """


@dataclasses.dataclass(frozen=True, eq=False)
class DiskSource(Source):
  """A split on disk: a TFDS data source, read by index with Grain's threads.

  Attributes:
    records: the result of `as_data_source` of a TFDS builder; it decodes examples one by one.
    folder: the folder of the prepared dataset, for messages.
  """

  records: Any
  folder: pathlib.Path

  def __len__(self) -> int:
    return len(self.records)

  def gather(self, indices: np.ndarray) -> dict[str, np.ndarray]:
    # Imported here, so that a command which reads nothing from disk starts without Grain.
    import grain

    blocks = [
      indices[i : i + RECORDS_PER_READ].tolist() for i in range(0, len(indices), RECORDS_PER_READ)
    ]
    # Threads read blocks in parallel, but Grain returns the blocks in the order of `indices`.
    dataset = grain.MapDataset.source(blocks).map(self.records.__getitems__)
    options = grain.ReadOptions(num_threads=READ_THREADS, prefetch_buffer_size=READ_THREADS)
    try:
      return _stack([example for block in dataset.to_iter_dataset(options) for example in block])
    # ArrayRecord checks a hash of each chunk, but has no exception type of its own for a mismatch.
    except Exception as error:
      raise ConfigError(
        f'{self.folder} is damaged; delete it and prepare the dataset again: {error}'
      ) from error


@dataclasses.dataclass(frozen=True, eq=False)
class MemorySource(Source):
  """A split in memory: it is read from disk as a whole when the first example is needed."""

  disk: DiskSource

  in_memory = True

  @functools.cached_property
  def arrays(self) -> dict[str, np.ndarray]:
    """All examples: 'x' [n, *shape] and, if the data has classes, 'label' int32 [n]."""
    return self.disk.gather(np.arange(len(self.disk)))

  def __len__(self) -> int:
    return len(self.disk)

  def gather(self, indices: np.ndarray) -> dict[str, np.ndarray]:
    return {key: np.take(array, indices, axis=0) for key, array in self.arrays.items()}


@dataclasses.dataclass(frozen=True, eq=False)
class GivenSource(Source):
  """Examples in arrays: 'x' [n, *shape] and, if they have classes, 'label' int32 [n]."""

  arrays: Mapping[str, np.ndarray]

  in_memory = True

  def __len__(self) -> int:
    return len(self.arrays['x'])

  def gather(self, indices: np.ndarray) -> dict[str, np.ndarray]:
    return {key: np.take(array, indices, axis=0) for key, array in self.arrays.items()}


@dataclasses.dataclass(frozen=True, eq=False)
class ChosenExamples(Source):
  """Some examples of another source.

  Attributes:
    source: the other source.
    chosen: the indices of its examples, of which some may be there more than once.
  """

  source: Source
  chosen: np.ndarray

  def __len__(self) -> int:
    return len(self.chosen)

  def gather(self, indices: np.ndarray) -> dict[str, np.ndarray]:
    return self.source.gather(self.chosen[indices])


@dataclasses.dataclass(frozen=True, eq=False)
class JoinedSource(Source):
  """The examples of several sources, one source after another."""

  parts: tuple[Source, ...]

  @property
  def in_memory(self) -> bool:
    return all(part.in_memory for part in self.parts)

  def __len__(self) -> int:
    return sum(map(len, self.parts))

  def gather(self, indices: np.ndarray) -> dict[str, np.ndarray]:
    indices = np.asarray(indices)
    if indices.size and not 0 <= indices.min() <= indices.max() < len(self):
      raise IndexError(f'indices must be in [0, {len(self)}), got {indices.min()}, {indices.max()}')
    joined, start = {}, 0
    for part in self.parts:
      places = np.flatnonzero((start <= indices) & (indices < start + len(part)))
      found = part.gather(indices[places] - start) if len(places) or not len(indices) else {}
      for key, values in found.items():
        if key not in joined:
          joined[key] = np.empty((len(indices), *values.shape[1:]), values.dtype)
        joined[key][places] = values
      start += len(part)
    return joined


def given_examples(spec: DataSpec, x: np.ndarray, label: np.ndarray | None = None) -> GivenSource:
  """A source of given examples.

  Args:
    spec: the data that they are like.
    x: the examples [n, *shape].
    label: their classes [n], which data with classes need.

  Raises:
    ValueError: the examples have another shape or other values than those of the data, or there is
      not one class for each of them.
  """
  x = np.asarray(x)
  if x.shape[1:] != spec.shape or not len(x):
    raise ValueError(f'x must have the shape (n, {str(spec.shape)[1:-1]}), n ≥ 1, got {x.shape}')
  if spec.levels and not (
    np.issubdtype(x.dtype, np.integer) and (x >= 0).all() and (x < spec.levels).all()
  ):
    raise ValueError(
      f'x must hold integers in [0, {spec.levels}), as {spec.name} does, got {x.dtype} in '
      f'[{x.min():g}, {x.max():g}]'
    )
  if not spec.num_classes:
    return GivenSource({'x': x.astype(spec.dtype)})
  labels = np.asarray([] if label is None else label)
  if labels.shape != x.shape[:1] or not np.isin(labels, np.arange(spec.num_classes)).all():
    raise ValueError(
      f'label must hold the class of each of the {len(x)} examples, an integer in '
      f'[0, {spec.num_classes})'
    )
  return GivenSource({'x': x.astype(spec.dtype), 'label': labels.astype(np.int32)})


def _stack(examples: Sequence[Mapping[str, Any]]) -> dict[str, np.ndarray]:
  arrays = examples[0].keys() & {'x', 'counted'}
  batch = {key: np.stack([example[key] for example in examples]) for key in sorted(arrays)}
  for key in ('label', 'start', 'mode'):
    if key in examples[0]:
      batch[key] = np.array([example[key] for example in examples], np.int32)
  return batch
