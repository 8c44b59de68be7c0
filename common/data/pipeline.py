"""From the `data` section of a config to batches.

The global batch of step n depends only on (seed, n, batch size): not on where a run was
interrupted, nor on how many processes share the batch. Step n takes the positions
[n·B, (n + 1)·B) of an endless sequence in which every epoch is a new permutation of the training
split. So each example occurs exactly once per epoch, and none is dropped at the end of an epoch.
"""

import contextlib
import hashlib
import os
import queue
import threading
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import tensorflow_datasets as tfds

from common.config import ConfigError, as_tuple
from common.data import music, order, palettes, preparation, tokenizers
from common.data.builders import base
from common.data.latents import cache
from common.data.latents.first_stage import FirstStage
from common.data.modes import Modes
from common.data.series.calendars import Clock
from common.data.series.columns import Columns
from common.data.series.windows import FUTURE
from common.data.sources import DiskSource, GivenSource, JoinedSource, MemorySource, Source
from common.data.spec import DataSpec, SeriesSpec, latent_spec

IN_MEMORY_BYTES = 2**30  # datasets whose decoded examples are smaller are held in memory
FINGERPRINT_EXAMPLES = 4096  # evenly spaced examples that a fingerprint reads from disk
NO_DATA = 'none'  # `data.name` of a run that was read from published weights alone
CHUNKS_AHEAD = 2  # chunks that the background thread prepares in advance


class Data(NamedTuple):
  """A dataset, ready to be read.

  Attributes:
    spec: the description that models are built from.
    splits: 'train', 'validation' and 'test'; of time series also 'future', whose horizons begin
      after the last value of each series.
    flip: whether training batches mirror a random half of the images (`order.train_flips`).
    shift: whether windows of a training batch begin anywhere in the stream that they are cut from
      (`order.train_shifts`).
    images: of latents, the images that they encode.
  """

  spec: DataSpec
  splits: Mapping[str, Source]
  flip: bool = False
  shift: bool = False
  images: 'Data | None' = None


def load(settings: Mapping[str, Any], in_memory: bool | None = None) -> Data:
  """Opens a dataset; prepares it first if that needs no network.

  Args:
    settings: the `data` section of a config (configs/base.py).
    in_memory: whether to hold splits in memory once they are read; None: if they are small.

  Raises:
    ConfigError: for an unknown name, or for data that is missing, broken or not prepared.
  """
  if settings['name'] == NO_DATA:
    return _no_data(settings)
  folder = preparation.prepare(settings, network=False)
  builder = preparation.open_prepared(folder)
  info = builder.info
  names = sorted(info.splits, key=(*base.SPLITS, FUTURE).index)
  # Before anything is read, because TFDS opens shards only when an example needs them.
  for split in names:
    if missing := [path for path in info.splits[split].filepaths if not os.path.exists(path)]:
      raise ConfigError(f'{missing[0]} is missing; delete {folder} and prepare the dataset again')
  if in_memory is None:
    x = info.features['x']
    example_bytes = int(np.prod(x.shape)) * np.dtype(x.np_dtype).itemsize
    num_examples = sum(info.splits[split].num_examples for split in names)
    in_memory = num_examples * example_bytes < IN_MEMORY_BYTES
  disks = {split: DiskSource(builder.as_data_source(split), folder) for split in names}
  splits = {split: MemorySource(disk) for split, disk in disks.items()} if in_memory else disks
  random = {name: settings.get(name, False) for name in ('flip', 'shift')}
  trained_on = tuple(splits[split] for split in preparation.trained_on(settings))
  if len(trained_on) > 1:
    splits |= {'train': JoinedSource(trained_on)}
  return Data(_read_spec(settings, info), splits, **random)


def with_latents(images: Data, stage: FirstStage, settings: Mapping[str, Any]) -> Data:
  """The latents of images, which are encoded unless they are stored already.

  Args:
    images: the images.
    stage: the first stage.
    settings: the `data` section of a config.

  Raises:
    ConfigError: for images that are mirrored, and as `cache.encode`.
  """
  if images.flip:
    raise ConfigError('latents are encoded once and cannot be mirrored: set data.flip=False')
  root, name = base.data_dir(settings), settings['name']
  found = cache.encode(images.splits, stage, root, name, fingerprint(images))
  spec = latent_spec(images.spec, stage, found.deviation)
  return Data(spec, found.splits, images=images)


def _no_data(settings: Mapping[str, Any]) -> Data:
  """The description of texts of a tokenizer, without any text.

  Raises:
    ConfigError: for a tokenizer that cannot be read.
  """
  tokenizer = None
  if settings['tokenizer_files']:
    tokenizer = tokenizers.build_tokenizer(settings, ())
  levels = settings['vocabulary'] if tokenizer is None else tokenizer.vocabulary
  spec = DataSpec(NO_DATA, 'text', (settings['context'] + 1,), levels, tokenizer=tokenizer)
  nothing = GivenSource({'x': np.zeros((0, *spec.shape), spec.dtype)})
  return Data(spec, dict.fromkeys(base.SPLITS, nothing))


def prepared_spec(settings: Mapping[str, Any]) -> DataSpec | None:
  """The spec of a dataset that is prepared already; None if it is not. Prepares nothing.

  Raises:
    ConfigError: for an unknown name, or a source that cannot be read.
  """
  folder = preparation.location(settings)
  if not preparation.is_prepared(folder):
    return None
  return _read_spec(settings, preparation.open_prepared(folder).info)


def _read_spec(settings: Mapping[str, Any], info: tfds.core.DatasetInfo) -> DataSpec:
  """The spec of a prepared dataset, from the result of `Builder.metadata` stored with it."""
  metadata = info.metadata
  class_names = tuple(metadata['class_names'])
  tokenizer, series = metadata.get('tokenizer'), metadata.get('series')
  pitches, palette = metadata.get('pitches'), metadata.get('palette')
  modes = metadata.get('modes')
  return DataSpec(
    name=settings['name'],
    # Datasets prepared when images were the only domain do not store it.
    domain=metadata.get('domain', 'image'),
    shape=info.features['x'].shape,
    levels=metadata['levels'],
    num_classes=len(class_names),
    class_names=class_names,
    num_train=sum(info.splits[s].num_examples for s in preparation.trained_on(settings)),
    tokenizer=tokenizers.from_json(tokenizer) if tokenizer else None,
    series=_series_spec(series) if series else None,
    pitches=music.Pitches(*pitches) if pitches else None,
    palette=palettes.Palette(as_tuple(palette)) if palette else None,
    counted=metadata.get('counted', False),
    modes=Modes(**{key: as_tuple(value) for key, value in modes.items()}) if modes else None,
  )


def _series_spec(stored: Mapping[str, Any]) -> SeriesSpec:
  """A description of time series from JSON, which has no tuples; a spec has to be hashable."""
  values = {key: as_tuple(value) for key, value in stored.items()}
  clock, columns = Clock(*values['clock']), Columns(*values['columns'])
  return SeriesSpec(**values | {'clock': clock, 'columns': columns})


def fingerprint(data: Data) -> str:
  """A hash of the data that training and validation see.

  It covers every example of a dataset in memory, and evenly spaced ones of a dataset on disk. It
  depends only on the contents: a copy on another machine has the same fingerprint.
  """
  if data.images is not None:
    # Latents that are encoded anew elsewhere differ in their last digits: their source decides.
    source = f'{fingerprint(data.images)} {data.spec.latents.digest}'
    return hashlib.blake2b(source.encode(), digest_size=16).hexdigest()
  spec = data.spec
  state = hashlib.blake2b(
    repr((spec.shape, spec.levels, spec.class_names)).encode(), digest_size=16
  )
  # Runs store fingerprints: neither the order of these updates nor a `repr` may change.
  for decoder in (spec.pitches, spec.palette):
    state.update(b'' if decoder is None else repr(decoder).encode())
  if spec.series is not None:
    # Stored values are the same in every unit.
    state.update(repr((spec.series.origins, spec.series.units)).encode())
  for split in ('train', 'validation'):
    source = data.splits[split]
    size = len(source)
    number = size if source.in_memory else min(size, FINGERPRINT_EXAMPLES)
    examples = source.gather(np.arange(number) * size // number)
    state.update(repr((split, size)).encode())
    for key in sorted(examples):
      state.update(np.ascontiguousarray(examples[key]))
  return state.hexdigest()


def train_batch(data: Data, seed: int, step: int, batch_size: int) -> dict[str, np.ndarray]:
  """The global batch of one step: 'x' [batch_size, *shape] and 'label', int32 [batch_size]."""
  stacked = _train_chunk(data, seed, batch_size, slice(None), (step, 1))
  return {key: array[0] for key, array in stacked.items()}


def train_batches(
  data: Data,
  *,
  seed: int,
  batch_size: int,
  chunks: Iterable[tuple[int, int]],
  rows: np.ndarray | slice = slice(None),
) -> Iterator[dict[str, np.ndarray]]:
  """Stacked training batches, prepared in advance by a background thread.

  Args:
    data: the dataset.
    seed: chooses the order of the examples.
    batch_size: size of the global batch.
    chunks: (first step, number of steps) of each item; they are read ahead of the items.
    rows: the rows of each global batch to read: with several processes, those of its devices.

  Yields:
    {'x': [steps, rows, *shape], 'label': int32 [steps, rows]}; without 'label' if the data has no
    classes.
  """
  # A generator: each chunk is read in the background thread.
  items = (_train_chunk(data, seed, batch_size, rows, chunk) for chunk in chunks)
  return _prefetch(items)


def _train_chunk(
  data: Data, seed: int, batch_size: int, rows: np.ndarray | slice, chunk: tuple[int, int]
) -> dict[str, np.ndarray]:
  """Some rows of consecutive global batches, [steps, rows, ...]."""
  first, steps = chunk
  start, stop = first * batch_size, (first + steps) * batch_size
  size = data.spec.num_train
  indices = order.train_indices(seed, start, stop, size)
  # Every process computes the global indices and keeps its rows, so that the global batch does not
  # depend on the number of processes.
  indices = indices.reshape(steps, batch_size)[:, rows]
  flat = data.splits['train'].gather(indices.reshape(-1))
  if data.shift:
    length = data.spec.shape[0] - 1  # a window begins with the last element of the one before
    shifts = order.train_shifts(seed, start, stop, size, length)
    shifts = shifts.reshape(steps, batch_size)[:, rows]
    flat = _shifted(data.splits['train'], indices.reshape(-1), flat, shifts.reshape(-1))
  if data.flip:
    flips = order.train_flips(seed, start, stop, size).reshape(steps, batch_size)[:, rows]
    x = flat['x']  # [n, height, width, channels]
    flat = flat | {'x': np.where(flips.reshape(-1, 1, 1, 1), x[:, :, ::-1], x)}
  return {key: array.reshape(*indices.shape, *array.shape[1:]) for key, array in flat.items()}


def _shifted(
  source: Source, indices: np.ndarray, windows: Mapping[str, np.ndarray], shifts: np.ndarray
) -> dict[str, np.ndarray]:
  """Windows that begin later in their stream; the last one, which nothing follows, stays."""
  following = source.gather(np.minimum(indices + 1, len(source) - 1))
  shifts = np.where(indices < len(source) - 1, shifts, 0)[:, None]
  # The first element of a window is the last of the one before.
  both = np.concatenate([windows['x'], following['x'][:, 1:]], axis=1)
  chosen = shifts + np.arange(windows['x'].shape[1])
  return {**windows, 'x': both[np.arange(len(indices))[:, None], chosen]}


class _Message(NamedTuple):
  """What the background thread passes on: an item, the end of the items, or an exception."""

  item: Any = None
  end: bool = False
  error: BaseException | None = None


def _prefetch(items: Iterator[Any]) -> Iterator[Any]:
  """Yields `items`, computed by a background thread, which ends when the consumer does."""
  messages, stop = queue.Queue(CHUNKS_AHEAD), threading.Event()
  thread = threading.Thread(
    target=_produce, args=(items, messages, stop), name='train_batches', daemon=True
  )
  thread.start()
  try:
    while not (message := messages.get()).end:
      if message.error is not None:
        raise message.error
      yield message.item
  finally:
    # Also reached when the consumer closes the generator early.
    stop.set()
    thread.join()


def _produce(items: Iterator[Any], messages: queue.Queue, stop: threading.Event) -> None:
  """The background thread: puts items into the queue until they end or `stop` is set."""
  try:
    for item in items:
      _put(messages, _Message(item), stop)
      if stop.is_set():
        return
    _put(messages, _Message(end=True), stop)
  except BaseException as error:  # any error: it is raised again in the consumer's thread
    _put(messages, _Message(error=error), stop)


def _put(messages: queue.Queue, message: _Message, stop: threading.Event) -> None:
  """Puts a message into the queue once there is room; gives up when `stop` is set."""
  while not stop.is_set():
    with contextlib.suppress(queue.Full):
      messages.put(message, timeout=0.1)
      return


def evaluation_batches(source: Source, batch_size: int) -> Iterator[dict[str, np.ndarray]]:
  """Every example once, in order.

  Yields:
    {'x': [batch_size, *shape], 'label': int32 [batch_size], 'weight': float32 [batch_size]}. The
    last batch is padded with copies of the last example, which have weight 0.
  """
  # All batches have the same shape, so that the evaluation is compiled once.
  for start in range(0, len(source), batch_size):
    positions = np.arange(start, start + batch_size)
    batch = source.gather(np.minimum(positions, len(source) - 1))
    yield batch | {'weight': (positions < len(source)).astype(np.float32)}
