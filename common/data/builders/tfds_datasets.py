"""Datasets whose raw files TFDS's own builders download; only this download needs TensorFlow.

The examples are stored again in the format of all datasets here, so reading needs no TensorFlow.
"""

import importlib.util
import urllib.request

import numpy as np
import tensorflow_datasets as tfds

from common.data.builders import downloads

PROBE_SECONDS = 5

LabelledImages = dict[str, tuple[np.ndarray, np.ndarray]]  # split: images [n, h, w, c], labels [n]


def load_arrays(name: str) -> LabelledImages:
  """The train and test splits of a TFDS dataset with the features 'image' and 'label'.

  Raises:
    downloads.Unavailable: if TensorFlow is not installed, or the address of the dataset does not
      answer. It is probed first, because TFDS itself would try for minutes.
  """
  if importlib.util.find_spec('tensorflow') is None:
    raise downloads.Unavailable("TensorFlow is not installed (pip install -e '.[prepare]')")
  address = next(iter(tfds.builder_cls(name).url_infos))
  try:
    request = urllib.request.Request(address, method='HEAD')
    urllib.request.urlopen(request, timeout=PROBE_SECONDS).close()
  except OSError as error:
    raise downloads.Unavailable(f'{address} does not answer ({error})') from None
  # batch_size=-1: a whole split as one array.
  splits = tfds.as_numpy(tfds.load(name, batch_size=-1))
  return {split: (splits[split]['image'], splits[split]['label']) for split in ('train', 'test')}
