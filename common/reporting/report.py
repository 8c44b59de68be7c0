"""A report as one self-contained HTML page.

A report consists of sections of blocks (text, pictures, plots, tables, claims, facts). The page has
its images as data URIs and its style inline, so it opens without a network. The `kind` of a block
decides how the template draws it.
"""

import base64
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jinja2

from common.files import atomic_write

Path = str | os.PathLike
TEMPLATE = pathlib.Path(__file__).with_name('report.html.jinja')


class Text(NamedTuple):
  """A paragraph."""

  text: str
  kind = 'text'


class Picture(NamedTuple):
  """A picture with its caption.

  Attributes:
    png: the bytes of a PNG file.
    alt: a description for readers who cannot see it.
    caption: the text below it.
  """

  png: bytes
  alt: str
  caption: str = ''
  kind = 'picture'


class Quote(NamedTuple):
  """A text shown verbatim, with its caption."""

  text: str
  caption: str = ''
  kind = 'quote'


class Gallery(NamedTuple):
  """Pictures, plots or quotes side by side, in as many columns as the screen has room for."""

  pictures: Sequence[NamedTuple]
  kind = 'gallery'


class Cell(NamedTuple):
  """A cell of a table: its text, a smaller line below it, and a style ('published', 'best')."""

  text: str
  small: str = ''
  style: str = ''


class Table(NamedTuple):
  """A table; the first cell of each row is its name.

  Attributes:
    header: titles of the columns.
    rows: cells, as text or as `Cell`.
    notes: lines below the table.
  """

  header: Sequence[str]
  rows: Sequence[Sequence[str | Cell]]
  notes: Sequence[str] = ()
  kind = 'table'


class Verdict(NamedTuple):
  """A claim, and the verdict of the measurements: 'holds', 'fails' or 'undecided'."""

  text: str
  verdict: str
  detail: str = ''


class Verdicts(NamedTuple):
  """Claims, each with its badge."""

  verdicts: Sequence[Verdict]
  kind = 'verdicts'


class Facts(NamedTuple):
  """Names and values."""

  facts: Mapping[str, str]
  kind = 'facts'


class Section(NamedTuple):
  """A heading and the blocks below it."""

  title: str
  blocks: Sequence[NamedTuple]


def write_report(path: Path, title: str, sections: Sequence[Section], subtitle: str = '') -> None:
  """Writes a report as one self-contained HTML file.

  Args:
    path: the file to write.
    title: the title of the page.
    sections: the content; all text is escaped.
    subtitle: a line below the title.
  """
  # `StrictUndefined`: a block without a field that the template needs is an error, not a blank.
  engine = jinja2.Environment(
    autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
  )
  engine.filters['base64'] = _as_base64
  engine.filters['cell'] = _as_cell
  template = engine.from_string(TEMPLATE.read_text(encoding='utf-8'))
  atomic_write(path, template.render(title=title, subtitle=subtitle, sections=sections))


def _as_base64(data: bytes) -> str:
  return base64.b64encode(data).decode()


def _as_cell(cell: str | Cell) -> Cell:
  return Cell(cell) if isinstance(cell, str) else cell
