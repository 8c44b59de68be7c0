"""The dataset `dialogues`: a user's dialogues, of which a model learns the answers."""

import hashlib
import json
import pathlib
from collections.abc import Mapping
from typing import Any

import tensorflow_datasets as tfds

from common.config import ConfigError
from common.data import tokenizers
from common.data.builders import base
from common.data.builders.text import context_length, encoding_name
from common.data.dialogues.packing import encode, pack
from common.data.dialogues.reading import read_dialogues
from common.data.spec import token_dtype
from common.data.tokenizers import chat_template
from common.data.tokenizers.chat_template import ChatTemplate


class Dialogues(base.Builder, skip_registration=True):
  """Windows of dialogues, from a JSONL file (common/data/dialogues/reading.py).

  Dialogues are split 80/10/10 by the hashes of their messages, each as a whole, and several short
  ones share a window. Only the tokens of answers count ('counted'). The chat template is
  `data.template`, or that of the run in `data.tokenizer_files`.
  """

  VERSION = tfds.core.Version('1.0.0')
  name = 'dialogues'
  domain = 'text'
  flags = ('source', 'template', 'context', 'tokenizer', 'vocabulary', 'tokenizer_files')

  @classmethod
  def variant(cls, settings: Mapping[str, Any]) -> str:
    """A hash of the file and the template."""
    source, state = _source(settings), hashlib.blake2b(digest_size=8)
    stat = source.stat()
    state.update(repr((str(source), stat.st_size, stat.st_mtime_ns)).encode())
    state.update(repr(_template(settings)).encode())
    name = source.resolve().name.encode(errors='replace').decode()
    return f'{name}-{state.hexdigest()}-{encoding_name(settings)}'

  @classmethod
  def expected(cls, settings):
    return dict(shape=(context_length(settings) + 1,), num_classes=0, counted=True)

  def read(self) -> base.Contents:
    source, template = _source(self.settings), _template(self.settings)
    dialogues = read_dialogues(source)
    texts = [chat_template.render(template, one.messages, False) for one in dialogues]
    tokenizer = tokenizers.build_tokenizer(self.settings, texts)
    if tokenizer.separator is None:
      raise ConfigError(
        f'{self.name} need a tokenizer with a token that separates documents, such as '
        f'{tokenizers.END_OF_TEXT}'
      )
    width = context_length(self.settings) + 1
    hashes = (base.digest(json.dumps(one.messages).encode()) for one in dialogues)
    windows, notes = {}, [f'{len(dialogues):,} dialogues']
    for split, chosen in base.hash_splits(hashes, str(source)).items():
      encoded = [encode(template, tokenizer, dialogues[i]) for i in chosen]
      packed = pack(encoded, width, tokenizer.separator)
      windows[split] = packed
      notes.append(
        f'{split}: {len(chosen):,} dialogues in {len(packed.x):,} windows, '
        f'{int(packed.counted.sum()):,} tokens of answers'
      )
    notes += _left_out(windows.values())
    dtype = token_dtype(tokenizer.vocabulary)
    return base.Contents(
      shape=(width,),
      levels=tokenizer.vocabulary,
      class_names=(),
      splits=base.window_splits(
        {split: packed.x.astype(dtype) for split, packed in windows.items()},
        {split: packed.counted for split, packed in windows.items()},
      ),
      notes=tuple(notes),
      tokenizer=tokenizers.to_json(tokenizer),
      counted=True,
    )


def _left_out(splits) -> list[str]:
  """Notes on what does not fit."""
  packed = list(splits)
  numbers = {
    'longer than data.context, without their ends': sum(part.cut for part in packed),
    'left out, because no answer fits data.context': sum(part.dropped for part in packed),
  }
  return [f'dialogues {what}: {number:,}' for what, number in numbers.items() if number]


def _source(settings: Mapping[str, Any]) -> pathlib.Path:
  source = base.source_path(settings, Dialogues.name, 'a JSONL file')
  if not source.is_file():
    raise ConfigError(f'data.source must be a JSONL file, but {str(source)!r} is none')
  return source


def _template(settings: Mapping[str, Any]) -> ChatTemplate:
  """The chat template. Raises ConfigError if there is none."""
  if path := settings.get('template'):
    return chat_template.read_file(pathlib.Path(path).expanduser())
  folder = settings.get('tokenizer_files', '')
  found = chat_template.read(pathlib.Path(folder).expanduser()) if folder else None
  if found is None:
    raise ConfigError(
      'dialogues need a chat template: set finetune.source or data.tokenizer_files to a run with '
      f'{chat_template.TEMPLATE}, or data.template to a file'
    )
  return found
