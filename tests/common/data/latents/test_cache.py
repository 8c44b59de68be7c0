"""Latents as data: encoded once, scaled, decoded again; first stages that say nothing."""

import dataclasses
import logging

import numpy as np
import pytest

from common.config import ConfigError
from common.data.latents import cache
from common.data.latents.first_stage import BATCH, FirstStage, in_batches
from common.data.spec import DataSpec, latent_spec
from tests.common.domains.toy import Split

SPEC = DataSpec('toy', 'image', (4, 4, 1), 256, 3, tuple('abc'), num_train=300)


@dataclasses.dataclass
class Means(FirstStage):
  """Latents are means of 2x2 pixels, on a scale of their own."""

  factor: float = 0.02
  name: str = 'runs/means'
  digest: str = 'a'
  shape: tuple = (2, 2, 1)
  levels: int = 0
  calls: int = 0

  def encode(self, x):
    self.calls += 1
    assert len(x) <= BATCH
    means = x.reshape(-1, 2, 2, 2, 2, 1).mean((2, 4)) * self.factor
    return means.astype(np.float32)

  def decode(self, latents):
    means = np.round(np.asarray(latents) / self.factor).repeat(2, 1).repeat(2, 2)
    return np.clip(means, 0, 255).astype(np.uint8)

  def decode_flops(self):
    return 50


@dataclasses.dataclass
class Codes(Means):
  """Latents are the number of the quarter of [0, 256) in which the mean lies."""

  levels: int = 4

  def encode(self, x):
    return (super().encode(x) / self.factor / 64).astype(np.int32)

  def decode(self, latents):
    return super().decode(latents * np.float32(64 * self.factor))


def splits():
  rng = np.random.default_rng(0)
  return {
    name: Split(
      x=rng.integers(0, 256, (num, 1, 1, 1)).repeat(4, 1).repeat(4, 2).astype(np.uint8),
      label=rng.integers(0, 3, num).astype(np.int32),
    )
    for name, num in (('train', 300), ('validation', 20), ('test', 30))
  }


def test_latents_are_encoded_once_and_have_unit_variance(tmp_path):
  stage, images = Means(), splits()
  found = cache.encode(images, stage, tmp_path, 'toy', 'images')
  calls = stage.calls
  again = cache.encode(images, stage, tmp_path, 'toy', 'images')
  assert stage.calls == calls
  for split in images:
    one, other = (made.splits[split].gather(np.arange(10)) for made in (found, again))
    np.testing.assert_array_equal(one['x'], other['x'])
    np.testing.assert_array_equal(one['label'], images[split].arrays['label'][:10])
  everything = found.splits['train'].gather(np.arange(300))['x']
  assert everything.dtype == np.float32 and everything.std() == pytest.approx(1, rel=1e-5)
  assert found.deviation == again.deviation


def test_other_images_and_other_weights_have_folders_of_their_own(tmp_path):
  cache.encode(splits(), Means(), tmp_path, 'toy', 'images')
  cache.encode(splits(), Means(digest='b'), tmp_path, 'toy', 'images')
  cache.encode(splits(), Means(), tmp_path, 'toy', 'other images')
  tests = splits() | {'test': Split(x=np.zeros((30, 4, 4, 1), np.uint8))}
  cache.encode(tests, Means(), tmp_path, 'toy', 'images')
  assert len(list((tmp_path / 'twofold' / 'latents').iterdir())) == 4


@pytest.mark.parametrize('kind', [Means, Codes])
def test_examples_are_decoded_whatever_axes_come_first(kind, tmp_path):
  stage, images = kind(), splits()
  found = cache.encode(images, stage, tmp_path, 'toy', 'images')
  spec = latent_spec(SPEC, stage, found.deviation)
  assert (spec.shape, spec.levels, spec.num_classes) == ((2, 2, 1), stage.levels, 3)
  x = found.splits['test'].gather(np.arange(30))['x']
  assert x.dtype == spec.dtype
  decoded = spec.latents.decode(x.reshape(3, 10, *spec.shape))
  assert decoded.shape == (3, 10, *SPEC.shape) and decoded.dtype == np.uint8
  original = images['test'].arrays['x'].reshape(decoded.shape)
  error = np.abs(decoded.astype(int) - original).max()
  assert error <= (63 if stage.levels else 1)


def test_batches_are_padded_to_one_size():
  sizes = []

  def double(x):
    sizes.append(len(x))
    return 2 * x

  x = np.arange(BATCH + 3)[:, None]
  np.testing.assert_array_equal(in_batches(double, x), 2 * x)
  assert sizes == [BATCH, BATCH]
  np.testing.assert_array_equal(in_batches(double, x[:5]), 2 * x[:5])
  assert sizes[-1] == 8


def test_latents_without_variance_are_refused(tmp_path):
  with pytest.raises(ConfigError, match='runs/means have no variance'):
    cache.encode(splits(), Means(factor=0.0), tmp_path, 'toy', 'images')
  # Positions that differ, in the same way in every image, are no variance either.
  grey, bars = np.full((4, 4, 1), 3), np.arange(0, 256, 64)[:, None, None].repeat(4, 1)
  for picture, used in ((grey, 1), (bars, 2)):
    one = {name: Split(x=picture[None].repeat(9, 0).astype(np.uint8)) for name in splits()}
    with pytest.raises(ConfigError, match=f'all images have the same codes, {used} of 4'):
      cache.encode(one, Codes(), tmp_path, 'toy', 'images')
    with pytest.raises(ConfigError, match='runs/means have no variance'):
      cache.encode(one, Means(), tmp_path, 'toy', 'images')
  assert not (tmp_path / 'twofold').exists() or not list((tmp_path / 'twofold').rglob('*.npy'))


def test_the_number_of_codes_in_use_is_reported(tmp_path, caplog):
  logger = logging.getLogger('absl')
  logger.addHandler(caplog.handler)
  try:
    with caplog.at_level(logging.INFO, 'absl'):
      cache.encode(splits(), Codes(), tmp_path, 'toy', 'images')
  finally:
    logger.removeHandler(caplog.handler)
  assert 'codes of runs/means: 4 of 4 used, perplexity 4.0' in caplog.text


def test_a_damaged_file_is_named(tmp_path):
  cache.encode(splits(), Means(), tmp_path, 'toy', 'images')
  (folder,) = (tmp_path / 'twofold' / 'latents').iterdir()
  (folder / 'train.npy').write_bytes(b'nothing')
  with pytest.raises(ConfigError, match='is damaged; delete it'):
    cache.encode(splits(), Means(), tmp_path, 'toy', 'images')
