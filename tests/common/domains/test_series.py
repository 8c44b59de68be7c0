"""Forecasts of windows: requests, draws in calls of one shape, and their table."""

import csv
import dataclasses
import io

import jax
import numpy as np
import pytest

from common.data.series.calendars import STEPS, Clock
from common.data.spec import DataSpec, SeriesSpec
from common.domains.forecasts import draws, pictures, tables
from tests.common.domains.toy import Sampler, Split

SPEC = DataSpec('walks', 'series', (8, 2), 0, 3, ('a', 'b', 'c'), 9, series=SeriesSpec(3, season=4))


MONTHS = Clock('month', 1, '%Y %b')
PAST = np.array([[0.5, 1.0, 1.5, 0.25, 0.75], [10.0, 11.0, 12.0, 13.0, 14.0]])
TRUTH = np.array([[123.45, 2.5, 0.1], [15.0, 16.0, 17.0]])


def dated(origins=(0.0, 0.0), units=(1.0, 1.0)):
  """Forecasts of two monthly series, which are stored from an origin and in a unit."""
  described = SeriesSpec(
    3, 12, value='price', time='month', origins=origins, units=units, first=(0, 2), clock=MONTHS
  )
  spec = DataSpec('p', 'series', (8, 2), 0, 2, ('a, b', 'c'), series=described)
  x = np.zeros((2, 8, 2), np.float32)
  x[..., 0] = np.concatenate([PAST, TRUTH], 1)
  drawn = x[:, None, 5:, 0] + np.arange(101.0)[:, None]
  batch = {'x': x, 'label': np.array([0, 1]), 'start': np.array([0, 4])}
  return draws.to_forecasts(spec, batch, drawn)


def test_quantiles_as_a_table():
  lines = tables.table([dated()]).splitlines()
  assert lines[0] == 'window,series,step,month,truth,mean,q0.05,q0.25,q0.5,q0.75,q0.95'
  assert lines[1] == '0,"a, b",1,1970 Jun,123.45,173.45,128.45,148.45,173.45,198.45,218.45'
  assert len(lines) == 7 and lines[-1].startswith('1,c,3,1971 Feb,17,67,22,')
  found = dated()
  same = found._replace(series=dataclasses.replace(found.series, time='step'))
  assert tables.table([same]).startswith('window,series,step,time,truth,')
  again = tables.table([found, found.first(1)]).splitlines()  # windows are numbered on
  assert again[:7] == lines and again[7:] == [f'2{line[1:]}' for line in lines[1:4]]


@pytest.mark.parametrize(
  ('origin', 'unit', 'truth', 'median'),
  [
    (1.7e9, 1.0, '1700000123.45', '1700000173.45'),
    (0.0, 1e-4, '0.012345', '0.017345'),
    (1e6, 1e3, '1123450', '1173450'),
    (0.0, 1e200, '1.2345e+202', '1.7345e+202'),
  ],
)
def test_a_table_has_the_digits_of_raw_values_in_every_unit(origin, unit, truth, median):
  found = dated((origin, origin), (unit, unit))
  row = next(csv.DictReader(io.StringIO(tables.table([found]))))
  assert (row['truth'], row['q0.5']) == (truth, median)
  np.testing.assert_allclose(found.truth, origin + unit * TRUTH, rtol=1e-7)


def test_the_digits_of_a_number_are_enough_to_find_it_again():
  rng = np.random.default_rng(0)
  for number in (rng.normal(size=200) * 10.0 ** rng.integers(-30, 30, 200)).tolist():
    tolerance = abs(number) * 2.0**-24
    assert abs(float(tables.shortest(number, tolerance)) - number) <= tolerance
    assert float(tables.shortest(number, 0.0)) == number


def test_the_picture_of_forecasts_has_a_panel_for_each_window():
  # With dates on its axis, and with steps.
  one, two = dated(), dated().first(1)
  steps = one._replace(series=dataclasses.replace(one.series, clock=STEPS))
  shapes = [pictures.picture(each).shape for each in (one, two, steps)]
  assert shapes[0] == shapes[2] and shapes[1][1] < shapes[0][1]


def test_forecasts_are_the_same_however_many_are_drawn_at_once():
  """Apart from the random keys: the calls have one shape, and the surplus of the last is cut."""
  windows = np.arange(7 * 8 * 2, dtype=np.float32).reshape(7, 8, 2)
  numbers = np.arange(7, dtype=np.int32)
  source = Split(x=windows, label=numbers % 3, start=numbers)
  shapes = []

  def draw(key, request):
    shapes.append(request.past.shape)
    assert request.mask[:5].all() and not request.mask[5:, 0].any() and request.mask[5:, 1].all()
    return request.past + 0.5 * ~np.asarray(request.mask)

  asked = draws.Windows(SPEC, source, np.arange(1, 6))
  key = jax.random.key(0)
  blocks = list(draws.forecast(Sampler(draw), {}, key, asked, draws=3, batch_size=4))
  assert shapes == [(4, 8, 2)] * 4
  # As soon as all draws of a window are there, it is scored or written, and then forgotten.
  assert [len(block.names) for block in blocks] == [1, 1, 2, 1]
  found = draws.joined(blocks)
  assert found.names == ('b', 'c', 'a', 'b', 'c')
  np.testing.assert_array_equal(found.times[:, 0], [1, 2, 3, 4, 5])
  np.testing.assert_array_equal(found.past, windows[1:6, :5, 0])
  np.testing.assert_array_equal(found.truth, windows[1:6, 5:, 0])
  expected = np.repeat(windows[1:6, None, 5:, 0] + 0.5, 3, axis=1)
  np.testing.assert_array_equal(found.draws, expected)
