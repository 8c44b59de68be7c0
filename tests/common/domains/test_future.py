"""Forecasts beyond the end of the data: their windows, covariates and files."""

import dataclasses

import numpy as np
import pytest

from common.data import pipeline
from common.domains.forecasts import pictures, tables
from common.domains.forecasts.future import future_windows

CONTEXT, HORIZON = 8, 3
HEADER = 'series,date,value,price,sky,load'


def months(start, number):
  return [str(np.datetime64(start, 'M') + i) for i in range(number)]


def rows(name='b'):
  """Two series, of 40 and of 9 months, and the prices of two months more."""
  made = [f'a,{m},{i}.5,{i % 5},sun,{i}' for i, m in enumerate(months('2001-01', 40))]
  made += [f'{name},{m},{100 + i},{i % 4},rain,{i}' for i, m in enumerate(months('2001-01', 9))]
  made += [f'a,{m},,{i},sun,' for i, m in enumerate(months('2004-05', 2))]
  return made + [f'{name},{m},,{i},,' for i, m in enumerate(months('2001-10', 2))]


@pytest.fixture(scope='module')
def data(tmp_path_factory):
  folder = tmp_path_factory.mktemp('future')
  path = folder / 'own.csv'
  path.write_text('\n'.join([HEADER, *rows()]))
  settings = dict(name='series', dir=str(folder / 'data'), source=str(path), observed='load')
  return pipeline.load(settings | dict(context=CONTEXT, horizon=HORIZON, stride=1, unit='kg'))


def batch_of(windows):
  return windows.source.gather(windows.indices)


def test_windows_continue_each_series_with_the_covariates_of_its_file(data):
  windows = future_windows(data, 2)
  assert (windows.spec.shape, windows.spec.series.horizon) == ((CONTEXT + 2, 7), 2)
  assert windows.spec.series.static == ('sky',)
  batch, series = batch_of(windows), windows.spec.series
  np.testing.assert_array_equal(batch['label'], [0, 1])
  np.testing.assert_array_equal(batch['start'], [32, 1])
  raw = series.raw(batch['x'][..., 0], batch['series'])
  np.testing.assert_allclose(raw[0], [*(np.arange(32, 40) + 0.5), np.nan, np.nan], rtol=1e-6)
  np.testing.assert_allclose(raw[1], [*np.arange(101, 109), np.nan, np.nan], rtol=1e-6)
  price = batch['x'][..., 1] * series.deviations[0] + series.means[0]
  np.testing.assert_allclose(price[1], [1, 2, 3, 0, 1, 2, 3, 0, 0, 1], atol=1e-5)
  assert np.isnan(batch['x'][:, CONTEXT:, 2]).all()  # loads are known only afterwards
  # Time features are those of the months, also beyond the file.
  angle = 2 * np.pi * (np.arange(1, 11) % 12) / 12
  np.testing.assert_allclose(batch['x'][1, :, 4], np.sin(angle), atol=1e-6)
  np.testing.assert_allclose(batch['x'][1, :, 3], np.log10(2 + np.arange(1, 11)), rtol=1e-6)
  np.testing.assert_array_equal(batch['x'][..., 6], [[2] * 10, [1] * 10])  # a static category


def test_another_file_gives_the_same_windows_and_may_have_new_series(data, tmp_path):
  same, other = tmp_path / 'same.csv', tmp_path / 'other.csv'
  same.write_text('\n'.join([HEADER, *rows()]))
  other.write_text('\n'.join([HEADER, *rows('z')]).replace('rain', 'hail'))
  wanted, found = (future_windows(data, 2, on=on) for on in (None, str(same)))
  assert found.spec.series.origins == wanted.spec.series.origins
  for key, array in batch_of(wanted).items():
    np.testing.assert_allclose(batch_of(found)[key], array, rtol=1e-5, atol=1e-6)
  new = future_windows(data, 2, on=str(other))
  assert new.spec.class_names == ('a', 'z')
  batch = batch_of(new)
  np.testing.assert_array_equal(batch['label'], [0, 2])  # 2: no class
  np.testing.assert_array_equal(batch['x'][1, :, 6], 0)  # an unknown category
  raw = new.spec.series.raw(batch['x'][..., 0], batch['series'])
  np.testing.assert_allclose(raw[1, :CONTEXT], np.arange(101, 109), rtol=1e-6)


def test_a_file_of_covariates_continues_all_series(data, tmp_path):
  path = tmp_path / 'prices.csv'
  path.write_text(
    '\n'.join(['date,price', *(f'{m},{i}' for i, m in enumerate(months('2001-01', 60)))])
  )
  windows = future_windows(data, 6, future=str(path))
  batch, series = batch_of(windows), windows.spec.series
  price = batch['x'][:, CONTEXT:, 1] * series.deviations[0] + series.means[0]
  np.testing.assert_allclose(price, [np.arange(40, 46), np.arange(9, 15)], rtol=1e-5)
  assert np.isfinite(batch['x'][:, CONTEXT:, 3:]).all()


@pytest.mark.parametrize(
  ('settings', 'text', 'message'),
  [
    (
      dict(horizon=3),
      '',
      r"series 'a' needs 'price' at 2004-07: give it by --future=FILE, or in r",
    ),
    (
      dict(future='f'),
      'date,price\n2004-05,1\n2004-06,1\n2004-07,1',
      "does not continue series 'b': its forecast is from 2001-10 to 2001-12, the file has 2004-05",
    ),
    (dict(future='f'), 'series,date,price\nb,2001-10,1\nb,2001-11,1', "has no rows of series 'a'"),
    (dict(future='f'), 'date,load\n2004-05,1', 'has no covariate that is known in advance: price'),
    (dict(future='f'), 'date,price\n2004-05-01,x', "column 'price': a value must be a number"),
    (dict(future='none.csv'), None, 'cannot read --future=.*none.csv.*No such file'),
    (dict(on='f'), 'series,date,value\na,2001-01,1', "needs a column 'price'"),
    (
      dict(on='f'),
      '\n'.join([HEADER, *rows()[:40:3]]),
      r'data.frequency=monthly: no series has this frequency; found quarterly \(1 series\)',
    ),
  ],
)
def test_bad_files_are_refused_in_one_line(data, tmp_path, settings, text, message):
  for flag in settings.keys() & {'on', 'future'}:
    settings = settings | {flag: str(tmp_path / settings[flag])}
    if text is not None:
      (tmp_path / 'f').write_text(text)
  with pytest.raises(ValueError, match=message) as error:
    future_windows(data, **{'horizon': 3} | settings)
  assert '\n' not in str(error.value)


def test_counts_are_not_forecast_from_other_numbers(data, tmp_path):
  spec = dataclasses.replace(
    data.spec, series=dataclasses.replace(data.spec.series, counts=True, origins=(), units=())
  )
  (tmp_path / 'f.csv').write_text('\n'.join([HEADER, *rows()]))
  with pytest.raises(ValueError, match='are whole numbers from 0, those of the file are not'):
    future_windows(data._replace(spec=spec), 2, on=str(tmp_path / 'f.csv'))


def test_tables_and_pictures_of_forecasts_without_a_truth(data):
  windows = future_windows(data, 2)
  drawn = np.arange(5.0).reshape(1, 5, 1) + np.zeros((2, 1, 2))
  found = windows.forecasts(drawn)
  assert found.is_future
  lines = tables.table([found], all_draws=True).splitlines()
  draws_ = ','.join(f'draw{i}' for i in range(1, 6))
  assert lines[0] == f'window,series,step,date,unit,mean,q0.05,q0.25,q0.5,q0.75,q0.95,{draws_}'
  assert lines[1].startswith('0,a,1,2004-05,kg,') and lines[4].startswith('1,b,2,2001-11,kg,')
  # A draw of k is the origin and k units.
  origin, unit = data.spec.series.origins[1], data.spec.series.units[1]
  assert [float(x) for x in lines[4].split(',')[-2:]] == pytest.approx(
    [origin + k * unit for k in (3, 4)]
  )
  assert pictures.picture(found).ndim == 3
