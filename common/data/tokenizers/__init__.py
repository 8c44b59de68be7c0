"""Tokenizers: from text to integers in [0, vocabulary) and back.

  bytes        the 256 bytes of UTF-8
  characters   one token for each character that occurs in the text
  files        from a folder: that of a run, any `tokenizer.json`, or GPT-2's two files
  gpt2         the same, for GPT-2's vocabulary (byte-level BPE, Radford et al. 2019)
  bpe          byte-level BPE, trained on the text (Sennrich et al. 2016)

Tokenizers are saved as JSON (`to_json`, `from_json`) next to prepared data and in the folder of a
run. BPE needs the `tokenizers` library, which the extra `text` installs.
"""

import dataclasses
import itertools
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Integer

from common.config import ConfigError, as_tuple, pick, read_json
from common.data.tokenizers.base import END_OF_TEXT, SEPARATOR, Tokenizer, check_vocabulary
from common.data.tokenizers.byte_pairs import (
  FILES,
  GPT2_FILES,
  BytePairs,
  load_byte_pairs,
  train_byte_pairs,
)
from common.data.tokenizers.simple import Bytes, Characters
from common.files import to_path

__all__ = [
  'END_OF_TEXT',
  'FILES',
  'GPT2_FILES',
  'SEPARATOR',
  'BytePairs',
  'Bytes',
  'Characters',
  'Tokenizer',
  'build_tokenizer',
  'from_json',
  'prompt_tokens',
  'same_vocabulary',
  'to_json',
]

MAX_CHARACTERS = 2**16

KINDS = {tokenizer.kind: tokenizer for tokenizer in (Bytes, Characters, BytePairs)}


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


def _load_files(texts: Sequence[str], settings: Mapping) -> Tokenizer:
  """The tokenizer of a run, or of other files in a folder (`load_byte_pairs`)."""
  path = to_path(settings.get('tokenizer_files', '')) / 'tokenizer.json'
  stored = read_json(path) if path.is_file() else {}
  if 'kind' not in stored:  # of the library
    return load_byte_pairs(texts, settings)
  try:
    return from_json(json.dumps(stored))
  except ConfigError as error:
    raise ConfigError(f'{path}: {error}') from error


TOKENIZERS: Mapping[str, Callable[[Sequence[str], Mapping], Tokenizer]] = {
  'bytes': _bytes,
  'characters': _characters,
  'gpt2': load_byte_pairs,
  'files': _load_files,
  'bpe': train_byte_pairs,
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
  """A tokenizer as JSON: its kind and the fields of its dataclass, without empty ones."""
  fields = {name: value for name, value in dataclasses.asdict(tokenizer).items() if value != ()}
  return json.dumps({'kind': tokenizer.kind} | fields)


def same_vocabulary(one: Tokenizer, other: Tokenizer) -> bool:
  """Whether two tokenizers give a text the same tokens, whatever ends it."""
  if isinstance(one, BytePairs) and isinstance(other, BytePairs):
    return one.serialized == other.serialized
  return one == other


def from_json(text: str) -> Tokenizer:
  """The tokenizer that `to_json` wrote. Raises ConfigError for another text."""
  try:
    fields = {name: as_tuple(value) for name, value in json.loads(text).items()}
    kind = KINDS[fields.pop('kind')]
    parts = (value if isinstance(value, tuple) else (value,) for value in fields.values())
    if not all(isinstance(text, str) for text in itertools.chain.from_iterable(parts)):
      raise ValueError('a field must be a text, or several')
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
  tokens = tokenizer.encode_prompt(prompt)
  if len(tokens) >= context:
    raise ConfigError(
      f'the prompt must have at most {context - 1} tokens, so that one more fits into the '
      f'{context} of the model; got {len(tokens)}: shorten it, or add --slide to use only its end'
    )
  return tokens.astype(np.int32)
