"""Forecasts of windows: requests, draws in calls of one shape, and their table."""

import jax
import numpy as np

from common.data.spec import DataSpec, SeriesSpec
from common.domains import series
from tests.common.domains.toy import Sampler, Split

SPEC = DataSpec('walks', 'series', (8, 2), 0, 3, ('a', 'b', 'c'), 9, series=SeriesSpec(3, season=4))


def test_quantiles_as_a_table():
  draws = np.tile(np.arange(101.0)[None, :, None], (2, 1, 3))
  found = series.Forecasts(('a, b', 'c'), np.zeros((2, 5)), np.ones((2, 3)), draws)
  lines = series.table(found).splitlines()
  assert lines[0] == 'window,series,step,truth,mean,q0.05,q0.25,q0.5,q0.75,q0.95'
  assert lines[1] == '0,"a, b",1,1,50,5,25,50,75,95'
  assert len(lines) == 7 and lines[-1].startswith('1,c,3,')


def test_forecasts_are_the_same_however_many_are_drawn_at_once():
  """Apart from the random keys: the calls have one shape, and the surplus of the last is cut."""
  windows = np.arange(7 * 8 * 2, dtype=np.float32).reshape(7, 8, 2)
  source = Split(x=windows, label=np.arange(7, dtype=np.int32) % 3)
  shapes = []

  def draw(key, request):
    shapes.append(request.past.shape)
    assert request.mask[:5].all() and not request.mask[5:, 0].any() and request.mask[5:, 1].all()
    return request.past + 0.5 * ~np.asarray(request.mask)

  asked = series.Windows(SPEC, source, np.arange(1, 6))
  found = series.forecast(Sampler(draw), {}, jax.random.key(0), asked, draws=3, batch_size=4)
  assert shapes == [(4, 8, 2)] * 4
  assert found.names == ('b', 'c', 'a', 'b', 'c')
  np.testing.assert_array_equal(found.past, windows[1:6, :5, 0])
  np.testing.assert_array_equal(found.truth, windows[1:6, 5:, 0])
  expected = np.repeat(windows[1:6, None, 5:, 0] + 0.5, 3, axis=1)
  np.testing.assert_array_equal(found.draws, expected)
