"""Shares of stable runs, in closed form."""

import math

import pytest

from common.config import ConfigError
from common.evaluation.measures import Measure
from common.studies.stability import Stability, json_record, runs, share_of, shares


def measured(**rows):
  """The distances of rows, by seed."""
  return {
    (row, 'frechet'): {seed: Measure(value) for seed, value in enumerate(values)}
    for row, values in rows.items()
  }


def stable(distances, factor=2.0):
  """Which runs of one row are stable."""
  found = runs(Stability(factor=factor), ['a'], range(len(distances)), measured(a=distances))
  return [run.stable for run in found]


def test_a_run_is_stable_up_to_the_factor_times_the_best():
  assert stable([1.0, 2.0, 2.001, 0.9999]) == [True, False, False, True]
  assert stable([1.0, 2.0, 2.001]) == [True, True, False]
  assert stable([1.0, 2.0, 2.001], factor=3) == [True] * 3


@pytest.mark.parametrize('lost', [math.nan, math.inf, None])
def test_a_run_without_a_finite_distance_counts_as_not_stable(lost):
  assert stable([lost, 1.0]) == [False, True]
  assert stable([lost, lost]) == [False, False]


def test_the_best_run_is_stable_also_at_a_distance_of_zero_or_less():
  assert stable([0.0, 1.0]) == [True, False]
  assert stable([-0.1, 1.0]) == [True, False]


def test_each_group_has_its_own_best_run_and_missing_runs_count():
  """b ends ten times as far as a, as b's other setting does; the last seed of c was lost."""
  measures = measured(a=[1.0, 1.5, 9.0], b=[10.0, 11.0, 12.0], b2=[19.0, 21.0, 20.0], c=[5.0, 5.0])
  groups = {'a': ['a'], 'b': ['b', 'b2'], 'c': ['c']}
  found = shares(Stability(), groups, (0, 1, 2), measures)
  assert {row: measure.value for row, measure in found.items()} == {
    'a': 2 / 3,
    'b': 5 / 6,
    'c': 2 / 3,
  }
  assert '1 diverged or failed' in found['c'].note and 'best run, 5;' in found['c'].note
  # Wilson 1927 for 5 of 6: centre (5 + z²/2) / (6 + z²), half z / (6 + z²) √(5·1/6 + z²/4).
  z = 1.959964
  centre, room = (5 + z**2 / 2) / (6 + z**2), z / (6 + z**2) * math.sqrt(5 / 6 + z**2 / 4)
  assert found['b'].interval == pytest.approx((centre - room, centre + room))


def test_nothing_stable_is_a_share_of_zero_and_one_run_has_none():
  found = runs(Stability(), ['a'], (0, 1), {})
  assert share_of(Stability(), found).value == 0.0
  assert json_record(found)[0] == {'row': 'a', 'seed': 0, 'distance': None, 'stable': False}
  assert share_of(Stability(), found[:1]).value is None


def test_a_factor_that_only_the_best_run_meets_is_refused():
  with pytest.raises(ConfigError, match='must be above 1, got 1'):
    Stability(factor=1)
