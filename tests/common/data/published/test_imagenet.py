"""ImageNet from a folder: a small tree with the layout of the real one."""

import numpy as np
import pytest
from PIL import Image

from common.config import ConfigError
from common.data import pipeline
from common.data.builders import BUILDERS
from common.data.builders.published import imagenet
from experiments.compile.data import spec_of

CLASSES = ('n01440764', 'n01443537', 'n01484850')


def picture(seed, height, width):
  """An image of blocks of 4×4 pixels, each of one colour, and the colours of the blocks."""
  colours = np.random.default_rng(seed).integers(0, 256, (height // 4, width // 4, 3), np.uint8)
  return Image.fromarray(colours.repeat(4, 0).repeat(4, 1)), colours


@pytest.fixture
def settings(tmp_path, monkeypatch):
  monkeypatch.setattr(imagenet.ImageNet, 'num_classes', len(CLASSES))
  monkeypatch.setattr(imagenet.ImageNet, 'num_validation', 2)
  for part, number in (('train', 4), ('val', 2)):
    for label, name in enumerate(CLASSES):
      (tmp_path / 'source' / part / name).mkdir(parents=True)
      for i in range(number):
        seed = 100 * (part == 'val') + 10 * label + i
        image, _ = picture(seed, *((32, 48), (48, 32))[i % 2])
        image.save(tmp_path / 'source' / part / name / f'{seed}.JPEG', 'PNG')  # as one of them is
  folder, source = str(tmp_path / 'data'), str(tmp_path / 'source')
  return {'name': 'imagenet', 'dir': folder, 'source': source, 'image_size': 8}


def test_the_published_validation_set_is_for_testing(settings):
  data = pipeline.load(settings)
  assert data.spec.shape == (8, 8, 3) and data.spec.class_names == CLASSES
  assert {split: len(source) for split, source in data.splits.items()} == {
    'train': 10,
    'validation': 2,
    'test': 6,
  }
  test = data.splits['test'].gather(np.arange(6))
  expected = {}
  for label in range(3):
    # 48 pixels are 12 blocks, of which the middle 8 are kept.
    expected[picture(100 + 10 * label, 32, 48)[1][:, 2:10].tobytes()] = label
    expected[picture(101 + 10 * label, 48, 32)[1][2:10].tobytes()] = label
  found = {x.tobytes(): label for x, label in zip(test['x'], test['label'], strict=True)}
  assert found == expected
  # Later runs need no source; all but the test split can be trained on.
  whole = pipeline.load(settings | {'source': '', 'train_to': 'test'})
  assert len(whole.splits['train']) == whole.spec.num_train == 12


def test_the_shape_is_known_before_anything_is_read():
  spec = spec_of({'name': 'imagenet', 'image_size': 64, 'train_to': 'test', 'dir': 'none'}, {})
  assert (spec.shape, spec.num_classes, spec.num_train) == ((64, 64, 3), 1000, 1_281_167)


def test_a_small_image_is_enlarged():
  assert imagenet.central_square(picture(0, 4, 8)[0], 16).shape == (16, 16, 3)


def test_folders_that_are_not_imagenet_are_refused(settings, tmp_path):
  with pytest.raises(ConfigError, match=r'needs data\.image_size, such as 64'):
    pipeline.load(settings | {'image_size': 0})
  with pytest.raises(ConfigError, match=r'needs data\.source'):
    pipeline.load(settings | {'source': ''})
  broken = tmp_path / 'source' / 'train' / CLASSES[0] / '0.JPEG'
  broken.write_bytes(b'no image')
  with pytest.raises(ConfigError, match=r'cannot read .*0\.JPEG: .*; repair or remove it'):
    pipeline.load(settings)
  (tmp_path / 'source' / 'val' / CLASSES[0]).rename(tmp_path / 'source' / 'val' / 'other')
  with pytest.raises(ConfigError, match=r"same classes: only one of them has 'n01440764'"):
    pipeline.load(settings)
  (tmp_path / 'source' / 'val' / 'more').mkdir()
  picture(0, 32, 32)[0].save(tmp_path / 'source' / 'val' / 'more' / '0.png')
  with pytest.raises(ConfigError, match=r'val must have 3 folders of images, .*, got 4'):
    pipeline.load(settings)
  (tmp_path / 'source' / 'val').rename(tmp_path / 'away')
  with pytest.raises(ConfigError, match=r'has no val/'):
    pipeline.load(settings)
  assert BUILDERS['imagenet'] is imagenet.ImageNet
