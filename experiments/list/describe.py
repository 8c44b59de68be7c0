"""Components, as their code describes them: docstrings, signatures, comments of base configs."""

import ast
import inspect
import io
import re
import textwrap
import tokenize
from collections.abc import Callable, Collection, Iterator
from typing import Any, NamedTuple

from common.config import defaults_of

SECTIONS = ('Attributes:', 'Args:')  # the parts of a docstring that explain settings


class Setting(NamedTuple):
  """A setting of a component: its name, its default, and what it means ('' if not explained)."""

  name: str
  default: Any
  meaning: str = ''


class Entry(NamedTuple):
  """A thing that a flag can name.

  Attributes:
    name: what the flag takes.
    line: one line about it.
    settings: its settings.
    family: the family that it belongs to; '': any.
  """

  name: str
  line: str
  settings: tuple[Setting, ...] = ()
  family: str = ''


def describe(name: str, thing: Any, given: Collection[str] = (), family: str = '') -> Entry:
  """The entry of a class, a function or an object in a table.

  Args:
    name: its name in the table.
    thing: a constructor; or a function or object without settings.
    given: arguments of the constructor that are not settings.
    family: see `Entry`.
  """
  defaults = defaults_of(thing, given) if inspect.isclass(thing) else {}
  explained = meanings(thing, defaults)
  # In the order of the signature.
  order = (
    [key for key in inspect.signature(thing).parameters if key in defaults] if defaults else []
  )
  settings = (Setting(key, defaults[key], explained.get(key, '')) for key in order)
  return Entry(name, first_line(inspect.getdoc(thing) or ''), tuple(settings), family)


def first_line(docstring: str) -> str:
  """The first paragraph of a docstring, in one line."""
  return ' '.join(inspect.cleandoc(docstring).partition('\n\n')[0].split())


def meanings(thing: Any, names: Collection[str]) -> dict[str, str]:
  """What the docstrings of a class and its base classes say about its arguments.

  Args:
    thing: a class; for anything else, there are no arguments.
    names: the arguments. A line may explain several: 'low, high: ...' or 'low: ...; high: ...'.
  """
  found: dict[str, str] = {}
  for kind in reversed(inspect.getmro(thing) if inspect.isclass(thing) else ()):
    for explained, text in _paragraphs(kind.__doc__ or ''):
      # 're.split' with a group: [text, name, text, name, text, ...].
      first, *others = re.split(rf'; ({"|".join(names) or "(?!)"}): ', text)
      parts = [(explained, first)]
      parts += [((name,), more) for name, more in zip(others[::2], others[1::2], strict=True)]
      found |= {name: _sentence(words) for keys, words in parts for name in keys if name in names}
  return found


def _paragraphs(docstring: str) -> Iterator[tuple[tuple[str, ...], str]]:
  """(names, text) of every argument that a docstring explains."""
  inside, names, words = False, (), []
  for line in [*inspect.cleandoc(docstring).splitlines(), 'end']:
    new = re.match(r'  (\w+(?:, \w+)*): (.*)', line) if inside else None
    if new or (line and not line.startswith(' ')):
      if names:
        yield names, ' '.join(words)
      inside = inside if new else line in SECTIONS
      names = tuple(new[1].split(', ')) if new else ()
      words = [new[2]] if new else []
    elif names:
      words.append(line.strip())


def _sentence(text: str) -> str:
  return text.strip().removesuffix('.')


def comments(get_base: Callable) -> dict[str, str]:
  """{dotted path: comment} of all settings and sections in the source of a base config, in order.

  Args:
    get_base: the function that returns it: `dict(...)` with keywords, one to a line, each with its
      comment at the end of the line; a keyword without a comment has ''.
  """
  source = textwrap.dedent(inspect.getsource(get_base))
  tokens = tokenize.generate_tokens(io.StringIO(source).readline)
  by_line = {
    token.start[0]: token.string.lstrip('# ') for token in tokens if token.type == tokenize.COMMENT
  }
  # Breadth first: the outermost `dict(...)` comes before those inside it.
  root = next(node for node in ast.walk(ast.parse(source)) if _is_dict(node))
  return {path: by_line.get(line, '') for path, line in _lines(root)}


def _is_dict(node: ast.AST) -> bool:
  return isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == 'dict'


def _lines(section: ast.Call, prefix: str = '') -> Iterator[tuple[str, int]]:
  """(path, number of the line with its comment) of all keywords of `dict(...)`."""
  for keyword in section.keywords:
    path, value = f'{prefix}{keyword.arg}', keyword.value
    several_lines = value.lineno != value.end_lineno
    # The comment of a section is at its first line.
    yield path, value.lineno if _is_dict(value) else value.end_lineno
    if _is_dict(value) and several_lines:
      yield from _lines(value, f'{path}.')
