"""ImageNet (ILSVRC 2012) from a folder: SOURCE/train/CLASS/IMAGE and SOURCE/val/CLASS/IMAGE."""

import functools
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from common.config import ConfigError
from common.data.builders import base, image_folder, images

PARTS = {'train': 'train', 'test': 'val'}  # by published split: its folder
NUM_TRAIN = 1_281_167


class ImageNet(images.ImageBuilder, skip_registration=True):
  """Photographs of 1,000 kinds of objects: a central square of `image_size` pixels.

  Classes are the folders' names in alphabetical order. The published validation set is the test
  split; some of the training images, chosen by a hash of their names, are for validation.

  Attributes:
    num_classes: the number of classes.
    num_validation: number of training images to hold out for validation.
  """

  name = 'imagenet'
  flags = ('source', 'image_size', 'palette')
  num_classes = 1000
  num_validation = 10_000

  @classmethod
  def variant(cls, settings: Mapping[str, Any]) -> str:
    return f'{_side(settings)}x{_side(settings)}'

  @classmethod
  def expected(cls, settings):
    held_out = 0 if settings.get('train_to') == 'test' else cls.num_validation
    shape = (_side(settings), _side(settings), 3)
    return images.image_format(settings, shape, 256, cls.num_classes, NUM_TRAIN - held_out)

  def read(self) -> base.Contents:
    source = base.source_path(self.settings, self.name, 'a folder with train/ and val/')
    side = _side(self.settings)
    found = {split: _listed(source, part) for split, part in PARTS.items()}
    classes = {s: tuple(sorted({p.parent.name for p in found[s]})) for s in found}
    for split, names in classes.items():
      if len(names) != self.num_classes:
        raise ConfigError(
          f'{source / PARTS[split]} must have {self.num_classes:,} folders of images, one for each '
          f'class, got {len(names):,}'
        )
      if other := set(names) ^ set(classes['train']):
        raise ConfigError(
          f'{source / PARTS[split]} and {source / PARTS["train"]} must have the same classes: only '
          f'one of them has {min(other)!r}'
        )
    # In any order that does not depend on the classes, which are sorted.
    ordered = {s: sorted(found[s], key=functools.partial(_hash, source)) for s in found}
    train, num = ordered['train'], self.num_validation
    if len(train) <= num:
      raise ConfigError(f'{source / "train"} must have over {num:,} images, got {len(train):,}')
    parts = {'train': train[:-num], 'validation': train[-num:], 'test': ordered['test']}
    return base.Contents(
      shape=(side, side, 3),
      levels=256,
      class_names=classes['train'],
      # Images are decoded one by one while TFDS writes them.
      splits={
        split: functools.partial(_examples, source, paths, classes['train'], side)
        for split, paths in parts.items()
      },
    )


def _side(settings: Mapping[str, Any]) -> int:
  if size := settings.get('image_size', 0):
    return size
  raise ConfigError('data.name=imagenet needs data.image_size, such as 64 (256 for latents)')


def _listed(source: pathlib.Path, part: str) -> list[pathlib.Path]:
  folder = source / part
  if not folder.is_dir():
    raise ConfigError(
      f'data.source={source} must be a folder with train/CLASS/IMAGE and val/CLASS/IMAGE, and has '
      f'no {part}/'
    )
  return image_folder.list_images(folder).images


def _hash(source: pathlib.Path, path: pathlib.Path) -> str:
  return base.digest(str(path.relative_to(source)).encode())


def _examples(
  source: pathlib.Path, paths: Sequence[pathlib.Path], class_names: Sequence[str], side: int
) -> base.Examples:
  labels = {name: label for label, name in enumerate(class_names)}
  for path in paths:
    try:
      with Image.open(path) as image:
        x = central_square(image.convert('RGB'), side)
    except (OSError, ValueError, Image.DecompressionBombError) as error:
      raise ConfigError(f'cannot read {path}: {error}; repair or remove it') from error
    yield str(path.relative_to(source)), {'x': x, 'label': labels[path.parent.name]}


def central_square(image: Image.Image, side: int) -> np.ndarray:
  """The centre of an image as uint8 [side, side, 3], as Dhariwal & Nichol 2021 cut it (their code).

  The image is halved by the mean of each 2×2 pixels while both sides stay at least `side`, then
  resized by a cubic filter so that the shorter side fits.
  """
  while min(image.size) >= 2 * side:
    image = image.resize(tuple(length // 2 for length in image.size), Image.Resampling.BOX)
  scale = side / min(image.size)
  image = image.resize(tuple(round(scale * n) for n in image.size), Image.Resampling.BICUBIC)
  left, top = ((length - side) // 2 for length in image.size)
  return np.asarray(image.crop((left, top, left + side, top + side)))
