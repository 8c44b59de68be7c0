"""Families small enough to check, build and train in this process, and their data."""

import numpy as np

from common.data.pipeline import Data
from common.data.sources import Source
from common.data.spec import DataSpec
from experiments import config_flag

FILES = {
  'diffusion': 'configs/diffusion/images.py:digits',
  'autoregressive': 'configs/autoregressive/images.py:digits_4x4',
  'gan': 'configs/gan/images.py:digits',
  'classifier': 'configs/classifier/images.py:digits',
}
SMALL = {
  'diffusion': {'network.name': ['mlp'], 'network.width': ['16'], 'sampling.steps': ['2']},
  'autoregressive': {
    'network.width': ['16'],
    'network.layers': ['1'],
    'network.heads': ['2'],
    'network.dropout': ['0.0'],
  },
  'classifier': {'network.name': ['mlp'], 'network.width': ['16'], 'network.depth': ['1']},
  'gan': {
    'generator.name': ['mlp'],
    'generator.width': ['16'],
    'discriminator.name': ['mlp'],
    'discriminator.width': ['16'],
  },
}
TRAIN = {
  'data.batch_size': ['16'],
  'train.steps': ['40'],
  'train.steps_per_call': ['2'],
  'train.checkpoint_every': ['8'],
  'train.evaluate_every': ['20'],
  'train.sample_every': ['0'],
  'train.log_every': ['10'],
}


class Images(Source):
  """A split of given images, with classes in turn."""

  def __init__(self, x, classes=0):
    self.x, self.classes = x, classes

  def __len__(self):
    return len(self.x)

  def gather(self, indices):
    label = {'label': (indices % self.classes).astype(np.int32)} if self.classes else {}
    return {'x': self.x[indices]} | label


def data(shape=(4, 4, 1), num=20, classes=0, change=None):
  """Random images; `change` is the index of an image to brighten."""
  x = np.random.default_rng(0).integers(0, 255, (num, *shape)).astype(np.uint8)
  if change is not None:
    x[change] += 1
  names = tuple(map(str, range(classes)))
  spec = DataSpec('toy', 'image', shape, 256, classes, names, num_train=num)
  return Data(spec, {name: Images(x, classes) for name in ('train', 'validation', 'test')})


def config(family, **changes):
  """The complete config of a tiny run; a__b='c' is the flag --config.a.b=c."""
  given = {key.replace('__', '.'): [str(value)] for key, value in changes.items()}
  return config_flag.load(FILES[family], SMALL[family] | TRAIN | given)
