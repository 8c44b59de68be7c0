"""Files that are either whole or not there."""

import os
import pathlib
import threading


def atomic_write(path: str | os.PathLike, content: bytes | str) -> None:
  """Writes a file under its final name only once all of it is on the disk.

  The content goes to a temporary file in the same folder, which then takes the final name. Whoever
  reads `path` sees the old file or the new one, never a part; after a failure the old one stands.

  Args:
    path: the file. Its folder is made if it is missing.
    content: bytes, or text to be written as UTF-8.

  Raises:
    OSError: the disk is full, the folder cannot be written, and the like.
  """
  path = pathlib.Path(path)
  path.parent.mkdir(parents=True, exist_ok=True)
  temporary = path.with_name(f'.{path.name}.{os.getpid()}-{threading.get_ident()}.tmp')
  try:
    with temporary.open('wb') as file:
      file.write(content.encode('utf-8') if isinstance(content, str) else content)
      file.flush()
      os.fsync(file.fileno())
    os.replace(temporary, path)
  except BaseException:
    temporary.unlink(missing_ok=True)
    raise
