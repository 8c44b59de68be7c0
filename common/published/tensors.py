"""The files of published weights: safetensors, one or several with an index."""

import dataclasses
import json
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import safetensors.numpy

from common.config import ConfigError, read_json
from common.files import atomic_write

STEM = 'model'  # of the files that `transformers` writes
WHOLE = f'{STEM}.safetensors'
INDEX = f'{WHOLE}.index.json'
FLOATS = ('F64', 'F32', 'F16', 'BF16')  # types of parameters; others are of quantised weights


@dataclasses.dataclass(frozen=True)
class Stored:
  """A tensor in a file.

  Attributes:
    path: the file.
    name: its name there.
    dtype: its type, as safetensors writes it: 'F32'.
    shape: its shape.
  """

  path: pathlib.Path
  name: str
  dtype: str
  shape: tuple[int, ...]

  def read(self) -> np.ndarray:
    """Its values, in the type of the file."""
    with safetensors.safe_open(self.path, 'numpy') as file:
      return np.asarray(file.get_tensor(self.name))


def find_tensors(
  folder: pathlib.Path, rename: Callable[[str], str], stem: str = STEM
) -> dict[str, Stored]:
  """All tensors of a folder by their public names. Only the headers of the files are read.

  Args:
    folder: holds `model.safetensors`, or an index and the files that it names.
    rename: name in a file -> public name.
    stem: what the names of these files begin with.

  Raises:
    ConfigError: for a file that is missing or broken, an index that disagrees with its files, or
      two tensors of one name.
  """
  whole = f'{stem}.safetensors'
  index = folder / f'{whole}.index.json'
  places = _weight_map(index) if index.exists() else None
  if places is not None and (folder / whole).exists():
    raise ConfigError(
      f'{folder} has both {whole} and {index.name}; remove the one that is out of date'
    )
  files = [whole] if places is None else sorted(set(places.values()))
  stored = [tensor for file in files for tensor in _read_header(folder / file)]
  if places is not None:
    _check_index(index, places, stored)
  tensors = {}
  for tensor in stored:
    name = rename(tensor.name)
    if name in tensors:
      raise ConfigError(f'{folder} has the tensor {name!r} twice, as {tensor.name!r} too')
    tensors[name] = tensor
  return tensors


def _weight_map(index: pathlib.Path) -> Mapping[str, str]:
  """The file of each tensor. Raises ConfigError for an index that names files elsewhere."""
  places = read_json(index).get('weight_map')
  if not isinstance(places, dict) or not places:
    raise ConfigError(f"{index} must have a 'weight_map': an object of tensors and their files")
  for name, file in places.items():
    # Only the name of a file next to the index: no path leads out of the folder.
    if not isinstance(file, str) or pathlib.PurePath(file).name != file or '\\' in file:
      raise ConfigError(f'{index}: the file of {name!r} must be in the same folder, got {file!r}')
  return places


def _check_index(index: pathlib.Path, places: Mapping[str, str], stored: list[Stored]) -> None:
  """Raises ConfigError for the first tensor that is not in the file where the index puts it."""
  found = {(tensor.name, tensor.path.name) for tensor in stored}
  wrong = sorted(found.symmetric_difference(places.items()))
  if wrong:
    name, file = wrong[0]
    has = 'has' if wrong[0] in found else 'lacks'
    raise ConfigError(f'{index} disagrees with its files: {file} {has} a tensor {name!r}')


def _read_header(path: pathlib.Path) -> list[Stored]:
  """The tensors of a file, without their values."""
  if not path.exists():
    raise ConfigError(f'{path.parent} has no {path.name}')
  if not path.is_file():
    raise ConfigError(f'{path} must be a regular file')
  try:
    with safetensors.safe_open(path, 'numpy') as file:
      slices = [(name, file.get_slice(name)) for name in file.keys()]  # noqa: SIM118
      return [Stored(path, name, x.get_dtype(), tuple(x.get_shape())) for name, x in slices]
  except (safetensors.SafetensorError, OSError) as error:
    raise ConfigError(f'{path} is not a complete safetensors file: {error}') from error


def check_tensors(
  tensors: Mapping[str, Stored],
  expected: Mapping[str, tuple[int, ...]],
  where: str,
  ignored: tuple[str, ...],
) -> None:
  """Compares the tensors of a model's files with those that the model has.

  Args:
    tensors: from `find_tensors`.
    expected: the shape of each tensor of the model.
    where: the file that the shapes come from, for messages.
    ignored: name endings of tensors that may be there but are not parameters.

  Raises:
    ConfigError: for a tensor that is missing, unexpected, or of another shape or type.
  """
  for name, shape in expected.items():
    if name not in tensors:
      raise ConfigError(f'{where} implies a tensor {name!r}, of shape {shape}, which is missing')
    found = tensors[name]
    if found.shape != shape:
      raise ConfigError(
        f'{found.path}: tensor {name!r} has shape {found.shape}; {where} implies {shape}'
      )
    if found.dtype not in FLOATS:
      raise ConfigError(
        f'{found.path}: tensor {name!r} has type {found.dtype}; it must be one of '
        f'{", ".join(FLOATS)}'
      )
  for name, found in tensors.items():
    if name not in expected and not name.endswith(ignored):
      raise ConfigError(f'{found.path} has a tensor {name!r} that no part of the model uses')


def load_tensor(tensor: Stored) -> np.ndarray:
  """The values of a tensor, float32. Raises ConfigError for a value that is not finite."""
  with np.errstate(over='ignore'):  # beyond float32: found to be infinite below
    values = tensor.read().astype(np.float32)
  if not np.isfinite(values).all():
    raise ConfigError(
      f'{tensor.path}: tensor {tensor.name!r} has values that are not finite in float32'
    )
  return values


def save_tensors(tensors: Mapping[str, np.ndarray], folder: pathlib.Path, shard_bytes: int) -> None:
  """Writes one file, or several of at most `shard_bytes` and their index."""
  shards: list[dict[str, Any]] = [{}]
  size = 0
  for name, value in tensors.items():
    # A tensor is never split: one above the limit gets a separate file.
    if size and size + value.nbytes > shard_bytes:
      shards.append({})
      size = 0
    shards[-1][name] = value
    size += value.nbytes
  metadata = {'format': 'pt'}
  if len(shards) == 1:
    atomic_write(folder / WHOLE, safetensors.numpy.save(shards[0], metadata))
    return
  where = {}
  for i, shard in enumerate(shards):
    file = f'model-{i + 1:05d}-of-{len(shards):05d}.safetensors'
    atomic_write(folder / file, safetensors.numpy.save(shard, metadata))
    where |= dict.fromkeys(shard, file)
  total = sum(value.nbytes for value in tensors.values())
  index = {'metadata': {'total_size': total}, 'weight_map': where}
  atomic_write(folder / INDEX, json.dumps(index, indent=2) + '\n')
