"""Folders in buckets of Cloud Storage, `gs://BUCKET/FOLDER`: what `common.files` does there.

A bucket holds objects. A folder is only the beginning of their names: it cannot be renamed, locked
or seen half written. An object is put whole, replaces another one at once, and is never appended
to. Paths are those of etils.epath, which reaches buckets through gcsfs. Orbax uses the same paths,
and TensorStore for the arrays.
"""

import base64
import contextlib
import fcntl
import functools
import hashlib
import importlib.util
import json
import logging as std_logging
import os
import pathlib
import secrets
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from typing import Any

from absl import logging
from etils import epath

SCHEME = 'gs://'
UPLOAD_EVERY = 60.0  # seconds between two uploads of files that grow
# Whoever finds one of these takes the folder for complete: they are removed first.
MARKERS = ('commit_success.txt', 'config.json')
INDEX = 'bucket.json'  # in a copy: the objects that it was made of
LOG_IN = (
  'log in with `gcloud auth application-default login`, or set GOOGLE_APPLICATION_CREDENTIALS to '
  'the key of an account that may read and write its objects'
)


def folder_of(url: str) -> epath.Path:
  """The path of a folder in a bucket; nothing is opened yet.

  Raises:
    ValueError: the URL names no bucket, or no folder in it.
  """
  _choose_gcsfs()
  path = epath.Path(url)
  if len(path.parts) < 4:  # '/', 'gs', the bucket and a folder
    raise ValueError('must name a bucket and a folder in it: gs://BUCKET/FOLDER')
  return path


@functools.cache
def _choose_gcsfs() -> None:
  """Settings of epath and of gcsfs, for the paths that are opened from here on."""
  import fsspec

  # epath would prefer TensorFlow where it is installed: another program for the same objects.
  os.environ.setdefault('EPATH_USE_TF', 'false')
  # Buckets in one zone have an API of their own, for which gcsfs would look before each first use.
  os.environ.setdefault('GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT', 'false')
  std_logging.getLogger('gcsfs').setLevel(
    std_logging.CRITICAL
  )  # it prints the errors that it raises
  # A list of objects would be kept, and other processes and TensorStore write objects too.
  fsspec.config.conf.setdefault('gcs', {}).setdefault('use_listings_cache', False)


def _file_system() -> Any:
  """The file system of gcsfs that epath uses too. Raises ValueError if gcsfs is missing."""
  import fsspec

  if importlib.util.find_spec('gcsfs') is None:
    raise ValueError(
      "needs gcsfs: pip install 'twofold[gcs]', or pip install '.[gcs]' in the folder of the code"
    )
  return fsspec.filesystem('gcs', finalize_on_close=True)


def check_writable(folder: epath.Path) -> None:
  """Raises ValueError for a folder in which no object can be put, and gives the reason."""
  _file_system()
  probe = folder / f'.writable-{secrets.token_hex(8)}'
  try:
    probe.write_bytes(b'')
    probe.unlink()
  except Exception as error:  # gcsfs, aiohttp and google.auth have their own types
    raise ValueError(f'cannot be written: {reason(error, folder)}') from error


def exists(path: epath.Path) -> bool:
  """Whether there is an object, or a folder. Raises OSError, with the reason, if that is hidden."""
  try:
    files = _file_system()
  except ValueError as error:
    raise OSError(f'{path} {error}') from error
  try:
    if path.exists():
      return True
    files.info(path.parts[2])  # of the bucket: raises if there is none
    return False
  except Exception as error:
    raise OSError(f'{path} cannot be read: {reason(error, path)}') from error


def reason(error: Exception, path: epath.Path) -> str:
  """Why an object cannot be written or read, in one line."""
  text = ' '.join(str(error).split())
  if isinstance(error, FileNotFoundError):
    return f'there is no bucket {SCHEME}{path.parts[2]}, or it is not visible to this account'
  if any(word in text for word in ('Forbidden', 'nonymous', 'ermission', 'redentials')):
    return f'this account has no access to {SCHEME}{path.parts[2]}: {LOG_IN}'
  return text[:300] or type(error).__name__


def names(folder: epath.Path) -> dict[str, Mapping[str, Any]]:
  """What is known of each object in a folder and below it, by its name there."""
  found = _file_system().find(os.fspath(folder), detail=True)
  start = len(os.fspath(folder).removeprefix(SCHEME).rstrip('/')) + 1
  # Without the objects that stand for empty folders, which the console makes.
  files = {path[start:]: info for path, info in sorted(found.items()) if not path.endswith('/')}
  return {name: info for name, info in files.items() if name}


def remove_folder(folder: epath.Path) -> None:
  """Removes all objects in a folder, beginning with those that mark it as complete."""
  paths = [folder / name for name in names(folder)]
  marks = [os.fspath(path) for path in paths if path.name in MARKERS]
  others = [os.fspath(path) for path in paths if path.name not in MARKERS]
  for some in (marks, others):
    if some:
      _file_system().rm(some)


def rename_folder(folder: epath.Path, target: epath.Path) -> None:
  """Copies all objects in a folder, inside Cloud Storage, and then removes them."""
  for name in names(folder):
    _file_system().copy(os.fspath(folder / name), os.fspath(target / name))
  remove_folder(folder)


def local_copy(folder: epath.Path) -> pathlib.Path:
  """A copy on this machine of a folder in a bucket; made if there is none, or of other objects.

  Raises:
    OSError: an object cannot be read, or has changed on its way.
  """
  objects = names(folder)
  index = {name: [info['size'], info.get('generation')] for name, info in objects.items()}
  copy = cache() / os.fspath(folder).removeprefix(SCHEME)
  copy.parent.mkdir(parents=True, exist_ok=True)
  # One process of this machine copies, and the others wait for it.
  with (copy.parent / f'.{copy.name}.lock').open('w') as lock:
    fcntl.flock(lock, fcntl.LOCK_EX)
    if _index_of(copy) != index:
      logging.info('copying %s to %s', folder, copy)
      shutil.rmtree(copy, ignore_errors=True)
      for name, info in objects.items():
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        _file_system().get_file(os.fspath(folder / name), os.fspath(copy / name))
        _check_copy(folder / name, copy / name, info)
      (copy / INDEX).write_text(json.dumps(index))  # last: without it there is no copy
  return copy


def cache() -> pathlib.Path:
  """The folder of copies on this machine."""
  home = os.environ.get('XDG_CACHE_HOME') or pathlib.Path.home() / '.cache'
  return pathlib.Path(home) / 'twofold' / 'buckets'


def _index_of(copy: pathlib.Path) -> dict[str, list] | None:
  try:
    return json.loads((copy / INDEX).read_text())
  except (OSError, ValueError):
    return None


def _check_copy(path: epath.Path, copy: pathlib.Path, info: Mapping[str, Any]) -> None:
  """Raises OSError unless a copy has the size of its object, and its MD5 where that is known."""
  if copy.stat().st_size != info['size']:
    raise OSError(
      f'{path} has {info["size"]} bytes, but {copy.stat().st_size} arrived: start again'
    )
  if 'md5Hash' in info:  # objects that were uploaded in parts have none
    with copy.open('rb') as file:
      found = hashlib.file_digest(file, 'md5').digest()
    if base64.b64encode(found).decode() != info['md5Hash']:
      raise OSError(f'{path} arrived with other content: start again')


class Spool:
  """A folder on this machine with files that grow, which are put into a bucket whole.

  At most once a minute, at every checkpoint and at the end: what is lost when the process is killed
  belongs to steps after the last checkpoint, which a run repeats.

  Attributes:
    folder: the folder on this machine; `close` removes it.

  Args:
    target: the folder in a bucket.
  """

  def __init__(self, target: epath.Path):
    import tensorstore  # here: most commands do without

    self._temporary = tempfile.TemporaryDirectory(prefix='twofold-')
    self.folder = pathlib.Path(self._temporary.name)
    self._target, self._last = target, time.monotonic()
    bucket, folder = target.parts[2], '/'.join(target.parts[3:])
    spec = {'driver': 'gcs', 'bucket': bucket, 'path': f'{folder}/'}
    self._store = tensorstore.KvStore.open(spec).result()
    self._uploaded: dict[str, tuple[int, int]] = {}
    self._versions: dict[str, bytes] = {}

  def fetch(self, name: str) -> None:
    """Copies an object to the folder, if there is one, to be continued by this process alone."""
    with self._naming(name):
      found = self._store.read(name).result()
    self._versions[name] = found.stamp.generation
    if found.state == 'value':
      (self.folder / name).write_bytes(found.value)

  @contextlib.contextmanager
  def _naming(self, name: str) -> Iterator[None]:
    """Turns an error of TensorStore, a ValueError, into an OSError that names the object."""
    try:
      yield
    except ValueError as error:
      raise OSError(f'{self._target}/{name}: {reason(error, self._target)}') from error

  def upload_now_and_then(self) -> None:
    """Uploads the files unless that was less than a minute ago."""
    if time.monotonic() - self._last >= UPLOAD_EVERY:
      self.upload()

  def upload(self) -> None:
    """Uploads all files that have changed.

    Raises:
      FileNotFoundError: another process has replaced or removed an object that was fetched.
      OSError: an object cannot be written.
    """
    self._last = time.monotonic()
    for path in sorted(self.folder.rglob('*')):
      if path.is_file():
        name, state = str(path.relative_to(self.folder)), path.stat()
        state = state.st_size, state.st_mtime_ns
        if self._uploaded.get(name) != state:
          self._put(name, path.read_bytes())
          self._uploaded[name] = state

  def _put(self, name: str, content: bytes) -> None:
    version = self._versions.get(name)
    with self._naming(name):
      written = self._store.write(name, content, if_equal=version).result().generation
      if version is None:
        return
      if not written:
        # Another version is there. It is ours if the answer to an earlier attempt was lost.
        found = self._store.read(name).result()
        if found.state != 'value' or found.value != content:
          raise FileNotFoundError(
            f'{self._target}/{name} was removed or replaced while the run was writing to it: is '
            'another process training there?'
          )
        written = found.stamp.generation
    self._versions[name] = written

  def close(self) -> None:
    """Uploads the files, and removes the folder."""
    try:
      self.upload()
    finally:
      self._temporary.cleanup()
