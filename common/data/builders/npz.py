"""A NumPy file (.npz) of images as a dataset: `x`, and `y` if there are classes."""

import pathlib
import zipfile
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from common.config import ConfigError
from common.data.builders import base


class Npz(base.ImageBuilder, skip_registration=True):
  """Arrays `x`, uint8 [n, h, w, c] or [n, h, w], and optionally `y`, integers [n], at least 0.

  The hash of each image decides its split.
  """

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
    return base.Contents(
      shape=x.shape[1:],
      levels=256,
      class_names=() if label is None else tuple(map(str, range(int(label.max()) + 1))),
      splits=base.array_splits(x, label, splits),
    )


def _path(settings: Mapping[str, Any]) -> pathlib.Path:
  return base.source_path(settings, Npz.name, 'an .npz file')


def read_arrays(path: pathlib.Path) -> tuple[np.ndarray, np.ndarray | None]:
  """Reads and checks a NumPy file.

  Returns:
    Images, uint8 [n, h, w, c], and labels, integers [n], or None.

  Raises:
    ConfigError: for a file that is not an .npz file, is damaged, or holds unsuitable arrays.
  """
  try:
    # No pickles: loading one would run code from the file.
    file = np.load(path, allow_pickle=False)
    if not isinstance(file, np.lib.npyio.NpzFile):
      raise ValueError('it holds a single array, as an .npy file does')
    with file:
      arrays = {key: file[key] for key in file.files}
  except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
    raise ConfigError(f'cannot read {path} as an .npz file of plain arrays: {error}') from error
  if 'x' not in arrays:
    raise ConfigError(
      f'{path} must hold the images as an array x, got {", ".join(sorted(arrays)) or "no array"}'
    )
  x, label = arrays['x'], arrays.get('y')
  if x.dtype != np.uint8 or x.ndim not in (3, 4) or 0 in x.shape:
    raise ConfigError(
      f'{path}: x must be uint8 [n, h, w, c] or [n, h, w], got {x.dtype} {list(x.shape)}'
    )
  if label is not None:
    if not np.issubdtype(label.dtype, np.integer) or label.shape != x.shape[:1]:
      raise ConfigError(
        f'{path}: y must be {len(x)} integers of at least 0, got {label.dtype} {list(label.shape)}'
      )
    if label.min() < 0:
      raise ConfigError(
        f'{path}: y must be {len(x)} integers of at least 0, got {label.min()} among them'
      )
  return (x if x.ndim == 4 else x[..., None]), label
