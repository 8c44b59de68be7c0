"""Modes covered, their divergence and the share of good samples, of models with known answers."""

import math

import jax
import numpy as np
import pytest

from common.config import ConfigError
from common.data.builders import BUILDERS
from common.data.modes import Modes
from common.data.pipeline import Data
from common.data.spec import DataSpec
from common.evaluation import evaluate, modes
from tests.cases import evaluation_settings
from tests.common.domains.toy import Sampler, Split

SETTINGS = evaluation_settings(batch_size=500, num_samples=4000)
METRICS = ['modes', 'mode_kl', 'high_quality']
RING = BUILDERS['ring'].modes
RNG = np.random.default_rng(0)


def measure(data, sample, metrics=METRICS):
  found = evaluate.evaluate(Sampler(sample), {}, data, SETTINGS, jax.random.key(0), metrics)
  return found.measures


def ring():
  spec = DataSpec('ring', 'points', (1, 1, 2), 0, modes=RING, num_train=100)
  split = Split(x=RING.draw(100, np.random.default_rng(0))[:, None, None])
  return Data(spec, {'train': split, 'test': split})


def points(num, key, kept=8):
  """Points of the first `kept` Gaussians of the ring."""
  rng = np.random.default_rng(np.asarray(jax.random.key_data(key)))
  found = Modes(RING.centres[:kept], RING.deviation).draw(num, rng)
  return found[:, None, None]


def test_a_perfect_model_of_the_ring_covers_all_modes():
  found = measure(ring(), lambda key, request: points(request.num, key))
  assert found['modes'][:2] == (8, 0) and 'a perfect model covers 8;' in found['modes'].note
  floor = float(found['mode_kl'].note.split('floor ')[1].split()[0])
  assert found['mode_kl'].value < 4 * floor
  # Within three deviations in the plane: 1 − exp(−9/2).
  share = found['high_quality']
  assert abs(share.value - (1 - math.exp(-4.5))) < 4 * share.standard_error
  assert 'a perfect model: 0.989' in share.note and '3 standard deviations' in share.note


def test_a_collapsed_model_covers_few_modes():
  """Half of the modes, evenly: KL(q ‖ p) = log 2."""
  found = measure(ring(), lambda key, request: points(request.num, key, kept=4))
  assert found['modes'].value == 4 and found['high_quality'].value > 0.97
  assert found['mode_kl'].value == pytest.approx(math.log(2), abs=0.005)


def test_points_far_from_every_centre_are_in_no_mode():
  far = np.zeros((4, 1, 1, 2), np.float32)
  assert modes.near_mode(RING, far).tolist() == [modes.NONE] * 4
  inside, outside = (RING.centres[2][0] + s * RING.deviation for s in (2.9, 3.1))
  several = np.array([[inside, RING.centres[2][1]], [outside, RING.centres[2][1]]])
  assert modes.near_mode(RING, several).tolist() == [2, modes.NONE]
  found = measure(ring(), lambda key, request: np.zeros((request.num, 1, 1, 2)))
  assert found['modes'].value == found['high_quality'].value == 0
  assert found['mode_kl'][:3] == (None, None, 'no sample is in a mode')


@pytest.fixture(scope='module')
def stacked():
  """Stacked images of 4×4 pixels, of three classes, one of which is twice as frequent."""
  digits = 255 * RNG.integers(0, 2, (3, 16)).reshape(3, 4, 4).astype(np.uint8)
  spec = DataSpec('s', 'image', (4, 4, 3), 256, modes=Modes(classes=(3, 3, 3)), num_train=400)
  classes = np.stack([RNG.permutation(np.arange(400) % 4 % 3) for _ in range(3)], axis=-1)
  split = Split(
    x=np.moveaxis(digits[classes], 1, -1), mode=spec.modes.mode_of(classes.astype(np.int64))
  )
  return Data(spec, {'train': split, 'test': split})


def test_stacked_images_are_judged_channel_by_channel(stacked):
  split = stacked.splits['train']
  chosen = lambda key, request: split.x_of(jax.random.randint(key, (request.num,), 0, 400))
  split.x_of = lambda index: split.arrays['x'][np.asarray(index)]
  found = measure(stacked, chosen)
  assert found['modes'].value == 27 and found['high_quality'].value is None
  assert found['high_quality'].note == 'applies only to mixtures of Gaussians'
  # The 400 examples are themselves about 26/800 away from independent channels.
  assert found['mode_kl'].value < 0.06 and 'accuracy 100.0%' in found['mode_kl'].note
  one = measure(stacked, lambda key, request: np.repeat(split.arrays['x'][:1], request.num, 0))
  p = np.prod(
    [(0.5, 0.25, 0.25)[c] for c in stacked.spec.modes.classes_of(split.arrays['mode'])[0]]
  )
  assert one['modes'].value == 1 and one['mode_kl'].value == pytest.approx(-math.log(p))


def test_the_probability_of_a_mode_is_the_product_of_those_of_its_channels(stacked):
  p = modes.probabilities(stacked).reshape(3, 3, 3)
  single = np.array([0.5, 0.25, 0.25])
  np.testing.assert_allclose(p, np.einsum('a,b,c->abc', single, single, single), rtol=1e-12)


def test_a_mode_has_a_number_and_back():
  stacked = Modes(classes=(10, 10, 10))
  classes = np.array([[1, 2, 3], [9, 0, 7]])
  assert stacked.mode_of(classes).tolist() == [123, 907] and stacked.number == 1000
  np.testing.assert_array_equal(stacked.classes_of(stacked.mode_of(classes)), classes)


@pytest.mark.parametrize('num', [5, 100, 2000])
def test_what_a_perfect_model_reaches_is_the_mean_over_draws(num):
  p = np.array([0.5, 0.2, 0.1, 0.1, *[0.01] * 10])
  draws = np.random.default_rng(0).multinomial(num, p, size=4000)
  assert modes.expected_covered(p, num) == pytest.approx((draws > 0).sum(1).mean(), rel=0.01)
  values, errors = np.array([modes.divergence(counts, p) for counts in draws]).T
  assert modes.expected_divergence(p, num) == pytest.approx(values.mean(), rel=0.03)
  assert (errors >= 0).all()


def test_a_thousand_modes_are_covered_by_26000_samples():
  """The setting of Stacked MNIST: (1 − 1/1000)^26000 is 5·10⁻¹² and the floor is 999/52000."""
  p = np.full(1000, 1e-3)
  assert modes.expected_covered(p, 26_000) == pytest.approx(1000, abs=1e-8)
  assert modes.expected_divergence(p, 26_000) == pytest.approx(999 / 52_000, rel=0.03)
  assert modes.expected_covered(p, 1000) == pytest.approx(1000 * (1 - (1 - 1e-3) ** 1000))


def test_the_divergence_of_two_modes_and_its_error():
  value, error = modes.divergence(np.array([75, 25]), np.array([0.5, 0.5]))
  assert value == pytest.approx(0.75 * math.log(1.5) + 0.25 * math.log(0.5))
  draws = np.random.default_rng(0).multinomial(100, [0.75, 0.25], size=4000)
  spread = np.std([modes.divergence(counts, np.array([0.5, 0.5]))[0] for counts in draws])
  assert error == pytest.approx(spread, rel=0.1)


def test_the_error_of_a_number_of_modes_is_the_jackknife():
  counts = np.array([4, 1, 1, 0, 2])
  samples = np.repeat(np.arange(5), counts)
  without = [len(np.unique(np.delete(samples, i))) for i in range(8)]
  jackknife = math.sqrt(7 / 8 * np.sum((np.array(without) - np.mean(without)) ** 2))
  # Efron's factor is (n − 1)/n on the sum of squares, which is f(1 − f/n) of f single samples.
  assert modes.covered_error(counts) == pytest.approx(jackknife * math.sqrt(8 / 7))
  assert modes.covered_error(np.array([4, 2, 2])) == 0.0
  # Not too small on average: 30 draws from 20 modes.
  draws = np.random.default_rng(0).multinomial(30, np.full(20, 0.05), size=2000)
  errors = [modes.covered_error(counts) for counts in draws]
  assert np.mean(np.square(errors)) >= (draws > 0).sum(1).var()


def test_data_without_known_modes_say_so():
  x = np.zeros((8, 4, 4, 1), np.uint8)
  data = Data(
    DataSpec('plain', 'image', (4, 4, 1), 256), {s: Split(x=x) for s in ('train', 'test')}
  )
  found = measure(data, lambda key, request: np.repeat(x[:1], request.num, 0))
  assert found['modes'][:3] == found['mode_kl'][:3] == (None, None, modes.NO_MODES)
  with pytest.raises(
    ConfigError, match='metric modes of plain: the modes of the data are not known'
  ):
    evaluate.check_request(Sampler(points), data, SETTINGS, ['modes'], {})
  with pytest.raises(ConfigError, match='metric precision of ring: applies only to images'):
    evaluate.check_request(Sampler(points), ring(), SETTINGS, ['precision'], {})
