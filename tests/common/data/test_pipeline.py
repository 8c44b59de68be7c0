"""Batches depend only on seed and step, and contain every example once per epoch."""

import dataclasses
import itertools
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from common.config import ConfigError
from common.data import order, pipeline
from common.data.sources import GivenSource, Source
from common.data.spec import DataSpec


class Numbers(Source):
  """A split whose examples are their own indices; it counts how often it is read."""

  def __init__(self, size: int):
    self.size = size
    self.num_reads = 0

  def __len__(self) -> int:
    return self.size

  def gather(self, indices: np.ndarray) -> dict[str, np.ndarray]:
    self.num_reads += 1
    return {'x': indices.reshape(-1, 1, 1, 1), 'label': indices.astype(np.int32)}


def numbers(size: int) -> pipeline.Data:
  spec = DataSpec('numbers', 'image', (1, 1, 1), 256, num_train=size)
  return pipeline.Data(spec, {'train': Numbers(size)})


def labels(data: pipeline.Data, chunks, **settings) -> np.ndarray:
  settings = dict(seed=0, batch_size=8) | settings
  return np.concatenate(
    [batch['label'] for batch in pipeline.train_batches(data, chunks=chunks, **settings)]
  )


def same(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> None:
  assert a.keys() == b.keys()
  for key in a:
    assert a[key].dtype == b[key].dtype
    np.testing.assert_array_equal(a[key], b[key])


def test_a_batch_depends_only_on_seed_and_step(digits):
  settings = dict(seed=3, batch_size=32)
  from_0 = list(pipeline.train_batches(digits, chunks=[(0, 5), (5, 60), (65, 5)], **settings))
  from_40 = list(pipeline.train_batches(digits, chunks=[(40, 3), (43, 27)], **settings))
  one, other = (
    {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
    for parts in (from_0, from_40)
  )
  same({key: array[40:] for key, array in one.items()}, other)
  for step in (0, 44, 45, 46, 69):  # the first epoch ends within step 45
    batch = pipeline.train_batch(digits, 3, step, 32)
    same({key: array[step] for key, array in one.items()}, batch)
  assert one['x'].shape == (70, 32, 8, 8, 1)
  assert one['x'].dtype == np.uint8
  assert one['label'].dtype == np.int32


def test_images_keep_their_labels(digits):
  train = digits.splits['train'].gather(np.arange(digits.spec.num_train))
  known = {x.tobytes(): label for x, label in zip(train['x'], train['label'], strict=True)}
  batch = pipeline.train_batch(digits, 0, 7, 256)
  assert [known[x.tobytes()] for x in batch['x']] == batch['label'].tolist()


@pytest.mark.parametrize(('size', 'batch_size'), [(13, 4), (12, 4), (3, 8), (1, 5), (500, 16)])
def test_every_example_occurs_once_per_epoch_and_epochs_differ(size, batch_size):
  steps = -(-3 * size // batch_size)
  order = labels(numbers(size), [(0, steps)], batch_size=batch_size).reshape(-1)[: 3 * size]
  epochs = order.reshape(3, size)
  for epoch in epochs:
    assert sorted(epoch.tolist()) == list(range(size))
  if size >= 12:
    assert len({tuple(epoch) for epoch in epochs.tolist()}) == 3


def test_no_two_seeds_share_the_order_of_an_epoch():
  epochs = [
    tuple(order.train_indices(seed, epoch * 50, (epoch + 1) * 50, 50).tolist())
    for seed in (-1, 0, 1, 2, 2**32)
    for epoch in range(5)
  ]
  assert len(set(epochs)) == len(epochs)


def test_shuffling_is_uniform():
  """Each of 4 examples is first in a quarter of 4,000 epochs, within four standard deviations."""
  first = order.train_indices(0, 0, 16_000, 4).reshape(-1, 4)[:, 0]
  np.testing.assert_allclose(np.bincount(first) / 4000, 0.25, atol=4 * np.sqrt(0.1875 / 4000))


def test_the_order_of_examples_never_changes():
  assert order.train_indices(0, 0, 6, 1797).tolist() == [1051, 998, 162, 670, 664, 1492]
  assert order.train_indices(7, 1797, 1803, 1797).tolist() == [977, 1407, 1296, 1090, 508, 1490]


def test_flips_mirror_images_by_seed_epoch_and_image(digits):
  """Against the plain batches: an image is either the same or mirrored, also after a resume."""
  data, size = digits._replace(flip=True), digits.spec.num_train
  flips = order.train_flips(3, 0, 3200, size).reshape(100, 32)
  [plain] = pipeline.train_batches(digits, seed=3, batch_size=32, chunks=[(0, 100)])
  mirrored = plain['x'][..., ::-1, :]  # [steps, batch, height, width, channels]
  expected = plain | {'x': np.where(flips[..., None, None, None], mirrored, plain['x'])}
  whole = list(pipeline.train_batches(data, seed=3, batch_size=32, chunks=[(0, 40), (40, 60)]))
  same({k: np.concatenate([part[k] for part in whole]) for k in whole[0]}, expected)
  [part] = pipeline.train_batches(
    data, seed=3, batch_size=32, chunks=[(77, 2)], rows=np.arange(16, 32)
  )
  same(part, {k: v[77:79, 16:] for k, v in expected.items()})


def test_half_of_the_images_are_flipped_anew_in_every_epoch():
  """In two epochs and two seeds, each within four standard deviations of a half."""
  size = 2000
  flips = {}
  for seed in (0, 1):
    positions = order.train_indices(seed, 0, 2 * size, size).reshape(2, size)
    drawn = order.train_flips(seed, 0, 2 * size, size).reshape(2, size)
    for epoch in (0, 1):
      flips[seed, epoch] = drawn[epoch][np.argsort(positions[epoch])]  # by image
  shares = [flip.mean() for flip in flips.values()]
  shares += [(a == b).mean() for a, b in itertools.combinations(flips.values(), 2)]
  np.testing.assert_allclose(shares, 0.5, atol=4 * 0.5 / np.sqrt(size))


@pytest.fixture(scope='module')
def tokens():
  """Windows of 8 + 1 numbers of the stream 0, 1, 2, ..., as text is stored."""
  x = 8 * np.arange(50)[:, None] + np.arange(9)
  spec = DataSpec('numbers', 'text', (9,), 1000, num_train=50)
  return pipeline.Data(spec, {'train': GivenSource({'x': x})}, shift=True)


def test_shifted_windows_are_pieces_of_the_stream(tokens):
  [found] = pipeline.train_batches(tokens, seed=3, batch_size=10, chunks=[(0, 10)])
  x = found['x'].reshape(100, 9)
  np.testing.assert_array_equal(x, x[:, :1] + np.arange(9))
  first = order.train_indices(3, 0, 100, 50) * 8
  shifts = x[:, 0] - first
  assert set(shifts[first < 392]) == set(range(8)) and not shifts[first == 392].any()
  [part] = pipeline.train_batches(
    tokens, seed=3, batch_size=10, chunks=[(7, 2)], rows=np.arange(4, 7)
  )
  same(part, {'x': found['x'][7:9, 4:7]})


def test_shifts_are_uniform_and_anew_in_every_epoch():
  size, length = 2000, 5
  shifts = {}
  for epoch in (0, 1):
    first, last = epoch * size, (epoch + 1) * size
    drawn = order.train_shifts(0, first, last, size, length)
    shifts[epoch] = drawn[np.argsort(order.train_indices(0, first, last, size))]
  share, error = 1 / length, np.sqrt(0.16 / size)
  for drawn in shifts.values():
    np.testing.assert_allclose(np.bincount(drawn) / size, share, atol=4 * error)
  assert abs((shifts[0] == shifts[1]).mean() - share) < 4 * error


def test_shifts_need_a_stream():
  with pytest.raises(ConfigError, match=r'data.shift=True is for windows of a stream.*digits'):
    pipeline.load({'name': 'digits', 'shift': True})


def test_permutations_need_a_sequential_set():
  with pytest.raises(ConfigError, match=r'data.permutation=3 is the order .*, not of digits'):
    pipeline.load({'name': 'digits', 'permutation': 3})


def test_flips_need_images():
  with pytest.raises(ConfigError, match=r'data.flip=True mirrors images, and text holds none'):
    pipeline.load({'name': 'text', 'source': 'x.txt', 'flip': True})


def test_training_on_all_but_the_test_split(digits, tmp_path):
  whole = pipeline.load({'name': 'digits', 'dir': str(tmp_path), 'train_to': 'test'})
  parts = [digits.splits[split] for split in ('train', 'validation')]
  sizes = [len(part) for part in parts]
  assert whole.spec == dataclasses.replace(digits.spec, num_train=sum(sizes))
  train = whole.splits['train']
  assert len(train) == sum(sizes) and train.in_memory
  # In any order, across the seam between the two.
  indices = np.array([sizes[0], 3, sum(sizes) - 1, sizes[0] - 1, 3])
  found, (first, second) = (
    train.gather(indices),
    (part.gather(np.arange(len(part))) for part in parts),
  )
  for key, values in found.items():
    np.testing.assert_array_equal(values, np.concatenate([first[key], second[key]])[indices])
    assert values.dtype == first[key].dtype
  assert pipeline.fingerprint(whole) != pipeline.fingerprint(digits)
  assert train.gather(np.arange(0))['x'].shape == (0, *digits.spec.shape)
  with pytest.raises(IndexError, match='indices must be in'):
    train.gather(np.array([-1, 2]))


@pytest.mark.parametrize(
  ('settings', 'message'),
  [
    ({'name': 'digits', 'train_to': 'end'}, "'test' trains on all but the test split"),
    ({'name': 'text', 'source': 'x.txt', 'train_to': 'test'}, 'text holds neither; leave it out'),
  ],
)
def test_an_end_of_training_that_does_not_suit_is_refused(settings, message):
  with pytest.raises(ConfigError, match=message):
    pipeline.load(settings)


@pytest.mark.parametrize('rows', [np.arange(8, 16), np.array([0, 1, 8, 9]), slice(4)], ids=str)
def test_a_process_reads_its_rows_of_the_global_batch(digits, rows):
  settings = dict(seed=1, batch_size=16, chunks=[(3, 4), (90, 2)])
  whole = pipeline.train_batches(digits, **settings)
  parts = pipeline.train_batches(digits, rows=rows, **settings)
  for expected, part in zip(whole, parts, strict=True):
    same(part, {key: value[:, rows] for key, value in expected.items()})


def test_batches_from_disk_equal_those_from_memory(digits, tmp_path):
  disk = pipeline.load({'name': 'digits', 'dir': str(tmp_path)}, in_memory=False)
  assert disk.spec == digits.spec
  settings = dict(seed=5, batch_size=24, chunks=[(58, 3), (61, 1)])
  for a, b in zip(
    pipeline.train_batches(disk, **settings),
    pipeline.train_batches(digits, **settings),
    strict=True,
  ):
    same(a, b)
  for split in ('validation', 'test'):
    for a, b in zip(
      pipeline.evaluation_batches(disk.splits[split], 100),
      pipeline.evaluation_batches(digits.splits[split], 100),
      strict=True,
    ):
      same(a, b)


def test_evaluation_reads_every_example_once_in_order(digits):
  test = digits.splits['test']
  batches = list(pipeline.evaluation_batches(test, 64))
  assert [batch['weight'].sum() for batch in batches] == [64, 64, 38]
  assert all(batch['x'].shape == (64, 8, 8, 1) for batch in batches)
  assert batches[0]['weight'].dtype == np.float32
  for key, expected in test.gather(np.arange(len(test))).items():
    seen = np.concatenate([batch[key][batch['weight'] == 1] for batch in batches])
    np.testing.assert_array_equal(seen, expected)


def test_only_a_few_batches_are_read_ahead():
  data = numbers(100)
  batches = pipeline.train_batches(
    data, seed=0, batch_size=4, chunks=zip(itertools.count(0), itertools.repeat(1))
  )
  next(batches)
  time.sleep(0.3)
  assert 2 <= data.splits['train'].num_reads <= 2 + pipeline.CHUNKS_AHEAD
  batches.close()


def threads() -> list[str]:
  return [thread.name for thread in threading.enumerate() if thread.name == 'train_batches']


def test_the_thread_ends_with_its_consumer(digits):
  batches = pipeline.train_batches(digits, seed=0, batch_size=4, chunks=[(0, 1)] * 100)
  next(batches)
  assert threads()
  batches.close()
  assert not threads()
  assert len(list(pipeline.train_batches(digits, seed=0, batch_size=4, chunks=[(0, 1)]))) == 1
  assert not threads()


def test_an_error_in_the_thread_reaches_the_consumer():
  def chunks():
    yield 0, 2
    raise OSError('the disk is gone')

  batches = pipeline.train_batches(numbers(10), seed=0, batch_size=4, chunks=chunks())
  assert next(batches)['label'].shape == (2, 4)
  with pytest.raises(OSError, match='the disk is gone'):
    next(batches)
  assert not threads()


def test_a_batch_in_memory_costs_less_than_a_millisecond():
  """128 of 60,000 images of 28×28, including the shuffling of an epoch; measured: 0.05 ms."""
  size = 60_000
  data = numbers(size)
  images = np.zeros((size, 28, 28, 1), np.uint8)
  data.splits['train'].gather = lambda indices: {'x': np.take(images, indices, axis=0)}
  chunks = [(20 * i, 20) for i in range(25)]

  def seconds() -> float:
    start = time.perf_counter()
    assert len(list(pipeline.train_batches(data, seed=0, batch_size=128, chunks=chunks))) == 25
    return time.perf_counter() - start

  assert min(seconds() for _ in range(3)) / 500 < 1e-3


def test_neither_tensorflow_nor_torch_is_imported(tmp_path):
  code = (
    'import sys\n'
    'from common.data import pipeline\n'
    'data = pipeline.load({"name": "digits", "dir": sys.argv[1]})\n'
    'next(pipeline.train_batches(data, seed=0, batch_size=8, chunks=[(0, 2)]))\n'
    'print({"tensorflow", "torch", "sklearn"} & set(sys.modules))\n'
  )
  pipeline.load({'name': 'digits', 'dir': str(tmp_path)})  # preparing imports scikit-learn
  run = subprocess.run(
    [sys.executable, '-c', code, str(tmp_path)], capture_output=True, text=True, check=True
  )
  assert run.stdout.strip() == 'set()'
