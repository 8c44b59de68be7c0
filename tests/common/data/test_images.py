"""Images made smaller by `data.image_size`: the means of squares of pixels."""

import numpy as np
import pytest

from common.config import ConfigError
from common.data import palettes, pipeline, preparation
from common.data.builders import BUILDERS, base, images
from experiments.startup import datasets

X = np.random.default_rng(0).integers(0, 256, (30, 6, 6, 3), np.uint8)


class Tiny(images.ImageBuilder, skip_registration=True):
  """30 coloured images of 6×6 pixels."""

  name = 'tiny'
  flags = ('image_size', 'palette')

  @classmethod
  def expected(cls, settings):
    return images.image_format(settings, (6, 6, 3), levels=256, num_classes=0, num_train=24)

  def read(self):
    rows = np.arange(30)
    splits = {'train': rows[:24], 'validation': rows[24:27], 'test': rows[27:]}
    return base.Contents(X.shape[1:], 256, (), base.array_splits(X, None, splits))


@pytest.fixture
def settings(tmp_path, monkeypatch):
  monkeypatch.setitem(BUILDERS, 'tiny', Tiny)
  return {'name': 'tiny', 'dir': str(tmp_path), 'image_size': 2}


def everything(settings):
  """All images of all splits, in an order of their own contents."""
  splits = pipeline.load(settings).splits.values()
  x = np.concatenate([split.gather(np.arange(len(split)))['x'] for split in splits])
  return np.array(sorted(x.reshape(len(x), -1).tolist()))


def test_pixels_are_the_means_of_squares(settings):
  # By hand: nine pixels at a time.
  by_hand = np.zeros((30, 2, 2, 3))
  for row in range(2):
    for column in range(2):
      square = X[:, 3 * row : 3 * row + 3, 3 * column : 3 * column + 3].astype(np.int64)
      by_hand[:, row, column] = np.rint(square.sum((1, 2)) / 9)
  assert pipeline.load(settings).spec.shape == (2, 2, 3)
  np.testing.assert_array_equal(everything(settings), sorted(by_hand.reshape(30, -1).tolist()))


@pytest.mark.parametrize('size', [0, 6])
def test_images_keep_their_size(settings, size):
  np.testing.assert_array_equal(
    everything(settings | {'image_size': size}), sorted(X.reshape(30, -1).tolist())
  )


def test_each_size_is_a_dataset_of_its_own(settings):
  folders = {n: preparation.location(settings | {'image_size': n}) for n in (0, 2, 3, 6)}
  assert len(set(folders.values())) == 3 and folders[6] == folders[0]


def test_a_palette_is_fitted_to_the_smaller_images(settings):
  spec = pipeline.load(settings | {'palette': 4}).spec
  assert spec.shape == (2, 2, 1)
  smaller = [images.block_means(x, 2) for x in X[:24]]
  assert spec.palette == palettes.fit(smaller, 4)[0]


def test_the_size_must_divide_that_of_the_images(settings):
  message = r'data.image_size=4 must divide the 6×6 pixels of tiny: choose from 1, 2, 3, 6, or 0'
  with pytest.raises(ConfigError, match=message):
    pipeline.load(settings | {'image_size': 4})


def test_data_of_one_size_refuse_a_size(settings):
  message = r'data.image_size=4 is for mnist, .*, not for digits; set data.image_size=0'
  with pytest.raises(ConfigError, match=message):
    pipeline.load(settings | {'name': 'digits', 'image_size': 4})


def test_a_size_that_does_not_divide_is_refused_before_the_data_are_read():
  for look in (preparation.location, BUILDERS['mnist'].expected):
    with pytest.raises(
      ConfigError, match=r'data.image_size=13 must divide the 28×28 pixels of mnist'
    ):
      look({'name': 'mnist', 'image_size': 13, 'dir': 'none'})


@pytest.mark.parametrize(('name', 'size'), [('cifar10', 32), ('stacked_mnist', 0), ('digits', 0)])
def test_another_dataset_keeps_the_size_if_it_has_one(name, size):
  settings = {'name': 'image_folder', 'source': 'faces', 'image_size': 32}
  expected = {'name': name, 'source': '', 'image_size': size}
  assert datasets.of_another(settings, name) == expected


@pytest.mark.parametrize(('name', 'shape'), [('mnist', (14, 14, 1)), ('cifar10', (16, 16, 3))])
def test_the_format_is_known_before_the_data_are_read(name, shape):
  assert BUILDERS[name].expected({'image_size': shape[0]})['shape'] == shape
