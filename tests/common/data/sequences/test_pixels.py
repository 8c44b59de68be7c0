"""Images as sequences: the order of the pixels, the class at the end, and the splits."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from autoregressive.method import build
from common.config import ConfigError
from common.data import pipeline
from common.data.builders import BUILDERS, downloads
from common.data.builders.sequences import pixels
from common.evaluation.evaluate import evaluate
from common.method import Context
from experiments import families
from tests.cases import evaluation_settings
from tests.common.data.published import test_idx

SETTINGS = evaluation_settings(batch_size=128, num_samples=4)


def everything(source):
  return source.gather(np.arange(len(source)))


def sequential(folder, permutation):
  settings = {'name': 'sequential_digits', 'permutation': permutation, 'dir': str(folder)}
  return settings, pipeline.load(settings)


def test_the_inverse_permutation_gives_back_the_images_of_each_split(digits, tmp_path):
  settings, data = sequential(tmp_path, 5)
  expected = BUILDERS['sequential_digits'].expected(settings)
  assert {key: getattr(data.spec, key) for key in expected} == expected
  assert (data.spec.shape, data.spec.levels, data.spec.num_classes) == ((65,), 27, 0)
  inverse = np.argsort(pixels.pixel_order(64, 5))
  for split, images in digits.splits.items():
    found, images = everything(data.splits[split]), everything(images)
    assert (found['x'].dtype, found['counted'].dtype) == (np.uint8, np.bool_)
    restored = found['x'][:, :-1][:, inverse].reshape(-1, 8, 8, 1)
    np.testing.assert_array_equal(restored, images['x'])
    np.testing.assert_array_equal(found['x'][:, -1], 17 + images['label'])
    assert found['counted'][:, -1].all() and not found['counted'][:, :-1].any()


def test_one_seed_is_one_order():
  orders = [pixels.pixel_order(784, seed) for seed in (1, 1, 2)]
  assert [sorted(order) for order in orders] == [list(range(784))] * 3
  np.testing.assert_array_equal(orders[0], orders[1])
  assert (orders[0] != orders[2]).mean() > 0.9 and (orders[0] != np.arange(784)).mean() > 0.9
  np.testing.assert_array_equal(pixels.pixel_order(784, 0), np.arange(784))


@pytest.fixture
def tiny(tmp_path, monkeypatch):
  """Registers 'tiny_sequential' of 40 + 10 images of ten classes; returns their settings."""
  sha256 = test_idx.write(tmp_path / 'raw', test_idx.arrays())

  def body(namespace):
    namespace['name'] = 'tiny_sequential'
    namespace['published'] = pixels.SequentialMnist.published._replace(sha256=sha256)
    namespace['num_validation'] = 8

  kind = types.new_class('Tiny', (pixels.SequentialMnist,), {'skip_registration': True}, body)
  monkeypatch.setitem(BUILDERS, 'tiny_sequential', kind)
  folders = {'dir': str(tmp_path / 'data'), 'source': str(tmp_path / 'raw')}
  return {'name': 'tiny_sequential', 'permutation': 0} | folders


def test_mnist_is_read_in_raster_order_and_keeps_its_splits(tiny):
  spec, splits, *_ = pipeline.load(tiny)
  assert (spec.shape, spec.levels, spec.dtype) == ((31,), 266, np.uint16)
  assert {k: len(v) for k, v in splits.items()} == {'train': 32, 'validation': 8, 'test': 10}
  x, label, test_x, test_label = test_idx.arrays().values()

  def rows(x, label):
    return {(*image.reshape(-1).tolist(), 256 + int(k)) for image, k in zip(x, label, strict=True)}

  found = {name: set(map(tuple, everything(s)['x'].tolist())) for name, s in splits.items()}
  assert found['test'] == rows(test_x, test_label)
  assert found['train'] | found['validation'] == rows(x, label)
  assert not found['train'] & found['validation']


@pytest.mark.parametrize('name', ['sequential_mnist', 'sequential_fashion_mnist'])
def test_sets_that_are_not_prepared_name_their_own_command(name, tmp_path, monkeypatch):
  monkeypatch.setattr(downloads, 'is_complete', lambda folder, published: False)
  settings = {'name': name, 'dir': str(tmp_path), 'permutation': 3}
  with pytest.raises(ConfigError, match=f'prepare_data --dataset={name} --permutation=3'):
    pipeline.load(settings)
  expected = BUILDERS[name].expected(settings)
  assert (expected['shape'], expected['levels'], expected['num_train']) == ((785,), 266, 55_000)


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    ({'permutation': -1}, r'data.permutation=-1 must be in \[0, 4294967296\)'),
    ({'permutation': 'random'}, "data.permutation.*'random'"),
    ({'palette': 8}, 'data.palette=8 is for images, and sequential_digits holds none'),
    ({'flip': True}, 'data.flip=True mirrors images, and sequential_digits holds none'),
    ({'train_to': 'test'}, "data.train_to='test' is for time series and images"),
    ({'source': 'x'}, "data.source='x' does not apply to sequential_digits"),
  ],
)
def test_bad_settings_are_refused_in_one_line(changes, message):
  with pytest.raises(ConfigError, match=message) as error:
    config = families.load_config(
      'configs/autoregressive/tcn.py:sequential_digits',
      {f'data.{k}': v for k, v in changes.items()},
    )
    pipeline.load(config['data'])
  assert '\n' not in str(error.value)


def test_sequences_are_written_as_dots_and_a_digit():
  tokenizer = pixels.make_tokenizer(17)
  text = '\u2800\u2810\u2801' + '7'
  np.testing.assert_array_equal(tokenizer.encode(text), [0, 16, 1, 17 + 7])
  assert tokenizer.decode([0, 16, 1, 17 + 7]) == text
  assert pixels.make_tokenizer(256).encode('\u28ff0').tolist() == [255, 256]


@pytest.mark.slow
def test_a_small_network_reads_digits(tmp_path):
  _, data = sequential(tmp_path, 1)
  changes = {'network.width': 16, 'network.layers': 3}
  config = families.load_config('configs/autoregressive/tcn.py:permuted_digits', changes)
  method = build(config, data.spec)
  train = everything(data.splits['train'])
  params, _ = jax.jit(method.init)(jax.random.key(0), {k: v[:1] for k, v in train.items()})
  optimizer = optax.adam(1e-2)

  def step(carry, index):
    params, state = carry
    context = Context(jnp.zeros((), jnp.int32), {}, True, index, len(index))
    batch = {key: jnp.asarray(values)[index] for key, values in train.items()}

    def loss(params):
      return method.loss(params, (), batch, jax.random.key(0), context)[0]

    updates, state = optimizer.update(jax.grad(loss)(params), state)
    return (optax.apply_updates(params, updates), state), None

  indices = np.random.default_rng(0).integers(0, len(train['x']), (160, 32))
  run = jax.jit(lambda params: jax.lax.scan(step, (params, optimizer.init(params)), indices)[0][0])
  found = evaluate(method, run(params), data, SETTINGS, jax.random.key(0), ['accuracy'])
  assert found.measures['accuracy'].value > 0.5  # ten classes: a guess has 0.1
  assert '166 tokens' in found.measures['accuracy'].note
