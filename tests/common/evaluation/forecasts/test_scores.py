"""The CRPS against its closed form, its baseline forecast, and metrics of forecasts."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from common.data.pipeline import Data
from common.data.spec import DataSpec, SeriesSpec
from common.domains.series import Forecasts
from common.evaluation import crps, evaluate
from common.evaluation.measures import Measure
from common.method import Likelihood, Samples
from tests.common.domains.toy import Split
from tests.toy import Functions

SETTINGS = dict(split='test', batch_size=64, num_samples=200, extractor='mlp')
SPEC = DataSpec('walks', 'series', (8, 2), 0, 3, ('a', 'b', 'c'), 9, series=SeriesSpec(3, season=4))


def gaussian_crps(y, mean, deviation):
  """σ[z(2Φ(z) - 1) + 2φ(z) - 1/√π] (Gneiting & Raftery 2007, eq. 21)."""
  z = (y - mean) / deviation
  return deviation * (z * (2 * stats.norm.cdf(z) - 1) + 2 * stats.norm.pdf(z) - np.pi**-0.5)


def test_draws_of_a_gaussian_have_the_crps_of_the_closed_form():
  y = np.array([-3.0, 0.0, 1.0, 4.5])
  draws = np.random.default_rng(0).normal(1.0, 2.0, (4, 200_000))
  np.testing.assert_allclose(crps.crps(draws, y), gaussian_crps(y, 1.0, 2.0), rtol=1e-2)


def test_the_score_of_few_draws_has_no_bias():
  """The mean over many forecasts of five draws each. If ½·E|X - X'| included pairs of a draw with
  itself, it would be a tenth too large."""
  draws = np.random.default_rng(1).normal(1.0, 2.0, (200_000, 5))
  found = crps.crps(draws, np.full(200_000, 2.0))
  error = found.std() / len(found) ** 0.5
  assert abs(found.mean() - gaussian_crps(2.0, 1.0, 2.0)) < 4 * error < 0.02


def test_the_sorted_formula_equals_the_definition_over_all_pairs():
  draws, y = np.random.default_rng(2).normal(size=(3, 7)), np.array([0.3, -2.0, 1.0])
  pairs = np.abs(draws[:, :, None] - draws[:, None]).sum((1, 2)) / (7 * 6)
  expected = np.abs(draws - y[:, None]).mean(1) - pairs / 2
  np.testing.assert_allclose(crps.crps(draws, y), expected, rtol=1e-12)
  np.testing.assert_allclose(crps.crps(draws[:, :1], y), np.abs(draws[:, 0] - y))


def test_the_true_distribution_scores_best():
  rng = np.random.default_rng(3)
  y = rng.normal(0, 1, 20_000)
  scores = {
    name: crps.crps(rng.normal(mean, deviation, (20_000, 20)), y).mean()
    for name, mean, deviation in (
      ('true', 0, 1),
      ('off', 0.5, 1),
      ('sharp', 0, 0.4),
      ('wide', 0, 2),
    )
  }
  assert min(scores, key=scores.get) == 'true'


def test_the_seasonal_naive_forecast_repeats_the_last_season():
  past = np.arange(10.0)[None]
  assert crps.seasonal_naive(past, 6, 4).tolist() == [[6, 7, 8, 9, 6, 7]]
  assert crps.seasonal_naive(past, 3, 12).tolist() == [[9, 9, 9]]
  assert crps.seasonal_naive(past, 2, 10).tolist() == [[0, 1]]  # exactly one season


def test_missing_values_of_the_past_and_of_the_truth_count_nowhere():
  nan = np.nan
  past = np.array([[1.0, 2, 3, nan, 5, nan], [nan, nan, nan, nan, 4, 5], [nan] * 6])
  found = crps.seasonal_naive(past, 3, 3)
  np.testing.assert_array_equal(found[:2], [[1, 5, 3], [5, 4, 5]])
  assert np.isnan(found[2]).all()
  truth = np.array([[1.0, nan, 4.0], [nan, 6.0, nan]])
  draws = np.repeat(np.array([[2.0, 50.0, 3.0], [0.0, 3.0, 1.0]])[:, None], 5, 1)
  made = Forecasts(
    SPEC.series, np.zeros(2, int), ('a', 'b'), np.zeros((2, 9)), past[:2], truth, draws
  )
  scores = crps.score([made], 3, 'test')
  np.testing.assert_array_equal(scores.windows.crps, [2, 3])
  np.testing.assert_array_equal(scores.windows.naive, [1, 2])
  np.testing.assert_array_equal(scores.windows.steps, [2, 1])
  assert crps.mean_crps(scores).value == pytest.approx(5 / 3)
  assert crps.normalised_crps(scores).value == pytest.approx(5 / 11)


def counting_windows(num):
  """Windows that count up, each from another number."""
  x = np.zeros((num, *SPEC.shape), np.float32)
  x[..., 0] = 10 + np.arange(8) + 100 * np.arange(num)[:, None]
  numbers = np.arange(num, dtype=np.int32)
  return Split(x=x, label=numbers % 3, start=numbers)


def measured(metrics, bias=0.0, deviation=1.0, windows=9):
  """Evaluates a method that draws around the truth, which it finds by counting on."""

  def sample(params, key, request):
    past, mask = np.asarray(request.past), np.asarray(request.mask)
    assert mask[:5].all() and not mask[5:, 0].any() and mask[5:, 1].all()
    assert (np.asarray(request.label) == (past[:, 0, 0] - 10) // 100 % 3).all()
    noise = bias + deviation * np.asarray(jax.random.normal(key, past[..., 0].shape))
    truth = past[:, 4:5, 0] + np.maximum(np.arange(8) - 4, 0)
    x = np.where(mask, past, np.stack([truth + noise, past[..., 1]], -1))
    return Samples(jnp.asarray(x, jnp.float32), 4)

  def nll(params, batch, key):
    num = len(batch['x'])
    return Likelihood(jnp.full(num, 3.0), jnp.zeros(num), jnp.full(num, 3.0))

  data = Data(SPEC, {'test': counting_windows(windows), 'train': counting_windows(9)})
  method = Functions(None, None, sample, nll)
  return evaluate.evaluate(method, {}, data, SETTINGS, jax.random.key(0), metrics)


def test_metrics_of_forecasts():
  found = measured(['crps', 'normalised_crps', 'bits_per_dim', 'evaluations'])
  value = found.measures['crps']
  assert value.value == pytest.approx(gaussian_crps(0.0, 0.0, 1.0), rel=0.05)
  assert 'seasonal naive 4;' in value.note  # counting up, a season later is 4 more
  assert value.note.endswith(
    'hold 100% and 100%; test split, 9 windows of 3 steps, 200 draws of each'
  )
  size = np.mean([10 + 100 * i + 6 for i in range(9)])
  share = found.measures['normalised_crps']
  assert share.value == pytest.approx(value.value / size, rel=1e-6)
  assert f'seasonal naive {4 / size:.4g};' in share.note
  assert found.measures['bits_per_dim'].value == pytest.approx(1 / np.log(2))
  assert found.measures['evaluations'].value == 4
  assert found.display.plot.ndim == 3 and found.display.plot.shape[2] == 3
  assert len(found.display.images) == 0
  worse = measured(['crps'], bias=3.0).measures['crps']
  assert worse.value == pytest.approx(gaussian_crps(0.0, 3.0, 1.0), rel=0.05)
  assert 'hold 0% and 0%' in worse.note
  # Off by one standard deviation: the middle 50 % is 0.67 wide to each side, the 90 % 1.64.
  assert 'hold 0% and 100%' in measured(['crps'], bias=1.0).measures['crps'].note


def test_the_errors_of_a_mean_and_of_a_ratio_by_hand():
  windows = crps.WindowScores(
    np.array([1.0, 2.0, 6.0]), np.zeros(3), np.array([1.0, 3.0, 5.0]), np.zeros((3, 2)), np.ones(3)
  )
  scores = crps.Scores(windows, 'test split', None)
  mean, ratio = crps.mean_crps(scores), crps.normalised_crps(scores)
  assert (mean.value, ratio.value) == (3.0, 1.0)
  assert mean.standard_error == pytest.approx(math.sqrt(7 / 3))  # deviations -2, -1, 3
  assert ratio.standard_error == pytest.approx(math.sqrt(1 / 3) / 3)  # residuals 0, -1, 1


def test_the_error_over_a_single_window_is_unknown():
  found = measured(['crps', 'normalised_crps'], windows=1).measures
  assert found['crps'].standard_error is None
  assert found['normalised_crps'].standard_error is None
  assert found['normalised_crps'].value > 0


def test_a_score_is_not_divided_by_values_that_are_all_zero():
  zeros = np.zeros(3)
  windows = crps.WindowScores(zeros + 2, zeros, zeros, np.zeros((3, 2)), zeros + 1)
  found = crps.normalised_crps(crps.Scores(windows, 'test split', None))
  assert found == Measure(None, None, 'all true values are 0; test split')


def test_metrics_of_images_do_not_apply_to_time_series():
  found = measured(['agreement', 'frechet']).measures
  assert found['agreement'].value is None and found['frechet'].value is None
