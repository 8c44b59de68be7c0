"""Metrics of the competitions against their definitions by hand, and against maintained peers."""

import numpy as np
import pytest

from common.data.series.encoding import naive_scale
from common.evaluation.forecasts import competitions

RNG = np.random.default_rng(0)
TRUTH = RNG.uniform(5, 20, (6, 4))
FORECAST = TRUTH + RNG.normal(size=TRUTH.shape)
PAST = RNG.uniform(5, 20, (6, 30))
NAN = np.nan


def test_percentage_errors_by_hand():
  truth, forecast = np.array([[10.0, 0.0, -5.0]]), np.array([[5.0, 0.0, 5.0]])
  # 5 of 15, nothing, 10 of 10.
  np.testing.assert_allclose(competitions.smape(forecast, truth), [200 * (1 / 3 + 0 + 1) / 3])
  # 5 of 10, no percentage of 0, 10 of 5.
  np.testing.assert_allclose(competitions.mape(forecast, truth), [100 * (0.5 + 2) / 2])


def test_scaled_errors_by_hand():
  past = np.array([1.0, 5.0, 2.0, 7.0, 4.0])
  assert naive_scale(past, 2) == np.mean([1, 2, 2])
  assert naive_scale(past, 5) == naive_scale(past, 1) == 3.75
  assert np.isnan(naive_scale(past[:1], 1))
  truth, forecast = np.array([[1.0, 2.0], [1.0, 2.0]]), np.array([[2.0, 4.0], [1.0, 2.0]])
  found = competitions.mase(forecast, truth, np.array([3.0, 0.0]))
  np.testing.assert_allclose(found, [0.5, NAN])
  assert competitions.owa(12.0, 1.5, 16.0, 3.0) == (0.75 + 0.5) / 2


def test_values_that_were_not_observed_count_nowhere():
  holes = np.where(np.arange(4) == 1, NAN, TRUTH)
  kept = [0, 2, 3]
  scale = np.full(6, 2.0)
  draws = FORECAST[:, None] + RNG.normal(size=(6, 50, 4))
  quantiles = np.quantile(draws, (0.1, 0.9), axis=1)
  for score in (
    competitions.smape,
    competitions.mape,
    lambda f, y: competitions.mase(f, y, scale),
    competitions.normalised_deviation,
    lambda f, y: competitions.weighted_quantile_loss(np.stack([f, f]), y, (0.1, 0.9)),
    lambda f, y: competitions.coverage(f - 1, f + 1, y),
  ):
    np.testing.assert_allclose(score(FORECAST, holes), score(FORECAST[:, kept], TRUTH[:, kept]))
  assert np.isnan(competitions.smape(FORECAST, np.full_like(TRUTH, NAN))).all()
  assert not competitions.is_inside(*quantiles, holes)[:, 1].any()
  past = PAST[0].copy()
  past[3] = NAN
  differences = np.abs(np.diff(PAST[0]))
  assert naive_scale(past, 1) == pytest.approx(np.delete(differences, [2, 3]).mean())


def test_quantile_losses_are_the_deviation_at_the_median_and_the_crps_over_all_levels():
  assert competitions.weighted_quantile_loss(FORECAST[None], TRUTH, (0.5,))[0] == pytest.approx(
    competitions.normalised_deviation(FORECAST, TRUTH)
  )
  draws = np.random.default_rng(1).normal(10.0, 2.0, (1, 4000, 1))
  levels = tuple(((np.arange(400) + 0.5) / 400).tolist())
  loss = competitions.quantile_loss(np.quantile(draws, levels, axis=1), np.array([[11.0]]), levels)
  # E|X - y| - ½·E|X - X'| of these draws.
  x = np.sort(draws.ravel())
  pairs = (2 * np.arange(4000) - 3999) @ x / 4000**2
  assert loss.mean() == pytest.approx(np.abs(x - 11).mean() - pairs, rel=1e-3)


def test_the_sum_over_series_is_scored_with_joint_draws():
  """Two series that are opposite: their sum is known, whatever each of them does."""
  noise = RNG.normal(size=(3, 200, 1, 5))
  draws = np.concatenate([10 + noise, 20 - noise], 2)
  truth = np.broadcast_to(np.array([12.0, 18.0])[:, None], (3, 2, 5))
  assert competitions.crps_sum(draws, truth) == pytest.approx(0, abs=1e-12)
  one = draws[:, :, :1]
  levels = competitions.PUBLISHED_LEVELS
  quantiles = np.quantile(one[:, :, 0], levels, axis=1)
  expected = competitions.weighted_quantile_loss(quantiles, truth[:, 0], levels).mean()
  assert competitions.crps_sum(one, truth[:, :1]) == pytest.approx(expected)


def test_an_average_weights_each_frequency_by_its_values():
  assert competitions.average([1.0, 4.0], [10, 5], [4, 8]) == 2.5


@pytest.mark.peers
def test_metrics_are_those_of_utilsforecast():
  pd, losses = pytest.importorskip('pandas'), pytest.importorskip('utilsforecast.losses')
  names = np.repeat([f'series {i}' for i in range(6)], 4)
  low, high = FORECAST - 1.0, FORECAST + 1.5
  frame = pd.DataFrame(
    {
      'unique_id': names,
      'ds': np.tile(np.arange(30, 34), 6),
      'y': TRUTH.ravel(),
      'ours': FORECAST.ravel(),
      'ours-lo-80': low.ravel(),
      'ours-hi-80': high.ravel(),
    }
  )
  train = pd.DataFrame(
    {
      'unique_id': np.repeat(names[::4], 30),
      'ds': np.tile(np.arange(30), 6),
      'y': PAST.ravel(),
    }
  )
  column = lambda found: found['ours'].to_numpy()
  # Their sMAPE and MAPE are shares.
  np.testing.assert_allclose(
    competitions.smape(FORECAST, TRUTH), 200 * column(losses.smape(frame, ['ours']))
  )
  np.testing.assert_allclose(
    competitions.mape(FORECAST, TRUTH), 100 * column(losses.mape(frame, ['ours']))
  )
  scale = np.array([naive_scale(past, 4) for past in PAST])
  peer = column(losses.mase(frame, ['ours'], seasonality=4, train_df=train))
  np.testing.assert_allclose(competitions.mase(FORECAST, TRUTH, scale), peer)
  peer = column(losses.coverage(frame, ['ours'], level=80)).mean()
  assert competitions.coverage(low, high, TRUTH) == pytest.approx(peer)
  for level in (0.1, 0.5, 0.8):
    peer = column(losses.quantile_loss(frame, {'ours': 'ours'}, q=level)).reshape(-1)
    ours = competitions.quantile_loss(FORECAST[None], TRUTH, (level,))[0].mean(-1) / 2
    np.testing.assert_allclose(ours, peer)
  quantiles = {'ours': ['ours-lo-80', 'ours-hi-80']}
  peer = column(losses.scaled_crps(frame, quantiles, np.array([0.1, 0.9])))
  each = [
    competitions.weighted_quantile_loss(np.stack([low[i], high[i]]), TRUTH[i], (0.1, 0.9)).mean()
    for i in range(6)
  ]
  np.testing.assert_allclose(each, peer, rtol=1e-6)
