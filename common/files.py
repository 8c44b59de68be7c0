"""Paths, atomic writing of files and folders, and locks between processes.

A path is on this machine, or in a bucket (`common.buckets`), where the functions that take a `Path`
do what is possible there.
"""

import contextlib
import errno
import fcntl
import os
import pathlib
import re
import shutil
import socket
import tempfile
import threading
from collections.abc import Iterator

from etils import epath

from common import buckets

Path = pathlib.Path | epath.Path

URL = re.compile(r'[A-Za-z][\w+.-]+:(/|$)')  # also 'gs:/', to which pathlib shortens 'gs://'


def to_path(path: str | os.PathLike) -> Path:
  """A path on this machine, with `~` replaced by the home folder, or in a bucket.

  Raises:
    ValueError: for another URL, or one without a bucket and a folder; for an unknown home.
  """
  text = os.fspath(path)
  if text.startswith(buckets.SCHEME):
    return buckets.folder_of(text)
  if URL.match(text):
    raise ValueError(
      'must be a path on this machine, or gs://BUCKET/FOLDER, not another URL: copy or mount the '
      'files first'
    )
  return pathlib.Path(local_path(text))


def in_bucket(path: Path) -> bool:
  """Whether a path is in a bucket."""
  return not isinstance(path, pathlib.Path)


def local_path(text: str) -> str:
  """A path with `~` replaced by the home folder; '' stays ''.

  Raises:
    ValueError: for a URL, which would otherwise become a folder called 'gs:'; for an unknown home.
  """
  if URL.match(text):
    raise ValueError('must be a path on this machine, not a URL: copy or mount the files first')
  path = os.path.expanduser(text)
  if path.startswith('~'):
    raise ValueError(f'has no home folder {path.partition("/")[0]}: write the folder itself')
  return path


def atomic_write(path: str | os.PathLike, content: bytes | str) -> None:
  """Writes a file so that its final name never refers to an incomplete file.

  The content goes to a temporary file in the same folder, which is then renamed. A reader of `path`
  sees the old file or the new one, and after a failure the old one is unchanged. Once this function
  has returned, the file survives a power cut. In a bucket, an object is put whole anyway.

  Args:
    path: the file. Its folder is created if it is missing.
    content: bytes, or text to write as UTF-8.

  Raises:
    OSError: the disk is full, the folder cannot be written, and the like.
  """
  path = path if isinstance(path, epath.Path) else pathlib.Path(path)
  content = content.encode('utf-8') if isinstance(content, str) else content
  if in_bucket(path):
    path.write_bytes(content)
    return
  path.parent.mkdir(parents=True, exist_ok=True)
  # In the same folder, because a rename is atomic only within a file system. Its name contains the
  # process and the thread, so that two writers do not share it.
  temporary = path.with_name(f'.{path.name}.{os.getpid()}-{threading.get_ident()}.tmp')
  try:
    with temporary.open('wb') as file:
      file.write(content)
      file.flush()
      os.fsync(file.fileno())  # before the rename, so that a power cut leaves no empty file
    os.replace(temporary, path)
    sync_folder(path.parent)
  except BaseException:
    temporary.unlink(missing_ok=True)
    raise


def sync_folder(folder: pathlib.Path) -> None:
  """Waits until the names in a folder are on the disk, so that a power cut undoes no rename."""
  descriptor = os.open(folder, os.O_RDONLY)
  try:
    os.fsync(descriptor)
  except OSError as error:
    # Some network file systems have no such operation for folders.
    if error.errno not in (errno.EINVAL, errno.ENOTSUP):
      raise
  finally:
    os.close(descriptor)


def sync_tree(folder: Path) -> None:
  """Waits until a folder, everything in it and its own name are on the disk."""
  if in_bucket(folder):
    return  # an object that can be seen is stored
  for path in folder.rglob('*'):
    if path.is_file():
      with path.open('rb') as file:
        os.fsync(file.fileno())
  for path in (*(path for path in folder.rglob('*') if path.is_dir()), folder, folder.parent):
    sync_folder(path)


def exists(path: Path) -> bool:
  """Whether there is a file or folder. Raises OSError for a bucket that cannot be read."""
  return buckets.exists(path) if in_bucket(path) else path.exists()


def children(folder: Path) -> list[Path]:
  """What is in a folder, by name; nothing if there is no such folder."""
  try:
    return sorted(folder.iterdir())
  except (FileNotFoundError, NotADirectoryError):
    return []


def remove_folder(folder: Path) -> None:
  """Removes a folder and everything in it."""
  if in_bucket(folder):
    buckets.remove_folder(folder)
  else:
    shutil.rmtree(folder)


def rename_folder(folder: Path, target: Path) -> None:
  """Renames a folder, to a name that does not exist; in a bucket, by copying its objects."""
  if in_bucket(folder):
    buckets.rename_folder(folder, target)
  else:
    shutil.move(folder, target)


def check_regular(path: Path) -> None:
  """Raises ValueError for a folder, a pipe or a device: reading a pipe could wait for ever."""
  if path.exists() and not path.is_file():
    raise ValueError(f'{path} must be a regular file')


def path_text(path: str | os.PathLike) -> str:
  """A path as text that can be written anywhere: bytes that are no UTF-8 become '\\xe9'."""
  return os.fsencode(path).decode(errors='backslashreplace')


def nearest_folder(folder: Path) -> Path:
  """The folder itself if it exists or is in a bucket, otherwise the nearest one above it."""
  if in_bucket(folder):
    return folder
  return next(path for path in (folder, *folder.absolute().parents) if os.path.lexists(path))


def check_writable(folder: Path) -> None:
  """Raises ValueError for a folder in which nothing can be written, or that cannot be created."""
  if in_bucket(folder):
    buckets.check_writable(folder)
    return
  nearest = nearest_folder(folder)
  if not nearest.is_dir():
    raise ValueError(f'cannot be written: {nearest} is not a folder')
  try:
    # Tried, since permissions do not tell: /proc, a read-only or a full disk.
    tempfile.TemporaryDirectory(dir=nearest).cleanup()
    with contextlib.suppress(FileNotFoundError):
      folder.lstat()  # fails for a name that is too long
  except OSError as error:
    raise ValueError(f'cannot be written: {nearest}: {error.strerror}') from error


def check_writable_folder(path: pathlib.Path) -> None:
  """Raises ValueError unless the path is free, or an empty folder."""
  try:
    first = next(path.iterdir(), None) if path.exists() else None
  except OSError as error:
    raise ValueError(f'{path} must be a new or an empty folder: {error.strerror}') from error
  if first is not None:
    raise ValueError(
      f'{path} must be a new or an empty folder, but it contains {first.name!r}; choose another '
      'folder, or move its contents away'
    )


@contextlib.contextmanager
def atomic_folder(path: str | os.PathLike) -> Iterator[pathlib.Path]:
  """Yields a temporary folder, which gets the name `path` when the block ends without an error.

  Args:
    path: a new folder, or an empty one.

  Raises:
    ValueError: for a folder that is not empty.
  """
  path = pathlib.Path(path).absolute()
  check_writable_folder(path)
  path = path.resolve()  # a rename would replace a symbolic link, not its target
  temporary = path.with_name(f'.{path.name}.{os.getpid()}-{threading.get_ident()}.tmp')
  temporary.mkdir(parents=True)
  try:
    yield temporary
    os.rename(temporary, path)  # fails if the folder is no longer empty
  except BaseException:
    shutil.rmtree(temporary, ignore_errors=True)
    raise


@contextlib.contextmanager
def exclusive(path: Path) -> Iterator[None]:
  """Holds a lock on a file, which is created if it is missing.

  The operating system releases the lock when the process ends, however it ends. On a file system
  without locks, and in a bucket, nothing is held.

  Raises:
    BlockingIOError: another process holds the lock; its `strerror` names that process.
  """
  if in_bucket(path):
    yield
    return
  with path.open('a+', encoding='utf-8') as file:
    try:
      fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
      file.seek(0)
      holder = file.read().strip() or 'another process'
      raise BlockingIOError(error.errno, holder, str(path)) from None
    except OSError as error:
      if error.errno not in (errno.ENOLCK, errno.ENOTSUP, errno.EINVAL):
        raise
    # The file stays when the lock is released: removing it would race with the next process.
    file.truncate(0)
    file.write(f'process {os.getpid()} on {socket.gethostname()}\n')
    file.flush()
    yield
