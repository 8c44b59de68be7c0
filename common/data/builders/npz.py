"""A NumPy file (.npz) as a dataset: images `x` or `latents`, and `y` if there are classes."""

import pathlib
import zipfile
from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from common.config import ConfigError
from common.data.builders import base, images

LABELS_END = 1_000_000  # labels are smaller: larger ones are mistakes, and classes cost memory


class Npz(images.ImageBuilder, skip_registration=True):
  """Arrays `x`, uint8 [n, h, w, c] or [n, h, w], and optionally `y`, integers [n], at least 0.

  Instead of `x`: `latents`, floats of the same shape, such as those of an autoencoder. They are
  kept as they are, in float32.

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
      levels=256 if x.dtype == np.uint8 else 0,
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
    Images, uint8 [n, h, w, c], or latents, float32 of the same shape; and labels, integers [n], or
    None.

  Raises:
    ConfigError: for a file that is not an .npz file, is damaged, or holds unsuitable arrays.
  """
  if not zipfile.is_zipfile(path):
    raise ConfigError(f'{path} must be a complete .npz file, as numpy.savez writes it')
  try:
    # No pickles: loading one would run code from the file.
    with np.load(path, allow_pickle=False) as file:
      arrays = {key: file[key] for key in ('x', 'latents', 'y') if key in file.files}
      names = ', '.join(sorted(file.files)) or 'no array'
  except Exception as error:  # a damaged file makes NumPy raise almost anything, MemoryError too
    raise ConfigError(f'cannot read {path} as an .npz file: {_reason(error)}') from error
  if ('x' in arrays) == ('latents' in arrays):
    raise ConfigError(
      f'{path} must hold the images as an array x, or floats as an array latents, got {names}'
    )
  label = arrays.get('y')
  x = _images(arrays['x'], path) if 'x' in arrays else _latents(arrays['latents'], path)
  if label is not None:
    _check_labels(label, len(x), path)
  return (x if x.ndim == 4 else x[..., None]), label


def _images(x: np.ndarray, path: pathlib.Path) -> np.ndarray:
  """Checked images."""
  if x.dtype != np.uint8 or x.ndim not in (3, 4) or 0 in x.shape:
    raise ConfigError(
      f'{path}: x must be uint8 [n, h, w, c] or [n, h, w], got {x.dtype} {list(x.shape)}'
    )
  return x


def _latents(x: np.ndarray, path: pathlib.Path) -> np.ndarray:
  """Checked latents, in float32."""
  if not np.issubdtype(x.dtype, np.floating) or x.ndim not in (3, 4) or 0 in x.shape:
    raise ConfigError(
      f'{path}: latents must be floats [n, h, w, c] or [n, h, w], got {x.dtype} {list(x.shape)}'
    )
  with np.errstate(over='ignore'):  # a double beyond the largest float32 becomes infinite
    x = x.astype(np.float32, copy=False)
  if bad := int((~np.isfinite(x)).sum()):
    raise ConfigError(f'{path}: latents must be finite in float32, {bad:,} values are not')
  return x


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
