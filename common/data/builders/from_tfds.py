"""Datasets that TFDS's own builders prepare, which takes TensorFlow, once.

They are stored again the way all datasets are here, so that reading them takes no TensorFlow.
"""

import importlib.util
import urllib.request

import numpy as np
import tensorflow_datasets as tfds

from common.config import ConfigError
from common.data.builders import base, raw

PROBE_SECONDS = 5

Arrays = dict[str, tuple[np.ndarray, np.ndarray]]  # split: images [n, h, w, c], labels [n]


def arrays(name: str) -> Arrays:
  """The train and test splits of a dataset that has 'image' and 'label'.

  Raises:
    raw.Unreachable: where TensorFlow is not installed, or nothing answers at the dataset's address:
      TFDS itself would try for minutes.
  """
  if importlib.util.find_spec('tensorflow') is None:
    raise raw.Unreachable("TensorFlow (pip install 'twofold[prepare]') is not installed")
  address = next(iter(tfds.builder_cls(name).url_infos))
  try:
    request = urllib.request.Request(address, method='HEAD')
    urllib.request.urlopen(request, timeout=PROBE_SECONDS).close()
  except OSError as error:
    raise raw.Unreachable(f'{address} cannot be reached ({error})') from None
  splits = tfds.as_numpy(tfds.load(name, batch_size=-1))
  return {split: (splits[split]['image'], splits[split]['label']) for split in ('train', 'test')}


class Cifar10(base.ImageBuilder, skip_registration=True):
  """32×32 colour photographs of ten kinds of things (Krizhevsky 2009).

  The last 5,000 training examples in the order of their hashes are for validation.
  """

  name = 'cifar10'
  num_validation = 5000

  def read(self) -> base.Contents:
    if not self.network:
      raise base.not_prepared(self.name, self.settings)
    try:
      found = arrays(self.name)
    except raw.Unreachable as reason:
      raise ConfigError(f'{self.name} cannot be had: {reason}') from None
    names = 'airplane automobile bird cat deer dog frog horse ship truck'
    return base.Contents(
      shape=(32, 32, 3),
      levels=256,
      class_names=tuple(names.split()),
      splits=base.published_splits(found['train'], found['test'], self.num_validation),
    )
