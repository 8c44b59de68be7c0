"""The kinds and their entries as text: for a terminal, and for docs/reference.md."""

import re
import textwrap
from collections.abc import Iterator, Sequence

from common.config import ConfigError
from common.ranges import did_you_mean
from experiments.list.describe import Entry, Setting
from experiments.list.kinds import KINDS, Kind

LINE, LONGEST_CELL = 100, 60  # characters

OPENING = """\
# Reference

*For anyone who looks for a name: everything that a flag can name, with settings and defaults.*

`make reference` writes this page from the tables and docstrings of the code. `twofold list KIND`
prints one part of it, and `twofold train --config=... --show` a config with the meaning of every
setting.
"""


def overview() -> str:
  """The kinds, one to a line."""
  rows = [(name, kind.about, kind.flag) for name, kind in KINDS.items()]
  return '\n'.join([*_columns(rows), '', 'For more: twofold list KIND, or twofold list NAME.'])


def listing(word: str) -> str:
  """All entries of a kind; for any other word, the entries of that name, of every kind.

  'guidance' is also the name of 'sampling.guidance', and 'digits' that of a config's ':digits'.

  Raises:
    ConfigError: it is neither a kind nor a name.
  """
  if word in KINDS:
    return '\n'.join(_part(word, KINDS[word].read()))
  entries = {kind: KINDS[kind].read() for kind in KINDS}
  found = {kind: [e for e in named if word in _names(e)] for kind, named in entries.items()}
  parts = ['\n'.join(_part(kind, chosen)) for kind, chosen in found.items() if chosen]
  if not parts:
    names = [*KINDS, *sorted({n for named in entries.values() for e in named for n in _names(e)})]
    hint = did_you_mean(word, names)
    raise ConfigError(f'there is no kind or name {word!r};{hint} kinds: {", ".join(KINDS)}')
  return '\n\n'.join(parts)


def _names(entry: Entry) -> tuple[str, str]:
  """The name of an entry, and its last part."""
  return entry.name, re.split('[.:]', entry.name)[-1]


def _part(name: str, entries: Sequence[Entry]) -> Iterator[str]:
  """A kind and some of its entries, as lines."""
  kind = KINDS[name]
  yield f'{name}: {_lower(kind.about)}' + (f'   {kind.flag}' if kind.flag else '')
  if not any(entry.settings for entry in entries):
    yield from ('', *_columns([(_named(e, e.name, entries), e.line) for e in entries]))
    return
  for entry in entries:
    yield ''
    yield _title(entry, entry.name, entries)
    yield from _columns([(f'  {s.name}={s.default!r}', s.meaning) for s in entry.settings])


def _title(entry: Entry, name: str, entries: Sequence[Entry]) -> str:
  """The name of an entry, and its line."""
  return _named(entry, name, entries) + (f': {entry.line}' if entry.line else '')


def _named(entry: Entry, name: str, entries: Sequence[Entry]) -> str:
  """The name of an entry, with its family only next to entries of another family."""
  several = len({other.family for other in entries}) > 1
  return f'{name} ({entry.family})' if several and entry.family else name


def _lower(text: str) -> str:
  return text[:1].lower() + text[1:]


def _columns(rows: Sequence[tuple[str, ...]]) -> Iterator[str]:
  """The rows as lines; the last column is wrapped, the others are as wide as their longest cell."""
  widths = [min(LONGEST_CELL, max(map(len, column))) for column in zip(*rows, strict=True)][:-1]
  for *cells, last in rows:
    start = ''.join(f'{cell:<{width}}  ' for cell, width in zip(cells, widths, strict=True))
    indent = ' ' * (sum(widths) + 2 * len(widths))
    wrapped = textwrap.wrap(last, max(LINE - len(indent), 40))
    yield (start + '\n'.join(wrapped[:1])).rstrip()
    yield from (indent + line for line in wrapped[1:])


def reference() -> str:
  """The whole reference as Markdown."""
  lines = [OPENING, '| kind | names | what |', '| --- | ---: | --- |']
  entries = {name: kind.read() for name, kind in KINDS.items()}
  for name, kind in KINDS.items():
    lines.append(f'| [{name}](#{name}) | {len(entries[name])} | {kind.about} |')
  for name, kind in KINDS.items():
    lines += ['', f'## {name}', '', _opening(kind), '']
    lines += [line for entry in entries[name] for line in _item(entry, entries[name])]
  return '\n'.join(lines)


def _opening(kind: Kind) -> str:
  return f'{kind.about}: `{kind.flag}`' if kind.flag else f'{kind.about}.'


def _item(entry: Entry, entries: Sequence[Entry]) -> Iterator[str]:
  yield '- ' + _title(entry, f'**`{entry.name}`**', entries)
  for setting in entry.settings:
    yield f'  - `{setting.name}={setting.default!r}`' + _after_colon(setting)


def _after_colon(setting: Setting) -> str:
  return f': {setting.meaning}' if setting.meaning else ''
