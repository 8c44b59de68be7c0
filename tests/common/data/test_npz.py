"""A NumPy file (.npz) as a dataset."""

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
    ({'images': images()}, 'must hold the images as an array x, got images'),
    ({'x': images() / 255}, r'x must be uint8 .*, got float64 \[40, 4, 3, 2\]'),
    ({'x': images(40, 5)}, r'x must be uint8 \[n, h, w, c\] .*, got uint8 \[40, 5\]'),
    ({'x': images()[:0]}, r'x must be .*, got uint8 \[0, 4, 3, 2\]'),
    (
      {'x': images(), 'y': np.arange(39)},
      r'y must be 40 integers of at least 0, got int64 \[39\]',
    ),
    ({'x': images(), 'y': np.arange(40) - 1}, 'y must be 40 integers of at least 0, got -1'),
    (
      {'x': images(), 'y': np.arange(40) / 2},
      r'y must be 40 integers of at least 0, got float64 \[40\]',
    ),
    (
      {'x': images()[:2]},
      'at least 3 different examples, one for each of train, validation and test, got 2',
    ),
    ({'x': np.array([{'a': 1}], object)}, 'as an .npz file of plain arrays: Object arrays'),
  ],
)
def test_unsuitable_arrays_are_refused(tmp_path, arrays, message):
  with pytest.raises(ConfigError, match=message):
    load(tmp_path, **arrays)


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
  with pytest.raises(ConfigError, match=r'cannot read .*set.npz as an .npz file of plain arrays: '):
    load_file(tmp_path)


def test_a_missing_file_is_named(tmp_path):
  with pytest.raises(ConfigError, match=r'cannot read data.source=.*set.npz.*: No such file'):
    load_file(tmp_path)
  with pytest.raises(ConfigError, match=r'data.name=npz needs data.source'):
    pipeline.load({'name': 'npz', 'dir': str(tmp_path), 'source': ''})
