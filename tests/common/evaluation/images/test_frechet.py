"""The Fréchet distance against closed forms, and its standard error against repetition."""

import numpy as np
import pytest

from common.evaluation.images import frechet


def gaussian(mean, covariance):
  return frechet.Moments(np.asarray(mean, np.float64), np.asarray(covariance, np.float64))


def test_distance_of_gaussians_known_in_closed_form():
  one = gaussian([0, 0], [[2, 0.5], [0.5, 1]])
  other = gaussian([1, 2], [[1, -0.3], [-0.3, 2]])
  assert frechet.gaussian_distance(one, other) == pytest.approx(5.575425893, abs=1e-9)
  assert frechet.gaussian_distance(other, one) == pytest.approx(5.575425893, abs=1e-9)
  line = frechet.gaussian_distance(gaussian([0], [[1]]), gaussian([3], [[4]]))
  assert line == pytest.approx(10.0, abs=1e-12)


def test_moments_by_hand():
  """The covariance is unbiased: divided by n - 1."""
  made = frechet.moments(np.array([[0.0, 1.0], [2.0, 5.0], [4.0, 3.0]]))
  np.testing.assert_allclose(made.mean, [2, 3])
  np.testing.assert_allclose(made.covariance, [[4, 2], [2, 4]])


def test_distance_follows_a_shift_and_a_scaling_of_singular_features():
  """Rank 3 in 6 dimensions: a shift adds |shift|², a scaling by s adds (s - 1)² tr C."""
  rng = np.random.default_rng(0)
  features = rng.normal(size=(50, 3)) @ rng.normal(size=(3, 6))
  assert frechet.distance(features, features) == pytest.approx(0.0, abs=1e-9)
  assert frechet.distance(features + 2.0, features) == pytest.approx(6 * 4.0, rel=1e-9)
  centred = features - features.mean(0)
  variance = np.trace(frechet.moments(features).covariance)
  assert frechet.distance(3.0 * centred, centred) == pytest.approx(4.0 * variance, rel=1e-6)


def test_distance_does_not_lose_digits_to_float32():
  """Features far from the origin, in float32, the type of network activations."""
  rng = np.random.default_rng(0)
  features = (1000.0 + rng.normal(size=(4000, 2))).astype(np.float32)
  moved = features + np.float32(0.5)
  assert frechet.distance(moved, features) == pytest.approx(0.5, rel=1e-3)


def test_standard_error_is_the_spread_over_repetitions():
  rng = np.random.default_rng(0)
  reference = gaussian([0, 0], [[2, 0.5], [0.5, 1]])
  root = np.linalg.cholesky([[1, -0.3], [-0.3, 2]])
  values, errors = [], []
  for _ in range(400):
    samples = rng.normal(size=(300, 2)) @ root.T + [0.5, 1.0]
    values.append(frechet.gaussian_distance(frechet.moments(samples), reference))
    errors.append(frechet.standard_error(samples, reference))
  assert np.mean(errors) == pytest.approx(np.std(values), rel=0.12)


def test_standard_error_of_samples_with_fixed_numbers_of_each_class():
  """Classes far apart: nearly all spread is between them, and none of that is due to chance."""
  rng = np.random.default_rng(0)
  reference = gaussian([0], [[9.5]])
  label = np.arange(200) % 2
  values, errors = [], []
  for _ in range(400):
    samples = (6.0 * label - 2.9 + rng.normal(size=200))[:, None]
    values.append(frechet.gaussian_distance(frechet.moments(samples), reference))
    errors.append(frechet.standard_error(samples, reference, label))
  assert np.mean(errors) == pytest.approx(np.std(values), rel=0.12)
  assert frechet.standard_error(samples, reference) > 1.5 * np.mean(errors)


def test_each_class_costs_a_degree_of_freedom():
  """Classes with equal values: the spread within them is all of it, divided by 4 - 2, not 4 - 1."""
  samples = np.array([[-1.0], [1.0], [-1.0], [1.0]])
  reference = gaussian([0.5], [[2.0]])
  apart = frechet.standard_error(samples, reference, np.array([0, 0, 1, 1]))
  together = frechet.standard_error(samples, reference)
  assert apart / together == pytest.approx(np.sqrt(3 / 2))
  assert frechet.standard_error(samples[:2], reference) > 0  # a single degree is enough
  assert frechet.standard_error(samples[:2], reference, np.array([0, 1])) is None


def test_halves_are_disjoint_and_have_the_requested_size_and_the_proportions_of_the_classes():
  label = np.repeat([0, 1, 2], [60, 30, 10])
  one, other = frechet.halves(label, 20)
  assert len(one) == len(other) == 20 and not set(one) & set(other)
  for half in (one, other):
    assert np.abs(np.bincount(label[half]) - [12, 6, 2]).max() <= 1
  assert len(frechet.halves(label, 1000)[0]) == 50
  assert np.array_equal(frechet.halves(label, 20)[0], one)
  assert not np.array_equal(frechet.halves(label, 20, seed=1)[0], one)


@pytest.mark.parametrize(
  'features', [np.zeros((1, 2)), np.full((3, 2), np.nan), np.full((3, 2), -np.inf)]
)
def test_features_without_moments_are_refused(features):
  with pytest.raises(ValueError, match=r'covariance|must be finite'):
    frechet.moments(features)
