"""Shared by datasets of images: their base class, smaller sizes and palettes."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from jaxtyping import UInt8

from common.config import ConfigError
from common.data import palettes
from common.data.builders import base
from common.data.spec import token_dtype


class ImageBuilder(base.Builder, skip_registration=True):
  """Small uint8 images, with or without classes.

  Those of published datasets with the flag `image_size` may be made smaller.
  """

  domain = 'image'
  flags = ('palette',)
  holds_images = True

  @classmethod
  def variant(cls, settings: Mapping[str, Any]) -> str:
    size = settings.get('image_size', 0)
    if not size:
      return ''
    shape = cls.expected({**settings, 'image_size': 0, 'palette': 0})['shape']
    check_size(shape, size, cls.name)
    return '' if shape[:2] == (size, size) else f'{size}x{size}'

  @functools.cached_property
  def contents(self) -> base.Contents:
    """The result of `read`, with `data.image_size` and `data.palette` applied."""
    contents, num_colours = self.read(), self.settings.get('palette', 0)
    contents = make_smaller(contents, self.settings.get('image_size', 0), self.name)
    return apply_palette(contents, num_colours, self.name) if num_colours else contents


def image_format(
  settings: Mapping[str, Any], shape: tuple[int, ...], levels: int, num_classes: int, num_train: int
) -> dict[str, Any]:
  """The result of `Builder.expected` for images; {} with a palette, which is fitted to them."""
  if settings.get('palette', 0):
    return {}
  if size := settings.get('image_size', 0):
    check_size(shape, size, settings.get('name', 'the images'))
    shape = (size, size, shape[-1])
  return dict(shape=shape, levels=levels, num_classes=num_classes, num_train=num_train)


def check_size(shape: tuple[int, ...], size: int, what: str) -> None:
  """Raises ConfigError unless images of this shape can be made `size` pixels high and wide."""
  height, width, _ = shape
  sides = [n for n in range(1, height + 1) if height % n == 0]
  if height != width or size not in sides:
    raise ConfigError(
      f'data.image_size={size} must divide the {height}×{width} pixels of {what}: choose from '
      f'{", ".join(map(str, sides))}, or 0 for images as they are'
    )


def make_smaller(contents: base.Contents, size: int, what: str) -> base.Contents:
  """Images of `size` pixels a side, each the mean of a square of pixels; 0: as they are.

  Args:
    contents: the contents of a dataset of images.
    size: the new height and width.
    what: the dataset, for messages.

  Raises:
    ConfigError: if the new pixels are not whole squares of the old ones.
  """
  if not size or contents.shape[:2] == (size, size):
    return contents
  check_size(contents.shape, size, what)
  height, width, channels = contents.shape
  return contents._replace(
    shape=(size, size, channels),
    splits={
      split: functools.partial(_smaller_examples, size, examples)
      for split, examples in contents.splits.items()
    },
    notes=(*contents.notes, f'a pixel is the mean of {height // size}×{width // size} pixels'),
  )


def _smaller_examples(size: int, examples: Callable[[], base.Examples]) -> base.Examples:
  """Examples whose images are made smaller."""
  for key, example in examples():
    yield key, example | {'x': block_means(example['x'], size)}


def block_means(
  image: UInt8[np.ndarray, 'side side channels'], size: int
) -> UInt8[np.ndarray, 'size size channels']:
  """The means of equal squares of pixels, rounded; halves become even, as in NumPy."""
  side, _, channels = image.shape
  blocks = image.reshape(size, side // size, size, side // size, channels)
  return np.rint(blocks.mean((1, 3))).astype(image.dtype)


def apply_palette(contents: base.Contents, num_colours: int, what: str) -> base.Contents:
  """Replaces colour images by indices of a palette, which is fitted to the training split.

  Args:
    contents: the contents of a dataset of images.
    num_colours: size of the palette.
    what: the dataset, for messages.

  Raises:
    ConfigError: for images that are not in colour.
  """
  if contents.shape[-1] != 3 or contents.levels != 256:
    raise ConfigError(
      f'data.palette={num_colours} needs images of 3 channels and 256 levels; the images of {what} '
      f'have {contents.shape[-1]} and {contents.levels}: set data.palette=0'
    )
  # Fitted only to training images: the other splits must not influence the data.
  training = (example['x'] for _, example in contents.splits['train']())
  palette, error = palettes.fit(training, num_colours)
  note = (
    f'palette of {len(palette.colours)} colours; training pixels differ from it by {error:.1f} of '
    '255 (root mean square); likelihoods are of the indices'
  )
  return contents._replace(
    shape=(*contents.shape[:-1], 1),
    levels=len(palette.colours),
    splits={
      split: functools.partial(_indexed_examples, palette, examples)
      for split, examples in contents.splits.items()
    },
    notes=(*contents.notes, note),
    palette=palette.colours,
  )


def _indexed_examples(
  palette: palettes.Palette, examples: Callable[[], base.Examples]
) -> base.Examples:
  """Examples whose images are replaced by the indices of their colours."""
  dtype = token_dtype(len(palette.colours))
  for key, example in examples():
    yield key, example | {'x': palette.encode(example['x']).astype(dtype)}
