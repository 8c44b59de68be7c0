"""What a checkpoint says of itself, and whether that is still so.

Beside the arrays, a step holds two JSON files, each with a checksum of its own:

  record/data.json   config, data position, metrics; shape, type and digest of each leaf
  files.json         size and CRC-32 of every file, written when all of them are there

The CRCs find a damaged file cheaply and by name before anything is read from it. The digests say
that the arrays on the devices are those that were saved, whatever happened on the way; they hold
even if the run was killed before `files.json` was written.
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
from common.files import atomic_write
from common.method import PyTree
from common.trees import path_name

RECORD = pathlib.Path('record', 'data.json')
MANIFEST = pathlib.Path('files.json')


class CheckpointError(RuntimeError):
  """A checkpoint that cannot be written or read: what is wrong and where, in one line."""


class Damaged(Exception):
  """A step that cannot be trusted; the message says what is wrong with which leaf or file."""


def named_leaves(tree: PyTree) -> dict[str, Any]:
  """{'params/dense/kernel': leaf} for every leaf of a pytree, in the order of its leaves.

  A named tuple and a dict with the same names are alike.

  Raises:
    CheckpointError: two leaves have the same name.
  """
  paths = jax.tree_util.tree_leaves_with_path(tree)
  named = {path_name(path): leaf for path, leaf in paths}
  if len(named) < len(paths):
    raise CheckpointError('two leaves of the state have the same path; rename one of them')
  return named


def storable(name: str, x: Any) -> jax.Array | np.ndarray:
  """The leaf as an array; one that every process holds for itself as a host array."""
  if isinstance(x, jax.Array):
    alone = jax.process_count() > 1 and x.is_fully_addressable
    return np.asarray(x) if alone else x
  x = np.asarray(x)
  if x.dtype.kind in 'OSUM':
    raise CheckpointError(f'{name} of the state is no array of numbers but {x.dtype}')
  return x.astype(jax.dtypes.canonicalize_dtype(x.dtype))


def placed(name: str, x: Any) -> jax.ShapeDtypeStruct:
  """Shape, type and sharding that a leaf is restored to; the first device if it says nothing."""
  if not isinstance(x, jax.ShapeDtypeStruct):
    x = storable(name, x)
  sharding = getattr(x, 'sharding', None)
  if sharding is None:
    sharding = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
  try:
    sharding.shard_shape(x.shape)
  except ValueError as e:
    raise CheckpointError(f'{name} cannot be sharded as asked: {one_line(e)}') from e
  return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)


def describe(leaves: Mapping[str, Any]) -> dict[str, list]:
  """{name: [shape, type, digest]}, as the record holds it."""
  sums = digests.digests(leaves)
  return {name: [list(x.shape), str(x.dtype), sums[name]] for name, x in leaves.items()}


def compare(path: pathlib.Path, there: Mapping[str, list], asked: Mapping, partial: bool) -> None:
  """Raises CheckpointError that names the first leaf in which checkpoint and state differ.

  Args:
    path: the step, for the message.
    there: the leaves as the record describes them.
    asked: the leaves of the state to be restored.
    partial: `there` may have leaves that were not asked for.
  """
  for name, x in asked.items():
    want = _shown(x.shape, x.dtype)
    if name not in there:
      raise CheckpointError(f'{path} is of another model: it has no {name}, which here is {want}')
    if (have := _shown(*there[name][:2])) != want:
      raise CheckpointError(f'{path} is of another model: {name} is {have} there and {want} here')
  extra = [name for name in there if name not in asked]
  if extra and not partial:
    have = _shown(*there[extra[0]][:2])
    raise CheckpointError(f'{path} is of another model: it has {extra[0]} {have}, unknown here')


def verify_leaves(there: Mapping[str, list], leaves: Mapping[str, jax.Array]) -> None:
  """Raises Damaged unless each leaf is what the record says."""
  found = describe(leaves)
  wrong = [name for name in leaves if found[name] != there[name]]
  if wrong:
    raise Damaged(f'{wrong[0]} differs from what was saved ({len(wrong)} of {len(leaves)} leaves)')


def write_manifest(path: pathlib.Path) -> None:
  """Writes `files.json` for a finished step."""
  atomic_write(
    path / MANIFEST, json.dumps(seal({name: _size_and_crc(path / name) for name in _files(path)}))
  )


def verify_files(path: pathlib.Path, share: int = 0, of: int = 1) -> None:
  """Raises Damaged that names the first file which is not as it was written.

  A step without `files.json` passes: it is older than this check, or the run was killed just then.

  Args:
    path: the step.
    share: which part of the files to check.
    of: the number of parts.
  """
  if not (path / MANIFEST).exists():
    return
  manifest = read_sealed(path, MANIFEST)
  for name in sorted(manifest)[share::of]:
    try:
      found = _size_and_crc(path / name)
    except OSError as e:
      raise Damaged(f'{name}: {one_line(e)}') from e
    if found[0] != manifest[name][0]:
      raise Damaged(f'{name} has {found[0]} bytes instead of {manifest[name][0]}')
    if found != manifest[name]:
      raise Damaged(f'{name} has changed since it was written')


def seal(content: Any) -> dict[str, str]:
  """JSON with a checksum, as `read_sealed` wants it."""
  text = json.dumps(content)
  return {'json': text, 'sha256': hashlib.sha256(text.encode()).hexdigest()}


def read_sealed(path: pathlib.Path, name: pathlib.Path) -> dict:
  """The sealed JSON file `name` of a step. Raises Damaged."""
  try:
    sealed = json.loads((path / name).read_text(encoding='utf-8'))
    text = sealed['json']
    whole = hashlib.sha256(text.encode()).hexdigest() == sealed['sha256']
  except (OSError, ValueError, KeyError, TypeError, AttributeError) as e:
    raise Damaged(f'{name}: {one_line(e)}') from e
  if not whole:
    raise Damaged(f'{name} does not match its checksum')
  return json.loads(text)


def one_line(e: BaseException) -> str:
  """The message of an exception, short and without line breaks."""
  text = ' '.join(str(e).split()) or type(e).__name__
  return text if len(text) <= 300 else text[:297] + '...'


def _files(path: pathlib.Path) -> list[str]:
  return sorted(str(p.relative_to(path)) for p in path.rglob('*') if p.is_file())


def _size_and_crc(path: pathlib.Path) -> list[int]:
  size = crc = 0
  with path.open('rb') as file:
    while block := file.read(2**20):
      size, crc = size + len(block), zlib.crc32(block, crc)
  return [size, crc]


def _shown(shape: Sequence[int], dtype: Any) -> str:
  return f'{dtype}[{",".join(map(str, shape))}]'
