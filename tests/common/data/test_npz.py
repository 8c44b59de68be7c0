"""A NumPy file (.npz) as a dataset."""

import io
import os
import zipfile

import numpy as np
import pytest

from common.config import ConfigError
from common.data import pipeline


def images(count: int = 40, *shape: int) -> np.ndarray:
  return np.random.default_rng(0).integers(0, 256, (count, *(shape or (4, 3, 2))), np.uint8)


def load(tmp_path, **arrays) -> pipeline.Data:
  np.savez(tmp_path / 'set.npz', **arrays)
  return load_file(tmp_path)


def load_file(tmp_path) -> pipeline.Data:
  return pipeline.load(
    {'name': 'npz', 'dir': str(tmp_path / 'data'), 'source': str(tmp_path / 'set.npz')}
  )


def contents(data: pipeline.Data) -> dict[bytes, int | None]:
  found = {}
  for source in data.splits.values():
    examples = source.gather(np.arange(len(source)))
    labels = examples['label'].tolist() if 'label' in examples else [None] * len(source)
    found |= {x.tobytes(): label for x, label in zip(examples['x'], labels, strict=True)}
  return found


def test_images_and_labels_are_kept(tmp_path):
  x, y = images(), np.arange(40) % 7
  data = load(tmp_path, x=x, y=y)
  assert (data.spec.shape, data.spec.levels, data.spec.num_classes) == ((4, 3, 2), 256, 7)
  assert contents(data) == {a.tobytes(): b for a, b in zip(x, y.tolist(), strict=True)}


def test_labels_and_channels_may_be_left_out(tmp_path):
  data = load(tmp_path, x=images(40, 5, 6))
  assert (data.spec.shape, data.spec.num_classes) == ((5, 6, 1), 0)
  assert contents(data) == {a.tobytes(): None for a in images(40, 5, 6)}


def test_latents_are_kept_in_float32(tmp_path):
  x, y = np.random.default_rng(0).normal(size=(40, 4, 4, 2)), np.arange(40) % 2
  data = load(tmp_path, latents=x, y=y)
  assert (data.spec.shape, data.spec.levels, data.spec.dtype) == ((4, 4, 2), 0, np.float32)
  assert contents(data) == {
    a.tobytes(): b for a, b in zip(x.astype(np.float32), y.tolist(), strict=True)
  }


def test_a_file_that_changed_is_read_again_and_examples_keep_their_splits(tmp_path):
  first = load(tmp_path, x=images(300))
  second = load(tmp_path, x=np.concatenate([images(300, 4, 3, 2)[::-1], images(1, 4, 3, 2) + 1]))
  assert len(contents(second)) == 301
  for split in first.splits:
    before, after = (
      {x.tobytes() for x in data.splits[split].gather(np.arange(len(data.splits[split])))['x']}
      for data in (first, second)
    )
    assert before <= after


@pytest.mark.parametrize(
  ('arrays', 'message'),
  [
    ({'images': images()}, 'must hold the images as an array x, .*, got images'),
    ({'x': images(), 'latents': images() / 255}, 'or floats as an array latents, got latents, x'),
    ({'latents': images()}, r'latents must be floats .*, got uint8 \[40, 4, 3, 2\]'),
    ({'latents': images() / 255 + [0, np.nan]}, 'latents must be finite in float32, 480 values'),
    ({'latents': images() * 1e37}, 'latents must be finite in float32'),
    ({'x': images() / 255}, r'x must be uint8 .*, got float64 \[40, 4, 3, 2\]'),
    ({'x': images(40, 5)}, r'x must be uint8 \[n, h, w, c\] .*, got uint8 \[40, 5\]'),
    ({'x': images()[:0]}, r'x must be .*, got uint8 \[0, 4, 3, 2\]'),
    (
      {'x': images(), 'y': np.arange(39)},
      r'y must be 40 integers in \[0, 1,000,000\), got int64 \[39\]',
    ),
    ({'x': images(), 'y': np.arange(40) - 1}, r'y must be 40 integers in .*, got -1 among them'),
    (
      {'x': images(), 'y': np.arange(40) * 50_000_000},
      r'y must be 40 integers in \[0, 1,000,000\), got 1950000000 among them',
    ),
    ({'x': images().astype(np.uint16)}, r'x must be uint8 .*, got uint16 \[40, 4, 3, 2\]'),
    ({'x': np.full((40, 4, 3, 2), np.nan)}, r'x must be uint8 .*, got float64'),
    (
      {'x': images(), 'y': np.arange(40) / 2},
      r'y must be 40 integers in \[0, 1,000,000\), got float64 \[40\]',
    ),
    (
      {'x': images()[:2]},
      'at least 3 different examples, one for each of train, validation and test, got 2',
    ),
    (
      {'x': np.array([{'a': 1}], object)},
      'set.npz as an .npz file: it holds Python objects, which could run code; save arrays of',
    ),
  ],
)
def test_unsuitable_arrays_are_refused(tmp_path, arrays, message):
  with pytest.raises(ConfigError, match=message):
    load(tmp_path, **arrays)


def test_the_classes_are_the_labels_that_occur(tmp_path):
  x, y = images(), np.where(np.arange(40) % 2, 7, 3)
  data = load(tmp_path, x=x, y=y)
  assert data.spec.class_names == ('3', '7')
  assert contents(data) == {
    a.tobytes(): k % 2 for a, k in zip(x, np.arange(40).tolist(), strict=True)
  }


def test_a_shape_that_the_file_does_not_have_is_refused(tmp_path):
  """The header promises 8 TB."""
  buffer = io.BytesIO()
  header = {'descr': '|u1', 'fortran_order': False, 'shape': (10**7, 1000, 800)}
  np.lib.format.write_array_header_1_0(buffer, header)
  with zipfile.ZipFile(tmp_path / 'set.npz', 'w') as file:
    file.writestr('x.npy', buffer.getvalue() + bytes(100))
  with pytest.raises(ConfigError, match=r'cannot read .*set.npz as an .npz file: ') as error:
    load_file(tmp_path)
  assert '\n' not in str(error.value)


def test_other_arrays_of_the_file_are_not_read(tmp_path):
  data = load(tmp_path, x=images(), names=np.array([None], object))
  assert len(contents(data)) == 40


@pytest.mark.parametrize('kind', ['text', 'short', 'npy', 'empty'])
def test_other_files_are_refused(tmp_path, kind):
  path = tmp_path / 'set.npz'
  np.savez_compressed(path, x=images())
  data = {'text': b'no arrays', 'short': path.read_bytes()[:-200], 'empty': b''}.get(kind)
  if kind == 'npy':
    with path.open('wb') as file:
      np.save(file, images())
  else:
    path.write_bytes(data)
  with pytest.raises(
    ConfigError, match=r'set.npz must be a complete .npz file, as numpy.savez writes it'
  ):
    load_file(tmp_path)


def test_a_damaged_array_is_refused(tmp_path):
  path = tmp_path / 'set.npz'
  np.savez_compressed(path, x=images())
  data = bytearray(path.read_bytes())
  data[200:260] = bytes(60)
  path.write_bytes(data)
  with pytest.raises(ConfigError, match=r'cannot read .*set.npz as an .npz file: ') as error:
    load_file(tmp_path)
  assert '\n' not in str(error.value)


def test_a_missing_file_is_named(tmp_path):
  os.mkfifo(tmp_path / 'pipe.npz')
  with pytest.raises(ConfigError, match=r'pipe.npz. must be an .npz file'):
    pipeline.load({'name': 'npz', 'dir': str(tmp_path), 'source': str(tmp_path / 'pipe.npz')})
  with pytest.raises(ConfigError, match=r'cannot read data.source=.*set.npz.*: No such file'):
    load_file(tmp_path)
  with pytest.raises(ConfigError, match=r'data.name=npz needs data.source'):
    pipeline.load({'name': 'npz', 'dir': str(tmp_path), 'source': ''})
