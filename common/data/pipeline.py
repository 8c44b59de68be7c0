"""From a config's `data` section to batches.

The global batch of step n depends on (seed, n, batch size) alone: not on where a run was
interrupted, nor on how many processes share the batch. Step n takes the positions
[n·B, (n + 1)·B) of an endless sequence in which every epoch is a fresh permutation of the training
split, so each example comes exactly once per epoch and none is dropped at an epoch's end.
"""

import contextlib
import functools
import hashlib
import os
import queue
import threading
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from common.config import ConfigError, as_tuple
from common.data import music, palettes, preparation, tokenizers
from common.data.builders import base
from common.data.sources import Disk, Memory, Source
from common.data.spec import DataSpec, SeriesSpec

IN_MEMORY_BYTES = 2**30  # sets that decode to less are held in memory
FINGERPRINT_EXAMPLES = 4096  # of a set that is not in memory, evenly spaced
CHUNKS_AHEAD = 2  # chunks that the background thread prepares before they are asked for


class Data(NamedTuple):
  """A dataset, ready to be read.

  Attributes:
    spec: what a method needs to know of it.
    splits: 'train', 'validation' and 'test'.
  """

  spec: DataSpec
  splits: Mapping[str, Source]


def load(settings: Mapping[str, Any], in_memory: bool | None = None) -> Data:
  """Opens a dataset, preparing it first where that needs no network.

  Args:
    settings: the `data` section of a config (configs/base.py).
    in_memory: whether to hold splits in memory once they are asked for; None: if they are small.

  Raises:
    ConfigError: for an unknown name, data that is missing, broken or not prepared.
  """
  folder = preparation.prepare(settings, network=False)
  builder = preparation.open_prepared(folder)
  info = builder.info
  shape = info.features['x'].shape
  examples = {split: info.splits[split].num_examples for split in base.SPLITS}
  if in_memory is None:
    size = int(np.prod(shape)) * np.dtype(info.features['x'].np_dtype).itemsize
    in_memory = sum(examples.values()) * size < IN_MEMORY_BYTES
  class_names = tuple(info.metadata['class_names'])
  spec = DataSpec(
    name=settings['name'],
    domain=info.metadata.get('domain', 'image'),
    shape=shape,
    levels=info.metadata['levels'],
    num_classes=len(class_names),
    class_names=class_names,
    num_train=examples['train'],
    tokenizer=tokenizers.from_json(text) if (text := info.metadata.get('tokenizer')) else None,
    series=_series(info.metadata.get('series')),
    pitches=music.Pitches(*found) if (found := info.metadata.get('pitches')) else None,
    palette=palettes.Palette(as_tuple(found)) if (found := info.metadata.get('palette')) else None,
  )
  for split in base.SPLITS:
    if lost := [path for path in info.splits[split].filepaths if not os.path.exists(path)]:
      raise ConfigError(f'{lost[0]} is missing; delete {folder} and prepare it again')
  disks = {split: Disk(builder.as_data_source(split), folder) for split in base.SPLITS}
  return Data(spec, {k: Memory(disk) for k, disk in disks.items()} if in_memory else disks)


def _series(found: Mapping[str, Any] | None) -> SeriesSpec | None:
  return found and SeriesSpec(**dict(found) | {'covariates': tuple(found['covariates'])})


def fingerprint(data: Data) -> str:
  """A hash of what training sees: that of every example in memory, of a part of a set on disk.

  It hangs on contents alone: copied to another machine, the same data has the same.
  """
  spec = data.spec
  found = hashlib.blake2b(
    repr((spec.shape, spec.levels, spec.class_names)).encode(), digest_size=16
  )
  for meaning in (spec.pitches, spec.palette):
    found.update(b'' if meaning is None else repr(meaning).encode())
  for split in ('train', 'validation'):
    source = data.splits[split]
    size = len(source)
    number = size if isinstance(source, Memory) else min(size, FINGERPRINT_EXAMPLES)
    examples = source.gather(np.arange(number) * size // number)
    found.update(repr((split, size)).encode())
    for name in sorted(examples):
      found.update(np.ascontiguousarray(examples[name]))
  return found.hexdigest()


@functools.lru_cache(maxsize=4)
def _permutation(seed: int, epoch: int, size: int) -> np.ndarray:
  """The order of an epoch: the ranks of random 64-bit numbers.

  The stream of Philox is fixed for good, unlike what NumPy's generators make of it. Grain's shuffle
  is asked index by index, which costs more than a millisecond per batch of 128, and takes
  seed + epoch for the seed of an epoch, so that runs with seeds 0 and 1 share their orders.
  """
  key = np.array([seed % 2**64, epoch], np.uint64)
  words = np.random.Philox(key=key).random_raw(size)
  return np.argsort(words, kind='stable')


def train_indices(seed: int, first: int, last: int, size: int) -> np.ndarray:
  """The examples at positions [first, last) of the endless training sequence: int64 indices."""
  pieces = []
  while first < last:
    epoch, start = divmod(first, size)
    piece = _permutation(seed, epoch, size)[start : start + last - first]
    pieces.append(piece)
    first += len(piece)
  return np.concatenate(pieces)


def train_batch(data: Data, seed: int, step: int, batch_size: int) -> dict[str, np.ndarray]:
  """The global batch of one step: 'x' [batch, *shape]; 'label', int32 [batch]."""
  indices = train_indices(seed, step * batch_size, (step + 1) * batch_size, data.spec.num_train)
  return data.splits['train'].gather(indices)


def train_batches(
  data: Data,
  *,
  seed: int,
  batch_size: int,
  chunks: Iterable[tuple[int, int]],
  process_index: int = 0,
  process_count: int = 1,
) -> Iterator[dict[str, np.ndarray]]:
  """Stacked training batches, prepared by a background thread.

  Args:
    data: the dataset.
    seed: chooses the order of the examples.
    batch_size: of the global batch.
    chunks: (first step, number of steps) of each item. Read ahead of what is yielded.
    process_index: which contiguous part of each global batch to yield.
    process_count: of how many.

  Yields:
    {'x': [steps, batch_size / process_count, *shape], 'label': int32 [steps, ...]}; no label
    where the data has no classes.

  Raises:
    ConfigError: where the processes do not divide the batch.
  """
  if batch_size % process_count:
    raise ConfigError(
      f'data.batch_size={batch_size} is no multiple of the {process_count} processes'
    )
  source, size = data.splits['train'], data.spec.num_train
  local = slice(*(batch_size // process_count * (process_index + i) for i in (0, 1)))

  def chunk(first: int, steps: int) -> dict[str, np.ndarray]:
    indices = train_indices(seed, first * batch_size, (first + steps) * batch_size, size)
    indices = indices.reshape(steps, batch_size)[:, local]
    flat = source.gather(indices.reshape(-1))
    return {key: array.reshape(*indices.shape, *array.shape[1:]) for key, array in flat.items()}

  return _ahead(chunk(first, steps) for first, steps in chunks)


def _ahead(items: Iterator[Any]) -> Iterator[Any]:
  """Yields `items`, made by a thread that keeps a few ahead and ends with its consumer."""
  ready = queue.Queue(CHUNKS_AHEAD)
  stop = threading.Event()

  def put(kind: str, value: Any):
    while not stop.is_set():
      with contextlib.suppress(queue.Full):
        ready.put((kind, value), timeout=0.1)
        return

  def work():
    try:
      for item in items:
        put('item', item)
        if stop.is_set():
          return
      put('end', None)
    except BaseException as error:  # whatever it is, the consumer is to see it
      put('error', error)

  def consume():
    thread = threading.Thread(target=work, name='train_batches', daemon=True)
    thread.start()
    try:
      while True:
        kind, value = ready.get()
        if kind == 'error':
          raise value
        if kind == 'end':
          return
        yield value
    finally:
      stop.set()
      thread.join()

  return consume()


def evaluation_batches(source: Source, batch_size: int) -> Iterator[dict[str, np.ndarray]]:
  """Every example once, in order.

  Yields:
    {'x': [batch_size, *shape], 'label': int32 [batch_size], 'weight': float32 [batch_size]}:
    the last batch is filled up with copies of the last example, of weight 0.
  """
  for start in range(0, len(source), batch_size):
    positions = np.arange(start, start + batch_size)
    batch = source.gather(np.minimum(positions, len(source) - 1))
    yield batch | {'weight': (positions < len(source)).astype(np.float32)}
