"""Paths on this machine, atomic writing of files and folders, and locks between processes."""

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

URL = re.compile(r'[A-Za-z][\w+.-]+:(/|$)')  # also 'gs:/', to which pathlib shortens 'gs://'


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
  has returned, the file survives a power cut.

  Args:
    path: the file. Its folder is created if it is missing.
    content: bytes, or text to write as UTF-8.

  Raises:
    OSError: the disk is full, the folder cannot be written, and the like.
  """
  path = pathlib.Path(path)
  path.parent.mkdir(parents=True, exist_ok=True)
  # In the same folder, because a rename is atomic only within a file system. Its name contains the
  # process and the thread, so that two writers do not share it.
  temporary = path.with_name(f'.{path.name}.{os.getpid()}-{threading.get_ident()}.tmp')
  try:
    with temporary.open('wb') as file:
      file.write(content.encode('utf-8') if isinstance(content, str) else content)
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


def sync_tree(folder: pathlib.Path) -> None:
  """Waits until a folder, everything in it and its own name are on the disk."""
  for path in folder.rglob('*'):
    if path.is_file():
      with path.open('rb') as file:
        os.fsync(file.fileno())
  for path in (*(path for path in folder.rglob('*') if path.is_dir()), folder, folder.parent):
    sync_folder(path)


def check_regular(path: pathlib.Path) -> None:
  """Raises ValueError for a folder, a pipe or a device: reading a pipe could wait for ever."""
  if path.exists() and not path.is_file():
    raise ValueError(f'{path} must be a regular file')


def path_text(path: str | os.PathLike) -> str:
  """A path as text that can be written anywhere: bytes that are no UTF-8 become '\\xe9'."""
  return os.fsencode(path).decode(errors='backslashreplace')


def nearest_folder(folder: pathlib.Path) -> pathlib.Path:
  """The folder itself if it exists, otherwise the nearest existing one above it."""
  return next(path for path in (folder, *folder.absolute().parents) if os.path.lexists(path))


def check_writable(folder: pathlib.Path) -> None:
  """Raises ValueError for a folder in which nothing can be written, or that cannot be created."""
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
def exclusive(path: pathlib.Path) -> Iterator[None]:
  """Holds a lock on a file, which is created if it is missing.

  The operating system releases the lock when the process ends, however it ends. On a file system
  without locks nothing is held.

  Raises:
    BlockingIOError: another process holds the lock; its `strerror` names that process.
  """
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
