"""Classical forecasts of one series, where the answer is known."""

import numpy as np

from common.evaluation.forecasts import classical

SEASON = np.array([0.8, 1.3, 0.9, 1.0])


def test_the_seasonal_naive_forecast_repeats_the_last_season():
  past = np.arange(10.0)[None]
  assert classical.seasonal_naive(past, 6, 4).tolist() == [[6, 7, 8, 9, 6, 7]]
  assert classical.seasonal_naive(past, 3, 12).tolist() == [[9, 9, 9]]
  assert classical.seasonal_naive(past, 2, 10).tolist() == [[0, 1]]  # exactly one season
  assert classical.naive(past[0], 2).tolist() == [9, 9]
  nan = np.nan
  past = np.array([[1.0, 2, 3, nan, 5, nan], [nan, nan, nan, nan, 4, 5], [nan] * 6])
  found = classical.seasonal_naive(past, 3, 3)
  np.testing.assert_array_equal(found[:2], [[1, 5, 3], [5, 4, 5]])
  assert np.isnan(found[2]).all()


def test_naive2_finds_a_multiplicative_season():
  past = 50 * np.tile(SEASON, 8)[:30]  # ends within a season
  np.testing.assert_allclose(classical.seasonal_factors(past, 4), SEASON)
  assert classical.is_seasonal(past, 4)
  np.testing.assert_allclose(classical.naive2(past, 6, 4), 50 * np.tile(SEASON, 3)[2:8])
  # An odd season needs no half weights.
  odd = np.tile([1.0, 2.0, 3.0], 6)
  np.testing.assert_allclose(classical.naive2(odd, 3, 3), [1, 2, 3])


def test_naive2_is_naive_without_a_season():
  noise = 50 + np.random.default_rng(0).normal(size=40)
  for past, season in ((noise, 4), (50 * np.tile(SEASON, 2), 4), (np.full(30, 7.0), 4), (noise, 1)):
    assert not classical.is_seasonal(past, season)
    np.testing.assert_array_equal(classical.naive2(past, 3, season), past[-1])
  # Factors must be positive to divide by them.
  np.testing.assert_array_equal(classical.seasonal_factors(np.tile([0.0, 1.0], 9), 2), 1)


def test_exponential_smoothing_has_the_least_squared_error():
  past = np.cumsum(np.random.default_rng(1).normal(size=40)) + np.random.default_rng(2).normal(
    size=40
  )
  (found, *same) = classical.simple_exponential_smoothing(past, 3)
  assert same == [found, found]

  def error(alpha, level):
    total = 0.0
    for x in past:
      total, level = total + (x - level) ** 2, level + alpha * (x - level)
    return total, level

  alphas, starts = np.linspace(0.01, 0.99, 99), np.linspace(past.min(), past.max(), 99)
  errors = [error(alpha, start) for alpha in alphas for start in starts]
  # The best of a grid over both.
  assert abs(min(errors)[1] - found) < 0.02
  np.testing.assert_allclose(classical.simple_exponential_smoothing(np.full(9, 4.0), 2), 4)
