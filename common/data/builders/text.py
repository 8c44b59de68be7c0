"""Text as windows of tokens; the user's own file or folder.

A window has `context` + 1 tokens. The first is given and the other `context` are predicted, each
from the tokens before it. The last token of a window is the first of the next, so every token is
predicted once.
"""

import abc
import hashlib
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow_datasets as tfds

from common.config import ConfigError, pick
from common.data import tokenizers
from common.data.builders import base
from common.data.spec import token_dtype
from common.files import path_text

# The parts of a single document that go to each split, by `data.held_out`.
HELD_OUT = {
  'both': {'train': (0.0, 0.9), 'validation': (0.9, 0.95), 'test': (0.95, 1.0)},
  'validation': {'train': (0.0, 0.9), 'validation': (0.9, 1.0)},
}

BYTE_ORDER_MARK = '\ufeff'
CHECKED_CHARACTERS = 10_000  # of each text, to see whether its tokens give it back
MAX_BYTES = 2**33  # of all texts together: they are held in memory while they are prepared


class Document(NamedTuple):
  """A text and its name."""

  name: str
  text: str


class TextBuilder(base.Builder, skip_registration=True):
  """Windows of tokens, from documents.

  A single document is split by position, 90/5/5, or 90/10 without a test split (`held_out`).
  Several documents are split 80/10/10 by the hashes of their texts, each as a whole, and a
  separator follows each.

  Settings: `context`, `held_out`, and `tokenizer` with `vocabulary` or `tokenizer_files`
  (common/data/tokenizers).
  """

  domain = 'text'
  holds_streams = True
  flags = ('context', 'held_out', 'shift', 'tokenizer', 'vocabulary', 'tokenizer_files')

  @abc.abstractmethod
  def documents(self) -> tuple[list[Document], tuple[str, ...]]:
    """The texts, and notes on them. Raises ConfigError if they are missing or broken."""

  @classmethod
  def variant(cls, settings: Mapping[str, Any]) -> str:
    return encoding_name(settings)

  @classmethod
  def expected(cls, settings):
    windows = dict(shape=(context_length(settings) + 1,), num_classes=0)
    # 50,257: in the files that GPT-2 publishes. Only a text tells its characters.
    levels = {'bytes': 256, 'gpt2': 50_257, 'bpe': settings.get('vocabulary')}
    name = settings.get('tokenizer')
    return windows | ({'levels': levels[name]} if name in levels else {})

  def read(self) -> base.Contents:
    documents, notes = self.documents()
    texts = [document.text for document in documents]
    # The vocabulary covers all splits, so that every character of a test text has a token.
    tokenizer = tokenizers.build_tokenizer(self.settings, texts)
    ranges = HELD_OUT[held_out(self.settings)]
    streams = split_streams(documents, tokenizer, self.name, ranges)
    context = context_length(self.settings)
    dtype = token_dtype(tokenizer.vocabulary)
    windows = {
      split: cut_windows(stream, context, split).astype(dtype) for split, stream in streams.items()
    }
    num_characters, num_tokens = sum(map(len, texts)), sum(map(len, streams.values()))
    notes += text_notes(documents, tokenizer)
    notes += (
      f'{num_characters:,} characters, {num_tokens:,} tokens, '
      f'vocabulary of {tokenizer.vocabulary:,}',
    )
    return base.Contents(
      shape=(context + 1,),
      levels=tokenizer.vocabulary,
      class_names=(),
      splits=base.window_splits(windows),
      notes=notes,
      tokenizer=tokenizers.to_json(tokenizer),
    )


def text_notes(documents: Sequence[Document], tokenizer: tokenizers.Tokenizer) -> tuple[str, ...]:
  """Notes on texts that the tokenizer does not represent as they are."""
  notes = ()
  number = sum(document.text.count(tokenizers.END_OF_TEXT) for document in documents)
  if number:
    notes += (
      f'the texts contain {tokenizers.END_OF_TEXT} {number} times: it is read as plain text, and '
      'separates no documents',
    )
  # The beginning of each text is enough to notice a tokenizer that changes or drops characters.
  starts = [document.text[:CHECKED_CHARACTERS] for document in documents]
  changed = [
    document.name
    for document, start in zip(documents, starts, strict=True)
    if tokenizer.decode(tokenizer.encode(start)) != start
  ]
  if changed:
    notes += (
      f'the tokenizer changes or drops characters of {len(changed)} of {len(documents)} texts, '
      f'such as {changed[0]}: they cannot be restored from their tokens',
    )
  return notes


def context_length(settings: Mapping[str, Any]) -> int:
  """Number of tokens or frames that are predicted in a window: `data.context`, at least 1."""
  context = settings.get('context', 64)
  if context < 1:
    raise ConfigError(f'data.context must be at least 1, got {context}')
  return context


def held_out(settings: Mapping[str, Any]) -> str:
  """What becomes of the last tenth of a single text: `data.held_out`, a key of HELD_OUT."""
  chosen = settings.get('held_out', 'both')
  pick(HELD_OUT, chosen, 'data.held_out')
  return chosen


def encoding_name(settings: Mapping[str, Any]) -> str:
  """Names the tokenizer, the context and the splits, for the folder of the prepared data."""
  name = settings.get('tokenizer', 'characters')
  if name == 'bpe':
    name += str(settings.get('vocabulary', 1024))
  if name in ('gpt2', 'files') and settings.get('tokenizer_files'):
    folder = pathlib.Path(settings['tokenizer_files']).expanduser()
    state = hashlib.blake2b(digest_size=4)
    for path in sorted(folder / name for name in tokenizers.FILES if (folder / name).is_file()):
      # By content: runs that were read from the same weights share what is prepared.
      state.update(path.name.encode() + hashlib.blake2b(path.read_bytes()).digest())
    name += '-' + state.hexdigest()
  splits = '-validation' if held_out(settings) == 'validation' else ''
  return f'{name}-{context_length(settings)}{splits}'


def split_streams(
  documents: Sequence[Document],
  tokenizer: tokenizers.Tokenizer,
  what: str,
  ranges: Mapping[str, tuple[float, float]],
) -> dict[str, np.ndarray]:
  """The token ids of each split, one document after the other.

  Args:
    documents: the texts.
    tokenizer: turns them into tokens.
    what: the dataset, for messages.
    ranges: the part of a single document that goes to each split.

  Raises:
    ConfigError: if there is no text, several texts without a test split, or no token to separate
      documents.
  """
  if not any(document.text for document in documents):
    raise ConfigError(f'{what}: there is no text in {", ".join(d.name for d in documents[:3])}')
  if len(documents) == 1:
    text = documents[0].text
    # Split by characters, then encoded, so that no token spans two splits.
    ends = {k: (int(a * len(text)), int(b * len(text))) for k, (a, b) in ranges.items()}
    return {split: tokenizer.encode(text[a:b]) for split, (a, b) in ends.items()}
  if ranges != HELD_OUT['both']:
    raise ConfigError(
      f"data.held_out='validation' is for a single text, and {what} has {len(documents)}: leave it "
      "at 'both'"
    )
  if tokenizer.separator is None:
    raise ConfigError(
      f'{what}: several documents need a tokenizer with the token {tokenizers.END_OF_TEXT}, which '
      "separates them; add it to tokenizer.json, or set data.tokenizer='bytes'"
    )
  splits = base.hash_splits((base.digest(d.text.encode()) for d in documents), what)
  # After each document, the last one too: a model learns where a text ends.
  separator = np.array([tokenizer.separator])
  return {
    split: np.concatenate(
      [part for i in chosen for part in (tokenizer.encode(documents[i].text), separator)]
    )
    for split, chosen in splits.items()
  }


def cut_windows(stream: np.ndarray, context: int, split: str, unit: str = 'tokens') -> np.ndarray:
  """Cuts a stream into windows that overlap by one element.

  Args:
    stream: tokens or frames, [length, ...].
    context: number of elements that are predicted in a window.
    split: name of the split, for messages.
    unit: what the elements are, for messages.

  Returns:
    Windows [n, context + 1, ...]; a remainder that does not fill a window is left out.

  Raises:
    ConfigError: for a stream that is shorter than one window.
  """
  # Window i is stream[i · context : (i + 1) · context + 1].
  number = (len(stream) - 1) // context
  if number < 1:
    raise ConfigError(
      f'the {split} split must have at least {context + 1} {unit} for data.context={context}, got '
      f'{len(stream)}; lower data.context, or add data'
    )
  windows = np.lib.stride_tricks.sliding_window_view(stream, context + 1, axis=0)
  # sliding_window_view puts the axis within a window last.
  return np.moveaxis(windows[: number * context : context], -1, 1)


class Text(TextBuilder, skip_registration=True):
  """A text file, or all files of a folder and its subfolders, except hidden ones.

  `broken` decides what happens to a file that is not UTF-8 text.
  """

  VERSION = tfds.core.Version('1.1.0')  # byte order marks and separators in a text are not tokens
  name = 'text'
  flags = ('source', 'broken', *TextBuilder.flags)

  @classmethod
  def variant(cls, settings: Mapping[str, Any]) -> str:
    """A hash of the names, sizes and modification times of the files; none is opened."""
    source = _source(settings)
    # The hash names the prepared folder: hashing other bytes would prepare every text again.
    state = hashlib.blake2b(digest_size=8)
    state.update(base.broken_policy(settings).encode())
    for path in find_files(source).paths:
      # A link whose target is missing is refused or skipped when it is read.
      stat = path.stat() if path.exists() else path.lstat()
      state.update(repr((str(path), stat.st_size, stat.st_mtime_ns)).encode())
    # TFDS takes only names that are Unicode; the hash tells apart those that differ in a '?'.
    name = source.resolve().name.encode(errors='replace').decode()
    return f'{name}-{state.hexdigest()}-{encoding_name(settings)}'

  def documents(self) -> tuple[list[Document], tuple[str, ...]]:
    paths, left_out = find_files(_source(self.settings))
    documents, notes = read_files(paths, skip=base.broken_policy(self.settings) == 'skip')
    return documents, (*left_out, *notes)


def _source(settings: Mapping[str, Any]) -> pathlib.Path:
  source = base.source_path(settings, Text.name, 'a text file or a folder of text files')
  if not source.exists():
    raise ConfigError(
      f'data.source must be a file or a folder, but {path_text(source)!r} does not exist'
    )
  return source


class Found(NamedTuple):
  """Files that were found, sorted, and notes on what was left out."""

  paths: list[pathlib.Path]
  notes: tuple[str, ...] = ()


def find_files(source: pathlib.Path) -> Found:
  """The file itself, or the files of a folder. Raises ConfigError if there are none.

  Hidden files and folders are left out, and links to folders are not followed: they may form a
  circle.
  """
  if not source.is_dir():
    return Found([source])
  paths, hidden, links = [], 0, 0
  for parent, folders, names in os.walk(source):
    hidden += sum(name.startswith('.') for name in (*folders, *names))
    folders[:] = [name for name in folders if not name.startswith('.')]
    links += sum(os.path.islink(os.path.join(parent, name)) for name in folders)
    paths += [pathlib.Path(parent, name) for name in names if not name.startswith('.')]
  if not paths:
    raise ConfigError(f'data.source={path_text(source)!r} contains no files')
  notes = []
  if hidden:
    notes.append(f'hidden files and folders (.NAME) left out: {hidden}')
  if links:
    notes.append(f'links to folders not followed: {links}')
  # The order of `os.walk` depends on the file system.
  return Found(sorted(paths), tuple(notes))


def read_files(paths: Sequence[pathlib.Path], skip: bool) -> tuple[list[Document], tuple[str, ...]]:
  """Documents from files. Empty files are left out.

  Args:
    paths: the files.
    skip: whether to leave out files that are not UTF-8 text.

  Returns:
    The documents, and notes on what was left out of them.

  Raises:
    ConfigError: for a file that cannot be read, unless skipped; if all files are empty, or larger
      together than MAX_BYTES.
  """
  total = sum(path.stat().st_size for path in paths if path.is_file())
  if total > MAX_BYTES:
    raise ConfigError(
      f'the {len(paths)} files of data.source have {total:,} bytes; at most {MAX_BYTES:,} can be '
      'prepared: choose a part of them'
    )
  documents, broken, marks = [], [], 0
  for path in paths:
    try:
      text = read_text(path)
    except (OSError, ValueError) as error:
      if not skip:
        raise ConfigError(
          f'cannot read {path_text(path)} as UTF-8 text ({error}); remove it, or set '
          "data.broken='skip' to leave it out"
        ) from error
      broken.append(path_text(path.name))
    else:
      # A byte order mark only says that the file is Unicode: it is not part of the text.
      marks += text.startswith(BYTE_ORDER_MARK)
      documents.append(Document(path_text(path.name), text.removeprefix(BYTE_ORDER_MARK)))
  filled = [document for document in documents if document.text]
  if not filled:
    where = paths[0] if len(paths) == 1 else paths[0].parent
    raise ConfigError(f'{path_text(where)} contains no text')
  notes = []
  if broken:
    notes.append(f'{len(broken)} broken files skipped: {", ".join(broken[:5])}')
  if len(filled) < len(documents):
    notes.append(f'empty files left out: {len(documents) - len(filled)}')
  if marks:
    notes.append(f'files whose byte order mark was removed: {marks}')
  return filled, tuple(notes)


def read_text(path: pathlib.Path) -> str:
  """The text of a file. Raises OSError or ValueError for one that is not UTF-8 text."""
  # Opening a pipe or a device could wait, or never end.
  if path.exists() and not path.is_file():
    raise ValueError('it is not a regular file')
  text = path.read_bytes().decode()
  if tokenizers.SEPARATOR in text:
    position = text.index(tokenizers.SEPARATOR)
    raise ValueError(f'it contains NUL at character {position}, which separates documents')
  return text
