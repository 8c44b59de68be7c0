"""A folder of images as a dataset: FOLDER/CLASS/IMAGE, or FOLDER/IMAGE without classes."""

import functools
import hashlib
import io
import os
import pathlib
from collections.abc import Mapping, Sequence
from concurrent import futures
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from common.config import ConfigError
from common.data.builders import base

SUFFIXES = ('.bmp', '.gif', '.jpeg', '.jpg', '.png', '.ppm', '.tif', '.tiff', '.webp')
# Pillow's modes of at most 8 bits per channel.
GREY, COLOUR = ('1', 'L'), ('P', 'PA', 'LA', 'La', 'RGB', 'RGBA', 'RGBX', 'RGBa', 'CMYK', 'YCbCr')
MAX_NAMED = 5  # broken files that a message lists by name


class ImageFile(NamedTuple):
  """An image file that can be read.

  Attributes:
    path: the file.
    hash: hash of the contents of the file, which decides its split.
    size: (height, width) of the upright image.
    grey: whether it has one channel.
  """

  path: pathlib.Path
  hash: str
  size: tuple[int, int]
  grey: bool


class ImageFolder(base.ImageBuilder, skip_registration=True):
  """The images of a folder, split by the hash of each file. Its subfolders are the classes.

  Images are turned upright, and transparent pixels become white. They get one channel if all are
  grey, else three. If `image_size` is set, their central square is resized to it; otherwise all
  images must have the same size. `broken` decides what happens to a file that cannot be read.
  """

  name = 'image_folder'
  flags = ('source', 'image_size', 'broken', 'palette')

  @classmethod
  def variant(cls, settings: Mapping[str, Any]) -> str:
    """A hash of the names, sizes and modification times of the files; none is opened."""
    folder = _folder(settings)
    # The hash names the prepared folder: hashing other bytes would prepare every dataset again.
    state = hashlib.blake2b(digest_size=8)
    state.update(repr((_image_size(settings), base.broken_policy(settings))).encode())
    for path in list_images(folder):
      stat = path.stat()
      state.update(repr((str(path.relative_to(folder)), stat.st_size, stat.st_mtime_ns)).encode())
    return f'{folder.resolve().name}-{state.hexdigest()}'

  def read(self) -> base.Contents:
    folder = _folder(self.settings)
    skip = base.broken_policy(self.settings) == 'skip'
    # A first pass over all files: the shape depends on every one of them.
    files, notes = inspect_files(list_images(folder), skip)
    size = _image_size(self.settings)
    height, width = (size, size) if size else _common_size(files, folder)
    channels = 1 if all(file.grey for file in files) else 3
    flat = all(file.path.parent == folder for file in files)
    class_names = () if flat else tuple(sorted({file.path.parent.name for file in files}))
    splits = base.hash_splits((file.hash for file in files), str(folder))

    return base.Contents(
      shape=(height, width, channels),
      levels=256,
      class_names=class_names,
      # Images are decoded one by one while TFDS writes them: a large folder need not fit in memory.
      splits={
        split: functools.partial(
          _examples, folder, [files[i].path for i in chosen], class_names, channels, size
        )
        for split, chosen in splits.items()
      },
      notes=notes,
    )


def _examples(
  folder: pathlib.Path,
  paths: Sequence[pathlib.Path],
  class_names: Sequence[str],
  channels: int,
  size: int,
) -> base.Examples:
  for path in paths:
    example = {'x': decode(path.read_bytes(), channels, size)}
    if class_names:
      example['label'] = class_names.index(path.parent.name)
    yield str(path.relative_to(folder)), example


def _folder(settings: Mapping[str, Any]) -> pathlib.Path:
  folder = base.source_path(settings, ImageFolder.name, 'a folder of images')
  if not folder.is_dir():
    raise ConfigError(f'data.source must be a folder of images, got {str(folder)!r}')
  return folder


def _image_size(settings: Mapping[str, Any]) -> int:
  size = settings.get('image_size', 0)
  if size < 0:
    raise ConfigError(f'data.image_size must be at least 0 (images keep their size), got {size}')
  return size


def list_images(folder: pathlib.Path) -> list[pathlib.Path]:
  """The image files of a folder, found by their suffixes, sorted. Hidden files are left out.

  Raises:
    ConfigError: if there are none, if one is deeper than FOLDER/CLASS/IMAGE, or if some are in
      FOLDER itself and others in classes.
  """
  paths = []
  for parent, folders, names in os.walk(folder, followlinks=True):
    folders[:] = [name for name in folders if not name.startswith('.')]
    visible = (name for name in names if not name.startswith('.'))
    images = (name for name in visible if name.lower().endswith(SUFFIXES))
    paths += [pathlib.Path(parent, name) for name in images]
  depths = {len(path.relative_to(folder).parts): path for path in paths}
  if not paths:
    raise ConfigError(f'{folder} contains no images ({", ".join(SUFFIXES)})')
  if max(depths) > 2:
    raise ConfigError(
      f'images must be stored as FOLDER/CLASS/IMAGE or FOLDER/IMAGE, got {depths[max(depths)]}, '
      f'which is deeper within {folder}'
    )
  if len(depths) > 1:
    raise ConfigError(
      f'{folder} has images both in itself ({depths[1].name}) and in subfolders '
      f'({depths[2].parent.name}/): move all of them into subfolders, one per class, or none'
    )
  # The order of `os.walk` depends on the file system.
  return sorted(paths)


def inspect_files(
  paths: Sequence[pathlib.Path], skip: bool
) -> tuple[list[ImageFile], tuple[str, ...]]:
  """Reads every file once, to learn its hash, its size and whether it is broken.

  Args:
    paths: the files.
    skip: whether to leave out files that cannot be read.

  Returns:
    The files that can be read, and a note on those that were left out.

  Raises:
    ConfigError: for files that cannot be read, unless they are skipped; if none can be read.
  """
  # `map` returns results in the order of `paths`, whichever thread is first.
  with futures.ThreadPoolExecutor() as pool:
    results = list(pool.map(_inspect_file, paths))
  files = [result for result in results if isinstance(result, ImageFile)]
  broken = [result for result in results if isinstance(result, str)]
  if not broken:
    return files, ()
  more = f'; {len(broken) - MAX_NAMED} more' if len(broken) > MAX_NAMED else ''
  named = '; '.join(broken[:MAX_NAMED]) + more
  if not skip:
    raise ConfigError(
      f"cannot read {named}; repair or remove them, or set data.broken='skip' to leave them out"
    )
  if not files:
    raise ConfigError(f'none of the {len(paths)} images can be read: {named}')
  return files, (f'{len(broken)} broken files skipped: {named}',)


def _inspect_file(path: pathlib.Path) -> ImageFile | str:
  """An image file, or its path and the reason why it cannot be read."""
  try:
    data = path.read_bytes()
    with Image.open(io.BytesIO(data)) as image:
      # Decodes all pixels: a file that is cut short has a valid header.
      image.load()
      if image.mode not in GREY + COLOUR:
        return f'{path} (its pixels must have 8 bits per channel, got mode {image.mode})'
      width, height = ImageOps.exif_transpose(image).size
      return ImageFile(path, base.digest(data), (height, width), image.mode in GREY)
  except UnidentifiedImageError:
    return f'{path} (not an image in a known format)'
  except Exception as error:  # Pillow's plugins raise almost anything for a broken file
    return f'{path} ({error or type(error).__name__})'


def _common_size(files: Sequence[ImageFile], folder: pathlib.Path) -> tuple[int, int]:
  """The size that all images share."""
  examples = {file.size: file.path for file in files}
  if len(examples) > 1:
    ((height, width), one), ((other_height, other_width), other) = list(examples.items())[:2]
    raise ConfigError(
      f'images in {folder} must have one size, got {width}×{height} ({one.name}) and '
      f'{other_width}×{other_height} ({other.name}); set data.image_size to crop and resize them'
    )
  return files[0].size


def decode(data: bytes, channels: int, size: int) -> np.ndarray:
  """The contents of an image file as uint8 [height, width, channels].

  Args:
    data: contents of the file.
    channels: 1 for grey, 3 for colour.
    size: height and width of the result; 0 leaves the image as large as it is.
  """
  with Image.open(io.BytesIO(data)) as image:
    # Upright before the crop, which rounds towards the top left; opaque before the conversion,
    # which drops the alpha channel.
    image = ImageOps.exif_transpose(image)
    if image.has_transparency_data:
      image = image.convert('RGBA')
      image = Image.alpha_composite(Image.new('RGBA', image.size, 'white'), image)
    image = image.convert('L' if channels == 1 else 'RGB')
    if size:
      # Cropped before it is resized: ImageOps.fit does both in one filter, which lets pixels from
      # outside the square bleed into it.
      side = min(image.size)
      left, top = (image.width - side) // 2, (image.height - side) // 2
      image = image.crop((left, top, left + side, top + side))
      image = image.resize((size, size), Image.Resampling.LANCZOS)
    return np.asarray(image).reshape(image.height, image.width, channels)
