"""Pictures as arrays of pixels: grids, captioned rows, PNG and .npy files."""

import io
import os
from collections.abc import Sequence

import numpy as np
from jaxtyping import Shaped, UInt8
from PIL import Image, ImageDraw, ImageFont

from common.files import atomic_write

Path = str | os.PathLike
VISIBLE_SIDE = 64  # pixels to which small images are enlarged, about
MAX_PIXELS = 2**28  # of a picture
MAX_CAPTION = 24  # letters of a class's name in a picture


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
    images: integers in [0, levels), with 1 (grey), 3 (RGB) or 4 (RGBA, shown on white) channels.
    columns: images in a row; unused places of the last row stay empty.
    scale: each pixel becomes a square of `scale` × `scale`.
    levels: the number of values, which are scaled to 0..255; 17 for scikit-learn's digits.
    gap: pixels (before scaling) between images and around them.
    background: grey value of the gaps.

  Raises:
    ValueError: for no images, another number of channels, or `columns` or `scale` below 1.
  """
  num, height, width, channels = images.shape
  if not num or channels not in (1, 3, 4):
    raise ValueError(
      f'a grid needs one or more images of 1, 3 or 4 channels, got images of shape {images.shape}'
    )
  if columns < 1 or scale < 1:
    raise ValueError(f'columns and scale must be at least 1, got {columns} and {scale}')
  images = to_rgb(images, levels)
  columns = min(columns, num)
  rows = -(-num // columns)
  tall, wide = height + gap, width + gap  # an image with the gap above it and to its left
  grid = np.full((rows * tall + gap, columns * wide + gap, 3), background, np.uint8)
  for index, image in enumerate(images):
    top, left = gap + index // columns * tall, gap + index % columns * wide
    grid[top : top + height, left : left + width] = image
  return grid.repeat(scale, 0).repeat(scale, 1)


def check_size(path: Path, pixels: int) -> None:
  """Raises ValueError for a picture that is too large to draw."""
  if pixels > MAX_PIXELS:
    raise ValueError(
      f'--out={path}: the picture would have {pixels:,} pixels, and {MAX_PIXELS:,} are the most: '
      'ask for fewer samples or smaller ones, or write a .npy'
    )


def visible_scale(images: Shaped[np.ndarray, '... height width channels']) -> int:
  """The size of a pixel that makes the longer side of an image about 64 pixels, and at least 1."""
  return max(1, round(VISIBLE_SIDE / max(images.shape[-3:-1])))


def to_rgb(
  images: UInt8[np.ndarray, 'n height width channels'], levels: int = 256
) -> UInt8[np.ndarray, 'n height width 3']:
  """Converts images of `levels` values and 1, 3 or 4 channels to RGB; RGBA is put on white."""
  # The largest value, levels − 1, becomes 255.
  if levels != 256:
    images = np.round(images * (255.0 / (levels - 1))).clip(0, 255).astype(np.uint8)
  if images.shape[-1] == 4:
    # Composited over white: alpha · colour + (1 − alpha) · 255.
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
    title: a line above the rows, or ''; a long title widens the picture.
    rows: (caption, images) of each row; long captions are cut.
    scale: each pixel of an image becomes a square of `scale` × `scale`.
    text_size: height of the letters, in pixels.
  """
  font = ImageFont.load_default(text_size)
  margin, line = text_size // 2, 2 * text_size
  head = line if title else margin
  rows = [(_shortened(caption), images) for caption, images in rows]
  # Without the gap below each row: the next row brings the one between them.
  grids = [image_grid(images, len(images), scale, background=255)[:-scale] for _, images in rows]
  # Images start to the right of the longest caption. A row is at least as high as its caption.
  left = 2 * margin + int(max(font.getlength(caption) for caption, _ in rows))
  width = max(left + max(grid.shape[1] for grid in grids), int(font.getlength(title)) + margin)
  heights = [
    max(len(grid), line if caption else 0) for (caption, _), grid in zip(rows, grids, strict=True)
  ]
  picture = Image.new('RGB', (width + margin, head + sum(heights) + margin), 'white')
  draw = ImageDraw.Draw(picture)
  draw.text((margin, line // 2), title, 'black', font, anchor='lm')
  top = head
  for (caption, _), grid, height in zip(rows, grids, heights, strict=True):
    draw.text((margin, top + height // 2), caption, 'black', font, anchor='lm')
    picture.paste(Image.fromarray(grid), (left, top))
    top += height
  return np.asarray(picture)


def _shortened(caption: str) -> str:
  return caption if len(caption) <= MAX_CAPTION else f'{caption[: MAX_CAPTION - 1]}…'


def png_bytes(picture: UInt8[np.ndarray, 'height width 3']) -> bytes:
  """A picture as PNG."""
  buffer = io.BytesIO()
  Image.fromarray(picture).save(buffer, 'PNG', optimize=True)
  return buffer.getvalue()


def save_png(path: Path, picture: UInt8[np.ndarray, 'height width 3']) -> None:
  """Writes a picture as PNG, atomically."""
  atomic_write(path, png_bytes(picture))


def save_array(path: Path, array: np.ndarray) -> None:
  """Writes an array as .npy, atomically."""
  buffer = io.BytesIO()
  np.save(buffer, array, allow_pickle=False)
  atomic_write(path, buffer.getvalue())
