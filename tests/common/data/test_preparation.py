"""A prepared dataset is complete or absent, even if processes are killed or compete."""

import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from common.config import ConfigError
from common.data import pipeline, preparation
from common.data.builders import BUILDERS

PREPARE = """
import sys, time
from common.data import preparation
from common.data.builders import digits
whole = digits.Digits._generate_examples
def slow(self, split):
  for n, example in enumerate(whole(self, split)):
    if n == int(sys.argv[2]):
      print('half way', file=sys.__stdout__, flush=True)
      time.sleep(float(sys.argv[3]))
    yield example
digits.Digits._generate_examples = slow
preparation.prepare({'name': 'digits', 'dir': sys.argv[1]}, network=False)
print('done')
"""


def start(folder: pathlib.Path, at: int, seconds: float) -> subprocess.Popen:
  """Prepares digits in another process, which pauses at example `at` of every split."""
  command = [sys.executable, '-c', PREPARE, str(folder), str(at), str(seconds)]
  return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def test_a_preparation_that_was_killed_is_not_taken_for_finished(tmp_path):
  process = start(tmp_path, at=100, seconds=60)
  assert process.stdout.readline() == 'half way\n'
  process.send_signal(signal.SIGKILL)
  process.wait()
  settings = {'name': 'digits', 'dir': str(tmp_path)}
  folder = preparation.location(settings)
  assert os.listdir(folder.parent)  # a temporary folder is left
  assert not folder.exists()
  data = pipeline.load(settings)
  assert sum(map(len, data.splits.values())) == 1797


def test_two_processes_can_prepare_the_same_dataset(tmp_path):
  processes = [start(tmp_path, at=100, seconds=0.2) for _ in range(2)]
  for process in processes:
    output, _ = process.communicate()
    assert process.returncode == 0, output
  settings = {'name': 'digits', 'dir': str(tmp_path)}
  folder = preparation.location(settings)
  assert [path.name for path in folder.parent.iterdir()] == [folder.name]
  assert len(pipeline.load(settings).splits['test'].gather(np.arange(166))['x']) == 166


def test_the_slower_of_two_processes_uses_the_dataset_of_the_faster(tmp_path, monkeypatch):
  settings = {'name': 'digits', 'dir': str(tmp_path / 'ours')}
  folder = preparation.location(settings)
  theirs = preparation.prepare({'name': 'digits', 'dir': str(tmp_path / 'theirs')}, network=False)
  generate = BUILDERS['digits']._generate_examples

  def overtaken(self, split):
    if not folder.exists():
      shutil.copytree(theirs, folder)
      (folder / 'theirs').touch()
    return generate(self, split)

  monkeypatch.setattr(BUILDERS['digits'], '_generate_examples', overtaken)
  assert preparation.prepare(settings, network=False) == folder
  assert (folder / 'theirs').exists()
  assert not list(folder.parent.glob('incomplete*'))


def test_a_folder_without_its_description_is_prepared_again(tmp_path):
  settings = {'name': 'digits', 'dir': str(tmp_path)}
  folder = preparation.prepare(settings, network=False)
  (folder / 'dataset_info.json').unlink()
  assert not preparation.is_prepared(folder)
  assert len(pipeline.load(settings).splits['train']) == 1445


@pytest.fixture
def prepared(tmp_path) -> tuple[dict, pathlib.Path]:
  settings = {'name': 'digits', 'dir': str(tmp_path)}
  folder = preparation.prepare(settings, network=False)
  (shard,) = folder.glob('*test.array_record*')
  return settings, shard


@pytest.mark.parametrize('in_memory', [True, False])
@pytest.mark.parametrize('share', [0.5, 0.0])
def test_a_truncated_file_is_named(prepared, share, in_memory):
  settings, shard = prepared
  shard.write_bytes(shard.read_bytes()[: int(share * shard.stat().st_size)])
  test = pipeline.load(settings, in_memory).splits['test']
  with pytest.raises(
    ConfigError, match=f'{shard.parent} is damaged; delete it and prepare the dataset again'
  ):
    test.gather(np.arange(166))


def test_a_flipped_bit_never_changes_images_unnoticed(prepared):
  """It is noticed, or it lies in the padding that fills the blocks of ArrayRecord."""
  settings, shard = prepared
  data = shard.read_bytes()
  expected = pipeline.load(settings).splits['test'].gather(np.arange(166))
  noticed = 0
  for offset in np.random.default_rng(0).permutation(np.flatnonzero(list(data)))[:30]:
    shard.write_bytes(data[:offset] + bytes([data[offset] ^ 1 << offset % 8]) + data[offset + 1 :])
    try:
      found = pipeline.load(settings).splits['test'].gather(np.arange(166))
    except ConfigError as error:
      assert 'is damaged; delete it and prepare the dataset again' in str(error)
      noticed += 1
    else:
      assert all(np.array_equal(found[key], expected[key]) for key in expected)
  assert noticed >= 25


def test_a_missing_file_is_named(prepared):
  settings, shard = prepared
  shard.unlink()
  with pytest.raises(
    ConfigError, match=f'{shard.name} is missing; delete .* and prepare the dataset again'
  ):
    pipeline.load(settings)


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
  (tmp_path / 'file').touch()
  start = time.monotonic()
  with pytest.raises(ConfigError, match=r'cannot prepare digits in .*/file/twofold/digits/1.0.0: '):
    pipeline.load({'name': 'digits', 'dir': str(tmp_path / 'file')})
  assert time.monotonic() - start < 5


def test_the_default_folder_is_that_of_tfds(tmp_path, monkeypatch):
  monkeypatch.setenv('TFDS_DATA_DIR', str(tmp_path))
  assert preparation.location({'name': 'mnist', 'dir': ''}) == tmp_path / 'twofold/mnist/1.0.0'
  monkeypatch.delenv('TFDS_DATA_DIR')
  home = pathlib.Path('~/tensorflow_datasets/twofold/mnist/1.0.0').expanduser()
  assert preparation.location({'name': 'mnist'}) == home
