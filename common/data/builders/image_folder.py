"""A folder of images as a dataset: FOLDER/CLASS/IMAGE, or FOLDER/IMAGE without classes."""

import hashlib
import io
import os
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent import futures
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageOps

from common.config import ConfigError
from common.data.builders import base

SUFFIXES = ('.bmp', '.gif', '.jpeg', '.jpg', '.png', '.ppm', '.tif', '.tiff', '.webp')
GREY, COLOUR = ('1', 'L'), ('P', 'PA', 'LA', 'La', 'RGB', 'RGBA', 'RGBX', 'RGBa', 'CMYK', 'YCbCr')
NAMED = 5  # broken files that a message names


class Found(NamedTuple):
  """An image file that can be read.

  Attributes:
    path: the file.
    hash: of the file's bytes, which its split depends on.
    size: (height, width), upright.
    grey: whether it has one channel.
  """

  path: pathlib.Path
  hash: str
  size: tuple[int, int]
  grey: bool


class ImageFolder(base.ImageBuilder, skip_registration=True):
  """Images in a folder, its subfolders the classes, split by the hash of each file.

  Images are turned upright; transparency becomes white; one channel where all are grey, else three.
  With `image_size` they are cut to a square about the centre and resized; without, all must have
  one size. `broken` says whether a file that cannot be read is refused or skipped.
  """

  name = 'image_folder'

  @classmethod
  def variant(cls, settings: Mapping[str, Any]) -> str:
    """Named by what each file is called, its size and when it was changed: none is opened."""
    folder = _folder(settings)
    state = hashlib.blake2b(digest_size=8)
    state.update(repr((_size(settings), _broken(settings))).encode())
    for path in list_images(folder):
      stat = path.stat()
      state.update(repr((str(path.relative_to(folder)), stat.st_size, stat.st_mtime_ns)).encode())
    return f'{folder.resolve().name}-{state.hexdigest()}'

  def read(self) -> base.Contents:
    folder = _folder(self.settings)
    found, notes = inspect(list_images(folder), skip=_broken(self.settings) == 'skip')
    size = _size(self.settings)
    height, width = (size, size) if size else _common_size(found, folder)
    channels = 1 if all(image.grey for image in found) else 3
    flat = all(image.path.parent == folder for image in found)
    class_names = () if flat else tuple(sorted({image.path.parent.name for image in found}))
    splits = base.hash_splits((image.hash for image in found), str(folder))

    def examples(indices: np.ndarray) -> Callable[[], Iterator[tuple[str, base.Example]]]:
      def generate():
        for i in indices:
          path = found[i].path
          example = {'x': decode(path.read_bytes(), channels, size)}
          if class_names:
            example['label'] = class_names.index(path.parent.name)
          yield str(path.relative_to(folder)), example

      return generate

    return base.Contents(
      shape=(height, width, channels),
      levels=256,
      class_names=class_names,
      splits={split: examples(indices) for split, indices in splits.items()},
      notes=notes,
    )


def _folder(settings: Mapping[str, Any]) -> pathlib.Path:
  if not settings.get('source'):
    raise ConfigError('data.name=image_folder needs data.source, the folder')
  folder = pathlib.Path(settings['source']).expanduser()
  if not folder.is_dir():
    raise ConfigError(f'data.source={str(folder)!r} is no folder')
  return folder


def _broken(settings: Mapping[str, Any]) -> str:
  broken = settings.get('broken', 'refuse')
  if broken not in ('refuse', 'skip'):
    raise ConfigError(f"data.broken={broken!r} is neither 'refuse' nor 'skip'")
  return broken


def _size(settings: Mapping[str, Any]) -> int:
  size = settings.get('image_size', 0)
  if size < 0:
    raise ConfigError(f'data.image_size={size} is negative; 0 leaves images as they are')
  return size


def list_images(folder: pathlib.Path) -> list[pathlib.Path]:
  """The image files of a folder, by their suffixes, sorted; hidden ones are left out.

  Raises:
    ConfigError: where there are none, some lie deeper than FOLDER/CLASS/IMAGE, or some lie in
      FOLDER and others in classes.
  """
  paths = []
  for parent, folders, names in os.walk(folder, followlinks=True):
    folders[:] = [name for name in folders if not name.startswith('.')]
    visible = (name for name in names if not name.startswith('.'))
    images = (name for name in visible if name.lower().endswith(SUFFIXES))
    paths += [pathlib.Path(parent, name) for name in images]
  depths = {len(path.relative_to(folder).parts): path for path in paths}
  if not paths:
    raise ConfigError(f'{folder} holds no images ({", ".join(SUFFIXES)})')
  if max(depths) > 2:
    raise ConfigError(f'{depths[max(depths)]} lies deeper than FOLDER/CLASS/IMAGE')
  if len(depths) > 1:
    raise ConfigError(
      f'{folder} has images of its own ({depths[1].name}) beside folders of them '
      f'({depths[2].parent.name}/): put all of them into folders, one per class, or none'
    )
  return sorted(paths)


def inspect(paths: Sequence[pathlib.Path], skip: bool) -> tuple[list[Found], tuple[str, ...]]:
  """Reads every file once.

  Args:
    paths: the files.
    skip: whether to leave out files that cannot be read.

  Returns:
    The files that can be read, and a note on those that were left out.

  Raises:
    ConfigError: for files that cannot be read, unless they are skipped; where none can.
  """
  with futures.ThreadPoolExecutor() as pool:
    results = list(pool.map(_inspect, paths))
  found = [result for result in results if isinstance(result, Found)]
  broken = [result for result in results if isinstance(result, str)]
  if not broken:
    return found, ()
  more = f'; {len(broken) - NAMED} more' if len(broken) > NAMED else ''
  named = '; '.join(broken[:NAMED]) + more
  if not skip:
    raise ConfigError(f"cannot read {named}; repair or remove, or set broken='skip'")
  if not found:
    raise ConfigError(f'none of the {len(paths)} images can be read: {named}')
  return found, (f'{len(broken)} broken files skipped: {named}',)


def _inspect(path: pathlib.Path) -> Found | str:
  """An image file, or what is wrong with it."""
  try:
    data = path.read_bytes()
    with Image.open(io.BytesIO(data)) as image:
      image.load()
      if image.mode not in GREY + COLOUR:
        return f'{path} (its pixels are {image.mode}, not 8 bits per channel)'
      width, height = ImageOps.exif_transpose(image).size
      return Found(path, base.digest(data), (height, width), image.mode in GREY)
  except Exception as error:  # Pillow's plugins raise almost anything for a broken file
    return f'{path} ({error or type(error).__name__})'


def _common_size(found: Sequence[Found], folder: pathlib.Path) -> tuple[int, int]:
  sizes = {image.size: image.path for image in found}
  if len(sizes) > 1:
    (first, one), (second, other) = list(sizes.items())[:2]
    raise ConfigError(
      f'images in {folder} differ in size ({one.name}: {first[1]}×{first[0]}, '
      f'{other.name}: {second[1]}×{second[0]}); set image_size to cut and resize them'
    )
  return found[0].size


def decode(data: bytes, channels: int, size: int) -> np.ndarray:
  """An image file's bytes as uint8 [height, width, channels]; size 0: as large as it is."""
  with Image.open(io.BytesIO(data)) as image:
    image = ImageOps.exif_transpose(image)
    if image.has_transparency_data:
      image = image.convert('RGBA')
      image = Image.alpha_composite(Image.new('RGBA', image.size, 'white'), image)
    image = image.convert('L' if channels == 1 else 'RGB')
    if size:
      # Cut first: ImageOps.fit lets what lies outside the square bleed into it.
      side = min(image.size)
      left, top = (image.width - side) // 2, (image.height - side) // 2
      image = image.crop((left, top, left + side, top + side))
      image = image.resize((size, size), Image.Resampling.LANCZOS)
    return np.asarray(image).reshape(image.height, image.width, channels)
