"""Mixtures of Gaussians and stacked images: their modes, splits and sizes."""

import math
import types

import numpy as np
import pytest

from common.config import ConfigError
from common.data import pipeline
from common.data.builders import BUILDERS, downloads
from common.data.builders.mixtures import gaussians, stacked
from common.data.modes import Modes
from tests.common.data.published import test_idx

DIGESTS = {'ring': '', 'gaussians25': ''}


def everything(source):
  return source.gather(np.arange(len(source)))


@pytest.mark.parametrize('name', ['ring', 'gaussians25'])
def test_a_mixture_has_unit_variance_and_equally_likely_modes(name, tmp_path):
  spec, splits, *_ = pipeline.load({'name': name, 'dir': str(tmp_path)})
  expected = BUILDERS[name].expected({})
  assert {key: getattr(spec, key) for key in expected} == expected
  x = everything(splits['train'])['x']
  assert (x.shape, x.dtype) == ((20_000, 1, 1, 2), np.float32)
  np.testing.assert_allclose(x.std((0, 1, 2)), 1, atol=0.02)
  nearest, distance = spec.modes.nearest(x[:, 0, 0])
  number = spec.modes.number
  share = 1 / number
  error = math.sqrt(share * (1 - share) / len(x))
  assert (abs(np.bincount(nearest, minlength=number) / len(x) - share) < 4 * error).all()
  # Rayleigh: the mean distance in deviations is √(π/2), and its variance 2 − π/2.
  assert distance.mean() == pytest.approx(math.sqrt(math.pi / 2), abs=4 * math.sqrt(0.43 / 20_000))


def test_ring_and_grid_are_those_of_the_paper_in_its_units():
  ring, grid = BUILDERS['ring'].modes, BUILDERS['gaussians25'].modes
  assert (ring.number, grid.number) == (8, 25)
  scale = math.sqrt(2)
  np.testing.assert_allclose(np.linalg.norm(ring.centres, axis=1) / scale, 1)
  assert ring.deviation / scale == pytest.approx(0.01)
  places = np.unique(np.array(grid.centres)) * math.sqrt(8)
  np.testing.assert_allclose(places, [-4, -2, 0, 2, 4], atol=1e-12)
  assert grid.deviation * math.sqrt(8) == pytest.approx(0.05)
  assert gaussians.grid(2, 1.0, 0.1).centres == ((-0.5, -0.5), (-0.5, 0.5), (0.5, -0.5), (0.5, 0.5))


@pytest.fixture
def tiny(tmp_path, monkeypatch):
  """Registers 'tiny_stacked' of 40 + 10 images of ten classes; returns their settings."""
  sha256 = test_idx.write(tmp_path / 'raw', test_idx.arrays())

  def body(namespace):
    namespace['name'] = 'tiny_stacked'
    published = stacked.StackedMnist.published
    namespace['published'] = published._replace(sha256=sha256)
    namespace['num_validation'] = 8

  kind = types.new_class('TinyStacked', (stacked.StackedMnist,), {'skip_registration': True}, body)
  monkeypatch.setitem(BUILDERS, 'tiny_stacked', kind)
  return {'name': 'tiny_stacked', 'dir': str(tmp_path / 'data'), 'source': str(tmp_path / 'raw')}


def test_channels_of_stacked_images_are_digits_of_their_own_split(tiny):
  spec, splits, *_ = pipeline.load(tiny)
  assert (spec.shape, spec.levels, spec.num_classes) == ((5, 6, 3), 256, 0)
  assert spec.modes == Modes(classes=(10, 10, 10)) and spec.modes.number == 1000
  assert {k: len(v) for k, v in splits.items()} == {'train': 32, 'validation': 8, 'test': 10}
  images, labels, test_images, test_labels = test_idx.arrays().values()
  label_of = {image.tobytes(): int(k) for image, k in zip(images, labels, strict=True)}
  label_of |= {image.tobytes(): int(k) for image, k in zip(test_images, test_labels, strict=True)}
  seen = {}
  for split, source in splits.items():
    examples = everything(source)
    assert examples.keys() == spec.batch_struct(1).keys() == {'x', 'mode'}
    classes = spec.modes.classes_of(examples['mode'])
    channels = [[x.tobytes() for x in examples['x'][..., channel]] for channel in range(3)]
    for column, keys in zip(classes.T, channels, strict=True):
      assert column.tolist() == [label_of[key] for key in keys]
    # Every channel has each digit of the split once, in an order of its own.
    assert len(set(channels[0])) == len(source)
    assert set(channels[0]) == set(channels[1]) == set(channels[2])
    assert channels[0] != channels[1] != channels[2] != channels[0]
    seen[split] = set(channels[0])
  assert not seen['train'] & (seen['validation'] | seen['test'])
  assert seen['test'] == {image.tobytes() for image in test_images}


def test_stacked_mnist_is_described_before_it_is_prepared():
  expected = stacked.StackedMnist.expected({})
  assert expected['num_train'] == 55_000 and expected['shape'] == (28, 28, 3)
  assert expected['modes'].number == 1000 and expected['num_classes'] == 0
  assert stacked.StackedMnist.expected({'palette': 8}) == {}


def test_stacked_mnist_that_is_not_prepared_names_its_own_command(tmp_path, monkeypatch):
  monkeypatch.setattr(downloads, 'is_complete', lambda folder, published: False)
  with pytest.raises(ConfigError, match='twofold prepare_data --dataset=stacked_mnist'):
    pipeline.load({'name': 'stacked_mnist', 'dir': str(tmp_path)})
