"""docs/papers.md, from the docstrings of the configs of papers.

A docstring has a title, its commands, and then sections. The opening words of a paragraph tell
which section it begins: see `SECTIONS`. Paragraphs before the first of them explain the commands.
"""

import pathlib
import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from common import config_files

FOLDER = 'configs/papers/'
# {title in the page: the opening words in a docstring}.
SECTIONS = {
  'Reproduces': r'Reproduces:',
  'To expect': r'To expect',
  'Unspecified': r'Unspecified',
  'Not here yet': r'What .+ do(es)? and this code does not( yet)?:',
}

OPENING = """\
# Papers

*For anyone who reproduces a published run: which there are, what they leave open, what is missing.*

`make reference` writes this page from the docstrings of [configs/papers/](../configs/papers).
`twofold list variants` names all variants, and `twofold train --config=... --show` prints every
setting of one. The numbers are those that the papers print; [results/](results/README.md) has ours.
"""


class Paper(NamedTuple):
  """A config of a paper, as its docstring describes it.

  Attributes:
    file: its path.
    title: its first paragraph.
    variants: the names of its variants.
    commands: command lines; the first one of `twofold train` trains a variant.
    notes: paragraphs before the first section.
    sections: {key of SECTIONS: paragraphs}, for the sections that it has, in their order there.
  """

  file: str
  title: str
  variants: tuple[str, ...]
  commands: tuple[str, ...]
  notes: tuple[str, ...]
  sections: dict[str, list[str]]


def read(file: str, docstring: str, variants: Sequence[str]) -> Paper:
  """The description of a config."""
  title, *paragraphs = re.split(r'\n\s*\n', docstring.strip())
  commands, sections, current = [], {'': []}, ''
  for paragraph in paragraphs:
    found = [name for name, words in SECTIONS.items() if re.match(words, paragraph)]
    current = found[0] if found else current
    if paragraph.startswith('twofold '):
      commands += paragraph.splitlines()
    else:
      sections.setdefault(current, []).append(paragraph.rstrip())
  notes = sections.pop('')
  return Paper(
    file, ' '.join(title.split()), tuple(variants), tuple(commands), tuple(notes), sections
  )


def papers() -> list[Paper]:
  """All configs of papers, by their file names."""
  files = [f for f in config_files.shipped_files('get_config') if f.startswith(FOLDER)]
  modules = {file: config_files.load_module(file) for file in sorted(files)}
  return [read(file, module.__doc__, tuple(module.VARIANTS)) for file, module in modules.items()]


def page() -> str:
  """The whole page as Markdown."""
  found = papers()
  lines = [OPENING, '| config | variants | what |', '| --- | ---: | --- |']
  for paper in found:
    lines.append(f'| [{_name(paper)}](#{_name(paper)}) | {len(paper.variants)} | {paper.title} |')
  return '\n'.join([*lines, *(line for paper in found for line in _part(paper))])


def _name(paper: Paper) -> str:
  return pathlib.PurePath(paper.file).stem


def _part(paper: Paper) -> Iterator[str]:
  """The part of the page about one paper, as lines."""
  yield from ('', f'## {_name(paper)}', '', f'[{paper.file}](../{paper.file}): {paper.title}')
  # A line that is continued in the source is one line of the docstring, with a gap in it.
  commands = [re.sub(r' {2,}', r' \\\n    ', command) for command in paper.commands]
  yield from ('', '```', *commands, '```')
  for paragraph in paper.notes:
    yield from ('', _shown(paragraph))
  names = ', '.join(f'`{name}`' for name in paper.variants)
  yield from ('', f'Variants: {names}.')
  for name in SECTIONS:
    if name in paper.sections:
      yield from _section(name, paper.sections[name])


def _section(name: str, paragraphs: Sequence[str]) -> Iterator[str]:
  """A section as lines: its own opening words, unless the page's say the same."""
  first, *others = paragraphs
  if name == 'Not here yet':
    yield from ('', f'**{name}.**')
  else:
    head, _, rest = first.partition(':')
    yield from ('', _shown(f'**{" ".join(head.split())}**:{rest}'))
  for paragraph in others:
    yield from ('', _shown(paragraph))


def _shown(paragraph: str) -> str:
  """A paragraph in Markdown: one that is indented in the docstring is a table."""
  lines = paragraph.splitlines()
  if any(line.startswith('  ') for line in lines) and not lines[0].startswith('- '):
    text = [line for line in lines if not line.startswith('  ')]
    table = [line.removeprefix('  ') for line in lines if line.startswith('  ')]
    return '\n'.join([*text, *([''] if text else []), '```', *table, '```'])
  return paragraph
