"""Tokenizers: from text to integers in [0, vocabulary) and back.

  bytes        the 256 bytes of UTF-8
  characters   one token for each character that occurs in the text
  gpt2         byte-level BPE from files: GPT-2's (Radford et al. 2019), or any `tokenizer.json`
  bpe          byte-level BPE, trained on the text (Sennrich et al. 2016)

Tokenizers are saved as JSON (`to_json`, `from_json`) next to prepared data and in the folder of a
run. BPE needs the `tokenizers` library, which the extra `text` installs.
"""

import abc
import dataclasses
import functools
import json
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Integer

from common.config import ConfigError, pick, read_json

Tokens = Integer[np.ndarray, 'length'] | Sequence[int]
SEPARATOR = '\0'  # stands between documents; the builder refuses texts that contain it
END_OF_TEXT = '<|endoftext|>'  # the separator of GPT-2, and of the BPE trained here
# Names of GPT-2's two files, as transformers uses them and as OpenAI published them.
GPT2_FILES = (('vocab.json', 'merges.txt'), ('encoder.json', 'vocab.bpe'))
FILES = ('tokenizer.json', *GPT2_FILES[0], *GPT2_FILES[1])  # that `tokenizer_files` may hold
MIN_BPE_VOCABULARY = 257  # 256 bytes and the separator
MAX_VOCABULARY = 2**20  # of byte pairs; published vocabularies have up to 2**18
MAX_CHARACTERS = 2**16


class Tokenizer(abc.ABC):
  """Turns text into token ids and back. Subclasses are frozen dataclasses.

  Attributes:
    kind: the name of the subclass in JSON.
    vocabulary: number of tokens.
    separator: the token that stands between documents; None if there is none.
  """

  kind: ClassVar[str]
  vocabulary: int
  separator: int | None = None

  @abc.abstractmethod
  def encode(self, text: str) -> Integer[np.ndarray, 'length']:
    """The token ids of a text."""

  @abc.abstractmethod
  def decode(self, tokens: Tokens) -> str:
    """The text of token ids: for the output of `encode`, exactly its input."""

  @property
  def line_break(self) -> int | None:
    """The token of a line break; None if it is not one token."""
    tokens = self.encode('\n')
    return int(tokens[0]) if len(tokens) == 1 else None


@dataclasses.dataclass(frozen=True)
class Bytes(Tokenizer):
  """The bytes of UTF-8. NUL, which does not occur in text, separates documents."""

  kind = 'bytes'
  vocabulary = 256
  separator = 0

  def encode(self, text: str) -> np.ndarray:
    return np.frombuffer(text.encode(), np.uint8)

  def decode(self, tokens: Tokens) -> str:
    """The text of token ids; invalid UTF-8 becomes '\N{REPLACEMENT CHARACTER}'."""
    # A sample may stop in the middle of a character, so invalid UTF-8 is no error.
    return bytes(np.asarray(tokens, np.uint8)).decode(errors='replace')


@dataclasses.dataclass(frozen=True)
class Characters(Tokenizer):
  """One token for each character.

  Attributes:
    characters: the known characters, in the order of their ids.
  """

  characters: str

  kind = 'characters'

  @property
  def vocabulary(self) -> int:
    return len(self.characters)

  @functools.cached_property
  def ids(self) -> dict[str, int]:
    """The token id of each character."""
    return {character: i for i, character in enumerate(self.characters)}

  @property
  def separator(self) -> int | None:
    return self.ids.get(SEPARATOR)

  @property
  def line_break(self) -> int | None:
    return self.ids.get('\n')

  def encode(self, text: str) -> np.ndarray:
    """The token ids of a text. Raises ConfigError for a character outside the vocabulary."""
    try:
      return np.array([self.ids[character] for character in text], np.int32)
    except KeyError as error:
      known = ''.join(c for c in self.characters if c != SEPARATOR)
      raise ConfigError(
        f'character {error.args[0]!r} is not in the vocabulary of {self.vocabulary} characters: '
        f'{known!r}'
      ) from None

  def decode(self, tokens: Tokens) -> str:
    return ''.join(self.characters[i] for i in np.asarray(tokens).tolist())


@dataclasses.dataclass(frozen=True)
class BytePairs(Tokenizer):
  """Byte-level BPE, computed by the `tokenizers` library.

  Attributes:
    serialized: the library's own JSON (`tokenizer.json`).
  """

  serialized: str = dataclasses.field(repr=False)

  kind = 'byte_pairs'

  @functools.cached_property
  def library(self) -> Any:
    """The library's tokenizer."""
    library = _library()
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
    return self.library.token_to_id(END_OF_TEXT)

  def encode(self, text: str) -> np.ndarray:
    # No special tokens: only the builder adds separators to the stream of documents.
    return np.array(self.library.encode(text, add_special_tokens=False).ids, np.int32)

  def decode(self, tokens: Tokens) -> str:
    return self.library.decode(np.asarray(tokens).tolist(), skip_special_tokens=False)


KINDS = {tokenizer.kind: tokenizer for tokenizer in (Bytes, Characters, BytePairs)}


def _library():
  try:
    # An optional dependency, which bytes and characters do not need.
    import tokenizers
  except ImportError:
    raise ConfigError(
      "BPE needs the `tokenizers` library; install it with: pip install -e '.[text]'"
    ) from None
  return tokenizers


def _bytes(texts: Sequence[str], settings: Mapping) -> Bytes:
  """The 256 bytes of UTF-8."""
  del texts, settings
  return Bytes()


def _characters(texts: Sequence[str], settings: Mapping) -> Characters:
  """The characters that occur in the text."""
  del settings
  # Sorted, so that ids do not depend on the order of the documents; NUL sorts to id 0.
  separator = {SEPARATOR} if len(texts) > 1 else set()
  characters = ''.join(sorted(separator.union(*texts)))
  check_vocabulary(len(characters), 'the text', MAX_CHARACTERS)
  return Characters(characters)


def check_vocabulary(size: int, what: str, largest: int) -> int:
  """The size of a vocabulary. Raises ConfigError if it is 0, or larger than tables should be."""
  if not 0 < size <= largest:
    raise ConfigError(
      f'a vocabulary must have 1 to {largest:,} tokens, but that of {what} has {size:,}; '
      "set data.tokenizer='bytes', or 'bpe' with a smaller data.vocabulary"
    )
  return size


def _load_byte_pairs(texts: Sequence[str], settings: Mapping) -> BytePairs:
  """Byte pairs from `tokenizer.json`, or from GPT-2's two files under either of their names."""
  del texts
  if not settings.get('tokenizer_files'):
    raise ConfigError(
      "data.tokenizer='gpt2' needs data.tokenizer_files: a folder with vocab.json and merges.txt "
      '(GPT-2 publishes them as encoder.json and vocab.bpe), or with tokenizer.json'
    )
  folder = pathlib.Path(settings['tokenizer_files']).expanduser()
  if (folder / 'tokenizer.json').is_file():
    return _read_tokenizer_json(folder / 'tokenizer.json')
  for vocabulary, merges in ((folder / a, folder / b) for a, b in GPT2_FILES):
    if vocabulary.is_file() and merges.is_file():
      break
  else:
    names = ', or '.join(' and '.join(pair) for pair in GPT2_FILES)
    raise ConfigError(
      f'data.tokenizer_files must be a folder with tokenizer.json, or {names}; got {str(folder)!r}'
    )
  library = _library()
  ids, pairs = _read_bpe_files(vocabulary, merges)
  tokenizer = _byte_level(library.models.BPE(ids, pairs))
  # As a special token, so that spelled out in a text it is text (`BytePairs.library`).
  if END_OF_TEXT in ids:
    tokenizer.add_special_tokens([END_OF_TEXT])
  return BytePairs(tokenizer.to_str())


def _read_bpe_files(
  vocabulary: pathlib.Path, merges: pathlib.Path
) -> tuple[dict[str, int], list[tuple[str, str]]]:
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
  missing = [byte for byte in _alphabet() if byte not in ids]
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


def _read_tokenizer_json(path: pathlib.Path) -> BytePairs:
  """The tokenizer in a file. Raises ConfigError that names the file if it is broken."""
  try:
    tokenizer = BytePairs(path.read_bytes().decode())
    # The vocabulary is needed anyway; a broken file is noticed here, where its name is known.
    check_vocabulary(tokenizer.vocabulary, str(path), MAX_VOCABULARY)
  except (OSError, ValueError) as error:
    raise ConfigError(f'{path}: {error}') from error
  return tokenizer


def _alphabet() -> list[str]:
  """The characters that stand for the 256 bytes in the tokens of byte-level BPE."""
  return sorted(_library().pre_tokenizers.ByteLevel.alphabet())


def _train_byte_pairs(texts: Sequence[str], settings: Mapping) -> BytePairs:
  """Byte pairs, trained on the text; `data.vocabulary` is their number."""
  size = settings.get('vocabulary', 1024)
  if size < MIN_BPE_VOCABULARY:
    raise ConfigError(
      f'data.vocabulary must be at least {MIN_BPE_VOCABULARY} for BPE (256 bytes and a separator), '
      f'got {size}'
    )
  check_vocabulary(size, 'data.vocabulary', MAX_VOCABULARY)
  library = _library()
  tokenizer = _byte_level(library.models.BPE())
  # All 256 bytes are tokens from the start, so any text can be encoded.
  trainer = library.trainers.BpeTrainer(
    vocab_size=size,
    special_tokens=[END_OF_TEXT],
    initial_alphabet=_alphabet(),
    show_progress=False,
  )
  tokenizer.train_from_iterator(texts, trainer)
  return BytePairs(tokenizer.to_str())


def _byte_level(model):
  """A tokenizer that splits text as GPT-2 does, without a space added in front."""
  library = _library()
  tokenizer = library.Tokenizer(model)
  tokenizer.pre_tokenizer = library.pre_tokenizers.ByteLevel(add_prefix_space=False)
  tokenizer.decoder = library.decoders.ByteLevel()
  return tokenizer


TOKENIZERS: Mapping[str, Callable[[Sequence[str], Mapping], Tokenizer]] = {
  'bytes': _bytes,
  'characters': _characters,
  'gpt2': _load_byte_pairs,
  'bpe': _train_byte_pairs,
}


def build_tokenizer(settings: Mapping[str, Any], texts: Sequence[str]) -> Tokenizer:
  """The tokenizer that `data.tokenizer` of a config names.

  Args:
    settings: the `data` section: tokenizer, and vocabulary or tokenizer_files.
    texts: the documents, from which 'characters' and 'bpe' make their vocabulary.

  Raises:
    ConfigError: for an unknown name, missing or broken files, or a vocabulary that is too small or
      too large.
  """
  build = pick(TOKENIZERS, settings.get('tokenizer', 'characters'), 'data.tokenizer')
  return build(texts, settings)


def to_json(tokenizer: Tokenizer) -> str:
  """A tokenizer as JSON: its kind and the fields of its dataclass."""
  return json.dumps({'kind': tokenizer.kind} | dataclasses.asdict(tokenizer))


def from_json(text: str) -> Tokenizer:
  """The tokenizer that `to_json` wrote. Raises ConfigError for another text."""
  try:
    fields = json.loads(text)
    kind = KINDS[fields.pop('kind')]
    if not all(isinstance(value, str) for value in fields.values()):
      raise ValueError('a field must be a text')
    return kind(**fields)
  # Whatever the JSON holds: no object, no kind, an unknown one, other fields.
  except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
    raise ConfigError(f'a tokenizer stored as JSON is broken: {error or "no object"}') from error


def prompt_tokens(tokenizer: Tokenizer, prompt: str, context: int) -> Integer[np.ndarray, 'length']:
  """The token ids of a prompt, int32, between 1 and context - 1 of them.

  Args:
    tokenizer: the tokenizer of the model.
    prompt: a text.
    context: number of tokens that the model handles, at least one of which is to be sampled.

  Raises:
    ConfigError: for an empty prompt, a character outside the vocabulary, or a prompt that leaves
      no room for another token.
  """
  if not prompt:
    raise ConfigError('the prompt is empty; write a text, or leave --prompt out')
  tokens = tokenizer.encode(prompt)
  if len(tokens) >= context:
    raise ConfigError(
      f'the prompt must have at most {context - 1} tokens, so that one more fits into the '
      f'{context} of the model; got {len(tokens)}: shorten it, or add --slide to use only its end'
    )
  return tokens.astype(np.int32)
