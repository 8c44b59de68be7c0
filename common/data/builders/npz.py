"""An array file (.npz) of images as a dataset: `x`, and `y` where there are classes."""

import pathlib
import zipfile
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from common.config import ConfigError
from common.data.builders import base


class Npz(base.ImageBuilder, skip_registration=True):
  """Arrays `x`, uint8 [n, h, w, c] or [n, h, w], and optional `y`, whole numbers from 0, [n].

  Split by the hash of each image.
  """

  name = 'npz'

  @classmethod
  def variant(cls, settings: Mapping[str, Any]) -> str:
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
      splits={k: base.from_arrays(x, label, v) for k, v in splits.items()},
    )


def _path(settings: Mapping[str, Any]) -> pathlib.Path:
  if not settings.get('source'):
    raise ConfigError('data.name=npz needs data.source, the .npz file')
  return pathlib.Path(settings['source']).expanduser()


def read_arrays(path: pathlib.Path) -> tuple[np.ndarray, np.ndarray | None]:
  """Reads and checks an array file.

  Returns:
    Images, uint8 [n, h, w, c], and labels, integers [n], or None.

  Raises:
    ConfigError: for what is no .npz file, is damaged, or holds other arrays than it should.
  """
  try:
    file = np.load(path, allow_pickle=False)
    if not isinstance(file, np.lib.npyio.NpzFile):
      raise ValueError('it holds a single array')
    with file:
      arrays = {key: file[key] for key in file.files}
  except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
    raise ConfigError(f'{path} is no readable .npz file of plain arrays: {error}') from error
  if 'x' not in arrays:
    raise ConfigError(f'{path} has no array x; it has {", ".join(sorted(arrays)) or "none"}')
  x, label = arrays['x'], arrays.get('y')
  if x.dtype != np.uint8 or x.ndim not in (3, 4) or 0 in x.shape:
    raise ConfigError(
      f'{path}: x is {x.dtype} {list(x.shape)}, not uint8 [n, h, w, c] or [n, h, w]'
    )
  if label is not None and (
    not np.issubdtype(label.dtype, np.integer) or label.shape != x.shape[:1] or label.min() < 0
  ):
    raise ConfigError(
      f'{path}: y is {label.dtype} {list(label.shape)}, not {len(x)} whole numbers from 0'
    )
  return (x if x.ndim == 4 else x[..., None]), label
