"""Chat templates: messages as one text, in the form that a model was trained on.

A template is a Jinja text that comes with published weights, so it is rendered in a sandbox: it
reaches neither files nor Python's internals, imports nothing, and its loops and texts are bounded.
A run that was read from weights keeps it as `chat_template.jinja`.

  template = read(workdir)
  text = render(template, [{'role': 'user', 'content': 'Hello!'}])
  tokens = encode(template, tokenizer, messages)
"""

import dataclasses
import datetime
import json
import operator
import re
import types
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import jinja2
import numpy as np
from jaxtyping import Integer
from jinja2 import ext, nodes, sandbox

from common.config import ConfigError, read_json
from common.data.tokenizers.base import Tokenizer
from common.data.tokenizers.byte_pairs import token_name
from common.files import Path, to_path

TEMPLATE = 'chat_template.jinja'  # in the folder of a run, and of published weights
TOKENIZER_CONFIG = 'published/tokenizer_config.json'  # in the folder of a run
ROLES = ('system', 'developer', 'user', 'assistant', 'tool')
MAX_STEPS = 100_000  # of all loops of a template together
MAX_LENGTH = 10_000_000  # of a text or list that a template makes
# Methods and filters that pad a text to a width: a template could ask for a huge one.
PADDING = ('center', 'expandtabs', 'format', 'format_map', 'indent', 'ljust', 'rjust', 'zfill')
GUARD = '\U000f0000'  # a private character that breaks up special tokens in messages


@dataclasses.dataclass(frozen=True)
class ChatTemplate:
  """A chat template.

  Attributes:
    text: the Jinja text.
    tokens: the names of special tokens, as templates use them: {'bos_token': '<s>'}.
    where: its file, for messages.
  """

  text: str
  tokens: Mapping[str, str] = dataclasses.field(default_factory=dict)
  where: str = TEMPLATE


Messages = Sequence[Any]  # objects with a role and a content, checked by `_check`


def read(workdir: str | Path) -> ChatTemplate | None:
  """The chat template of a run; None if it has none. Raises ConfigError for a broken file."""
  workdir = to_path(workdir)
  path, config = workdir / TEMPLATE, workdir / TOKENIZER_CONFIG
  if not path.is_file():
    return None
  found = read_file(path)
  named = read_json(config) if config.is_file() else {}
  tokens = {key: token_name(value) for key, value in named.items() if key.endswith('_token')}
  return dataclasses.replace(found, tokens={key: name for key, name in tokens.items() if name})


def read_file(path: Path) -> ChatTemplate:
  """The chat template in a file. Raises ConfigError for one that cannot be read."""
  try:
    return ChatTemplate(path.read_bytes().decode(), where=str(path))
  except (OSError, ValueError) as error:
    raise ConfigError(f'{path} cannot be read as text: {error}') from error


def render(
  template: ChatTemplate, messages: Messages, add_generation_prompt: bool = True, **variables: Any
) -> str:
  """Messages as the text that a model was trained on.

  Args:
    template: the template.
    messages: each has a 'role' and a 'content'; `variables` may add what else a template reads.
    add_generation_prompt: whether the beginning of an answer follows the last message.
    **variables: other variables of the template, such as `tools` or `enable_thinking`.

  Raises:
    ConfigError: for a message without a known role or without a text; for a template that is
      broken, imports, runs for too long or refuses these messages.
  """
  _check(messages)
  given = {'tools': None, 'documents': None, **template.tokens, **variables}
  given |= {'messages': [dict(m) for m in messages], 'add_generation_prompt': add_generation_prompt}
  try:
    text = _compiled(template).render(given)
  except jinja2.TemplateSyntaxError as error:
    raise ConfigError(f'{template.where}, line {error.lineno}: {error.message}') from error
  except ConfigError:
    raise
  except _Refused as error:
    raise ConfigError(f'{template.where} refuses these messages: {_line(error)}') from error
  except (Exception, RecursionError) as error:  # whatever the code of a template raises
    raise ConfigError(
      f'{template.where} cannot be rendered: {type(error).__name__}: {_line(error)}'
    ) from error
  if len(text) > MAX_LENGTH:
    raise ConfigError(f'{template.where} makes a text of {len(text):,} characters, too long')
  return text


def encode(
  template: ChatTemplate,
  tokenizer: Tokenizer,
  messages: Messages,
  add_generation_prompt: bool = True,
  **variables: Any,
) -> Integer[np.ndarray, 'length']:
  """The token ids of `render`. Special tokens are those of the template.

  A special token that a message spells out is text, so that no message ends its own turn.
  """
  special = tokenizer.special_tokens
  names = re.compile('|'.join(map(re.escape, sorted(special, key=len, reverse=True))) or '(?!)')
  _check(messages)
  guarded = [_guarded(dict(message), names) for message in messages]
  text = render(template, guarded, add_generation_prompt, **variables)
  if GUARD not in text:
    return tokenizer.encode_marked(text)
  parts, last = [], 0
  for match in names.finditer(text):
    parts += [tokenizer.encode(text[last : match.start()].replace(GUARD, ''))]
    parts += [[special[match[0]]]]
    last = match.end()
  parts.append(tokenizer.encode(text[last:].replace(GUARD, '')))
  return np.concatenate(parts).astype(np.int32)


def _guarded(message: dict[str, Any], names: re.Pattern) -> dict[str, Any]:
  """A message in which no special token is spelled out."""
  text = message.get('content')
  if isinstance(text, str):
    clean = text.replace(GUARD, '')
    message['content'] = names.sub(lambda match: match[0][0] + GUARD + match[0][1:], clean)
  return message


def _check(messages: Messages) -> None:
  """Raises ConfigError for the first message without a known role or without a text."""
  for number, message in enumerate(messages, 1):
    if not isinstance(message, Mapping) or 'role' not in message:
      raise ConfigError(f"message {number} must have a 'role' and a 'content', got {message!r:.80}")
    if message['role'] not in ROLES:
      raise ConfigError(
        f'message {number} has the role {message["role"]!r:.40}; known: {", ".join(ROLES)}'
      )
    if not isinstance(message.get('content'), str):
      raise ConfigError(
        f"message {number} must have a text as 'content', got {message.get('content')!r:.80}"
      )


def _line(error: BaseException) -> str:
  return ' '.join(str(error).split()) or 'no message'


# The sandbox.


class _Refused(jinja2.TemplateError):
  """Raised by the template itself, by `raise_exception`."""


class _Generation(ext.Extension):
  """{% generation %}, which only marks the text of the model, and changes nothing."""

  tags = frozenset({'generation'})

  def parse(self, parser: Any) -> list[nodes.Node]:
    next(parser.stream)
    return parser.parse_statements(('name:endgeneration',), drop_needle=True)


class _Sandbox(sandbox.ImmutableSandboxedEnvironment):
  """Jinja's sandbox, in which products, sums and replacements of texts are bounded too."""

  intercepted_binops = frozenset(('*', '**', '+', '%'))

  def wrap_str_format(self, value: Any) -> None:
    """Leaves `format` to `is_safe_attribute`."""

  def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
    padding = isinstance(obj, str) and attr in PADDING
    return not padding and super().is_safe_attribute(obj, attr, value)

  def call(self, context: Any, obj: Any, *args: Any, **kwargs: Any) -> Any:
    is_method = isinstance(obj, types.BuiltinMethodType) and isinstance(obj.__self__, str)
    if is_method and obj.__name__ == 'replace' and len(args) >= 2:
      _check_replacement(obj.__self__, *args[:2])
    return super().call(context, obj, *args, **kwargs)

  def call_binop(self, context: Any, name: str, left: Any, right: Any) -> Any:
    if name == '+':
      return _bounded(operator.add(left, right))
    if name == '%' and not isinstance(left, str):
      return left % right
    numbers = isinstance(left, int | float) and isinstance(right, int | float)
    if name == '*' and (numbers or _length(left) * _length(right) <= MAX_LENGTH):
      return left * right
    raise jinja2.TemplateError(f'{name!r} of {left!r:.20} and {right!r:.20} is not allowed')


def _length(value: Any) -> int:
  return abs(value) if isinstance(value, int) else len(value)


def _check_replacement(text: str, old: str, new: str) -> None:
  """Raises TemplateError if replacing `old` makes a text that is too long."""
  if text.count(old) * len(new) > MAX_LENGTH:
    raise jinja2.TemplateError(f'a text or list is longer than {MAX_LENGTH:,}')


def _replaced(text: Any, old: str, new: str, count: int = -1) -> str:
  """The filter `replace`, bounded."""
  _check_replacement(str(text), old, new)
  return str(text).replace(old, new, count)


def _bounded(value: Any) -> Any:
  if isinstance(value, str | list | tuple) and len(value) > MAX_LENGTH:
    raise jinja2.TemplateError(f'a text or list is longer than {MAX_LENGTH:,}')
  return value


def _joined(*values: Any) -> str:
  """The operator ~, bounded."""
  return _bounded(''.join(map(str, values)))


class _Steps:
  """Counts the steps of all loops of one rendering."""

  def __init__(self):
    self.number = 0

  def count(self, values: Iterable[Any]) -> Iterator[Any]:
    for value in values:
      self.number += 1
      if self.number > MAX_STEPS:
        raise jinja2.TemplateError(f'its loops take more than {MAX_STEPS:,} steps')
      yield value


def _refuse(message: str) -> None:
  raise _Refused(message)


def _tojson(
  value: Any,
  ensure_ascii: bool = False,
  indent: int | None = None,
  separators: tuple[str, str] | None = None,
  sort_keys: bool = False,
) -> str:
  """JSON for a model: Jinja's own filter escapes for HTML."""
  return json.dumps(
    value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
  )


def _strftime_now(form: str) -> str:
  return datetime.datetime.now().strftime(form)


def _compiled(template: ChatTemplate) -> jinja2.Template:
  """The template in a sandbox of its own, with bounded loops.

  Raises:
    ConfigError: for a template that imports.
  """
  extensions = (_Generation, ext.loopcontrols)
  environment = _Sandbox(trim_blocks=True, lstrip_blocks=True, extensions=extensions)
  environment.filters |= {'tojson': _tojson, 'replace': _replaced}
  for name in environment.filters.keys() & set(PADDING):
    del environment.filters[name]
  del environment.globals['lipsum']
  environment.globals |= {
    'raise_exception': _refuse,
    'strftime_now': _strftime_now,
    '_count': _Steps().count,
    '_joined': _joined,
  }
  tree = environment.parse(template.text)
  for node in tree.find_all((nodes.Import, nodes.FromImport, nodes.Include, nodes.Extends)):
    raise ConfigError(
      f'{template.where}, line {node.lineno}: a chat template must not import other files'
    )
  return environment.from_string(_bound(tree))


def _bound(tree: nodes.Template) -> nodes.Template:
  """The template with counted loops and bounded joins."""
  for loop in tree.find_all(nodes.For):
    loop.iter = nodes.Call(
      nodes.Name('_count', 'load'), [loop.iter], [], None, None, lineno=loop.lineno
    )
  for parent in [tree, *tree.find_all(nodes.Node)]:
    for field in parent.fields:
      value = vars(parent)[field]
      if isinstance(value, nodes.Concat):
        vars(parent)[field] = _join(value)
      elif isinstance(value, list):
        value[:] = [_join(x) if isinstance(x, nodes.Concat) else x for x in value]
  tree.set_environment(tree.environment)
  return tree


def _join(concat: nodes.Concat) -> nodes.Call:
  name = nodes.Name('_joined', 'load')
  return nodes.Call(name, concat.nodes, [], None, None, lineno=concat.lineno)
