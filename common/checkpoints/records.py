"""The record of a checkpoint, and its verification.

In addition to the arrays, a step contains two JSON files, each with its own checksum:

  record/data.json   config, data position, metrics; shape, type and digest of each leaf
  files.json         size and CRC-32 of every file, written after all files are complete

The CRCs identify a damaged file cheaply, before anything is read from it. The digests show that the
restored arrays on the devices equal the saved ones. They work even if there is no `files.json`: a
run was killed before it wrote the file, or the step is in a bucket.
"""

import hashlib
import json
import pathlib
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from common.checkpoints import digests
from common.files import Path, atomic_write
from common.method import PyTree
from common.trees import path_name

RECORD = pathlib.Path('record', 'data.json')
MANIFEST = pathlib.Path('files.json')


class CheckpointError(RuntimeError):
  """A checkpoint cannot be written or read. The message says why and where, in one line."""


class DamagedCheckpoint(Exception):
  """A step failed verification. The message names the leaf or file and the problem."""


def named_leaves(tree: PyTree) -> dict[str, Any]:
  """{'params/dense/kernel': leaf} for every leaf of a pytree, in the pytree's order.

  A named tuple and a dict with the same names give the same paths.

  Raises:
    CheckpointError: two leaves have the same name.
  """
  # By name, not by position, so that an error can say which leaf differs.
  paths = jax.tree_util.tree_leaves_with_path(tree)
  named = {path_name(path): leaf for path, leaf in paths}
  if len(named) < len(paths):
    raise CheckpointError('two leaves of the state have the same path; rename one of them')
  return named


def storable(name: str, x: Any) -> jax.Array | np.ndarray:
  """The leaf as an array; as a host array if every process has its own copy."""
  if isinstance(x, jax.Array):
    # With several processes, Orbax saves global arrays. An array that this process holds completely
    # is the same on all processes, and is saved as a host array.
    is_local = jax.process_count() > 1 and x.is_fully_addressable
    return np.asarray(x) if is_local else x
  x = np.asarray(x)
  if x.dtype.kind in 'OSUM':
    raise CheckpointError(f'{name} of the state must be an array of numbers, got {x.dtype}')
  return x.astype(jax.dtypes.canonicalize_dtype(x.dtype))


def restore_target(name: str, x: Any) -> jax.ShapeDtypeStruct:
  """Shape, type and sharding with which to restore a leaf; by default on the first device."""
  if not isinstance(x, jax.ShapeDtypeStruct):
    x = storable(name, x)
  sharding = None if isinstance(x, np.ndarray) else x.sharding
  if sharding is None:
    sharding = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
  # Checked before anything is read: an uneven sharding would fail deep inside Orbax.
  try:
    sharding.shard_shape(x.shape)
  except ValueError as e:
    raise CheckpointError(f'{name} cannot be sharded as requested: {one_line(e)}') from e
  return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)


def describe(leaves: Mapping[str, Any]) -> dict[str, list]:
  """{name: [shape, type, digest]} for the record."""
  sums = digests.digests(leaves)
  return {name: [list(x.shape), str(x.dtype), sums[name]] for name, x in leaves.items()}


def compare(path: Path, there: Mapping[str, list], asked: Mapping, partial: bool) -> None:
  """Raises CheckpointError naming the first leaf in which checkpoint and state differ.

  Args:
    path: the folder of the step, for the message.
    there: the leaves of the checkpoint, as its record describes them.
    asked: the leaves of the state to restore.
    partial: whether `there` may have more leaves than `asked`.
  """
  for name, x in asked.items():
    want = _shown(x.shape, x.dtype)
    if name not in there:
      raise CheckpointError(_of_another_model(path, f'it lacks {name}, here {want}'))
    if (have := _shown(*there[name][:2])) != want:
      raise CheckpointError(_of_another_model(path, f'{name} is {have} there and {want} here'))
  extra = [name for name in there if name not in asked]
  if extra and not partial:
    have = _shown(*there[extra[0]][:2])
    raise CheckpointError(_of_another_model(path, f'it has {extra[0]} {have}, absent here'))


def _of_another_model(path: Path, why: str) -> str:
  return (
    f'{path} is from another model: {why}; use the config and the version of twofold that made it, '
    'or train again'
  )


def verify_leaves(there: Mapping[str, list], leaves: Mapping[str, jax.Array]) -> None:
  """Raises DamagedCheckpoint unless each leaf matches the record."""
  found = describe(leaves)
  wrong = [name for name in leaves if found[name] != there[name]]
  if wrong:
    count = f'{len(wrong)} of {len(leaves)} leaves'
    raise DamagedCheckpoint(f'{wrong[0]} differs from the saved array ({count} differ)')


def write_manifest(path: Path) -> None:
  """Writes `files.json` for a finished step."""
  atomic_write(
    path / MANIFEST, json.dumps(seal({name: _size_and_crc(path / name) for name in _files(path)}))
  )


def verify_files(path: Path, share: int = 0, of: int = 1) -> None:
  """Raises DamagedCheckpoint naming the first file that has changed since it was written.

  A step without `files.json` passes: it is in a bucket, or the run was killed before it wrote the
  file. The digests still protect the arrays.

  Args:
    path: the folder of the step.
    share: the index of the part of the files to check; with several processes, each checks one.
    of: the number of parts.
  """
  if not (path / MANIFEST).exists():
    return
  manifest = read_sealed(path, MANIFEST)
  for name in sorted(manifest)[share::of]:
    # The size first, because it gives the clearest message for a truncated file, the most common
    # damage.
    try:
      found = _size_and_crc(path / name)
    except OSError as e:
      raise DamagedCheckpoint(f'{name}: {one_line(e)}') from e
    if found[0] != manifest[name][0]:
      raise DamagedCheckpoint(f'{name} has {found[0]} bytes instead of {manifest[name][0]}')
    if found != manifest[name]:
      raise DamagedCheckpoint(f'{name} has changed since it was written')


def seal(content: Any) -> dict[str, str]:
  """A JSON text with its checksum, for `read_sealed`."""
  # The checksum covers the text, so the JSON needs no canonical form.
  text = json.dumps(content)
  return {'json': text, 'sha256': hashlib.sha256(text.encode()).hexdigest()}


def read_record(path: Path, step: int) -> dict:
  """The record of the checkpoint of `step` in the folder `path`.

  Raises:
    DamagedCheckpoint: it is missing, malformed, changed, or the record of another step.
  """
  record = read_sealed(path, RECORD)
  # The name of a folder is easily changed; the record is sealed.
  if record['step'] != step:
    raise DamagedCheckpoint(
      f'it is a copy of step {record["step"]}: rename the folder, or remove it'
    )
  return record


def read_sealed(path: Path, name: pathlib.Path) -> dict:
  """The content of the sealed JSON file `name` of a step.

  Raises:
    DamagedCheckpoint: it is missing, malformed, or does not match its checksum.
  """
  try:
    sealed = json.loads((path / name).read_text(encoding='utf-8'))
    text = sealed['json']
    intact = hashlib.sha256(text.encode()).hexdigest() == sealed['sha256']
  except (OSError, ValueError, KeyError, TypeError, AttributeError) as e:
    raise DamagedCheckpoint(f'{name}: {one_line(e)}') from e
  if not intact:
    raise DamagedCheckpoint(f'{name} does not match its checksum')
  return json.loads(text)


def one_line(e: BaseException) -> str:
  """The message of an exception, short and without line breaks."""
  text = ' '.join(str(e).split()) or type(e).__name__
  # Long enough for a path or two: what went wrong often comes last.
  return text if len(text) <= 600 else text[:597] + '...'


def _files(path: Path) -> list[str]:
  return sorted(str(p.relative_to(path)) for p in path.rglob('*') if p.is_file())


def _size_and_crc(path: Path) -> list[int]:
  size = crc = 0
  with path.open('rb') as file:
    while block := file.read(2**20):  # in megabytes: files may be larger than the memory
      size, crc = size + len(block), zlib.crc32(block, crc)
  return [size, crc]


def _shown(shape: Sequence[int], dtype: Any) -> str:
  return f'{dtype}[{",".join(map(str, shape))}]'
