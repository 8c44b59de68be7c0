"""Byte-level BPE, and any other `tokenizer.json` of the `tokenizers` library."""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from common.config import ConfigError, read_json
from common.data.tokenizers.base import END_OF_TEXT, Tokenizer, Tokens, check_vocabulary
from common.files import Path, to_path

# Names of GPT-2's two files, as transformers uses them and as OpenAI published them.
GPT2_FILES = (('vocab.json', 'merges.txt'), ('encoder.json', 'vocab.bpe'))
FILES = ('tokenizer.json', *GPT2_FILES[0], *GPT2_FILES[1])  # that `tokenizer_files` may hold
MIN_BPE_VOCABULARY = 257  # 256 bytes and the separator
MAX_VOCABULARY = 2**20  # of byte pairs; published vocabularies have up to 2**18


@dataclasses.dataclass(frozen=True)
class BytePairs(Tokenizer):
  """Byte-level BPE, computed by the `tokenizers` library.

  Attributes:
    serialized: the library's own JSON (`tokenizer.json`).
    ends: names of the tokens with which the model that it belongs to ends a text or a turn.
  """

  serialized: str = dataclasses.field(repr=False)
  ends: tuple[str, ...] = ()

  kind = 'byte_pairs'

  @functools.cached_property
  def library(self) -> Any:
    """The library's tokenizer."""
    library = library_module()
    try:
      tokenizer = library.Tokenizer.from_str(self.serialized)
    except (KeyboardInterrupt, SystemExit):
      raise
    except BaseException as error:  # its crashes are not of the type Exception
      raise ConfigError(
        f'cannot read the contents as a tokenizer.json of the `tokenizers` library: {error}'
      ) from error
    # Settings of a model that takes short inputs: they would cut a text, or fill it up.
    tokenizer.no_truncation()
    tokenizer.no_padding()
    # A separator that is spelled out in a text is text; only the builder separates documents.
    if tokenizer.token_to_id(END_OF_TEXT) is not None:
      tokenizer.add_special_tokens([END_OF_TEXT])
    tokenizer.encode_special_tokens = True
    return tokenizer

  @functools.cached_property
  def vocabulary(self) -> int:
    """The largest id + 1: a vocabulary may leave ids out, and tables have a row for each."""
    ids = self.library.get_vocab(with_added_tokens=True).values()
    return check_vocabulary(max(ids, default=-1) + 1, 'tokenizer.json', MAX_VOCABULARY)

  @functools.cached_property
  def separator(self) -> int | None:
    """GPT-2's separator if the vocabulary has it, or else the first of `ends`."""
    token = self.library.token_to_id(END_OF_TEXT)
    return next(iter(self._end_ids), None) if token is None else token

  @property
  def end_tokens(self) -> tuple[int, ...]:
    ends = (() if self.separator is None else (self.separator,)) + self._end_ids
    return tuple(dict.fromkeys(ends))

  @functools.cached_property
  def first_tokens(self) -> tuple[int, ...]:
    """The tokens that the library puts before a text: '<s>' of Llama, nothing of GPT-2."""
    whole, text = (self.library.encode('a', add_special_tokens=on).ids for on in (True, False))
    starts = [i for i in range(len(whole)) if whole[i : i + len(text)] == text]
    return tuple(whole[: starts[0]]) if starts else ()

  @functools.cached_property
  def special_tokens(self) -> Mapping[str, int]:
    added = self.library.get_added_tokens_decoder()
    return {token.content: i for i, token in added.items() if token.special}

  @functools.cached_property
  def _end_ids(self) -> tuple[int, ...]:
    found = (self.library.token_to_id(name) for name in self.ends)
    return tuple(token for token in found if token is not None)

  def encode(self, text: str) -> np.ndarray:
    # No special tokens: only the builder adds separators to the stream of documents.
    return np.array(self.library.encode(text, add_special_tokens=False).ids, np.int32)

  def encode_marked(self, text: str) -> np.ndarray:
    self.library.encode_special_tokens = False
    try:
      return self.encode(text)
    finally:
      self.library.encode_special_tokens = True

  def decode(self, tokens: Tokens) -> str:
    return self.library.decode(np.asarray(tokens).tolist(), skip_special_tokens=False)


def library_module() -> Any:
  """The `tokenizers` library. Raises ConfigError if it is not installed."""
  try:
    # An optional dependency, which bytes and characters do not need.
    import tokenizers
  except ImportError:
    raise ConfigError(
      "BPE needs the `tokenizers` library; install it with: pip install -e '.[text]'"
    ) from None
  return tokenizers


def load_byte_pairs(texts: Sequence[str], settings: Mapping) -> BytePairs:
  """Byte pairs from `tokenizer.json`, or from GPT-2's two files under either of their names."""
  del texts
  if not settings.get('tokenizer_files'):
    raise ConfigError(
      f'data.tokenizer={settings["tokenizer"]!r} needs data.tokenizer_files: a run, a folder with '
      'vocab.json and merges.txt (GPT-2 publishes them as encoder.json and vocab.bpe), or one with '
      'tokenizer.json'
    )
  folder = to_path(settings['tokenizer_files'])
  if (folder / 'tokenizer.json').is_file():
    return read_tokenizer_json(folder / 'tokenizer.json')
  for vocabulary, merges in ((folder / a, folder / b) for a, b in GPT2_FILES):
    if vocabulary.is_file() and merges.is_file():
      return _read_gpt2(vocabulary, merges)
  names = ', or '.join(' and '.join(pair) for pair in GPT2_FILES)
  raise ConfigError(
    f'data.tokenizer_files must be a folder with tokenizer.json, or {names}; got {str(folder)!r}'
  )


def _read_gpt2(vocabulary: Path, merges: Path) -> BytePairs:
  """The tokenizer of GPT-2's two files."""
  ids, pairs = _read_bpe_files(vocabulary, merges)
  tokenizer = byte_level(library_module().models.BPE(ids, pairs))
  # As a special token, so that spelled out in a text it is text (`BytePairs.library`).
  if END_OF_TEXT in ids:
    tokenizer.add_special_tokens([END_OF_TEXT])
  return BytePairs(tokenizer.to_str())


def _read_bpe_files(vocabulary: Path, merges: Path) -> tuple[dict[str, int], list[tuple[str, str]]]:
  """The ids of GPT-2's tokens, and the pairs that are merged, in this order.

  The library drops what it cannot use, or crashes: the files are checked here.

  Raises:
    ConfigError: for a file that is broken, or a pair that the vocabulary does not have.
  """
  ids = read_json(vocabulary)
  numbers = list(ids.values())
  if not all(isinstance(number, int) and number >= 0 for number in numbers):
    raise ConfigError(f'{vocabulary} must map each token to its id, a whole number')
  if len(set(numbers)) < len(numbers):
    raise ConfigError(f'{vocabulary} has the same id for several tokens')
  check_vocabulary(max(numbers, default=-1) + 1, str(vocabulary), MAX_VOCABULARY)
  missing = [byte for byte in alphabet() if byte not in ids]
  if missing:
    raise ConfigError(
      f'{vocabulary} must have a token for each of the 256 bytes; it lacks {len(missing)}, such as '
      f'{missing[0]!r}'
    )
  try:
    lines = merges.read_bytes().decode().splitlines()
  except (OSError, ValueError) as error:
    raise ConfigError(f'{merges} cannot be read as text: {error}') from error
  pairs = []
  for number, line in enumerate(lines, 1):
    if not line.strip() or (number == 1 and line.startswith('#version')):
      continue
    pair = tuple(line.split(' '))
    if len(pair) != 2 or not {*pair, ''.join(pair)} <= ids.keys():
      raise ConfigError(
        f'{merges}, line {number}: {line!r:.60} must be two tokens of {vocabulary.name} that are '
        'one token together'
      )
    pairs.append(pair)
  return ids, pairs


def read_tokenizer_json(path: Path) -> BytePairs:
  """The tokenizer in a file of the library.

  The tokens that end a text come from the files next to it (`end_names`).

  Raises:
    ConfigError: names the file, if it is broken.
  """
  try:
    tokenizer = BytePairs(path.read_bytes().decode())
    tokenizer = dataclasses.replace(tokenizer, ends=end_names(path.parent, tokenizer))
    # The vocabulary is needed anyway; a broken file is noticed here, where its name is known.
    check_vocabulary(tokenizer.vocabulary, str(path), MAX_VOCABULARY)
  except (OSError, ValueError) as error:
    raise ConfigError(f'{path}: {error}') from error
  return tokenizer


def end_names(folder: Path, tokenizer: BytePairs) -> tuple[str, ...]:
  """The tokens that end a text, from the files of published weights, by name.

  `generation_config.json` and `config.json` have them by number, one or several, and
  `tokenizer_config.json` by name.
  """
  found = []
  for file in ('generation_config.json', 'config.json'):
    ids = read_json(folder / file).get('eos_token_id') if (folder / file).is_file() else None
    numbers = ids if isinstance(ids, list) else [ids]
    found += [tokenizer.library.id_to_token(n) for n in numbers if isinstance(n, int) and n >= 0]
  path = folder / 'tokenizer_config.json'
  named = read_json(path).get('eos_token') if path.is_file() else None
  found.append(token_name(named))
  return tuple(dict.fromkeys(name for name in found if name))


def token_name(token: Any) -> str:
  """The name of a token in `tokenizer_config.json`: a text, or an object with its 'content'."""
  name = token.get('content') if isinstance(token, dict) else token
  return name if isinstance(name, str) else ''


def alphabet() -> list[str]:
  """The characters that stand for the 256 bytes in the tokens of byte-level BPE."""
  return sorted(library_module().pre_tokenizers.ByteLevel.alphabet())


def train_byte_pairs(texts: Sequence[str], settings: Mapping) -> BytePairs:
  """Byte pairs, trained on the text; `data.vocabulary` is their number."""
  size = settings.get('vocabulary', 1024)
  if size < MIN_BPE_VOCABULARY:
    raise ConfigError(
      f'data.vocabulary must be at least {MIN_BPE_VOCABULARY} for BPE (256 bytes and a separator), '
      f'got {size}'
    )
  check_vocabulary(size, 'data.vocabulary', MAX_VOCABULARY)
  library = library_module()
  tokenizer = byte_level(library.models.BPE())
  # All 256 bytes are tokens from the start, so any text can be encoded.
  trainer = library.trainers.BpeTrainer(
    vocab_size=size,
    special_tokens=[END_OF_TEXT],
    initial_alphabet=alphabet(),
    show_progress=False,
  )
  tokenizer.train_from_iterator(texts, trainer)
  return BytePairs(tokenizer.to_str())


def byte_level(model):
  """A tokenizer that splits text as GPT-2 does, without a space added in front."""
  library = library_module()
  tokenizer = library.Tokenizer(model)
  tokenizer.pre_tokenizer = library.pre_tokenizers.ByteLevel(add_prefix_space=False)
  tokenizer.decoder = library.decoders.ByteLevel()
  return tokenizer
