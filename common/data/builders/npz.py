"""A NumPy file (.npz) of images as a dataset: `x`, and `y` if there are classes."""

import pathlib
import zipfile
from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from common.config import ConfigError
from common.data.builders import base

LABELS_END = 1_000_000  # labels are smaller: larger ones are mistakes, and classes cost memory


class Npz(base.ImageBuilder, skip_registration=True):
  """Arrays `x`, uint8 [n, h, w, c] or [n, h, w], and optionally `y`, integers [n], at least 0.

  The classes are the different labels, each named by its number. The hash of each image decides its
  split.
  """

  VERSION = tfds.core.Version('1.1.0')  # 1.0.0 had a class for every number up to the largest label
  name = 'npz'
  flags = ('source', 'palette')

  @classmethod
  def variant(cls, settings: Mapping[str, Any]) -> str:
    """The name of the file and the hash of its contents."""
    path = _path(settings)
    try:
      return f'{path.stem}-{base.digest(path.read_bytes())[:16]}'
    except OSError as error:
      raise ConfigError(f'cannot read data.source={str(path)!r}: {error.strerror}') from error

  def read(self) -> base.Contents:
    path = _path(self.settings)
    x, label = read_arrays(path)
    splits = base.hash_splits((base.digest(image.tobytes()) for image in x), str(path))
    names = ()
    if label is not None:
      # Consecutive labels: a class that no image has could not be trained.
      values, label = np.unique(label, return_inverse=True)
      names = tuple(map(str, values.tolist()))
    return base.Contents(
      shape=x.shape[1:],
      levels=256,
      class_names=names,
      splits=base.array_splits(x, label, splits),
    )


def _path(settings: Mapping[str, Any]) -> pathlib.Path:
  path = base.source_path(settings, Npz.name, 'an .npz file')
  # Reading a pipe or a device would wait for ever.
  if path.exists() and not path.is_file():
    raise ConfigError(f'data.source={str(path)!r} must be an .npz file')
  return path


def read_arrays(path: pathlib.Path) -> tuple[np.ndarray, np.ndarray | None]:
  """Reads and checks a NumPy file.

  Returns:
    Images, uint8 [n, h, w, c], and labels, integers [n], or None.

  Raises:
    ConfigError: for a file that is not an .npz file, is damaged, or holds unsuitable arrays.
  """
  if not zipfile.is_zipfile(path):
    raise ConfigError(f'{path} must be a complete .npz file, as numpy.savez writes it')
  try:
    # No pickles: loading one would run code from the file.
    with np.load(path, allow_pickle=False) as file:
      arrays = {key: file[key] for key in ('x', 'y') if key in file.files}
      names = ', '.join(sorted(file.files)) or 'no array'
  except Exception as error:  # a damaged file makes NumPy raise almost anything, MemoryError too
    raise ConfigError(f'cannot read {path} as an .npz file: {_reason(error)}') from error
  if 'x' not in arrays:
    raise ConfigError(f'{path} must hold the images as an array x, got {names}')
  x, label = arrays['x'], arrays.get('y')
  if x.dtype != np.uint8 or x.ndim not in (3, 4) or 0 in x.shape:
    raise ConfigError(
      f'{path}: x must be uint8 [n, h, w, c] or [n, h, w], got {x.dtype} {list(x.shape)}'
    )
  if label is not None:
    _check_labels(label, len(x), path)
  return (x if x.ndim == 4 else x[..., None]), label


def _check_labels(label: np.ndarray, num: int, path: pathlib.Path) -> None:
  if not np.issubdtype(label.dtype, np.integer) or label.shape != (num,):
    found = f'{label.dtype} {list(label.shape)}'
  elif label.min() < 0 or label.max() >= LABELS_END:
    found = f'{label.min() if label.min() < 0 else label.max()} among them'
  else:
    return
  raise ConfigError(f'{path}: y must be {num} integers in [0, {LABELS_END:,}), got {found}')


def _reason(error: Exception) -> str:
  """Why an array cannot be read, in one line."""
  # NumPy would advise to load the pickle.
  if 'pickle' in str(error):
    return 'it holds Python objects, which could run code; save arrays of numbers'
  return (str(error) or type(error).__name__).splitlines()[0]
