"""Components, as their code describes them: docstrings, signatures, comments of base configs."""

import ast
import inspect
import io
import re
import tokenize
import types
from collections.abc import Collection, Iterator
from typing import Any, NamedTuple

from common.ranges import FINITE, Interval, OneOf, Setting, settings_of

SECTIONS = ('Attributes:', 'Args:')  # the parts of a docstring that explain settings


class Explained(NamedTuple):
  """A setting of a component: its name, its default, and what it means ('' if nothing says so)."""

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
  settings: tuple[Explained, ...] = ()
  family: str = ''


def describe(name: str, thing: Any, given: Collection[str] = (), family: str = '') -> Entry:
  """The entry of a class, a function or an object in a table.

  Args:
    name: its name in the table.
    thing: a constructor; or a function or object without settings.
    given: arguments of the constructor that are not settings.
    family: see `Entry`.
  """
  settings = settings_of(thing) if inspect.isclass(thing) else {}
  meant = meanings(thing, settings)
  explained = (
    explain(key, setting, meant.get(key, ''))
    for key, setting in settings.items()
    if key not in given and setting.default is not inspect.Parameter.empty
  )
  return Entry(name, first_line(inspect.getdoc(thing) or ''), tuple(explained), family)


def explain(name: str, setting: Setting, meaning: str) -> Explained:
  """A setting, with the range of its values after its meaning."""
  known, values = setting.range, ''
  if isinstance(known, Interval) and known != FINITE:
    note = known.note if known.note not in meaning else ''
    values = f'({"; ".join(filter(None, (str(known), note)))})'
  elif isinstance(known, OneOf) and not all(name in meaning for name in known.names):
    values = f'({", ".join(known.names)})'
  return Explained(name, setting.default, ' '.join(filter(None, (meaning, values))))


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


def comments(module: types.ModuleType) -> dict[str, str]:
  """{dotted path: comment} of all settings and sections of a base config, in the order of its file.

  Args:
    module: it assigns `dict(...)`, perhaps added to another dict, to SETTINGS. The comment of a
      keyword is at the end of its line, or in the lines above it; '' if there is none.
  """
  source = inspect.getsource(module)
  tree = ast.parse(source)
  assigned = next(
    node for node in tree.body if isinstance(node, ast.Assign) and node.targets[0].id == 'SETTINGS'
  )
  # Breadth first: the outermost `dict(...)` comes before those inside it.
  root = next(node for node in ast.walk(assigned) if _is_dict(node))
  at_end, alone = {}, {}
  for token in tokenize.generate_tokens(io.StringIO(source).readline):
    if token.type == tokenize.COMMENT:
      kind = alone if token.line.lstrip().startswith('#') else at_end
      kind[token.start[0]] = token.string.lstrip('# ')
  return {
    path: at_end.get(last) or ' '.join(_above(first, alone)) for path, first, last in _lines(root)
  }


def _above(line: int, alone: dict[int, str]) -> list[str]:
  """The comments in the lines right above a line."""
  return [*_above(line - 1, alone), alone[line - 1]] if line - 1 in alone else []


def _is_dict(node: ast.AST) -> bool:
  return isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == 'dict'


def _lines(section: ast.Call, prefix: str = '') -> Iterator[tuple[str, int, int]]:
  """(path, first line, line with the comment at its end) of all keywords of `dict(...)`."""
  for keyword in section.keywords:
    path, value = f'{prefix}{keyword.arg}', keyword.value
    # The comment of a section is at the end of its first line.
    yield path, keyword.lineno, value.lineno if _is_dict(value) else value.end_lineno
    if _is_dict(value) and value.lineno != value.end_lineno:
      yield from _lines(value, f'{path}.')
