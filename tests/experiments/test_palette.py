"""The commands on images with a palette, as a person types them."""

import numpy as np
import pytest
from PIL import Image

from tests.experiments.commands import TINY, TINY_DIFFUSION, refused, run

COLOURS = np.array([(250, 10, 10), (10, 10, 240), (0, 200, 0)], np.uint8)


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  """Images of three colours, and the flags that read them."""
  folder = tmp_path_factory.mktemp('palette')
  (folder / 'in').mkdir()
  for i in range(40):
    x = np.random.default_rng(i).integers(0, 3, (8, 8))
    Image.fromarray(COLOURS[x]).save(folder / 'in' / f'{i}.png')
  return folder


def flags(folder):
  return (
    '--config.data.name=image_folder',
    f'--config.data.source={folder}/in',
    f'--config.data.dir={folder}/data',
    '--config.data.palette=3',
    '--config.train.steps=8',
  )


def colours_in(path):
  with Image.open(path) as image:
    return {tuple(colour) for colour in np.asarray(image.convert('RGB')).reshape(-1, 3)}


@pytest.mark.slow
def test_grids_and_samples_have_the_palettes_colours(folder):
  allowed = {*map(tuple, COLOURS.tolist()), (128, 128, 128)}  # and the gaps
  sampled = '--config.train.sample_every=8'
  run('train', *TINY, *flags(folder), sampled, f'--workdir={folder}/run')
  assert colours_in(folder / 'run' / 'samples' / '00000008.png') == allowed
  run('sample', f'--workdir={folder}/run', '--num=9', f'--out={folder}/x.png')
  assert colours_in(folder / 'x.png') == allowed
  task = ('--task=complete', '--num=2', '--draws=1', f'--out={folder}/completed.png')
  run('sample', f'--workdir={folder}/run', *task)
  assert colours_in(folder / 'completed.png') > allowed - {(128, 128, 128)}
  more = ('--num_samples=8', '--metrics=bits_per_dim,evaluations')
  printed = run('evaluate', f'--workdir={folder}/run', *more)
  assert 'of palette indices, not of colours' in printed
  (picture,) = (folder / 'run' / 'evaluations').glob('*.png')
  assert colours_in(picture) == allowed


@pytest.mark.parametrize(
  'more, message',
  [
    (
      TINY_DIFFUSION,
      'diffusion adds noise to pixel values, but with data.palette=3 pixels are indices',
    ),
    (
      (*TINY, '--config.ordering.size=1', '--config.head.name=logistic_mixture'),
      "head 'logistic_mixture' is over ordered values; a palette has no order",
    ),
    ((*TINY, '--config.data.palette=1'), 'data.palette must be 0 (off) or in [2, 65,536], got 1'),
  ],
)
def test_settings_that_do_not_suit_a_palette_are_refused(folder, more, message):
  line = refused('train', *flags(folder), *more, f'--workdir={folder}/refused')
  assert message in line
  assert not (folder / 'refused').exists()
