"""Tokenizers: text as whole numbers in [0, vocabulary), and back.

  bytes        the 256 bytes of UTF-8
  characters   one token for each character that the text has
  gpt2         byte-level BPE from files that are given: GPT-2's own (Radford et al. 2019), or any
               `tokenizer.json`
  bpe          byte-level BPE, trained on the text (Sennrich et al. 2016)

A tokenizer is a frozen dataclass with
  vocabulary: how many tokens there are;
  separator: the token that stands between documents, or None;
  encode(text) -> token ids; decode(ids) -> text, exact for what `encode` gave.
It goes to JSON and back (`to_json`, `from_json`): prepared data and runs keep it beside them.
The two of byte pairs need the `tokenizers` library, which comes with the extra `text`.
"""

import dataclasses
import functools
import json
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Integer

from common.config import ConfigError, pick

Tokens = Integer[np.ndarray, 'length'] | Sequence[int]
SEPARATOR = '\0'  # between documents; no text has it
END = '<|endoftext|>'  # the same, in GPT-2's vocabulary and in those trained here
FILES = (('vocab.json', 'merges.txt'), ('encoder.json', 'vocab.bpe'))  # names GPT-2's go by


@dataclasses.dataclass(frozen=True)
class Bytes:
  """The bytes of UTF-8; NUL, which no text has, separates documents."""

  kind = 'bytes'
  vocabulary = 256
  separator = 0

  def encode(self, text: str) -> np.ndarray:
    """Token ids of a text."""
    return np.frombuffer(text.encode(), np.uint8)

  def decode(self, tokens: Tokens) -> str:
    """The text of token ids; bytes that are no UTF-8 become '\N{REPLACEMENT CHARACTER}'."""
    return bytes(np.asarray(tokens, np.uint8)).decode(errors='replace')


@dataclasses.dataclass(frozen=True)
class Characters:
  """A token for each character.

  Attributes:
    characters: those that there are, in the order of their ids.
  """

  characters: str

  kind = 'characters'

  @property
  def vocabulary(self) -> int:
    return len(self.characters)

  @functools.cached_property
  def ids(self) -> dict[str, int]:
    """Token ids by character."""
    return {character: i for i, character in enumerate(self.characters)}

  @property
  def separator(self) -> int | None:
    return self.ids.get(SEPARATOR)

  def encode(self, text: str) -> np.ndarray:
    """Token ids of a text. Raises ConfigError for a character outside the vocabulary."""
    try:
      return np.array([self.ids[character] for character in text], np.int32)
    except KeyError as error:
      known = ''.join(c for c in self.characters if c != SEPARATOR)
      raise ConfigError(
        f'character {error.args[0]!r} is not among the {self.vocabulary} that this vocabulary '
        f'has: {known!r}'
      ) from None

  def decode(self, tokens: Tokens) -> str:
    """The text of token ids."""
    return ''.join(self.characters[i] for i in np.asarray(tokens).tolist())


@dataclasses.dataclass(frozen=True)
class BytePairs:
  """Byte-level BPE by the `tokenizers` library.

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
    except Exception as error:  # the library raises nothing more exact
      raise ConfigError(f'this is no tokenizer.json: {error}') from error

  @functools.cached_property
  def vocabulary(self) -> int:
    return self.library.get_vocab_size()

  @functools.cached_property
  def separator(self) -> int | None:
    return self.library.token_to_id(END)

  def encode(self, text: str) -> np.ndarray:
    """Token ids of a text."""
    return np.array(self.library.encode(text, add_special_tokens=False).ids, np.int32)

  def decode(self, tokens: Tokens) -> str:
    """The text of token ids."""
    return self.library.decode(np.asarray(tokens).tolist(), skip_special_tokens=False)


Tokenizer = Bytes | Characters | BytePairs


def _library():
  try:
    import tokenizers  # an extra: bytes and characters do without
  except ImportError:
    raise ConfigError(
      "byte pairs need the `tokenizers` library: pip install 'twofold[text]'"
    ) from None
  return tokenizers


def _characters(texts: Sequence[str], settings: Mapping) -> Characters:
  del settings
  separator = {SEPARATOR} if len(texts) > 1 else set()
  return Characters(''.join(sorted(separator.union(*texts))))


def _from_files(texts: Sequence[str], settings: Mapping) -> BytePairs:
  """GPT-2's two files, under either of the names they go by, or one `tokenizer.json`."""
  del texts
  if not settings.get('tokenizer_files'):
    raise ConfigError(
      "data.tokenizer='gpt2' needs data.tokenizer_files: a folder with vocab.json and merges.txt "
      '(GPT-2 publishes them as encoder.json and vocab.bpe), or with tokenizer.json'
    )
  folder = pathlib.Path(settings['tokenizer_files']).expanduser()
  if (folder / 'tokenizer.json').is_file():
    return BytePairs((folder / 'tokenizer.json').read_text(encoding='utf-8'))
  for vocabulary, merges in ((folder / a, folder / b) for a, b in FILES):
    if vocabulary.is_file() and merges.is_file():
      break
  else:
    names = ' or '.join(' and '.join(pair) for pair in FILES)
    raise ConfigError(
      f'data.tokenizer_files={str(folder)!r} has neither {names} nor tokenizer.json'
    )
  try:
    made = _byte_level(_library().models.BPE.from_file(str(vocabulary), str(merges)))
  except ConfigError:
    raise
  except Exception as error:  # the library raises nothing more exact
    raise ConfigError(f'{vocabulary} and {merges} are no byte pairs: {error}') from error
  if made.token_to_id(END) is not None:
    made.add_special_tokens([END])
  return BytePairs(made.to_str())


def _trained(texts: Sequence[str], settings: Mapping) -> BytePairs:
  size = settings.get('vocabulary', 1024)
  if size < 257:
    raise ConfigError(f'data.vocabulary={size}: byte pairs begin with 257 tokens; ask for more')
  library = _library()
  made = _byte_level(library.models.BPE())
  alphabet = library.pre_tokenizers.ByteLevel.alphabet()
  trainer = library.trainers.BpeTrainer(
    vocab_size=size, special_tokens=[END], initial_alphabet=alphabet, show_progress=False
  )
  made.train_from_iterator(texts, trainer)
  return BytePairs(made.to_str())


def _byte_level(model):
  """Splits as GPT-2 does, with no space put before a text."""
  library = _library()
  made = library.Tokenizer(model)
  made.pre_tokenizer = library.pre_tokenizers.ByteLevel(add_prefix_space=False)
  made.decoder = library.decoders.ByteLevel()
  return made


TOKENIZERS: Mapping[str, Callable[[Sequence[str], Mapping], Tokenizer]] = {
  'bytes': lambda texts, settings: Bytes(),
  'characters': _characters,
  'gpt2': _from_files,
  'bpe': _trained,
}


def build_tokenizer(settings: Mapping[str, Any], texts: Sequence[str]) -> Tokenizer:
  """The tokenizer that a config's `data.tokenizer` names.

  Args:
    settings: the `data` section: tokenizer, and vocabulary or tokenizer_files.
    texts: the documents, which some vocabularies are made from.

  Raises:
    ConfigError: for an unknown name, files that are missing or broken, a vocabulary too small.
  """
  make = pick(TOKENIZERS, settings.get('tokenizer', 'characters'), 'data.tokenizer')
  return make(texts, settings)


def to_json(tokenizer: Tokenizer) -> str:
  """A tokenizer as text."""
  return json.dumps({'kind': tokenizer.kind} | dataclasses.asdict(tokenizer))


def from_json(text: str) -> Tokenizer:
  """The tokenizer that `to_json` wrote."""
  settings = json.loads(text)
  kinds = {kind.kind: kind for kind in (Bytes, Characters, BytePairs)}
  return pick(kinds, settings.pop('kind'), 'kind of tokenizer')(**settings)


def opening(tokenizer: Tokenizer) -> int:
  """The token that a text without a prompt begins behind: a separator, else a new line."""
  if tokenizer.separator is not None:
    return tokenizer.separator
  if isinstance(tokenizer, Characters):
    return tokenizer.ids.get('\n', 0)
  return int(tokenizer.encode('\n')[0])


def prompt_tokens(tokenizer: Tokenizer, prompt: str, context: int) -> np.ndarray:
  """Token ids of a prompt, [1..context].

  Args:
    tokenizer: of the model.
    prompt: a text.
    context: tokens that there is room for, at least one of them to be drawn.

  Raises:
    ConfigError: for an empty prompt, a character outside the vocabulary, or a prompt that is
      longer than the context.
  """
  if not prompt:
    raise ConfigError('the prompt is empty; give a text, or leave it out')
  tokens = tokenizer.encode(prompt)
  if len(tokens) >= context:
    raise ConfigError(
      f'the prompt has {len(tokens)} tokens; {context - 1} leave room for one more in the '
      f'{context} that the model takes; give its end alone, as --slide does'
    )
  return tokens.astype(np.int32)
