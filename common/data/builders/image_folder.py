"""A folder of images as a dataset: FOLDER/CLASS/IMAGE, or FOLDER/IMAGE without classes."""

import collections
import functools
import hashlib
import io
import os
import pathlib
import warnings
from collections.abc import Iterator, Mapping, Sequence
from concurrent import futures
from typing import Any, NamedTuple

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image, ImageOps, UnidentifiedImageError

from common.config import ConfigError
from common.data.builders import base, images

SUFFIXES = ('.bmp', '.gif', '.jpeg', '.jpg', '.png', '.ppm', '.tif', '.tiff', '.webp')
# Pillow's modes of at most 8 bits per channel; the colours of PALETTE are grey or not.
GREY, PALETTE = ('1', 'L', 'LA', 'La'), ('P', 'PA')
COLOUR = ('RGB', 'RGBA', 'RGBX', 'RGBa', 'CMYK', 'YCbCr')
MAX_NAMED = 5  # files that a message lists by name
MAX_BYTES = 2**28  # of a file
MAX_SIDE = 2**13  # of an image after resizing
MAX_PIXELS = MAX_SIDE**2  # of an image: a small file can hold far more than fits in memory
ANIMATED = ('GIF', 'PNG', 'TIFF', 'WEBP')  # formats that may have several frames
BITS_PER_SAMPLE = 258  # a tag of TIFF


class ImageFile(NamedTuple):
  """An image file that can be read.

  Attributes:
    path: the file.
    hash: hash of the contents of the file, which decides its split.
    size: (height, width) of the upright image.
    grey: whether it has no colours.
    remark: what is not read of it, or guessed; '' if nothing.
  """

  path: pathlib.Path
  hash: str
  size: tuple[int, int]
  grey: bool
  remark: str = ''


class Listing(NamedTuple):
  """The files of a folder: images, and the number of others by their endings."""

  images: list[pathlib.Path]
  others: Mapping[str, int]


class ImageFolder(images.ImageBuilder, skip_registration=True):
  """The images of a folder, split by the hash of each file. Its subfolders are the classes.

  Images are turned upright, and transparent pixels become white. They get one channel if all are
  grey, else three. If `image_size` is set, their central square is resized to it; otherwise all
  images must have the same size. `broken` decides what happens to a file that cannot be read.
  """

  VERSION = tfds.core.Version('1.1.0')  # 1.0.0 cut images of 16 bits per channel to 8
  name = 'image_folder'
  flags = ('source', 'image_size', 'broken', 'palette')

  @classmethod
  def variant(cls, settings: Mapping[str, Any]) -> str:
    """A hash of the names, sizes and modification times of the files; none is opened."""
    folder = _folder(settings)
    # The hash names the prepared folder: hashing other bytes would prepare every dataset again.
    state = hashlib.blake2b(digest_size=8)
    state.update(repr((_image_size(settings), base.broken_policy(settings))).encode())
    for path in list_images(folder).images:
      stat = path.stat()
      state.update(repr((str(path.relative_to(folder)), stat.st_size, stat.st_mtime_ns)).encode())
    return f'{folder.resolve().name}-{state.hexdigest()}'

  def read(self) -> base.Contents:
    folder = _folder(self.settings)
    skip = base.broken_policy(self.settings) == 'skip'
    listing = list_images(folder)
    # A first pass over all files: the shape depends on every one of them.
    files, notes = inspect_files(listing.images, skip)
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
      notes=(*_others_note(listing.others), *notes),
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
  if not 0 <= size <= MAX_SIDE:
    raise ConfigError(f'data.image_size must be in [0, {MAX_SIDE}] (0: unchanged), got {size}')
  return size


def list_images(folder: pathlib.Path) -> Listing:
  """The image files of a folder, found by their suffixes, sorted. Hidden files are left out.

  Raises:
    ConfigError: if there are none, if one is deeper than FOLDER/CLASS/IMAGE, if some are in FOLDER
      itself and others in classes, if a folder contains itself, or for a name or a kind of file
      that cannot be read.
  """
  images, others = [], collections.Counter()
  for path in _walk(folder, frozenset()):
    if path.name.lower().endswith(SUFFIXES):
      images.append(_checked_file(path))
    else:
      others[path.suffix.lower() or 'no ending'] += 1
  depths = {len(path.relative_to(folder).parts): path for path in images}
  if not images:
    found = f'; it has {_counts(others)}' if others else ''
    raise ConfigError(f'{folder} contains no images ({", ".join(SUFFIXES)}){found}')
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
  # The order on disk depends on the file system.
  return Listing(sorted(images), others)


def _walk(folder: pathlib.Path, parents: frozenset[tuple[int, int]]) -> Iterator[pathlib.Path]:
  """Everything in a folder and its subfolders except folders; links are followed.

  Args:
    folder: the folder.
    parents: device and inode of each folder that contains it.
  """
  try:
    status, entries = folder.stat(), list(os.scandir(folder))
  except OSError as error:
    raise ConfigError(f'cannot list {folder}: {error.strerror}') from error
  # A link to a folder above it would be followed for ever.
  identity = (status.st_dev, status.st_ino)
  if identity in parents:
    raise ConfigError(f'{folder} is a link to a folder that contains it; remove the link')
  for entry in entries:
    if entry.name.startswith('.'):
      continue
    if entry.is_dir():
      yield from _walk(folder / entry.name, parents | {identity})
    else:
      yield folder / entry.name


def _checked_file(path: pathlib.Path) -> pathlib.Path:
  """The path, if it is a regular file with a name in UTF-8. Raises ConfigError."""
  try:
    str(path).encode()
  except UnicodeEncodeError:
    raise ConfigError(f'names must be UTF-8, got {os.fsencode(path)!r}; rename it') from None
  # Reading a pipe or a device would wait for ever.
  if not path.is_file():
    raise ConfigError(f'{path} must be a regular file or a link to one; remove it')
  return path


def _counts(others: Mapping[str, int]) -> str:
  """'3 files that are no images by their endings: .txt 2, .heic 1'."""
  endings = sorted(others, key=others.get, reverse=True)
  listed = ', '.join(f'{ending} {others[ending]}' for ending in endings[:MAX_NAMED])
  more = f', {len(endings) - MAX_NAMED} other endings' if len(endings) > MAX_NAMED else ''
  return f'{sum(others.values())} files that are no images by their endings: {listed}{more}'


def _others_note(others: Mapping[str, int]) -> tuple[str, ...]:
  return (f'left out {_counts(others)}',) if others else ()


def inspect_files(
  paths: Sequence[pathlib.Path], skip: bool
) -> tuple[list[ImageFile], tuple[str, ...]]:
  """Reads every file once, to learn its hash, its size and whether it is broken.

  Args:
    paths: the files.
    skip: whether to leave out files that cannot be read.

  Returns:
    The files that can be read, and notes on those that were left out or not read in full.

  Raises:
    ConfigError: for files that cannot be read, unless they are skipped; if none can be read.
  """
  with warnings.catch_warnings(), futures.ThreadPoolExecutor() as pool:
    # Images that are too large are refused below.
    warnings.simplefilter('ignore', Image.DecompressionBombWarning)
    # `map` returns results in the order of `paths`, whichever thread is first.
    results = list(pool.map(_inspect_file, paths))
  files = [result for result in results if isinstance(result, ImageFile)]
  broken = [result for result in results if isinstance(result, str)]
  remarks = sorted({file.remark for file in files if file.remark})
  notes = tuple(
    f'{remark}: {_named([str(file.path) for file in files if file.remark == remark], ", ")}'
    for remark in remarks
  )
  if not broken:
    return files, notes
  named = _named(broken, '; ')
  if not skip:
    raise ConfigError(
      f"cannot read {named}; repair or remove them, or set data.broken='skip' to leave them out"
    )
  if not files:
    raise ConfigError(f'none of the {len(paths)} images can be read: {named}')
  return files, (f'{len(broken)} broken files skipped: {named}', *notes)


def _named(names: Sequence[str], separator: str) -> str:
  """The first names, and the number of the others."""
  more = f'{separator}{len(names) - MAX_NAMED} more' if len(names) > MAX_NAMED else ''
  return separator.join(names[:MAX_NAMED]) + more


def _inspect_file(path: pathlib.Path) -> ImageFile | str:
  """An image file, or its path and the reason why it cannot be read."""
  try:
    if (size := path.stat().st_size) > MAX_BYTES:
      return f'{path} (a file must have at most {MAX_BYTES:,} bytes, got {size:,})'
    data = path.read_bytes()
    with Image.open(io.BytesIO(data)) as image:
      # All of this stands in the header, and is checked before pixels are decoded.
      width, height = image.size
      if width * height > MAX_PIXELS:
        return f'{path} (it must have at most {MAX_PIXELS:,} pixels, got {width}×{height})'
      if (bits := _bits(image, data)) > 8 or image.mode not in GREY + PALETTE + COLOUR:
        found = f'{bits} bits' if bits > 8 else f'mode {image.mode}'
        return f'{path} (its pixels must have 8 bits per channel, got {found})'
      remark = _remark(image)
      # Decodes all pixels: a file that is cut short has a valid header.
      image.load()
      grey = image.mode in GREY or (image.mode in PALETTE and _has_grey_palette(image))
      width, height = ImageOps.exif_transpose(image).size
      return ImageFile(path, base.digest(data), (height, width), grey, remark)
  except UnidentifiedImageError:
    return f'{path} (not an image in a known format)'
  except Exception as error:  # Pillow's plugins raise almost anything for a broken file
    return f'{path} ({error or type(error).__name__})'


def _bits(image: Image.Image, data: bytes) -> int:
  """Bits per channel in the file: Pillow cuts 16 bits to 8 in some formats, without a word."""
  if image.format == 'PNG':
    return data[24]  # after the signature, and the length, name, width and height of IHDR
  if image.format == 'TIFF':
    return max(image.tag_v2.get(BITS_PER_SAMPLE, (1,)))
  if image.format == 'PPM' and isinstance(image.tile[0].args, tuple):
    return image.tile[0].args[1].bit_length()  # of the largest value, if that is not 255
  return 8


def _remark(image: Image.Image) -> str:
  """What is not read of an image, or guessed."""
  if image.format in ANIMATED and image.is_animated:
    return 'only the first of several frames is read'
  return 'CMYK is converted without a colour profile' if image.mode == 'CMYK' else ''


def _has_grey_palette(image: Image.Image) -> bool:
  red, green, blue = np.array(image.getpalette('RGB')).reshape(-1, 3).T
  return bool((red == green).all() and (green == blue).all())


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
