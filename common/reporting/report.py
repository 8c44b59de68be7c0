"""Pictures and reports for people: image grids, one self-contained HTML page.

A report is data: sections of blocks (text, pictures, plots, tables, claims, facts). The page holds
its images as data URIs and its style inline, so it opens anywhere, without a network.
"""

import base64
import datetime
import importlib.metadata
import io
import os
import pathlib
import platform
import shlex
import sys
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax
import jinja2
import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont

from common.files import atomic_write

Path = str | os.PathLike
TEMPLATE = pathlib.Path(__file__).with_name('report.html.jinja')


def image_grid(
  images: UInt8[np.ndarray, 'n height width channels'],
  columns: int,
  scale: int = 1,
  levels: int = 256,
  gap: int = 1,
  background: int = 128,
) -> UInt8[np.ndarray, 'rows cols 3']:
  """Images side by side, row by row, as one RGB picture.

  Args:
    images: integers in [0, levels), with 1 (grey), 3 (RGB) or 4 (RGBA, on white) channels.
    columns: images in a row; the places that are left in the last row stay empty.
    scale: each pixel becomes a square of so many.
    levels: 17 for scikit-learn's digits; the values are stretched to 0..255.
    gap: pixels (before scaling) between images and around them.
    background: grey value of the gaps.

  Raises:
    ValueError: for no images, another number of channels, or fewer than one column or scale.
  """
  num, height, width, channels = images.shape
  if not num or channels not in (1, 3, 4):
    raise ValueError(f'images of shape {images.shape}: give at least one, of 1, 3 or 4 channels')
  if columns < 1 or scale < 1:
    raise ValueError(f'columns={columns}, scale={scale}: both must be at least 1')
  images = to_rgb(images, levels)
  columns = min(columns, num)
  rows = -(-num // columns)
  tall, wide = height + gap, width + gap
  grid = np.full((rows * tall + gap, columns * wide + gap, 3), background, np.uint8)
  for index, image in enumerate(images):
    top, left = gap + index // columns * tall, gap + index % columns * wide
    grid[top : top + height, left : left + width] = image
  return grid.repeat(scale, 0).repeat(scale, 1)


def to_rgb(
  images: UInt8[np.ndarray, 'n height width channels'], levels: int = 256
) -> UInt8[np.ndarray, 'n height width 3']:
  """Images of `levels` values and 1, 3 or 4 channels as RGB of 256 values, transparency white."""
  if levels != 256:
    images = np.round(images * (255.0 / (levels - 1))).clip(0, 255).astype(np.uint8)
  if images.shape[-1] == 4:
    alpha = images[..., 3:] / 255.0
    images = np.round(images[..., :3] * alpha + 255.0 * (1.0 - alpha)).astype(np.uint8)
  return np.broadcast_to(images, (*images.shape[:-1], 3))


def captioned_rows(
  title: str,
  rows: Sequence[tuple[str, UInt8[np.ndarray, 'n height width 3']]],
  scale: int = 1,
  text_size: int = 14,
) -> UInt8[np.ndarray, 'tall wide 3']:
  """Rows of images below a title, each with its caption on the left.

  Args:
    title: a line above; the picture is as wide as it needs.
    rows: caption and images of each row.
    scale: each pixel of an image becomes a square of so many.
    text_size: height of the letters, in pixels.
  """
  font = ImageFont.load_default(text_size)
  margin, line = text_size // 2, 2 * text_size
  grids = [image_grid(images, len(images), scale, background=255) for _, images in rows]
  left = 2 * margin + int(max(font.getlength(caption) for caption, _ in rows))
  width = max(left + max(grid.shape[1] for grid in grids), int(font.getlength(title)) + margin)
  heights = [max(len(grid), line) for grid in grids]
  picture = Image.new('RGB', (width + margin, line + sum(heights) + margin), 'white')
  draw = ImageDraw.Draw(picture)
  draw.text((margin, line // 2), title, 'black', font, anchor='lm')
  top = line
  for (caption, _), grid, height in zip(rows, grids, heights, strict=True):
    draw.text((margin, top + height // 2), caption, 'black', font, anchor='lm')
    picture.paste(Image.fromarray(grid), (left, top))
    top += height
  return np.asarray(picture)


def png_bytes(picture: UInt8[np.ndarray, 'height width 3']) -> bytes:
  """A picture as PNG."""
  buffer = io.BytesIO()
  Image.fromarray(picture).save(buffer, 'PNG', optimize=True)
  return buffer.getvalue()


def save_png(path: Path, picture: UInt8[np.ndarray, 'height width 3']) -> None:
  """Writes a picture; under its name stands the whole of it or nothing."""
  atomic_write(path, png_bytes(picture))


def save_array(path: Path, array: np.ndarray) -> None:
  """Writes an array as .npy; under its name stands the whole of it or nothing."""
  buffer = io.BytesIO()
  np.save(buffer, array, allow_pickle=False)
  atomic_write(path, buffer.getvalue())


class Text(NamedTuple):
  """A paragraph."""

  text: str
  kind = 'text'


class Picture(NamedTuple):
  """A picture with its caption.

  Attributes:
    png: its bytes.
    alt: what it shows, for those who do not see it.
    caption: what stands below it.
  """

  png: bytes
  alt: str
  caption: str = ''
  kind = 'picture'


class Quote(NamedTuple):
  """A text that is shown as it is, with its caption."""

  text: str
  caption: str = ''
  kind = 'quote'


class Gallery(NamedTuple):
  """Pictures, plots or quotes side by side, as many as the screen has room for."""

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
  """A claim and what the measurements say of it: 'holds', 'fails' or 'undecided'."""

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
  """A heading and what stands below it."""

  title: str
  blocks: Sequence[NamedTuple]


def environment() -> dict[str, str]:
  """What a number was measured with: command, machine, date, versions."""
  devices = jax.devices()
  cores = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count()
  versions = ('jax', 'jaxlib', 'flax', 'optax', 'numpy', 'scikit-learn')
  return {
    'command': command(),
    'machine': f'{cores}-core {platform.machine()}, {platform.system()}',
    'devices': f'{len(devices)} × {devices[0].device_kind}',
    'date': datetime.datetime.now(datetime.UTC).strftime('%Y-%m-%d %H:%M UTC'),
    'versions': f'Python {platform.python_version()}, '
    + ', '.join(f'{name} {importlib.metadata.version(name)}' for name in versions),
  }


def command() -> str:
  """The command line that started this program, as one would type it."""
  spec = getattr(sys.modules['__main__'], '__spec__', None)
  program = ['python', '-m', spec.name] if spec else ['python', sys.argv[0]]
  return shlex.join([*program, *sys.argv[1:]])


def report(path: Path, title: str, sections: Sequence[Section], subtitle: str = '') -> None:
  """Writes a report as one self-contained HTML file.

  Args:
    path: where to.
    title: of the page.
    sections: what it holds. All text is escaped.
    subtitle: a line below the title.
  """
  engine = jinja2.Environment(
    autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
  )
  engine.filters['base64'] = lambda data: base64.b64encode(data).decode()
  engine.filters['cell'] = lambda cell: Cell(cell) if isinstance(cell, str) else cell
  template = engine.from_string(TEMPLATE.read_text(encoding='utf-8'))
  atomic_write(path, template.render(title=title, subtitle=subtitle, sections=sections))
