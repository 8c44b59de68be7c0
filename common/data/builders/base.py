"""What every dataset here is: arrays of whole numbers, or of floats, stored as ArrayRecord.

A dataset is a TFDS builder that says what it contains. TFDS shuffles the examples of a split once,
by a hash of their keys, when it writes them, so that reading in order is reading at random.
"""

import abc
import functools
import hashlib
import os
import pathlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import tensorflow_datasets as tfds

from common.config import ConfigError
from common.data import palettes
from common.data.spec import token_dtype

# Of the flags of `prepare_data` that what is prepared hangs on.
DEFAULTS = dict(
  palette=0,
  context=64,
  horizon=12,
  stride=1,
  tokenizer='characters',
  vocabulary=1024,
  tokenizer_files='',
)

SPLITS = ('train', 'validation', 'test')
Example = dict[str, Any]  # 'x': an array; 'label': int, where there are any


def data_dir(settings: Mapping[str, Any]) -> pathlib.Path:
  """Where datasets are prepared: `dir` of the settings, else TFDS's own default."""
  default = os.environ.get('TFDS_DATA_DIR') or '~/tensorflow_datasets'
  return pathlib.Path(settings.get('dir') or default).expanduser()


def not_prepared(name: str, settings: Mapping[str, Any]) -> ConfigError:
  """The error for a dataset that a command has to prepare first."""
  flags = {flag: settings.get(flag, default) for flag, default in DEFAULTS.items()}
  flags['data_dir'] = settings.get('dir', '')
  where = ''.join(f' --{k}={v}' for k, v in flags.items() if v != DEFAULTS.get(k, ''))
  return ConfigError(
    f'{name} is not prepared in {data_dir(settings)}; run: '
    f'python -m experiments.prepare_data --dataset={name}{where}'
  )


class Contents(NamedTuple):
  """What a dataset holds.

  Attributes:
    shape: of every example: (height, width, channels) of an image, (tokens,) of a text, (steps,
      columns) of a time series.
    levels: values are integers in [0, levels); 0: they are floats.
    class_names: names of the classes in the order of their labels; empty where there are none.
    splits: for each of train, validation and test, a function that yields (key, example); keys
      are unique within a split.
    notes: what a person should hear of the preparation ('3 broken files skipped').
    tokenizer: of a text, as JSON (common/data/tokenizers.py).
    series: of time series, the attributes of a `SeriesSpec` (common/data/spec.py).
    palette: of images that are indices, its colours (common/data/palettes.py).
  """

  shape: tuple[int, ...]
  levels: int
  class_names: tuple[str, ...]
  splits: Mapping[str, Callable[[], Iterator[tuple[str, Example]]]]
  notes: tuple[str, ...] = ()
  tokenizer: str = ''
  series: Mapping[str, Any] | None = None
  palette: tuple[tuple[int, int, int], ...] = ()


class Builder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
  """A TFDS builder. Subclasses say what they contain.

  Not put into TFDS's own registry: MNIST here and MNIST there must not clash.
  """

  VERSION = tfds.core.Version('1.0.0')

  def __init__(self, settings: Mapping[str, Any], network: bool, **kwargs):
    """Args: the `data` section of a config; whether raw files may be fetched; TFDS's own."""
    self.settings = settings
    self.network = network
    super().__init__(file_format='array_record', **kwargs)

  @classmethod
  def variant(cls, settings: Mapping[str, Any]) -> str:
    """A name for what these settings and the files behind them give; '' if that is fixed."""
    del settings
    return ''

  @abc.abstractmethod
  def read(self) -> Contents:
    """Opens the raw data. Raises ConfigError where it is missing or broken."""

  @functools.cached_property
  def contents(self) -> Contents:
    return self.read()

  @abc.abstractmethod
  def features(self) -> dict[str, Any]:
    """TFDS features of an example."""

  @abc.abstractmethod
  def metadata(self) -> dict[str, Any]:
    """What a DataSpec needs beside the shape, the levels and the classes."""

  def _info(self) -> tfds.core.DatasetInfo:
    contents = self.contents
    return tfds.core.DatasetInfo(
      builder=self,
      features=tfds.features.FeaturesDict(self.features()),
      metadata=tfds.core.MetadataDict(
        levels=contents.levels,
        class_names=list(contents.class_names),
        notes=list(contents.notes),
        **self.metadata(),
      ),
    )

  def _split_generators(self, dl_manager):
    del dl_manager
    return {split: self._generate_examples(split) for split in SPLITS}

  def _generate_examples(self, split: str) -> Iterator[tuple[str, Example]]:
    return self.contents.splits[split]()


class ImageBuilder(Builder, skip_registration=True):
  """Small uint8 images with an optional class; with `palette` in the settings, as indices of it."""

  @functools.cached_property
  def contents(self) -> Contents:
    contents, number = self.read(), self.settings.get('palette', 0)
    return indexed(contents, number, self.name) if number else contents

  def features(self) -> dict[str, Any]:
    # Raw bytes: by default TFDS stores a uint8 array as 64-bit integers, slow to read.
    shape = self.contents.shape
    dtype = token_dtype(self.contents.levels)
    pixels = tfds.features.Tensor(shape=shape, dtype=dtype, encoding='bytes')
    label = tfds.features.Scalar(dtype=np.int32)
    return {'x': pixels} | ({'label': label} if self.contents.class_names else {})

  def metadata(self) -> dict[str, Any]:
    palette = [list(colour) for colour in self.contents.palette]
    return {'domain': 'image'} | ({'palette': palette} if palette else {})


def indexed(contents: Contents, number: int, what: str) -> Contents:
  """Colour images as indices of a palette, which is found on the training split.

  Args:
    contents: of a dataset of images.
    number: colours of the palette.
    what: the dataset, for messages.

  Raises:
    ConfigError: for images that have no colours.
  """
  if contents.shape[-1] != 3 or contents.levels != 256:
    raise ConfigError(
      f'data.palette={number} is for colour images; those of {what} have {contents.shape[-1]} '
      f'channel(s) of {contents.levels} levels: set data.palette=0'
    )
  training = (example['x'] for _, example in contents.splits['train']())
  palette, error = palettes.fit(training, number)
  dtype = token_dtype(len(palette.colours))

  def encoded(split: str) -> Callable[[], Iterator[tuple[str, Example]]]:
    def examples():
      for key, example in contents.splits[split]():
        yield key, example | {'x': palette.encode(example['x']).astype(dtype)}

    return examples

  note = (
    f'palette of {len(palette.colours)} colours; training pixels differ from it by {error:.1f} of '
    '255 (root mean square); likelihoods are of its indices'
  )
  return contents._replace(
    shape=(*contents.shape[:-1], 1),
    levels=len(palette.colours),
    splits={split: encoded(split) for split in contents.splits},
    notes=(*contents.notes, note),
    palette=palette.colours,
  )


def digest(data: bytes) -> str:
  """A hash of bytes, as 32 hexadecimal digits."""
  return hashlib.blake2b(data, digest_size=16).hexdigest()


def hash_splits(hashes: Iterable[str], what: str) -> dict[str, np.ndarray]:
  """Splits 80/10/10 by the hash of each example, whatever else the dataset holds.

  An example stays in its split when others are added, and equal examples share one. Only where a
  set is so small that a split would stay empty, it gets the example whose hash is nearest.

  Args:
    hashes: one hexadecimal hash per example.
    what: the dataset, for messages.

  Returns:
    For each split the indices of its examples, in their order.

  Raises:
    ConfigError: for fewer than three different examples.
  """
  values = np.array([int(text[:12], 16) / 16**12 for text in hashes])
  distinct, ranks = np.unique(values, return_inverse=True)
  if len(distinct) < 3:
    raise ConfigError(
      f'{what} holds {len(distinct)} different examples; train, validation and test need 3'
    )
  test = max(1, np.count_nonzero(distinct < 0.1))
  held_out = min(max(test + 1, np.count_nonzero(distinct < 0.2)), len(distinct) - 1)
  parts = np.digitize(ranks, [min(test, held_out - 1), held_out])
  order = ('test', 'validation', 'train')
  return {split: np.flatnonzero(parts == i) for i, split in enumerate(order)}


def hash_order(x: np.ndarray, label: np.ndarray) -> np.ndarray:
  """Indices of the examples in the order of their hashes: the same however they are stored."""
  hashes = [digest(image.tobytes() + bytes([k])) for image, k in zip(x, label, strict=True)]
  return np.argsort(np.array(hashes), kind='stable')


def published_splits(
  train: tuple[np.ndarray, np.ndarray], test: tuple[np.ndarray, np.ndarray], num_validation: int
) -> dict[str, Callable[[], Iterator[tuple[str, Example]]]]:
  """The published test split; the last training examples in hash order held out for validation.

  Args:
    train: images, uint8 [n, height, width, channels], and labels below 256, [n].
    test: likewise.
    num_validation: how many to hold out.
  """
  order = hash_order(*train)
  return {
    'train': from_arrays(*train, order[:-num_validation]),
    'validation': from_arrays(*train, order[-num_validation:]),
    'test': from_arrays(*test, hash_order(*test)),
  }


def from_arrays(
  x: np.ndarray, label: np.ndarray | None, indices: np.ndarray | range
) -> Callable[[], Iterator[tuple[str, Example]]]:
  """A function that yields the examples with these indices, numbered in this order."""

  def examples():
    for key, i in enumerate(indices):
      yield f'{key:09d}', {'x': x[i]} | ({} if label is None else {'label': int(label[i])})

  return examples
