"""Cells of papers that need no training: they pin data, splits, scaling and metrics.

Data that pip cannot fetch is read from downloads/manual/NAME of $TFDS_DATA_DIR; without it, a test
is skipped.
"""

import functools

import numpy as np
import pytest

from common.config import ConfigError
from common.data.builders import BUILDERS
from common.evaluation.forecasts import classical, competitions

pytestmark = pytest.mark.slow


@functools.cache
def series_of(name, frequency=''):
  """(past, truth) of each series, and its horizon and season; skips the test without the data."""
  builder = BUILDERS[name]
  settings = {'name': name, 'frequency': frequency}
  # Only pip is tried: the files of the others are large, and their homes may be slow.
  network = name in ('m1', 'm3', 'tourism')
  made = object.__new__(builder)  # the table alone, without preparing windows
  made.settings, made.network = settings, network
  try:
    table = made.table()
  except ConfigError as error:
    pytest.skip(f'{name} is not here: {error}')
  values = np.split(table.value, table.starts[1:])
  test = table.test.tolist()
  pairs = [(value[:-steps], value[-steps:]) for value, steps in zip(values, test, strict=True)]
  return pairs, builder.default_horizon(settings), table.period


def score_of(name, frequency, forecast, season=None):
  """Mean sMAPE, MAPE and MASE of a forecast of each series."""
  pairs, horizon, period = series_of(name, frequency)
  made = np.stack([forecast(past, horizon, period) for past, _ in pairs])
  truth = np.stack([after for _, after in pairs])
  season = season or period
  scale = np.array([scale_of(past, season) for past, _ in pairs])
  return (
    competitions.smape(made, truth).mean(),
    competitions.mape(made, truth).mean(),
    np.nanmean(competitions.mase(made, truth, scale)),
  )


def scale_of(past, season):
  lag = season if len(past) > season else 1
  return np.abs(past[lag:] - past[:-lag]).mean()


def seasonal_naive(past, horizon, season):
  return classical.seasonal_naive(past[None], horizon, season)[0]


def test_seasonal_naive_on_tourism():
  """MAPE of N-BEATS's table 15 (Oreshkin et al. 2020)."""
  groups = {'yearly': (23.61, 4 * 518), 'quarterly': (16.46, 8 * 427), 'monthly': (22.56, 24 * 366)}
  found = [score_of('tourism', frequency, seasonal_naive)[1] for frequency in groups]
  published, weights = zip(*groups.values(), strict=True)
  np.testing.assert_allclose(found, published, atol=0.005)
  assert competitions.average(found, weights, (1, 1, 1)) == pytest.approx(21.25, abs=0.005)


def test_naive2_on_m3():
  """sMAPE of N-BEATS's table 14; M3 itself took out the season of quarters and months otherwise."""
  for frequency, published in (('yearly', 17.88), ('other', 6.30)):
    assert score_of('m3', frequency, classical.naive2)[0] == pytest.approx(published, abs=0.005)
  for frequency, computed in (('quarterly', 10.03), ('monthly', 16.76)):
    assert score_of('m3', frequency, classical.naive2)[0] == pytest.approx(computed, abs=0.005)


def test_naive2_on_m4():
  """sMAPE and MASE of the organisers' forecasts (Makridakis et al. 2020), with m = 24 and 1."""
  for frequency, published in (('hourly', (18.383, 2.395)), ('weekly', (9.161, 2.777))):
    smape, _, mase = score_of('m4', frequency, classical.naive2)
    assert (smape, mase) == pytest.approx(published, abs=0.0005)
  smape, _, mase = score_of('m4', 'hourly', seasonal_naive)
  assert competitions.owa(smape, mase, 18.383, 2.395) == pytest.approx(0.628, abs=0.001)


@pytest.mark.parametrize(
  ('name', 'season', 'published'),
  [
    ('m1', 0, {'yearly': (4.938, 23.10), 'quarterly': (1.929, 18.10), 'monthly': (1.379, 17.43)}),
    (
      'm3',
      0,
      {
        'yearly': (3.167, 17.76),
        'quarterly': (1.417, 10.90),
        'monthly': (1.091, 16.22),
        'other': (3.089, 6.28),
      },
    ),
    # Not yearly: the archive has other yearly series of tourism (3.253 and 34.14).
    ('tourism', 0, {'quarterly': (3.210, 27.41), 'monthly': (3.306, 36.39)}),
    ('m4', 24, {'hourly': (11.607, 42.95)}),
    ('m4', 52, {'weekly': (0.587, 9.01)}),  # the archive takes m = 52 for weeks, M4 itself 1
  ],
)
def test_exponential_smoothing_in_the_monash_archive(name, season, published):
  """MASE and sMAPE of SES (Godahewa et al. 2021, tables 2 and 7), to 0.4 %."""
  for frequency, cells in published.items():
    smape, _, mase = score_of(name, frequency, classical.simple_exponential_smoothing, season)
    assert (mase, smape) == pytest.approx(cells, rel=4e-3)


def repeated(values, train, test, horizon):
  """MSE and MAE of repeating the last value, in the protocol of long horizons (Zeng et al. 2023).

  Values are standardised by the training part. Windows begin at every step of the test part; the
  loader drops the last, incomplete batch of 32.
  """
  scaled = (values - values[:train].mean(0)) / values[:train].std(0)
  first = len(values) - test
  starts = np.arange(first, len(values) - horizon + 1)
  starts = starts[: len(starts) // 32 * 32]
  ahead = np.lib.stride_tricks.sliding_window_view(scaled, horizon, 0)[starts]
  error = ahead - scaled[starts - 1][..., None]
  return np.square(error).mean(), np.abs(error).mean()


def test_repeating_the_last_value_on_etth1():
  """'Repeat' of DLinear's table 2 (Zeng et al. 2023)."""
  pairs, _, _ = series_of('etth1')
  values = np.stack([np.concatenate(pair) for pair in pairs], 1)
  published = {96: (1.295, 0.713), 192: (1.325, 0.733), 336: (1.323, 0.744), 720: (1.339, 0.756)}
  for horizon, cells in published.items():
    assert repeated(values, 8640, 2880, horizon) == pytest.approx(cells, abs=6e-4)


def test_repeating_the_last_value_on_exchange_rates():
  """'Repeat' of the authors' LTSF benchmark: all days, split 70/10/20."""
  series_of('exchange_rate')
  made = object.__new__(BUILDERS['exchange_rate'])
  made.settings, made.network = {'name': 'exchange_rate'}, False
  values = made.rates()
  days = len(values)
  published = {96: (0.081, 0.196), 192: (0.167, 0.289), 336: (0.305, 0.396), 720: (0.823, 0.681)}
  for horizon, cells in published.items():
    found = repeated(values, int(0.7 * days), int(0.2 * days), horizon)
    assert found == pytest.approx(cells, abs=6e-4)
