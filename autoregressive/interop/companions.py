"""The files that come with published weights: config, tokenizer, chat template and others.

A run that was read from weights keeps them, in the folder `published/` and as `tokenizer.json` and
`chat_template.jinja`, so that weights that are written again have all that has not changed.
"""

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

from common.config import ConfigError, read_json
from common.data import tokenizers
from common.data.tokenizers.byte_pairs import BytePairs, read_tokenizer_json
from common.data.tokenizers.chat_template import TEMPLATE
from common.files import Path, atomic_write

FOLDER = 'published'  # in the folder of a run
TOKENIZER = 'tokenizer.json'
DTYPE = 'stored.json'  # in FOLDER: what is in no file of the published weights
# The JSON files that are kept as they are, by the attribute that holds them.
FILES: Mapping[str, str] = {
  'config': 'config.json',
  'generation': 'generation_config.json',
  'tokenizer_config': 'tokenizer_config.json',
  'special_tokens': 'special_tokens_map.json',
}


@dataclasses.dataclass(frozen=True)
class Companions:
  """The files next to published weights; those that are missing are empty.

  Attributes:
    config, generation, tokenizer_config, special_tokens: the files of FILES.
    tokenizer: the tokenizer, or None.
    template: the chat template.
    dtype: the type of the weights in their file: 'F32', 'BF16', 'F16'.
  """

  config: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  generation: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  tokenizer_config: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  special_tokens: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  tokenizer: BytePairs | None = None
  template: str = ''
  dtype: str = 'F32'

  def with_dtype(self, dtype: str) -> 'Companions':
    """The same files, for weights of another type."""
    return dataclasses.replace(self, dtype=dtype)

  def save(self, workdir: Path) -> None:
    """Keeps the files in the folder of a run."""
    self._write_json(workdir / FOLDER)
    atomic_write(workdir / FOLDER / DTYPE, json.dumps({'dtype': self.dtype}))
    if self.tokenizer is not None:
      atomic_write(workdir / TOKENIZER, tokenizers.to_json(self.tokenizer))
    if self.template:
      atomic_write(workdir / TEMPLATE, self.template)

  def write(self, folder: Path) -> None:
    """Writes the files, except config.json, in the layout of `transformers`."""
    dataclasses.replace(self, config={})._write_json(folder)
    if self.tokenizer is not None:
      atomic_write(folder / TOKENIZER, self.tokenizer.serialized)
    if self.template:
      atomic_write(folder / TEMPLATE, self.template)

  def _write_json(self, folder: Path) -> None:
    for attribute, file in FILES.items():
      if content := vars(self)[attribute]:
        atomic_write(folder / file, json.dumps(content, indent=2, ensure_ascii=False) + '\n')


NOTHING = Companions()  # of weights that come alone


def read_companions(folder: Path) -> Companions:
  """The files in a folder of published weights. Raises ConfigError for one that is broken."""
  found = _read_json(folder)
  tokenizer_config = dict(found.get('tokenizer_config', {}))
  # Older folders have the template in this file; `transformers` reads either.
  inside = tokenizer_config.pop('chat_template', None)
  path, tokenizer = folder / TOKENIZER, None
  if path.is_file():
    tokenizer = read_tokenizer_json(path)
  elif any((folder / file).is_file() for file in ('vocab.json', 'encoder.json')):
    settings = {'tokenizer': 'gpt2', 'tokenizer_files': str(folder)}
    tokenizer = tokenizers.build_tokenizer(settings, ())
  text = _read_text(folder / TEMPLATE) if (folder / TEMPLATE).is_file() else _template(inside)
  made = Companions(**found | {'tokenizer_config': tokenizer_config})
  return dataclasses.replace(made, tokenizer=tokenizer, template=text)


def load_companions(workdir: Path) -> Companions:
  """The files that a run has kept; empty ones, and its tokenizer, if it was trained from nothing.

  Raises:
    ConfigError: for a file that is broken.
  """
  path, tokenizer = workdir / TOKENIZER, None
  if path.is_file():
    tokenizer = tokenizers.from_json(_read_text(path))
  tokenizer = tokenizer if isinstance(tokenizer, BytePairs) else None
  template = _read_text(workdir / TEMPLATE) if (workdir / TEMPLATE).is_file() else ''
  stored = workdir / FOLDER / DTYPE
  dtype = read_json(stored).get('dtype', 'F32') if stored.is_file() else 'F32'
  made = Companions(**_read_json(workdir / FOLDER))
  return dataclasses.replace(made, tokenizer=tokenizer, template=template, dtype=dtype)


def gguf_companions(gguf: Any, path: Path) -> Companions:
  """The same files, made from a GGUF file. Raises ConfigError for a tokenizer that is unknown.

  Args:
    gguf: a `gguf_files.GGUF`.
    path: the file, for messages.
  """
  vocabulary, config = gguf.vocabulary, gguf.config
  if not vocabulary.tokens:
    return Companions(config=config)
  tokenizer = vocabulary.build(str(path))
  names = {'bos': 'bos', 'eos': 'eos', 'unk': 'unknown', 'pad': 'pad'}
  named = {f'{role}_token': vocabulary.named(theirs) for role, theirs in names.items()}
  special = {role: name for role, name in named.items() if name}
  generation = {key: config[key] for key in ('bos_token_id', 'eos_token_id', 'pad_token_id')}
  ends = list(vocabulary.ends)
  if len(ends) > 1:
    generation['eos_token_id'] = ends
  return Companions(
    config=config,
    generation={key: value for key, value in generation.items() if value is not None},
    tokenizer_config=special
    | {
      'tokenizer_class': 'PreTrainedTokenizerFast',
      'model_max_length': config.get('max_position_embeddings') or config.get('n_positions'),
      'clean_up_tokenization_spaces': False,
    },
    special_tokens=special,
    tokenizer=tokenizer,
    template=gguf.template,
  )


def _read_json(folder: Path) -> dict[str, Any]:
  return {
    attribute: read_json(folder / file)
    for attribute, file in FILES.items()
    if (folder / file).is_file()
  }


def _read_text(path: Path) -> str:
  try:
    return path.read_bytes().decode()
  except (OSError, ValueError) as error:
    raise ConfigError(f'{path} cannot be read as text: {error}') from error


def _template(stored: Any) -> str:
  """The chat template in tokenizer_config.json: a text, or a list of named ones."""
  if isinstance(stored, list):
    named = {each.get('name'): each.get('template') for each in stored if isinstance(each, dict)}
    stored = named.get('default')
  return stored if isinstance(stored, str) else ''
