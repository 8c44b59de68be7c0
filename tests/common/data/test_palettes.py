"""Palettes: exact for few colours, independent of the order of images, refused without colours."""

import dataclasses

import numpy as np
import pytest
from PIL import Image

from common.config import ConfigError
from common.data import palettes, pipeline, preparation
from common.domains import domain_of

COLOURS = [(255, 0, 0), (0, 200, 10), (20, 20, 250), (240, 240, 240), (0, 0, 0)]


def folder_of(path, colours, num=24, grey=False):
  """Writes a folder of small images in these colours."""
  path.mkdir()
  for i in range(num):
    x = np.array(colours, np.uint8)[np.random.default_rng(i).integers(0, len(colours), (4, 6))]
    Image.fromarray(x[..., 0] if grey else x).save(path / f'{i}.png')
  return str(path)


@pytest.fixture
def folder(tmp_path):
  return folder_of(tmp_path / 'in', COLOURS)


def load(tmp_path, source, **settings):
  settings = {'name': 'image_folder', 'dir': str(tmp_path / 'data'), 'source': source} | settings
  return pipeline.load(settings)


def everything(data):
  """All images in their colours, sorted by their pixels."""
  parts = [data.splits[split] for split in ('train', 'validation', 'test')]
  x = np.concatenate([part.gather(np.arange(len(part)))['x'] for part in parts])
  return sorted(image.tobytes() for image in domain_of(data.spec).as_images(data.spec, x)[0])


def test_a_palette_of_all_colours_reproduces_the_images(tmp_path, folder):
  plain = load(tmp_path, folder)
  made = load(tmp_path, folder, palette=8)
  assert (made.spec.shape, made.spec.levels) == ((4, 6, 1), 5)
  assert made.spec.palette.colours == tuple(sorted(COLOURS))
  assert everything(made) == everything(plain)
  assert made.spec.batch_struct(1)['x'].dtype == np.uint8


def test_a_smaller_palette_finds_the_most_frequent_colours(tmp_path):
  rng = np.random.default_rng(0)
  centres = np.array([(200, 40, 40), (40, 40, 200)])
  images = centres[rng.integers(0, 2, (20, 8, 8))] + rng.integers(-5, 6, (20, 8, 8, 3))
  palette, error = palettes.fit(iter(images.astype(np.uint8)), 2)
  np.testing.assert_allclose(palette.colours, centres[::-1], atol=1)
  assert error == pytest.approx(np.sqrt(10), rel=0.1)  # of a uniform distribution over -5 ... 5
  again, _ = palettes.fit(iter(images[::-1].astype(np.uint8)), 2)
  assert again == palette


def test_colours_count_as_often_as_they_occur():
  """Nine pixels of 0 and one of 10 share the mean 1; squared errors 9 · 1 + 81 over 11 pixels."""
  x = np.repeat(np.array([0, 10, 200], np.uint8), [9, 1, 1])[:, None].repeat(3, 1)
  palette, error = palettes.fit([x], 2)
  assert palette.colours == ((1, 1, 1), (200, 200, 200))
  assert error == pytest.approx(np.sqrt(90 / 11))


def test_each_pixel_becomes_the_index_of_the_nearest_colour():
  palette = palettes.Palette(((0, 0, 0), (10, 10, 10), (255, 0, 0)))
  x = np.array([[[4, 4, 4], [5, 5, 5], [200, 9, 9]]], np.uint8)  # the second is equally near to two
  indices = palette.encode(x)
  assert indices.tolist() == [[[0], [0], [2]]]
  assert palette.decode(indices).tolist() == [[[0, 0, 0], [0, 0, 0], [255, 0, 0]]]
  colours = np.array(palette.colours, np.uint8)
  np.testing.assert_array_equal(palette.decode(palette.encode(colours)), colours)


def test_kmeans_sees_a_sample_of_many_colours(monkeypatch):
  monkeypatch.setattr(palettes, 'KMEANS_PIXELS', 100)
  x = np.random.default_rng(0).integers(0, 256, (3000, 3)).astype(np.uint8)
  palette, error = palettes.fit([x], 32)
  assert 16 <= len(palette.colours) <= 32 and 0 < error < 60
  # The middles of two halves of all pixels, in the order of their colours: the first and the third.
  monkeypatch.setattr(palettes, 'KMEANS_PIXELS', 2)
  greys = np.arange(0, 80, 20, dtype=np.uint8)[:, None].repeat(3, 1)
  assert palettes.fit([greys], 2)[0].colours == ((0, 0, 0), (40, 40, 40))


def test_more_than_256_colours_take_two_bytes(tmp_path):
  rng = np.random.default_rng(0)
  (tmp_path / 'in').mkdir()
  for i in range(12):
    x = rng.integers(0, 256, (8, 8, 3)).astype(np.uint8)
    Image.fromarray(x).save(tmp_path / 'in' / f'{i}.png')
  made = load(tmp_path, str(tmp_path / 'in'), palette=300)
  x = made.splits['train'].gather(np.arange(3))['x']
  assert x.dtype == made.spec.batch_struct(1)['x'].dtype == np.uint16
  assert 256 < made.spec.levels <= 300


def test_each_palette_is_its_own_dataset_with_its_own_fingerprint(tmp_path, folder):
  settings = {'name': 'image_folder', 'dir': str(tmp_path / 'data'), 'source': folder}
  places = {preparation.location(settings | {'palette': n}) for n in (0, 2, 4, 8)}
  assert len(places) == 4
  made = load(tmp_path, folder, palette=4)
  assert load(tmp_path, folder, palette=4).spec == made.spec
  assert load(tmp_path, folder, palette=2).spec != made.spec
  prints = {pipeline.fingerprint(load(tmp_path, folder, palette=n)) for n in (0, 2, 4)}
  assert len(prints) == 3
  moved = dataclasses.replace(made.spec, palette=palettes.Palette(made.spec.palette.colours[::-1]))
  assert pipeline.fingerprint(made._replace(spec=moved)) != pipeline.fingerprint(made)
  info = preparation.open_prepared(preparation.location(settings | {'palette': 4})).info
  assert info.metadata['notes'][0].startswith('palette of 4 colours; training pixels differ from')


@pytest.mark.parametrize(
  'settings, message',
  [
    (dict(palette=1), r'data.palette must be 0 \(off\) or in \[2, 65,536\], got 1'),
    (dict(palette=-3), 'data.palette must be 0 .*, got -3'),
    (
      dict(palette=16, name='digits', source=''),
      'data.palette=16 needs images of 3 channels and 256 levels; .* of digits have 1 and 17',
    ),
    (dict(palette=16, name='text'), 'data.palette=16 is for images, and text holds none'),
    (dict(palette=16, name='chorales'), 'data.palette=16 is for images, and chorales holds none'),
  ],
)
def test_bad_palettes_are_refused_in_one_line(tmp_path, folder, settings, message):
  with pytest.raises(ConfigError, match=message) as error:
    load(tmp_path, **{'source': folder} | settings)
  assert '\n' not in str(error.value)


def test_images_without_colours_are_refused(tmp_path):
  grey = folder_of(tmp_path / 'grey', COLOURS, grey=True)
  with pytest.raises(
    ConfigError, match=r'the images of image_folder have 1 and 256: set data.palette=0'
  ):
    load(tmp_path, grey, palette=4)
  single = folder_of(tmp_path / 'single', [(9, 8, 7)])
  (tmp_path / 'single' / '0.png').unlink()
  with pytest.raises(ConfigError, match=r'at least 3 different examples, .*, got 1'):
    load(tmp_path, single, palette=4)
  with pytest.raises(
    ConfigError, match=r'the training images have a single colour; set data\.palette=0'
  ):
    palettes.fit([np.zeros((2, 2, 3), np.uint8)], 4)
