"""Tables of time series: gaps, missing values, frequencies, categories, CSV and Parquet."""

import datetime
import io

import numpy as np
import pytest

from common.config import ConfigError
from common.data.series.calendars import Frequency, frequency_named
from common.data.series.encoding import (
  Levels,
  SeriesRows,
  fit_encoding,
  levels_of,
  naive_scale,
)
from common.data.series.table import read_table
from common.data.series.windows import WindowSizes, series_parts, useful_offsets, window_offsets

NAN = np.nan


def table(lines, header='series,date,value', frequency='', **settings):
  """The table of a CSV file."""
  return read_table('\n'.join([header, *lines]).encode(), 'own.csv', settings, frequency)


def months(name, first, values):
  """Rows of a monthly series; None: no row."""
  start = np.datetime64(first, 'M')
  return [f'{name},{start + i},{value}' for i, value in enumerate(values) if value is not None]


def test_gaps_are_missing_values_and_the_ends_of_a_series_are_its_values():
  lines = [
    *months('a', '2001-01', [1, 2, None, 4, 'NA', 6, 7]),
    *months('b', '2001-03', ['', 8, 9, 10, '', '']),
  ]
  found = table(np.random.default_rng(0).permutation(lines))
  assert (found.names, found.frequency) == (('a', 'b'), Frequency('month', 1))
  np.testing.assert_array_equal(found.lengths, [7, 5])
  np.testing.assert_array_equal(found.future, [0, 2])
  np.testing.assert_array_equal(found.ends, [7, 3])
  np.testing.assert_array_equal(found.value, [1, 2, NAN, 4, NAN, 6, 7, 8, 9, 10, NAN, NAN])
  np.testing.assert_array_equal(np.diff(found.times.values[:7]), 1)
  assert found.times.values[7] == found.times.values[3]
  assert found.notes == ('1 steps that the file leaves out are missing values',)


@pytest.mark.parametrize(
  ('days', 'name', 'length'),
  [
    ([1, 2, 3, 6, 7, 8, 9, 10, 13], 'daily', 13),  # no weekends
    ([1, 8, 15, 29], 'weekly', 5),
    ([1, 3, 5, 11, 13], '2 days', 7),
  ],
)
def test_a_frequency_is_clear_if_most_steps_are_there(days, name, length):
  found = table([f'a,2024-01-{day:02d},{day}' for day in days])
  assert (found.frequency.name, len(found.value)) == (name, length)
  assert np.isfinite(found.value).sum() == len(days)


@pytest.mark.parametrize('days', [[1, 2, 5, 9], [1, 4, 5, 9, 11], [1, 1, 2]])
def test_a_frequency_that_is_not_clear_is_refused(days):
  with pytest.raises(ConfigError, match='times must be whole steps apart, but in series'):
    table([f'a,2024-01-{day:02d},{day}' for day in days])


def test_one_of_several_frequencies_can_be_chosen():
  monthly, quarterly = months('a', '2001-01', range(12)), months('b', '2001-01', range(12))[::3]
  days = [f'c,{np.datetime64("2001-01-01") + i},{i}' for i in range(40)]
  lines = [f'{line[:9]}-01{line[9:]}' for line in monthly + quarterly] + days
  several = r'monthly \(1 series\), quarterly \(1 series\), daily \(1 series\); keep one by'
  with pytest.raises(ConfigError, match=several):
    table(lines)
  with pytest.raises(ConfigError, match=r'data\.frequency=yearly: no series has this frequency;'):
    table(lines, frequency='yearly')
  for frequency, name, length in (('monthly', 'a', 12), ('quarterly', 'b', 4), ('daily', 'c', 40)):
    found = table(lines, frequency=frequency)
    assert (found.names, found.frequency.name, len(found.value)) == ((name,), frequency, length)
    assert found.notes == (f'2 series are not {frequency} and were left out',)


def test_a_chosen_frequency_reads_series_that_are_too_short_to_show_one():
  for lines in (['a,2001-01-01,1'], ['a,2001-01-01,1', 'a,2001-03-01,2']):
    found = table(lines, frequency='monthly')
    assert found.frequency.name == 'monthly' and len(found.value) == 2 * len(lines) - 1
  with pytest.raises(ConfigError, match=r'data\.frequency=monthly: no series has this frequency'):
    table(['a,7,1'], frequency='monthly')


@pytest.mark.parametrize(
  ('frequency', 'name'),
  [
    (Frequency('month', 12), 'yearly'),
    (Frequency('month', 2), '2 months'),
    (Frequency('second', 1800), '30 minutes'),
    (Frequency('second', 7200), '2 hours'),
    (Frequency('second', 90), '90 seconds'),
    (Frequency('step', 1), '1 steps'),
  ],
)
def test_names_of_frequencies(frequency, name):
  assert frequency.name == name and frequency_named(name) == frequency
  assert frequency_named('often') is None


SKY = [
  'a,2001-01,1,3.5,dry,7',
  'a,2001-02,2,,wet,7',
  'a,2001-03,3,4.5,?,7',
  'a,2001-04,4,5.5,snow,7',
  'a,2001-05,,6.5,dry,7',
  'b,2001-01,1,2.5,wet,8',
  'b,2001-02,2,2.5,wet,8',
]
SKY_HEADER = 'series,date,value,price,sky,shop'


def test_columns_of_texts_are_categories_and_so_are_numbers_that_are_names():
  found = table(SKY, SKY_HEADER, categories='shop', observed='sky')
  assert found.columns.covariates == ('price',)
  assert (found.columns.categories, found.columns.observed) == (('sky', 'shop'), ('sky',))
  assert found.texts == (('dry', 'snow', 'wet'), ('7', '8'))
  np.testing.assert_array_equal(found.codes[:, 0], [0, 2, -1, 1, 0, 2, 2])
  np.testing.assert_array_equal(found.covariates[:, 0], [3.5, NAN, 4.5, 5.5, 6.5, 2.5, 2.5])
  training = np.array([1, 1, 1, 0, 0, 1, 1], bool)
  encoding = fit_encoding(found, training)
  # Snow is not in the training part: it is unknown, as a missing text is.
  assert encoding.texts == (('dry', 'wet'), ('7', '8'))
  assert encoding.static == ('shop',)
  seen = np.array([3.5, 4.5, 2.5, 2.5])
  np.testing.assert_allclose((encoding.means[0], encoding.deviations[0]), (seen.mean(), seen.std()))
  rows = SeriesRows(found, encoding, [Levels(1, 2), Levels()])
  x = rows.rows(0, 2, 1)
  assert rows.covariate_names == ('price', 'age', 'year_sin', 'year_cos')
  np.testing.assert_array_equal(x[:, 0], [NAN, NAN, 0, 0.5, 1, 1.5, NAN, NAN])
  price = (np.array([3.5, NAN, 4.5, 5.5, 6.5]) - seen.mean()) / seen.std()
  np.testing.assert_allclose(x[:, 1], [NAN, NAN, *price, NAN], rtol=1e-6)
  np.testing.assert_allclose(x[:, 2], np.log10([2, 2, 2, 3, 4, 5, 6, 7]), rtol=1e-6)
  np.testing.assert_array_equal(x[:, 5], [NAN, NAN, 1, 2, NAN, 0, 1, NAN])
  np.testing.assert_array_equal(x[:, 6], 1)  # static: also before and after


def test_a_column_of_too_many_texts_is_refused():
  lines = [f'a,{i},{i},text {i}' for i in range(1001)]
  with pytest.raises(ConfigError, match="'note': at most 1,000 different texts are categories"):
    table(lines, 'series,date,value,note')


def test_a_column_without_values_in_the_training_part_is_refused():
  found = table([f'a,{i},{i},{i if i > 5 else ""}' for i in range(9)], 'series,date,value,late')
  with pytest.raises(ConfigError, match="column 'late' has no values in the training part; leave"):
    fit_encoding(found, np.arange(9) < 5)


def test_a_parquet_file_is_that_csv_file():
  pyarrow = pytest.importorskip('pyarrow')
  from pyarrow import parquet

  csv = table(SKY, SKY_HEADER, categories='shop')
  cells = [line.split(',') for line in SKY]
  for date in (
    [row[1] for row in cells],
    [datetime.date.fromisoformat(f'{row[1]}-01') for row in cells],
    [datetime.datetime.fromisoformat(f'{row[1]}-01T00:00:00') for row in cells],
  ):
    columns = dict(
      __index_level_0__=list(range(7)),
      series=[row[0] for row in cells],
      date=date,
      value=[int(row[2]) if row[2] else None for row in cells],
      price=[float(row[3]) if row[3] else None for row in cells],
      sky=[None if row[4] == '?' else row[4] for row in cells],
      shop=[int(row[5]) for row in cells],
    )
    sink = io.BytesIO()
    parquet.write_table(pyarrow.table(columns), sink)
    found = read_table(sink.getvalue(), 'own.parquet', dict(categories='shop'))
    assert (found.names, found.columns, found.texts) == (csv.names, csv.columns, csv.texts)
    for one, other in ((found.value, csv.value), (found.covariates, csv.covariates)):
      np.testing.assert_array_equal(one, other)
    np.testing.assert_array_equal(found.times.values, csv.times.values)
  with pytest.raises(ConfigError, match=r'cannot read bad\.parquet as a Parquet file'):
    read_table(sink.getvalue()[:40], 'bad.parquet')
  columns['price'][3] = 1e400
  sink = io.BytesIO()
  parquet.write_table(pyarrow.table(columns), sink)
  with pytest.raises(ConfigError, match="row 4, column 'price': a number must be at most"):
    read_table(sink.getvalue(), 'own.parquet')


@pytest.mark.parametrize(
  ('length', 'sizes', 'expected'),
  [
    (20, {}, dict(train=[3, 2, 1, 0], validation=[6], test=[9], future=[12])),
    (20, dict(min_context=6), dict(train=[3, 2, 1, 0, -1, -2])),
    (15, {}, dict(train=[-2], validation=[1], test=[4])),  # six given, three to learn
    (12, {}, dict(train=[-5], validation=[-2], test=[1])),
    (9, {}, dict(train=[-7], validation=[-5], test=[-2], future=[1])),  # one given, two to learn
    (7, {}, dict(train=[-7], validation=[], test=[-4])),  # no room for validation
    (4, {}, dict(train=[], validation=[], test=[-7], future=[-4])),
    (3, {}, dict(train=[], validation=[], test=[])),
    (20, dict(train_to='test', stride=4), dict(train=[6, 2], validation=[6], test=[9])),
    (20, dict(rolling=3), dict(train=[], validation=[], test=[0, 3, 6, 9])),
  ],
)
def test_where_windows_begin(length, sizes, expected):
  """Of a context of 8 and a horizon of 3: a series gives as many windows as it can."""
  found = table([f'a,{i},{i}' for i in range(length)])
  if sizes.get('rolling'):
    expected = dict(test=[3, 6, 9], validation=[-6, -3, 0][-3:], train=[-7])
  sizes = WindowSizes(8, 3, **sizes)
  (parts,) = series_parts(found, sizes)
  offsets = window_offsets(parts, sizes)
  known = np.isfinite(found.value)
  for split, starts in expected.items():
    assert useful_offsets(offsets[split], known, sizes, split) == starts, split


def test_a_published_split_is_kept():
  found = table([f'a,{i},{i}' for i in range(60)])
  test, validation = np.array([20]), np.array([10])
  for sizes, wanted in (
    (dict(), dict(test=[32, 36, 40, 44, 48], validation=[22, 26], train=[18, 17])),
    (dict(roll_by=1, rolling=3), dict(test=[46, 47, 48], validation=[26, 27, 28])),
  ):
    sizes = WindowSizes(8, 4, **sizes)
    (parts,) = series_parts(found._replace(test=test, validation=validation), sizes)
    assert (parts.train, parts.validation, parts.test, parts.end) == (30, 30, 40, 60)
    offsets = window_offsets(parts, sizes)
    for split, starts in wanted.items():
      assert list(offsets[split])[: len(starts)] == starts
  longer = 'horizon=24 is longer than the published test part of 20 steps'
  with pytest.raises(ConfigError, match=longer):
    series_parts(found._replace(test=test), WindowSizes(8, 24))


def test_windows_without_a_value_to_forecast_are_left_out():
  known = np.ones(30, bool)
  known[10:16] = False
  sizes = WindowSizes(4, 3)
  starts = list(range(-2, 20))
  kept = useful_offsets(starts, known, sizes, 'test')
  assert sorted(set(starts) - set(kept)) == [6, 7, 8, 9]  # the horizon is in the gap
  kept = useful_offsets(starts, known, sizes, 'train')
  assert sorted(set(starts) - set(kept)) == [6, 7, 8, 9, 10, 11, 12]  # or the whole context


def test_levels_and_the_scale_of_mase():
  values = np.array([1.0, 2, NAN, 4, 1, 3, 5, 4])
  assert naive_scale(values, 4) == pytest.approx((0 + 1 + 0) / 3)
  assert naive_scale(values, 8) == pytest.approx((1 + 3 + 2 + 2 + 1) / 5)  # too short: lag 1
  assert np.isnan(naive_scale(values[:1], 4))
  found = table([f'a,{i},{value}' for i, value in enumerate(values)])
  assert levels_of(found, 0, 4) == Levels(7 / 3, pytest.approx(10 / 9))
  assert levels_of(found, 0, 1) == levels_of(found, 0, 0) == Levels(1.0, 1.0)
