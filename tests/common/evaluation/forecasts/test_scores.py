"""The CRPS against its closed form, and metrics of forecasts from the scores of windows."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from common.config import ConfigError
from common.data import pipeline
from common.data.pipeline import Data
from common.data.spec import DataSpec, SeriesSpec
from common.domains.forecasts.draws import Forecasts
from common.evaluation import evaluate
from common.evaluation.forecasts import scores
from common.evaluation.measures import Measure
from common.method import Likelihood, Samples
from tests.cases import evaluation_settings
from tests.common.domains.toy import Split
from tests.toy import Functions

SETTINGS = evaluation_settings(batch_size=64, num_samples=200, extractor='mlp')
SPEC = DataSpec('walks', 'series', (8, 2), 0, 3, ('a', 'b', 'c'), 9, series=SeriesSpec(3, season=4))


def gaussian_crps(y, mean, deviation):
  """σ[z(2Φ(z) - 1) + 2φ(z) - 1/√π] (Gneiting & Raftery 2007, eq. 21)."""
  z = (y - mean) / deviation
  return deviation * (z * (2 * stats.norm.cdf(z) - 1) + 2 * stats.norm.pdf(z) - np.pi**-0.5)


def test_draws_of_a_gaussian_have_the_crps_of_the_closed_form():
  y = np.array([-3.0, 0.0, 1.0, 4.5])
  draws = np.random.default_rng(0).normal(1.0, 2.0, (4, 200_000))
  np.testing.assert_allclose(scores.crps(draws, y), gaussian_crps(y, 1.0, 2.0), rtol=1e-2)


def test_the_score_of_few_draws_has_no_bias():
  """The mean over many forecasts of five draws each. If ½·E|X - X'| included pairs of a draw with
  itself, it would be a tenth too large."""
  draws = np.random.default_rng(1).normal(1.0, 2.0, (200_000, 5))
  found = scores.crps(draws, np.full(200_000, 2.0))
  error = found.std() / len(found) ** 0.5
  assert abs(found.mean() - gaussian_crps(2.0, 1.0, 2.0)) < 4 * error < 0.02


def test_the_sorted_formula_equals_the_definition_over_all_pairs():
  draws, y = np.random.default_rng(2).normal(size=(3, 7)), np.array([0.3, -2.0, 1.0])
  pairs = np.abs(draws[:, :, None] - draws[:, None]).sum((1, 2)) / (7 * 6)
  expected = np.abs(draws - y[:, None]).mean(1) - pairs / 2
  np.testing.assert_allclose(scores.crps(draws, y), expected, rtol=1e-12)
  np.testing.assert_allclose(scores.crps(draws[:, :1], y), np.abs(draws[:, 0] - y))


def test_the_true_distribution_scores_best():
  rng = np.random.default_rng(3)
  y = rng.normal(0, 1, 20_000)
  found = {
    name: scores.crps(rng.normal(mean, deviation, (20_000, 20)), y).mean()
    for name, mean, deviation in (
      ('true', 0, 1),
      ('off', 0.5, 1),
      ('sharp', 0, 0.4),
      ('wide', 0, 2),
    )
  }
  assert min(found, key=found.get) == 'true'


def test_missing_values_count_nowhere():
  nan = np.nan
  past = np.array([[1.0, 2, 3, nan, 5, nan], [nan, nan, nan, nan, 4, 5]])
  truth = np.array([[1.0, nan, 4.0], [nan, 6.0, nan]])
  draws = np.repeat(np.array([[2.0, 50.0, 3.0], [0.0, 3.0, 1.0]])[:, None], 5, 1)
  made = Forecasts(
    SPEC.series, np.zeros(2, int), ('a', 'b'), np.zeros((2, 9), int), past, truth, draws
  )
  found = scores.score([made], 3, 'test')
  np.testing.assert_array_equal(found.parts['crps'].above, [2, 3])
  np.testing.assert_array_equal(found.parts['naive'].above, [1, 2])
  np.testing.assert_array_equal(found.parts['crps'].below, [2, 1])
  assert scores.measure(found, 'crps').value == pytest.approx(5 / 3)
  # Each of three steps: 1 of 3, 1 of 7, 3 of 9.
  assert found.value('smape') == pytest.approx(200 * (1 / 3 + 1 / 7 + 3 / 9) / 3)
  assert found.value('mape') == pytest.approx(100 * (1 + 1 / 4 + 3 / 6) / 3)
  assert found.value('normalised_deviation') == 5 / 11
  assert scores.measure(found, 'normalised_crps').value == pytest.approx(5 / 11)


def test_the_sum_over_series_needs_all_of_them_at_the_same_times():
  """Two series that are opposite: their sum is known, whatever each of them does."""
  rng = np.random.default_rng(4)
  noise = rng.normal(size=(1, 50, 3))
  draws = np.concatenate([10 + noise, 20 - noise])
  truth = np.array([[12.0] * 3, [18.0] * 3])
  series = SeriesSpec(3, naive_scales=(2.0, 0.0))

  def made(label, start):
    times = np.array(start)[:, None] + np.arange(8)
    return Forecasts(series, np.array(label), ('a', 'b'), times, np.zeros((2, 5)), truth, draws)

  found = scores.score([made([0, 1], [4, 4])], 1, 'test')
  assert scores.measure(found, 'crps_sum').value == pytest.approx(0, abs=1e-12)
  # The second series has no scale: only the first counts, off by about 2.
  assert found.value('mase') == pytest.approx(abs(np.median(draws[0], 0) - 12).mean() / 2)
  for blocks in ([made([0, 1], [4, 5])], [made([0, 0], [4, 4])]):
    measure = scores.measure(scores.score(blocks, 1, 'test'), 'crps_sum')
    assert measure.value is None and measure.note.startswith('needs several series')
  still = scores.score([made([1, 1], [4, 5])], 1, 'test')
  assert scores.measure(still, 'mase').note.startswith('the naive forecast of every series')


def test_standardised_errors_are_in_deviations_of_each_series():
  """Deviations of 2 and 0: the second series, constant in training, does not count."""
  truth = np.array([[1.0, np.nan, 3.0], [5.0, 5.0, 6.0]])
  draws = np.array([[[0.0, 9.0, 4.0], [2.0, 9.0, 8.0]], [[5.0, 5.0, 5.0], [5.0, 5.0, 5.0]]])
  times = np.tile(np.arange(8), (2, 1))
  series = SeriesSpec(3, spreads=(2.0, 0.0))
  names, past = ('a', 'b'), np.zeros((2, 5))

  def made(label):
    return Forecasts(series, np.array(label), names, times, past, truth, draws)

  found = scores.score([made([0, 1])], 1, 'test')
  # The means of the draws, 1 and 6, are off by 0 and 3; so are their medians.
  assert scores.measure(found, 'standardised_mse').value == pytest.approx(9 / 4 / 2)
  assert scores.measure(found, 'standardised_mae').value == pytest.approx(3 / 2 / 2)
  still = scores.measure(scores.score([made([1, 1])], 1, 'test'), 'standardised_mse')
  assert still.value is None and still.note.startswith('every series is constant')
  none = dataclasses.replace(series, spreads=())
  missing = Forecasts(none, np.array([0, 1]), names, times, past, truth, draws)
  measure = scores.measure(scores.score([missing], 1, 'test'), 'standardised_mae')
  assert measure.value is None and 'prepare it again' in measure.note


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
    'hold 100%, 100%, 100%; test split, 9 windows of 3 steps, 200 draws of each'
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
  assert 'hold 0%, 0%, 0%;' in worse.note
  # Off by one standard deviation: the intervals are 0.67, 1.28 and 1.64 of it wide to each side.
  assert 'hold 0%, 96%, 100%' in measured(['crps'], bias=1.0).measures['crps'].note


def off_by(bias, context=5, first=0):
  """A model whose forecasts are off by a number, and windows that have a context of some length."""
  spec = dataclasses.replace(SPEC, shape=(context + 3, 2))

  def sample(params, key, request):
    past = jnp.asarray(request.past)
    x = past.at[:, -3:, 0].set(past[:, -4:-3, 0] + jnp.arange(1, 4) + bias)
    return Samples(x, 1)

  numbers = np.arange(9, dtype=np.int32)
  x = np.zeros((9, *spec.shape), np.float32)
  x[..., 0] = 15 + np.arange(-context, 3) + 100 * numbers[:, None]
  split = Split(x=x, label=numbers % 3, start=numbers - context + first)
  return evaluate.Member(Functions(None, None, sample, None), {}, Data(spec, {'test': split}))


def test_an_ensemble_pools_the_draws_of_its_members():
  settings = SETTINGS | dict(num_samples=2)
  metrics = ['crps', 'normalised_deviation', 'bits_per_dim']

  def pool(*models):
    found = evaluate.evaluate_ensemble(models, settings, jax.random.key(0), metrics)
    return found.measures

  # Certain forecasts, off by -1, 0.5 and 6: the median is the middle one.
  found = pool(off_by(-1), off_by(6.0, context=7), off_by(0.5))
  truth = np.mean([15 + 1 + 100 * i for i in range(9)])
  assert found['normalised_deviation'].value == pytest.approx(0.5 / truth, rel=1e-4)
  draws = np.repeat([-1, 0.5, 6.0], 2)[None]
  assert found['crps'].value == pytest.approx(scores.crps(draws, np.zeros(1))[0], rel=1e-4)
  assert '9 windows of 3 steps, 6 draws of each' in found['crps'].note
  assert found['bits_per_dim'] == Measure(None, note='of a single model, not of an ensemble')
  for other in (
    off_by(0, first=1),
    off_by(0)._replace(data=Data(SPEC, {'test': counting_windows(8)})),
  ):
    with pytest.raises(ConfigError, match='must forecast the same windows'):
      pool(off_by(0), other)


def test_rolling_origins_are_scored_once_each(tmp_path):
  """Of each series the last three horizons, whose forecasts are off by the number of the series."""
  lines = [f'{name},{i},{i + 0.5}' for name in 'ab' for i in range(40)]
  (tmp_path / 'own.csv').write_text('\n'.join(['id,ds,y', *lines]))
  settings = dict(name='series', dir=str(tmp_path), source=str(tmp_path / 'own.csv'), context=8)
  data = pipeline.load(settings | dict(horizon=3, rolling=3))
  unit = data.spec.series.units[0]

  def sample(params, key, request):
    off = np.asarray(request.label)[:, None, None] / unit
    return Samples(jnp.asarray(np.where(request.mask, request.past, request.past + off)), 1)

  found = evaluate.evaluate(
    Functions(None, None, sample, None), {}, data, SETTINGS, jax.random.key(0), ['crps']
  )
  measure = found.measures['crps']
  assert measure.value == pytest.approx(0.5, rel=1e-4)  # the mean of 0 and 1
  assert '6 windows of 3 steps' in measure.note
  test = data.splits['test'].gather(np.arange(6))
  steps = test['start'][:, None] + np.arange(8, 11)
  for label in (0, 1):
    assert sorted(steps[test['label'] == label].ravel()) == list(range(31, 40))
  with pytest.raises(ConfigError, match=r"unknown evaluation\.split 'future'"):
    evaluate.check_settings(SETTINGS | dict(split='future'), data)
  with pytest.raises(ConfigError, match=r'sample_sets must be 1 for .*, got 3: it only changes'):
    evaluate.check_settings(SETTINGS | dict(sample_sets=3), data)
  with pytest.raises(
    ConfigError, match=r'reference must be as_many for .*, got all: it only changes'
  ):
    evaluate.check_settings(SETTINGS | dict(reference='all'), data)


def test_the_errors_of_a_mean_and_of_a_ratio_by_hand():
  total = np.array([1.0, 2.0, 6.0])
  mean, error = scores.Parts(total, np.ones(3)).ratio()
  assert (mean, error) == (3.0, pytest.approx(math.sqrt(7 / 3)))  # deviations -2, -1, 3
  ratio, error = scores.Parts(total, np.array([1.0, 3.0, 5.0])).ratio()
  assert (ratio, error) == (1.0, pytest.approx(math.sqrt(1 / 3) / 3))  # residuals 0, -1, 1


def test_the_error_over_a_single_window_is_unknown():
  found = measured(['crps', 'normalised_crps'], windows=1).measures
  assert found['crps'].standard_error is None
  assert found['normalised_crps'].standard_error is None
  assert found['normalised_crps'].value > 0


def test_a_score_is_not_divided_by_values_that_are_all_zero():
  parts = {'normalised_crps': scores.Parts(np.full(3, 2.0), np.zeros(3))}
  found = scores.measure(scores.Scores(parts, 'test split', None), 'normalised_crps')
  assert found == Measure(None, None, 'all true values are 0; test split')


def test_metrics_of_images_do_not_apply_to_time_series():
  found = measured(['agreement', 'frechet']).measures
  assert found['agreement'].value is None and found['frechet'].value is None
