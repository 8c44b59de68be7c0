"""Metrics by name, on methods with known answers."""

import dataclasses
import math
import tracemalloc

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats
from sklearn import datasets

from common.config import ConfigError
from common.data.pipeline import Data
from common.data.spec import DataSpec, LatentSpec
from common.evaluation import evaluate, likelihood
from common.evaluation.images import classifiers, features, frechet
from common.evaluation.images import metrics as images
from common.evaluation.measures import Measure, proportion
from common.method import Likelihood, Samples
from tests.cases import evaluation_settings
from tests.common.data.latents.test_cache import Means
from tests.common.domains.toy import Split
from tests.toy import Functions

SETTINGS = evaluation_settings(batch_size=128, num_samples=300, extractor='mlp')
KEY = jax.random.key(0)


@pytest.fixture(scope='module')
def data():
  digits = datasets.load_digits()
  order = np.random.default_rng(0).permutation(len(digits.target))
  x = digits.images[order].astype(np.uint8)[..., None]
  label = digits.target[order].astype(np.int32)
  spec = DataSpec('digits', 'image', (8, 8, 1), 17, 10, tuple('0123456789'), num_train=1400)
  splits = {'train': slice(0, 1400), 'test': slice(1400, None)}
  return Data(spec, {k: Split(x=x[s], label=label[s]) for k, s in splits.items()})


def replay(data, wrong=0.0, noise=0.0, nll=None):
  """A method that returns test images of the requested class, except for a share of `wrong`."""
  arrays = data.splits['test'].arrays
  calls = []

  def sample(params, key, request):
    calls.append((request.num, np.asarray(request.label), dict(request.options)))
    rng = np.random.default_rng(np.asarray(jax.random.key_data(key)))
    label = np.where(rng.random(request.num) < wrong, (request.label + 1) % 10, request.label)
    x = np.stack([arrays['x'][rng.choice(np.flatnonzero(arrays['label'] == c))] for c in label])
    x = np.clip(np.round(x + noise * rng.normal(size=x.shape)), 0, 16)
    return Samples(jnp.asarray(x, jnp.uint8), 7)

  return Functions(None, None, sample, nll), calls


def measure(data, method, metrics, settings=SETTINGS, **changes):
  params = {'w': jnp.zeros((3, 4)), 'b': jnp.zeros(4)}
  return evaluate.evaluate(method, params, data, settings, KEY, metrics, **changes)


def test_agreement_is_the_share_of_samples_of_the_requested_class(data):
  good, _ = replay(data)
  half, _ = replay(data, wrong=0.5)
  found = measure(data, good, ['agreement']).measures['agreement']
  assert found.value >= 0.97 and 'SVM with accuracy 9' in found.note
  found = measure(data, half, ['agreement']).measures['agreement']
  assert abs(found.value - 0.5) < 4 * found.standard_error
  assert found.standard_error == pytest.approx(math.sqrt(0.25 / 300), rel=0.1)


def test_a_share_of_one_has_an_error():
  value, error, interval = proportion(100, 100)
  assert value == 1.0 and 0.005 < error < 0.03
  # Wilson's interval of n hits of n begins at n / (n + z²).
  assert interval == (pytest.approx(100 / (100 + 1.959964**2)), 1.0)
  # Two hits and two misses more: 3 of 10.
  assert proportion(1, 6)[:2] == (1 / 6, pytest.approx(math.sqrt(0.3 * 0.7 / 10)))


@pytest.mark.parametrize(('hits', 'total'), [(0, 10), (1, 10), (10, 10), (957, 1000), (0, 1)])
def test_the_interval_of_a_share_is_wilsons(hits, total):
  found = stats.binomtest(hits, total).proportion_ci(0.95, 'wilson')
  assert proportion(hits, total)[2] == pytest.approx((found.low, found.high), abs=1e-6)


def test_frechet_distance_grows_with_noise_and_comes_with_its_floor(data):
  """Real images are near the floor; noisy ones are many standard errors above it."""
  clean, noisy = (measure(data, replay(data, noise=n)[0], ['frechet']) for n in (0.0, 4.0))
  clean, noisy = (found.measures['frechet'] for found in (clean, noisy))
  floor = float(clean.note.split('floor ')[1].split(';')[0])
  assert clean.note.startswith('FD(mlp, n=300), floor ') and 'test accuracy 9' in clean.note
  assert clean.value < 3 * floor
  assert noisy.value > clean.value + 4 * (noisy.standard_error + clean.standard_error)


def test_the_least_distance_of_several_sets_of_samples(data):
  """Each set has its own draws; the first one is that of every other metric."""
  settings = SETTINGS | dict(num_samples=100, extractor='pixels')
  single = measure(data, replay(data)[0], ['frechet'], settings).measures['frechet']
  method, calls = replay(data)
  least = measure(data, method, ['frechet'], settings | dict(sample_sets=3)).measures['frechet']
  values = [float(v) for v in least.note.split('(', 1)[1].split(')')[0].split(', ')]
  assert least.note.startswith('least of 3 sets of samples (') and len(calls) == 4 + 1 + 1
  assert len(set(values)) == 3 and values[0] == pytest.approx(single.value, rel=5e-3)
  assert least.value == pytest.approx(min(values), rel=5e-3)
  assert least.value <= single.value


def test_all_training_images_can_be_the_reference(data):
  """All samples against all images, by hand; a floor is only known of half as many."""
  drawn = []
  method, _ = replay(data)

  def sample(params, key, request):
    found = method.sample(params, key, request)
    drawn.append(np.asarray(found.x))
    return found

  real = data.splits['train'].arrays
  num = len(real['x'])  # more than half of them
  settings = SETTINGS | dict(num_samples=num, batch_size=num, extractor='pixels')
  found = {
    name: measure(data, Functions(None, None, sample, None), ['frechet'], settings | changes)
    for name, changes in (('as_many', {}), ('all', {'reference': 'all'}))
  }
  found = {name: one.measures['frechet'] for name, one in found.items()}
  labelled = classifiers.labelled_images(real['x'], real['label'], real['x'], real['label'], 17)
  apply = features.extractor('pixels', labelled).apply
  by_hand = frechet.distance(apply(drawn[0]), apply(real['x']))
  assert found['all'].value == pytest.approx(by_hand, rel=1e-6)
  assert found['all'].note.startswith(f'FD(pixels, n={num}) from {num:,} training images, floor ')
  assert f' of n={num // 2};' in found['all'].note
  assert found['as_many'].note.startswith(f'FD(pixels, n={num // 2}), floor ')


def test_no_class_is_requested_from_a_method_without_labels(data):
  method, _ = replay(data)
  asked = []

  def sample(params, key, request):
    asked.append(request.label)
    return method.sample(params, key, request._replace(label=np.arange(request.num) % 10))

  found = measure(
    data, Functions(None, None, sample, None, labelled=False), ['agreement', 'frechet']
  )
  assert set(asked) == {None} and found.display.label is None
  assert found.measures['agreement'].value is None
  assert found.measures['frechet'].value > 0


def test_extractors_give_one_feature_vector_per_image(data):
  train, test = (data.splits[split].arrays for split in ('train', 'test'))
  arrays = [split[key] for split in (train, test) for key in ('x', 'label')]
  real = classifiers.labelled_images(*arrays, 17)
  pixels = features.extractor('pixels', real).apply(test['x'])
  assert pixels.shape == (397, 64) and pixels.min() == 0.0 and pixels.max() == 1.0
  classifier = classifiers.fit('mlp', real)
  hidden = features.extractor('mlp', real).apply(test['x'])
  logits = hidden @ classifier.model.coefs_[-1] + classifier.model.intercepts_[-1]
  assert np.array_equal(logits.argmax(1), classifier.predict(test['x']))
  assert classifiers.fit('mlp', classifiers.labelled_images(*arrays, 17)) is classifier


def test_large_images_are_compared_by_averages_of_their_pixels():
  np.testing.assert_allclose(
    features.area_weights(5, 2), [[0.4, 0.4, 0.2, 0, 0], [0, 0, 0.2, 0.4, 0.4]], rtol=1e-6
  )
  x = np.random.default_rng(0).integers(0, 256, (3, 32, 24, 3)).astype(np.uint8)
  real = classifiers.labelled_images(x, np.zeros(3, int), x, np.zeros(3, int), 256)
  found = features.extractor('pixels', real)
  assert (found.name, found.note) == ('pixels 16×16', '768 averages of pixels in [0, 1]')
  averaged = found.apply(x).reshape(3, 16, 16, 3)
  # A cell is two pixels high and one and a half wide.
  row = x[0, :2].astype(float).mean(0) / 255
  np.testing.assert_allclose(averaged[0, 0, 0], (row[0] + row[1] / 2) / 1.5, rtol=1e-5)
  np.testing.assert_allclose(averaged.mean((1, 2)), x.mean((1, 2)) / 255, rtol=1e-5)


def test_bits_per_dim_leaves_out_the_padding(data):
  """A likelihood of one nat per unit of the label gives its mean over the split in bits/dim."""
  label = data.splits['test'].arrays['label']

  def nll(params, batch, key):
    label = batch['label'].astype(jnp.float32)
    parts = {'one': label[:, None] - 1, 'two': jnp.full((*label.shape, 2), 0.5)}
    return Likelihood(label, jnp.full(label.shape, 0.5), parts=parts)

  method, _ = replay(data, nll=nll)
  found = measure(data, method, ['bits_per_dim'])
  bits, unit = found.measures['bits_per_dim'], 64 * math.log(2)
  assert bits.value == pytest.approx(label.mean() / unit, rel=1e-6)
  assert bits.standard_error == pytest.approx(label.std(ddof=1) / math.sqrt(397) / unit, rel=1e-6)
  assert f'estimation error ± {1.96 * 0.5 / math.sqrt(397) / unit:.2g}' in bits.note
  assert bits.parts['two'] == pytest.approx((0.5 / unit, 0.5 / unit))
  assert sum(map(sum, bits.parts.values())) == pytest.approx(bits.value, rel=1e-6)
  assert len(found.display.images) == 0  # no metric needed samples


def test_a_single_likelihood_has_no_known_error():
  alone = likelihood.summary(np.array([3.0]), np.array([0.5]), 4)
  assert alone.value == pytest.approx(3 / 4 / math.log(2)) and alone.standard_error is None
  assert alone.estimation_error == pytest.approx(0.5 / 4 / math.log(2))
  two = likelihood.summary(np.array([3.0, 5.0]), np.zeros(2), 4)
  assert two.standard_error == pytest.approx(1 / 4 / math.log(2))


def test_bits_per_dim_is_a_ratio_where_examples_differ_in_dimensions():
  # Two nats per dimension in both: no spread, though the nats differ.
  found = likelihood.summary(np.array([2.0, 6.0]), np.zeros(2), np.array([1.0, 3.0]))
  assert (found.value, found.standard_error) == (pytest.approx(2 / math.log(2)), 0.0)

  def nll(params, batch, key):
    dims = batch['x'][:, 0]
    return Likelihood(2 * dims, jnp.zeros(2), dims, {'one': dims[:, None], 'two': dims[:, None]})

  batches = [{'x': jnp.array([[1.0], [3.0]])}]
  found = likelihood.bits_per_dim(Functions(None, None, None, nll), {}, batches, 8, KEY)
  assert found.value == pytest.approx(2 / math.log(2))
  assert found.parts['one'] == found.parts['two'] == pytest.approx((1 / math.log(2),))


def test_samples_that_are_not_finite_cost_only_the_metrics_that_need_them(data):
  good, _ = replay(data)
  calls = []

  def sample(params, key, request):
    calls.append(request.num)
    drawn = good.sample(params, key, request)
    return drawn._replace(finite=jnp.arange(request.num) > 2)

  metrics = ['agreement', 'frechet', 'parameters', 'bits_per_dim']
  found = measure(data, Functions(None, None, sample, None), metrics)
  assert [found.measures[name].is_finite for name in metrics] == [False, False, True, True]
  assert found.measures['frechet'].note.startswith('3 of 128 samples are not finite')
  assert calls == [128] and not len(found.display.images)  # not drawn again for the next metric


def test_a_likelihood_that_is_not_finite_is_reported(data):
  method, _ = replay(
    data,
    nll=lambda params, batch, key: Likelihood(
      jnp.where(batch['label'] == 3, jnp.inf, 1.0), jnp.zeros(len(batch['x']))
    ),
  )
  found = measure(data, method, ['bits_per_dim', 'parameters']).measures
  threes = int((data.splits['test'].arrays['label'] == 3).sum())
  assert math.isnan(found['bits_per_dim'].value) and found['parameters'].value == 16.0
  assert found['bits_per_dim'].note == f'{threes} of 397 likelihoods are not finite'
  with pytest.raises(ValueError, match='1 of 2 likelihoods are not finite'):
    likelihood.summary(np.array([1.0, np.inf]), np.zeros(2), 4)


@pytest.mark.parametrize('counts', [(178, 20), (0, 60, 120)])
def test_classes_are_drawn_as_often_as_training_has_them(counts):
  """A perfect sampler is near the floor, which it would not be with as many of each class."""
  digits = datasets.load_digits()
  kept = np.concatenate([np.flatnonzero(digits.target == c)[:n] for c, n in enumerate(counts)])
  x, label = digits.images[kept].astype(np.uint8)[..., None], digits.target[kept].astype(np.int32)
  assert np.array_equal(np.bincount(label), counts)
  names = tuple('0123456789')[: len(counts)]
  spec = DataSpec('unequal', 'image', (8, 8, 1), 17, len(counts), names, num_train=len(x))
  split = Split(x=x, label=label)
  method, calls = replay(Data(spec, {'test': split}))
  metrics = ['frechet', 'agreement']
  found = measure(Data(spec, {'train': split, 'test': split}), method, metrics).measures
  floor = float(found['frechet'].note.split('floor ')[1].split(';')[0])
  assert found['frechet'].value < 3 * floor
  # In any beginning, each class is within one example of its share.
  asked = np.concatenate([label for _, label, _ in calls])
  share = np.arange(1, len(asked) + 1)[:, None] * np.array(counts) / sum(counts)
  assert (abs(np.cumsum(asked[:, None] == np.arange(len(counts)), 0) - share) < 1).all()
  smallest = min(filter(None, counts))
  told = f'; classes as frequent as in training ({smallest} to {max(counts)} examples)'
  assert all(measure.note.endswith(told) for measure in found.values())


def test_data_with_one_class_has_no_agreement(data):
  x = data.splits['train'].arrays['x']
  split = Split(x=x, label=np.zeros(len(x), np.int32))
  spec = DataSpec('one', 'image', (8, 8, 1), 17, 1, ('a',), num_train=len(x))
  one = Data(spec, {'train': split, 'test': split})
  found = measure(one, replay(one)[0], ['agreement']).measures['agreement']
  assert found == Measure(None, None, 'the data has only one class')
  with pytest.raises(ConfigError, match='two classes or more'):
    measure(one, replay(one)[0], ['frechet'])
  with pytest.raises(ConfigError, match='two classes or more'):
    evaluate.check_settings(SETTINGS, one)  # before training, when no metrics are chosen yet


def test_samples_are_in_proportion_and_in_order(data):
  method, calls = replay(data)
  settings = SETTINGS | dict(num_samples=300, batch_size=128)
  metrics = ['evaluations', 'seconds_per_sample', 'parameters']
  found = measure(data, method, metrics, settings, options={'steps': 3})
  assert {num for num, _, _ in calls} == {128}  # one shape, one compilation
  assert all(options == {'steps': 3} for _, _, options in calls)
  asked = np.concatenate([label for _, label, _ in calls])[:300]
  share = 300 * np.bincount(data.splits['train'].arrays['label']) / 1400
  assert (abs(np.bincount(asked) - share) < 1).all()
  assert found.display.images.shape == (80, 8, 8, 1) and found.display.columns == 8
  assert np.array_equal(found.display.label, np.repeat(np.arange(10), 8))
  assert found.measures['evaluations'].value == 7.0
  assert found.measures['parameters'] == Measure(16.0, 0.0)
  assert 'median of 3 calls for 128 samples' in found.measures['seconds_per_sample'].note


class Counted(Functions):
  """An evaluation takes 1,000 operations for each sample of the request."""

  def evaluation_flops(self, params, request):
    return 1000 * request.num


def test_operations_of_a_sample_are_those_of_its_evaluations_and_of_decoding(data):
  method = Counted(None, None, replay(data)[0].sample)
  found = measure(data, method, ['sampling_flops']).measures['sampling_flops']
  assert (found.value, found.standard_error) == (7000.0, 0.0)
  images = dataclasses.replace(data.spec, shape=(16, 16, 1))
  latents = LatentSpec(images, 'digest', 1.0, Means(shape=(8, 8, 1)))
  over = data._replace(spec=dataclasses.replace(data.spec, levels=0, latents=latents))
  found = measure(over, method, ['sampling_flops']).measures['sampling_flops']
  assert found.value == 7000.0 + 50.0 and 'those of decoding' in found.note


def test_the_memory_does_not_hold_all_samples_at_once():
  """8 MB of samples, of which only one batch and the samples to look at are kept."""
  spec = DataSpec('large', 'image', (64, 64, 1), 17)
  split = Split(x=np.zeros((1, *spec.shape), np.uint8))
  x = np.zeros((20, *spec.shape), np.uint8)
  method = Functions(None, None, lambda params, key, request: Samples(x, 1), None)
  settings = SETTINGS | dict(num_samples=2000, batch_size=20)
  tracemalloc.start()
  measure(Data(spec, {'train': split, 'test': split}), method, ['evaluations'], settings)
  _, peak = tracemalloc.get_traced_memory()
  tracemalloc.stop()
  assert peak < 2e6


def test_the_same_key_gives_the_same_samples(data):
  one, other = (measure(data, replay(data)[0], ['evaluations']).display.images for _ in range(2))
  assert np.array_equal(one, other)
  again = evaluate.evaluate(replay(data)[0], {}, data, SETTINGS, jax.random.key(1), ['evaluations'])
  assert not np.array_equal(one, again.display.images)


def test_metrics_that_the_method_or_the_data_cannot_give_are_empty(data):
  spec = DataSpec('plain', 'image', (8, 8, 1), 17, num_train=1400)
  splits = {k: Split(x=source.arrays['x']) for k, source in data.splits.items()}

  def sample(params, key, request):
    assert request.label is None
    return Samples(jnp.asarray(splits['test'].arrays['x'][: request.num]), 1)

  settings = SETTINGS | dict(extractor='auto')
  found = measure(
    Data(spec, splits),
    Functions(None, None, sample, None),
    ['agreement', 'bits_per_dim', 'frechet'],
    settings,
  )
  assert found.measures['agreement'] == Measure(None, None, 'the data has no classes')
  assert found.measures['bits_per_dim'] == Measure(None, None, 'the method has no likelihood')
  assert found.measures['frechet'].value > 0 and found.display.label is None
  assert found.measures['frechet'].note.startswith('FD(pixels, n=300)')
  with pytest.raises(ConfigError, match="set it to 'pixels'"):
    measure(Data(spec, splits), Functions(None, None, sample, None), ['frechet'])


@pytest.mark.parametrize(
  ('metrics', 'changes', 'message'),
  [
    (['agrement'], {}, "unknown metric 'agrement'; did you mean 'agreement'?"),
    (['parameters'], dict(split='tset'), "unknown evaluation.split 'tset'; did you mean 'test'?"),
    (
      ['frechet'],
      dict(extractor='inception'),
      "unknown evaluation.extractor 'inception'; known: auto, mlp, p",
    ),
    # Checked even if no metric needs them.
    (['parameters'], dict(extractor='inception'), "unknown evaluation.extractor 'inception'"),
    (['frechet'], dict(num_samples=1), 'at least 2 samples, got evaluation.num_samples=1'),
  ],
)
def test_unknown_names_are_refused_with_the_known_ones(data, metrics, changes, message):
  with pytest.raises(ConfigError) as error:
    measure(data, replay(data)[0], metrics, SETTINGS | changes)
  assert message in str(error.value)


def test_precision_falls_with_noise_and_recall_with_collapse(data):
  """Real test images are about as precise as training images are among themselves."""
  names = ['precision', 'recall', 'high_frequency']
  clean, noisy = (measure(data, replay(data, noise=n)[0], names).measures for n in (0.0, 6.0))
  between = float(clean['precision'].note.split('n=300), ')[1].split()[0])
  assert clean['precision'].note.startswith('precision(mlp, k=3, n=300), ') and between > 0.8
  assert abs(clean['precision'].value - between) < 0.1
  assert noisy['precision'].value < between - 0.3
  assert abs(clean['high_frequency'].value - 1) < 4 * clean['high_frequency'].standard_error
  assert noisy['high_frequency'].value > 1.2
  x = data.splits['test'].arrays['x'][:1]
  collapsed = Functions(None, None, lambda p, k, request: Samples(np.repeat(x, request.num, 0), 1))
  collapsed = measure(data, collapsed, names).measures
  assert collapsed['recall'].value < 0.02 < 0.8 < clean['recall'].value
  assert collapsed['precision'].value in (0.0, 1.0)


def test_metrics_that_read_the_same_share_a_reader(data, monkeypatch):
  read = []

  def reader(subject):
    read.append(subject)
    return lambda images: images.reshape(len(images), -1).astype(np.float32)

  for name in ('frechet', 'precision', 'recall'):
    changed = evaluate.METRICS[name]._replace(reader=reader)
    monkeypatch.setitem(evaluate.METRICS, name, changed)
  monkeypatch.setattr(
    images, 'extractor_of', lambda subject: features.extractor('pixels', subject.real)
  )
  found = measure(data, replay(data)[0], ['frechet', 'precision', 'recall']).measures
  assert len(read) == 1 and all(one.value is not None for one in found.values())


def test_too_few_samples_for_neighbours_leave_precision_empty(data):
  settings = SETTINGS | dict(num_samples=3)
  found = measure(data, replay(data)[0], ['precision', 'recall'], settings).measures
  assert found['precision'] == Measure(None, note='needs more than 3 images of each kind')


def test_images_without_high_frequencies_have_no_ratio(data):
  spec = DataSpec('grey', 'image', (4, 4, 1), 17, num_train=9)
  split = Split(x=np.full((9, 4, 4, 1), 3, np.uint8))
  grey = Functions(None, None, lambda p, k, request: Samples(split.arrays['x'][: request.num], 1))
  grey_data = Data(spec, {'train': split, 'test': split})
  settings = SETTINGS | dict(num_samples=9, batch_size=9)
  found = measure(grey_data, grey, ['high_frequency'], settings).measures['high_frequency']
  assert found == Measure(None, note='the real images have no high frequencies')
