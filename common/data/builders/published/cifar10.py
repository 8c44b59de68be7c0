"""CIFAR-10 (Krizhevsky 2009), from its published binaries, class folders, or a zip of these.

60,000 colour photographs of 32×32 pixels, 6,000 of each of ten kinds of objects. The test split is
the published one; the last 5,000 training examples in the order of their hashes are for validation.
Every source leads to the same dataset, which is checked by the contents of the images.
"""

import hashlib
import io
import pathlib
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterable, Mapping

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from common.config import ConfigError
from common.data.builders import base, downloads, images

HOME = 'https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz'
ARCHIVE = HOME.rpartition('/')[2]
CLASS_NAMES = (
  *('airplane', 'automobile', 'bird', 'cat', 'deer'),
  *('dog', 'frog', 'horse', 'ship', 'truck'),
)
SIDE, CHANNELS = 32, 3
RECORD = 1 + CHANNELS * SIDE * SIDE  # a byte for the label, then the red, green and blue planes
BINARIES = {  # the files of the binary version, by split
  'train': tuple(f'data_batch_{i}.bin' for i in range(1, 6)),
  'test': ('test_batch.bin',),
}
PICKLES = ('data_batch_1', 'test_batch', 'batches.meta')  # files of the python version
MAX_PNG = 2**16  # bytes; an uncompressed image has 3,072
# Raised for a file that is damaged or encrypted.
BROKEN = (OSError, EOFError, RuntimeError, zlib.error, tarfile.TarError, zipfile.BadZipFile)
FORMS = (
  f'{ARCHIVE}, a folder of its .bin files, or a folder or .zip of SPLIT/CLASS/NAME.png with the '
  'splits train and test'
)

Images = UInt8[np.ndarray, 'n 32 32 3']
Split = tuple[Images, np.ndarray]  # images and their labels


class Cifar10(images.ImageBuilder, skip_registration=True):
  """32×32 colour photographs of ten kinds of objects.

  Attributes:
    per_class: number of examples of each class, by split.
    digests: `split_digest` of each published split.
    num_validation: number of training examples to hold out for validation.
  """

  name = 'cifar10'
  flags = ('source', 'image_size', 'palette')
  per_class: Mapping[str, int] = {'train': 5000, 'test': 1000}
  digests: Mapping[str, str] = {
    'train': '6a3b2c04d0a79ce272dcdacaf0bc440275db5a8cbe3717521a28fada2ea0d2ed',
    'test': '65a6ffe079453e514083f99356b35e02cbfd581b4951e3937fae188974b79f39',
  }
  num_validation = 5000

  @classmethod
  def expected(cls, settings):
    held_out = 0 if settings.get('train_to') == 'test' else cls.num_validation
    return images.image_format(settings, (SIDE, SIDE, CHANNELS), 256, 10, 50_000 - held_out)

  def read(self) -> base.Contents:
    splits = self._load()
    return base.Contents(
      shape=(SIDE, SIDE, CHANNELS),
      levels=256,
      class_names=CLASS_NAMES,
      splits=base.published_splits(splits['train'], splits['test'], self.num_validation),
    )

  def _load(self) -> dict[str, Split]:
    """The splits, from the first source that has them; local files come first."""
    manual = base.data_dir(self.settings) / 'downloads' / 'manual' / self.name
    if source := self.settings.get('source'):
      return self._checked(pathlib.Path(source).expanduser())
    if manual.is_dir():
      return self._checked(manual)
    if not self.network:
      raise base.not_prepared_error(self.name, self.settings)
    with tempfile.TemporaryDirectory() as folder:
      path = pathlib.Path(folder) / ARCHIVE
      try:
        downloads.fetch_file(HOME, path)
      except downloads.Unavailable as reason:
        raise ConfigError(
          f'cannot get {self.name}: {reason}; download {HOME} and add --source=FILE'
        ) from None
      return self._checked(path)

  def _checked(self, source: pathlib.Path) -> dict[str, Split]:
    """The splits of a source. Raises ConfigError if they are not the published ones."""
    try:
      splits = read_source(source)
    except BROKEN as error:
      raise ConfigError(f'cannot read {source}: {error}') from error
    for split, (x, label) in splits.items():
      counts = np.bincount(label, minlength=len(CLASS_NAMES))
      if set(counts.tolist()) != {self.per_class[split]}:
        raise ConfigError(
          f'{source} is not {self.name}: its {split} split must have {self.per_class[split]:,} '
          f'images of each class, got {dict(zip(CLASS_NAMES, counts.tolist(), strict=True))}'
        )
      if split_digest(x, label) != self.digests[split]:
        raise ConfigError(
          f'{source} is not {self.name}: the pixels or labels of its {split} split differ from the '
          f'published ones; download {HOME}'
        )
    return splits


def split_digest(x: Images, label: np.ndarray) -> str:
  """A hash of images and labels that does not depend on their order."""
  hashes = sorted(
    hashlib.sha256(image.tobytes() + bytes([k])).digest() for image, k in zip(x, label, strict=True)
  )
  return hashlib.sha256(b''.join(hashes)).hexdigest()


def read_source(source: pathlib.Path) -> dict[str, Split]:
  """The train and test splits in a file or folder of any of the forms in `FORMS`.

  Raises:
    ConfigError: for another form, or an image of another size.
    one of `BROKEN`: it cannot be read.
  """
  if source.is_dir():
    return _read_folder(source)
  if not source.is_file():
    raise ConfigError(f'data.source={str(source)!r} must be {FORMS}, but it does not exist')
  if zipfile.is_zipfile(source):
    return _read_zip(source)
  if tarfile.is_tarfile(source):
    return _read_tar(source)
  raise _unknown_form(source)


def _unknown_form(source: pathlib.Path) -> ConfigError:
  return ConfigError(f'data.source={str(source)!r} must be {FORMS}')


def _refuse_pickles(source: pathlib.Path, names: Iterable[str]) -> None:
  if any(name in PICKLES for name in names):
    raise ConfigError(
      f'{source} holds the python version of CIFAR-10, whose pickles could run code; download the '
      f'binary version, {HOME}'
    )


def _read_folder(folder: pathlib.Path) -> dict[str, Split]:
  # The archive unpacks into a folder of its own.
  wanted = [name for names in BINARIES.values() for name in names]
  for place in (folder, folder / 'cifar-10-batches-bin'):
    if all((place / name).is_file() for name in wanted):
      return _from_binaries({name: (place / name).read_bytes() for name in wanted})
  if (folder / ARCHIVE).is_file():
    return _read_tar(folder / ARCHIVE)
  if all((folder / split).is_dir() for split in BINARIES):
    paths = {
      str(path.relative_to(folder).as_posix()): path
      for split in BINARIES
      for path in sorted(folder.glob(f'{split}/*/[!.]*.png'))
      if path.is_file()
    }
    return _from_images(paths, lambda name: paths[name].read_bytes(), folder)
  _refuse_pickles(folder, (p.name for pattern in ('*', '*/*') for p in folder.glob(pattern)))
  raise _unknown_form(folder)


def _read_tar(path: pathlib.Path) -> dict[str, Split]:
  """The binary version. Nothing is unpacked to disk, so names in the archive are harmless."""
  wanted = {name for names in BINARIES.values() for name in names}
  found = {}
  with tarfile.open(path) as archive:
    for member in archive:
      name = pathlib.PurePosixPath(member.name).name
      _refuse_pickles(path, [name])
      if name in wanted and member.isfile() and member.size <= 10_000 * RECORD:
        found[name] = archive.extractfile(member).read()
  if missing := sorted(wanted - found.keys()):
    raise ConfigError(f'{path} lacks {", ".join(missing)}; it must be {FORMS}')
  return _from_binaries(found)


def _read_zip(path: pathlib.Path) -> dict[str, Split]:
  with zipfile.ZipFile(path) as archive:
    sizes = {info.filename: info.file_size for info in archive.infolist() if not info.is_dir()}
    _refuse_pickles(path, (pathlib.PurePosixPath(name).name for name in sizes))
    # Some programs add hidden files.
    names = [
      n for n in sizes if n.endswith('.png') and not pathlib.PurePath(n).name.startswith('.')
    ]
    if large := [name for name in names if sizes[name] > MAX_PNG]:
      raise ConfigError(
        f'{path}: {large[0]} must be an image of {SIDE}×{SIDE} pixels, got {sizes[large[0]]:,} '
        'bytes'
      )
    return _from_images(names, archive.read, path)


def _from_binaries(files: Mapping[str, bytes]) -> dict[str, Split]:
  splits = {}
  for split, names in BINARIES.items():
    images, labels = zip(*(parse(files[name], name) for name in names), strict=True)
    splits[split] = (np.concatenate(images), np.concatenate(labels))
  return splits


def parse(data: bytes, what: str) -> Split:
  """The images and labels of a binary file.

  Raises:
    ConfigError: if the file is empty, cut short, or has a label above 9.
  """
  records = np.frombuffer(data, np.uint8)
  if not len(records) or len(records) % RECORD:
    raise ConfigError(
      f'{what} must hold records of {RECORD:,} bytes (label, red, green, blue), got {len(data):,} '
      'bytes'
    )
  records = records.reshape(-1, RECORD)
  label = records[:, 0].astype(np.int64)
  if label.max() >= len(CLASS_NAMES):
    raise ConfigError(f'{what} must have labels from 0 to 9, got {label.max()}')
  # The file stores a plane for each channel; an image here is [height, width, channels].
  planes = records[:, 1:].reshape(-1, CHANNELS, SIDE, SIDE)
  return np.ascontiguousarray(planes.transpose(0, 2, 3, 1)), label


def _from_images(
  names: Iterable[str], read: Callable[[str], bytes], source: pathlib.Path
) -> dict[str, Split]:
  """The splits of images named SPLIT/CLASS/NAME.png, perhaps with folders in front."""
  found = {split: ([], []) for split in BINARIES}
  for name in names:
    split, kind = (*pathlib.PurePosixPath(name).parts[-3:-1], '', '')[:2]
    if split not in found or kind not in CLASS_NAMES:
      raise ConfigError(
        f'{source}: {name} must be SPLIT/CLASS/NAME.png, with the split train or test, and one of '
        f'the classes {", ".join(CLASS_NAMES)}'
      )
    images, labels = found[split]
    images.append(_decode(read(name), f'{source}: {name}'))
    labels.append(CLASS_NAMES.index(kind))
  if empty := [split for split, (images, _) in found.items() if not images]:
    raise ConfigError(f'{source} has no images of the split {empty[0]}; it must be {FORMS}')
  return {split: (np.stack(x), np.array(label)) for split, (x, label) in found.items()}


def _decode(data: bytes, what: str) -> UInt8[np.ndarray, '32 32 3']:
  try:
    with Image.open(io.BytesIO(data), formats=('PNG',)) as image:
      # The size stands in the header: a larger image is refused before it is decoded.
      if image.mode != 'RGB' or image.size != (SIDE, SIDE):
        raise ValueError(f'got mode {image.mode} and {image.size[0]}×{image.size[1]} pixels')
      return np.asarray(image)
  except Exception as error:  # Pillow's plugins raise almost anything for a broken file
    raise ConfigError(
      f'{what} must be an RGB image of {SIDE}×{SIDE} pixels: {error or type(error).__name__}'
    ) from error
