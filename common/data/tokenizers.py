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

from common.config import ConfigError, pick

Tokens = Integer[np.ndarray, 'length'] | Sequence[int]
SEPARATOR = '\0'  # stands between documents; the builder refuses texts that contain it
END_OF_TEXT = '<|endoftext|>'  # the separator of GPT-2, and of the BPE trained here
# Names of GPT-2's two files, as transformers uses them and as OpenAI published them.
GPT2_FILES = (('vocab.json', 'merges.txt'), ('encoder.json', 'vocab.bpe'))
MIN_BPE_VOCABULARY = 257  # 256 bytes and the separator


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
  def start_token(self) -> int:
    """The token that precedes a text sampled without a prompt: the separator or a line break."""
    return int(self.encode('\n')[0]) if self.separator is None else self.separator


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
  def start_token(self) -> int:
    # A text of one line has no line break: any token will do, so the first is taken.
    return self.ids.get('\n', 0) if self.separator is None else self.separator

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
    try:
      return _library().Tokenizer.from_str(self.serialized)
    except ConfigError:
      raise
    except Exception as error:  # the library raises no more specific type
      raise ConfigError(
        f'cannot read the contents as a tokenizer.json of the `tokenizers` library: {error}'
      ) from error

  @functools.cached_property
  def vocabulary(self) -> int:
    return self.library.get_vocab_size()

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
  return Characters(''.join(sorted(separator.union(*texts))))


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
    return BytePairs((folder / 'tokenizer.json').read_text(encoding='utf-8'))
  for vocabulary, merges in ((folder / a, folder / b) for a, b in GPT2_FILES):
    if vocabulary.is_file() and merges.is_file():
      break
  else:
    names = ', or '.join(' and '.join(pair) for pair in GPT2_FILES)
    raise ConfigError(
      f'data.tokenizer_files must be a folder with tokenizer.json, or {names}; got {str(folder)!r}'
    )
  try:
    tokenizer = _byte_level(_library().models.BPE.from_file(str(vocabulary), str(merges)))
  except ConfigError:
    raise
  except Exception as error:  # the library raises no more specific type
    raise ConfigError(f'cannot read {vocabulary} and {merges} as BPE files: {error}') from error
  # As in GPT-2's own tokenizer, the separator spelled out in a text is one token.
  if tokenizer.token_to_id(END_OF_TEXT) is not None:
    tokenizer.add_special_tokens([END_OF_TEXT])
  return BytePairs(tokenizer.to_str())


def _train_byte_pairs(texts: Sequence[str], settings: Mapping) -> BytePairs:
  """Byte pairs, trained on the text; `data.vocabulary` is their number."""
  size = settings.get('vocabulary', 1024)
  if size < MIN_BPE_VOCABULARY:
    raise ConfigError(
      f'data.vocabulary must be at least {MIN_BPE_VOCABULARY} for BPE (256 bytes and a separator), '
      f'got {size}'
    )
  library = _library()
  tokenizer = _byte_level(library.models.BPE())
  # All 256 bytes are tokens from the start, so any text can be encoded.
  alphabet = library.pre_tokenizers.ByteLevel.alphabet()
  trainer = library.trainers.BpeTrainer(
    vocab_size=size, special_tokens=[END_OF_TEXT], initial_alphabet=alphabet, show_progress=False
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
    ConfigError: for an unknown name, missing or broken files, or a vocabulary that is too small.
  """
  build = pick(TOKENIZERS, settings.get('tokenizer', 'characters'), 'data.tokenizer')
  return build(texts, settings)


def to_json(tokenizer: Tokenizer) -> str:
  """A tokenizer as JSON: its kind and the fields of its dataclass."""
  return json.dumps({'kind': tokenizer.kind} | dataclasses.asdict(tokenizer))


def from_json(text: str) -> Tokenizer:
  """The tokenizer that `to_json` wrote."""
  fields = json.loads(text)
  return pick(KINDS, fields.pop('kind'), 'kind of tokenizer')(**fields)


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
