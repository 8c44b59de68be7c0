"""Pictures: grids, and PNG files that are complete or absent."""

import io
import os

import numpy as np
import pytest
from PIL import Image

from common.reporting import pictures


def opened(data):
  """The pixels of a PNG."""
  return np.asarray(Image.open(io.BytesIO(data)))


def test_grid_places_each_image():
  images = np.arange(1, 4, dtype=np.uint8)[:, None, None, None] * np.ones((1, 2, 2, 1), np.uint8)
  grid = pictures.image_grid(images, columns=2, gap=1, background=9)
  expected = [
    [9, 9, 9, 9, 9, 9, 9],
    [9, 1, 1, 9, 2, 2, 9],
    [9, 1, 1, 9, 2, 2, 9],
    [9, 9, 9, 9, 9, 9, 9],
    [9, 3, 3, 9, 9, 9, 9],
    [9, 3, 3, 9, 9, 9, 9],
    [9, 9, 9, 9, 9, 9, 9],
  ]
  assert grid.shape == (7, 7, 3) and np.array_equal(grid[..., 0], expected)
  large = pictures.image_grid(images, columns=2, scale=3, background=9)
  assert np.array_equal(large[::3, ::3, 0], expected) and large.shape == (21, 21, 3)


def test_grid_scales_levels_and_puts_rgba_on_white():
  digits = np.array([0, 8, 16], np.uint8).reshape(1, 1, 3, 1)
  assert pictures.image_grid(digits, 1, levels=17, gap=0)[0, :, 0].tolist() == [0, 128, 255]
  red = np.array([[255, 0, 0, 255], [255, 0, 0, 0]], np.uint8).reshape(1, 1, 2, 4)
  assert pictures.image_grid(red, 1, gap=0)[0].tolist() == [[255, 0, 0], [255, 255, 255]]


@pytest.mark.parametrize(
  ('height', 'width', 'scale'), [(8, 8, 8), (28, 28, 2), (32, 32, 2), (64, 64, 1), (4, 300, 1)]
)
def test_small_images_are_enlarged(height, width, scale):
  assert pictures.visible_scale(np.zeros((5, height, width, 1), np.uint8)) == scale


def test_captions_stand_at_the_left_and_long_ones_are_cut():
  image = np.zeros((1, 40, 40, 3), np.uint8)
  plain, short, long, longer = (
    pictures.captioned_rows('', [(caption, image)]) for caption in ('', 'cat', 'c' * 24, 'c' * 99)
  )
  assert plain.shape[1] < short.shape[1] < long.shape[1]
  assert longer.shape[1] <= long.shape[1] + 14  # the sign of what is cut
  titled = pictures.captioned_rows('a title', [('cat', image)])
  assert len(titled) > len(short)
  # The image is black, at the right of its caption.
  assert (short[7 + 1 : 7 + 41, -7 - 41 : -7 - 1] == 0).all()


def test_rows_are_as_far_apart_as_columns():
  rows = [('', np.zeros((2, 10, 10, 3), np.uint8))] * 2
  picture = pictures.captioned_rows('', rows, scale=3)
  black = (picture == 0).all(-1)
  down, across = np.flatnonzero(black.any(1)), np.flatnonzero(black.any(0))
  assert len(down) == len(across) == 2 * 30
  assert down[30] - down[29] == across[30] - across[29] == 3 + 1


@pytest.mark.parametrize(
  ('shape', 'columns', 'scale'), [((0, 2, 2, 1), 1, 1), ((1, 2, 2, 2), 1, 1), ((1, 2, 2, 1), 0, 1)]
)
def test_grid_refuses_invalid_images_and_columns(shape, columns, scale):
  with pytest.raises(ValueError, match=r'got images of shape|got 0 and 1'):
    pictures.image_grid(np.zeros(shape, np.uint8), columns, scale)


def test_png_is_lossless_and_complete_or_absent(tmp_path, monkeypatch):
  picture = np.random.default_rng(0).integers(0, 256, (5, 7, 3)).astype(np.uint8)
  path = tmp_path / 'samples' / 'grid.png'
  pictures.save_png(path, picture)
  assert np.array_equal(opened(path.read_bytes()), picture)

  def full(*arguments):
    raise OSError(28, 'No space left on device')

  monkeypatch.setattr(os, 'replace', full)
  with pytest.raises(OSError, match='No space left'):
    pictures.save_png(path, np.zeros((2, 2, 3), np.uint8))
  assert np.array_equal(opened(path.read_bytes()), picture)
  assert [file.name for file in path.parent.iterdir()] == ['grid.png']
