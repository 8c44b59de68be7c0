"""Baselines of prepared data: the whole past of each window, and the same metrics as models."""

import dataclasses

import numpy as np
import pytest

from common.config import ConfigError
from common.data.pipeline import Data
from common.data.spec import DataSpec, SeriesSpec
from common.evaluation.evaluate import evaluate_baseline
from common.evaluation.forecasts import baselines, classical
from tests.cases import evaluation_settings
from tests.common.domains.toy import Split

SETTINGS = evaluation_settings(batch_size=64, num_samples=9)
CONTEXT, HORIZON, SEASON = 5, 3, 4
SERIES = SeriesSpec(
  HORIZON, SEASON, origins=(100.0, 0.0), units=(2.0, 1.0), naive_scales=(10.0, 5.0)
)
SPEC = DataSpec('waves', 'series', (CONTEXT + HORIZON, 2), 0, 2, ('a', 'b'), 9, series=SERIES)
RNG = np.random.default_rng(0)
# Raw values; the second has a hole, and begins with padding.
VALUES = [100 + 20 * RNG.normal(size=30), 50 + 5 * RNG.normal(size=9)]
VALUES[1][2] = np.nan


def split(windows):
  """Windows (label, start) of the two series."""
  x = np.full((len(windows), CONTEXT + HORIZON, 2), np.nan, np.float32)
  for row, (label, start) in zip(x, windows, strict=True):
    steps = np.arange(start, start + len(row))
    inside = (steps >= 0) & (steps < len(VALUES[label]))
    stored = (VALUES[label] - SERIES.origins[label]) / SERIES.units[label]
    row[inside, 0] = stored[steps[inside]]
  labels, starts = (np.array(each, np.int32) for each in zip(*windows, strict=True))
  return Split(x=x, label=labels, start=starts)


DATA = Data(
  SPEC,
  {
    'train': split([(0, start) for start in range(17)] + [(1, -4), (1, -2)]),
    'test': split([(0, 22), (1, 1)]),
  },
)


def test_a_baseline_has_all_of_the_past_in_raw_values():
  whole = baselines.histories(DATA)
  for found, value in zip(whole, VALUES, strict=True):
    np.testing.assert_allclose(found[: len(value)], value, rtol=1e-5)
  (made,) = baselines.forecasts('naive2', DATA, 'test', 2)
  # The hole is filled by a line between its neighbours.
  filled = VALUES[1].copy()
  filled[2] = (filled[1] + filled[3]) / 2
  expected = [classical.naive2(v[:-HORIZON], HORIZON, SEASON) for v in (VALUES[0], filled)]
  for draw in (0, 1):
    np.testing.assert_allclose(made.draws[:, draw], expected, rtol=1e-5)
  np.testing.assert_allclose(made.truth, [v[-HORIZON:] for v in VALUES], rtol=1e-5)


def test_a_baseline_is_measured_like_a_model():
  names = ['smape', 'mase', 'owa', 'coverage', 'parameters']
  found = evaluate_baseline('seasonal_naive', DATA, SETTINGS, names)
  value = {name: measure.value for name, measure in found.measures.items()}
  naive2 = evaluate_baseline('naive2', DATA, SETTINGS, names).measures
  ratios = [value[name] / naive2[name].value for name in ('smape', 'mase')]
  assert value['owa'] == pytest.approx(np.mean(ratios))
  assert naive2['owa'].value == pytest.approx(1)
  assert value['parameters'] is None and value['coverage'] == 0
  assert found.display.plot.ndim == 3
  for name, message in (('thta', "did you mean 'theta'"), ('naive', 'has none')):
    spec = dataclasses.replace(SPEC, domain='image', levels=2, shape=(2, 2, 1))
    data = DATA if name == 'thta' else Data(spec, DATA.splits)
    with pytest.raises(ConfigError, match=message):
      evaluate_baseline(name, data, SETTINGS)


def test_draws_of_a_baseline_are_quantiles():
  made = baselines.Normal(np.array([5.0, -1.0]), np.array([2.0, 0.0])).draws(1001)
  np.testing.assert_allclose(
    np.quantile(made[:, 0], (0.1, 0.5, 0.9)), 5 + 2 * np.array([-1.28155, 0, 1.28155]), atol=0.02
  )
  np.testing.assert_array_equal(made[:, 1], -1)


@pytest.mark.parametrize('name', ['ets', 'theta', 'auto_arima'])
def test_a_missing_package_is_named(name, monkeypatch):
  monkeypatch.setitem(__import__('sys').modules, 'statsforecast', None)
  with pytest.raises(ConfigError, match=r'install twofold\[forecasts\]'):
    evaluate_baseline(name, DATA, SETTINGS, ['crps'])


@pytest.mark.peers
@pytest.mark.parametrize('name', ['ets', 'theta', 'auto_arima'])
def test_models_of_statsforecast_find_a_trend_and_its_spread(name):
  pytest.importorskip('statsforecast')
  past = 3.0 * np.arange(60) + RNG.normal(size=60)
  made = baselines.BASELINES[name](past, 4, 1)
  np.testing.assert_allclose(made.mean, 3.0 * np.arange(60, 64), rtol=0.05)
  assert (made.deviation > 0.3).all() and (made.deviation < 10).all()
  assert made.draws(3).shape == (3, 4)
