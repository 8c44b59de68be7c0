"""Shared by all datasets: the base class of builders, splits by hash, settings.

A dataset is a TFDS builder that describes its contents: arrays of integers or floats, stored as
ArrayRecord. When TFDS writes a split, it shuffles the examples once, by a hash of their keys, so
reading them in order means reading them in random order.
"""

import abc
import dataclasses
import functools
import hashlib
import os
import pathlib
import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, ClassVar, NamedTuple

import numpy as np
import tensorflow_datasets as tfds

from common.config import ConfigError
from common.data.modes import Modes
from common.data.spec import token_dtype
from common.files import Path, to_path

# The `prepare_data` flags that affect the prepared data, with their defaults.
FLAG_DEFAULTS = dict(
  palette=0,
  image_size=0,
  context=64,
  held_out='both',
  shift=False,
  horizon=0,
  stride=1,
  min_context=0,
  **dict.fromkeys(('rolling', 'roll_by', 'permutation'), 0),
  rolling_multiple=1,
  overlap=1,
  blanks=100,
  train_to='validation',
  covariates='all',
  layout='long',
  tokenizer='characters',
  vocabulary=1024,
  **dict.fromkeys(('collection', 'frequency', 'unit', 'target', 'time', 'series'), ''),
  **dict.fromkeys(('categories', 'observed', 'tokenizer_files', 'template'), ''),
)

SPLITS = ('train', 'validation', 'test')
# 'x': an array; 'label': an int, if the data has classes; 'start': an int, for time series;
# 'counted': which positions count, if not all do; 'mode': an int, for stacked images
Example = dict[str, Any]
Examples = Iterator[tuple[str, Example]]  # with a key that is unique within the split


def data_dir(settings: Mapping[str, Any]) -> Path:
  """The folder of all prepared datasets: `data.dir`, or TFDS's own default.

  Raises:
    ConfigError: for a URL that is not gs://BUCKET/FOLDER.
  """
  default = os.environ.get('TFDS_DATA_DIR') or '~/tensorflow_datasets'
  chosen = settings.get('dir') or default
  try:
    return to_path(chosen)
  except ValueError as error:
    raise ConfigError(f'the folder of datasets {chosen} {error}') from error


def source_path(settings: Mapping[str, Any], name: str, wanted: str) -> pathlib.Path:
  """The path in `data.source`.

  Args:
    settings: the `data` section of a config.
    name: the dataset, for messages.
    wanted: what the path should lead to, for messages.

  Raises:
    ConfigError: if `data.source` is not set.
  """
  if not settings.get('source'):
    raise ConfigError(f'data.name={name} needs data.source, the path of {wanted}')
  return pathlib.Path(settings['source']).expanduser()


def broken_policy(settings: Mapping[str, Any]) -> str:
  """`data.broken`: whether to 'refuse' or to 'skip' files that cannot be read."""
  policy = settings.get('broken', 'refuse')
  if policy not in ('refuse', 'skip'):
    raise ConfigError(f"data.broken must be 'refuse' or 'skip', got {policy!r}")
  return policy


def not_prepared_error(name: str, settings: Mapping[str, Any]) -> ConfigError:
  """The error for a dataset that has to be prepared by its own command first."""
  flags = {flag: settings.get(flag, default) for flag, default in FLAG_DEFAULTS.items()}
  flags['data_dir'] = settings.get('dir', '')
  changed = {k: v for k, v in flags.items() if v != FLAG_DEFAULTS.get(k, '')}
  # Quoted, because a path may contain spaces.
  arguments = ''.join(f' --{k}={shlex.quote(str(v))}' for k, v in changed.items())
  return ConfigError(
    f'{name} is not prepared in {data_dir(settings)}; run: '
    f'twofold prepare_data --dataset={name}{arguments}'
  )


class Contents(NamedTuple):
  """The contents of a dataset.

  Attributes:
    shape: shape of every example: (height, width, channels) of an image, (tokens,) of a text,
      (frames, voices) of music, (frames, keys) of a piano roll, (steps, columns) of a time series.
    levels: values are integers in [0, levels); 0 means floats.
    class_names: names of the classes in the order of their labels; empty if there are none.
    splits: for each of train, validation and test, a function that returns an iterator over
      (key, example); for time series also 'future'.
    notes: facts about the preparation that the user should see ('3 broken files skipped').
    tokenizer: for text, the tokenizer as JSON (common/data/tokenizers).
    series: for time series, the attributes of a `SeriesSpec` (common/data/spec.py).
    pitches: for music and piano rolls, the lowest and the highest pitch (common/data/music.py).
    palette: for images of palette indices, the colours (common/data/palettes.py).
    counted: whether examples have 'counted', a bool for each token or frame (common/data/spec.py).
    modes: the modes, if they are known (common/data/modes.py).
  """

  shape: tuple[int, ...]
  levels: int
  class_names: tuple[str, ...]
  splits: Mapping[str, Callable[[], Examples]]
  notes: tuple[str, ...] = ()
  tokenizer: str | None = None
  series: Mapping[str, Any] | None = None
  pitches: tuple[int, int] | None = None
  palette: tuple[tuple[int, int, int], ...] = ()
  counted: bool = False
  modes: Modes | None = None


class Builder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
  """The base class of all datasets. A subclass sets `name` and `domain` and implements `read`.

  Builders stay out of TFDS's own registry, where names such as 'mnist' are taken.

  Attributes:
    name: name of the dataset.
    domain: kind of data, as in `DataSpec.domain`.
    flags: the flags of `prepare_data` that apply, besides --dataset and --data_dir.
    holds_images: whether the examples are images, so that `data.palette` and `data.flip` apply.
    holds_streams: whether an example continues the one before, so that `data.shift` applies.
  """

  VERSION = tfds.core.Version('1.0.0')
  name: ClassVar[str]
  domain: ClassVar[str]
  flags: ClassVar[tuple[str, ...]] = ()
  holds_images: ClassVar[bool] = False
  holds_streams: ClassVar[bool] = False

  def __init__(self, settings: Mapping[str, Any], network: bool, **kwargs):
    """Creates a builder.

    Args:
      settings: the `data` section of a config.
      network: whether raw files may be downloaded.
      **kwargs: arguments of TFDS.
    """
    # Before super().__init__, which calls `_info` and so reads the data.
    self.settings = settings
    self.network = network
    super().__init__(file_format='array_record', **kwargs)

  @classmethod
  def variant(cls, settings: Mapping[str, Any]) -> str:
    """The name of the folder for the data that these settings and source files produce.

    '' for a dataset without settings. Settings that produce different data must have different
    names, because an existing folder is used as it is.
    """
    del settings
    return ''

  @classmethod
  def expected(cls, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The attributes of the `DataSpec` that these settings decide, before any data are read."""
    del settings
    return {}

  @abc.abstractmethod
  def read(self) -> Contents:
    """Opens the raw data. Raises ConfigError if it is missing or broken."""

  @functools.cached_property
  def contents(self) -> Contents:
    """The result of `read`."""
    return self.read()

  def features(self) -> dict[str, Any]:
    """The TFDS features of an example."""
    contents = self.contents
    dtype = token_dtype(contents.levels) if contents.levels else np.dtype(np.float32)
    # Raw bytes: by default TFDS stores a uint8 array as 64-bit integers, which are slow to read.
    x = tfds.features.Tensor(shape=contents.shape, dtype=dtype, encoding='bytes')
    number = tfds.features.Scalar(dtype=np.int32)
    # 'start' tells where in its series a window lies, so that a forecast has dates.
    stacked = contents.modes is not None and contents.modes.classes
    extra = {'label': contents.class_names, 'start': contents.series, 'mode': stacked}
    counted = tfds.features.Tensor(shape=contents.shape[:1], dtype=np.bool_, encoding='bytes')
    marks = {'counted': counted} if contents.counted else {}
    return {'x': x} | marks | {key: number for key, present in extra.items() if present}

  def metadata(self) -> dict[str, Any]:
    """The parts of a `DataSpec` that TFDS does not store, as JSON values.

    This is a file format: common/data/pipeline.py reads it back.
    """
    contents = self.contents
    optional = {
      'tokenizer': contents.tokenizer,
      'series': contents.series,
      'pitches': contents.pitches,
      'palette': [list(colour) for colour in contents.palette],
      'counted': contents.counted,
      'modes': contents.modes and dataclasses.asdict(contents.modes),
    }
    return dict(
      levels=contents.levels,
      class_names=list(contents.class_names),
      notes=list(contents.notes),
      domain=self.domain,
      **{key: value for key, value in optional.items() if value},
    )

  def _info(self) -> tfds.core.DatasetInfo:
    return tfds.core.DatasetInfo(
      builder=self,
      features=tfds.features.FeaturesDict(self.features()),
      metadata=tfds.core.MetadataDict(self.metadata()),
      disable_shuffling=self.settings.get('shift', False),
    )

  def _split_generators(self, dl_manager):
    del dl_manager  # raw files come from common/data/builders/downloads.py
    return {split: self._generate_examples(split) for split in self.contents.splits}

  def _generate_examples(self, split: str) -> Examples:
    return self.contents.splits[split]()


def digest(data: bytes) -> str:
  """The BLAKE2b hash of bytes, as 32 hexadecimal digits."""
  return hashlib.blake2b(data, digest_size=16).hexdigest()


def hash_splits(hashes: Iterable[str], what: str) -> dict[str, np.ndarray]:
  """Assigns examples to splits 80/10/10, each only by its own hash.

  An example therefore stays in its split when others are added, and equal examples are in the same
  split. The exception is a dataset so small that a split would be empty: that split gets the
  example whose hash is nearest.

  Args:
    hashes: one hexadecimal hash per example.
    what: the dataset, for messages.

  Returns:
    For each split the indices of its examples, in ascending order.

  Raises:
    ConfigError: for fewer than three different examples.
  """
  # A hash as a number in [0, 1): 12 hexadecimal digits are 48 bits, exact in float64.
  values = np.array([int(text[:12], 16) / 16**12 for text in hashes])
  distinct, ranks = np.unique(values, return_inverse=True)
  if len(distinct) < 3:
    raise ConfigError(
      f'{what} must hold at least 3 different examples, one for each of train, validation and '
      f'test, got {len(distinct)}'
    )
  # Number of different examples with hashes in [0, 0.1), for test, and in [0, 0.2), which adds
  # validation. In a tiny dataset both move up, so that no split is empty ...
  num_test = max(1, np.count_nonzero(distinct < 0.1))
  num_held_out = max(num_test + 1, np.count_nonzero(distinct < 0.2))
  # ... and down again, so that train keeps at least one.
  num_held_out = min(num_held_out, len(distinct) - 1)
  num_test = min(num_test, num_held_out - 1)
  parts = np.digitize(ranks, [num_test, num_held_out])
  order = ('test', 'validation', 'train')
  return {split: np.flatnonzero(parts == i) for i, split in enumerate(order)}


def hash_order(x: np.ndarray, label: np.ndarray) -> np.ndarray:
  """Indices of the examples sorted by their hashes: independent of the order in the raw files."""
  hashes = [digest(image.tobytes() + bytes([k])) for image, k in zip(x, label, strict=True)]
  return np.argsort(np.array(hashes), kind='stable')


def published_splits(
  train: tuple[np.ndarray, np.ndarray], test: tuple[np.ndarray, np.ndarray], num_validation: int
) -> dict[str, Callable[[], Examples]]:
  """Keeps the published test split; the last training examples by hash become validation.

  Args:
    train: images, uint8 [n, height, width, channels], and labels below 256, [n].
    test: the same for the test split.
    num_validation: number of training examples to hold out.
  """
  # By hash, not by position: every source of the raw files leads to the same splits.
  order = hash_order(*train)
  return {
    'train': functools.partial(array_examples, *train, order[:-num_validation]),
    'validation': functools.partial(array_examples, *train, order[-num_validation:]),
    'test': functools.partial(array_examples, *test, hash_order(*test)),
  }


def array_splits(
  x: np.ndarray, label: np.ndarray | None, indices: Mapping[str, np.ndarray]
) -> dict[str, Callable[[], Examples]]:
  """Splits of arrays, from the indices of the examples in each split."""
  return {name: functools.partial(array_examples, x, label, part) for name, part in indices.items()}


def window_splits(
  windows: Mapping[str, np.ndarray], counted: Mapping[str, np.ndarray] | None = None
) -> dict[str, Callable[[], Examples]]:
  """Splits without classes, from an array of windows for each, and from which positions count."""
  counted = counted or dict.fromkeys(windows)
  return {s: functools.partial(_window_examples, x, counted[s]) for s, x in windows.items()}


def _window_examples(x: np.ndarray, counted: np.ndarray | None) -> Examples:
  for i, (key, example) in enumerate(array_examples(x, None, range(len(x)))):
    yield key, example if counted is None else example | {'counted': counted[i]}


def array_examples(x: np.ndarray, label: np.ndarray | None, indices: Iterable[Any]) -> Examples:
  """The examples at `indices`, with consecutive numbers as keys."""
  # TFDS shuffles by a hash of the key: a new format of keys would change the order on disk.
  for key, i in enumerate(indices):
    yield f'{key:09d}', {'x': x[i]} | ({} if label is None else {'label': int(label[i])})
