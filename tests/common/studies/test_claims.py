"""Verdicts on claims."""

import math
import re

import numpy as np
import pytest

from common.config import ConfigError
from common.evaluation.measures import Measure, proportion
from common.studies.claims import Claim, judge, seeds_to_decide
from common.studies.estimates import (
  Estimate,
  difference,
  estimate,
  format_estimate,
  scaled,
  unit,
)


def verdict(claim, **cells):
  """Judges a claim about rows a, b, c of the metric m."""
  return judge(claim, {(row, 'm'): Estimate(*found) for row, found in cells.items()}).verdict


@pytest.mark.parametrize(
  ('one', 'other', 'expected'),
  [
    ((2.0, 0.1), (1.0, 0.1), 'holds'),
    ((1.0, 0.1), (2.0, 0.1), 'fails'),
    ((1.1, 0.1), (1.0, 0.1), 'undecided'),
    ((2.0, 0.0), (1.0, 0.0), 'holds'),
    ((1.0, 0.0), (1.0, 0.0), 'fails'),  # above means more than
    ((2.0, None), (1.0, 0.1), 'undecided'),
  ],
)
def test_above_and_below_mirror_each_other(one, other, expected):
  assert verdict(Claim('', ('a', 'm'), above=('b', 'm')), a=one, b=other) == expected
  assert verdict(Claim('', ('b', 'm'), below=('a', 'm')), a=one, b=other) == expected


def test_the_boundary_is_the_95_percent_interval_of_the_difference():
  """1.96 · sqrt(0.3² + 0.4²) = 0.98."""
  claim = Claim('', ('a', 'm'), above=('b', 'm'))
  assert verdict(claim, a=(0.99, 0.3), b=(0.0, 0.4)) == 'holds'
  assert verdict(claim, a=(0.97, 0.3), b=(0.0, 0.4)) == 'undecided'
  assert verdict(claim, a=(-0.97, 0.3), b=(0.0, 0.4)) == 'undecided'
  assert verdict(claim, a=(-0.99, 0.3), b=(0.0, 0.4)) == 'fails'


def test_an_exact_side_leaves_the_degrees_of_freedom_of_the_other():
  """Welch: an error of 2 with 2 degrees of freedom gives 4.30265273 · 2 = 8.605."""
  claim = Claim('', ('a', 'm'), above=0.0)
  assert verdict(claim, a=(8.5, 2.0, 2.0)) == 'undecided'
  assert verdict(claim, a=(8.7, 2.0, 2.0)) == 'holds'


def of_seeds(values, first=0):
  """The estimate from the values of consecutive seeds."""
  return estimate({first + seed: Measure(float(value)) for seed, value in enumerate(values)})


@pytest.mark.parametrize('first', [0, 7], ids=['equal seeds', 'other seeds'])
def test_a_verdict_is_wrong_no_more_often_than_its_level(first):
  """Two equal rows with three seeds each: 'holds' and 'fails' occur 2.5 % of the time each."""
  rng = np.random.default_rng(0)
  claim = Claim('', ('a', 'm'), above=('b', 'm'))
  found = []
  for one, other in rng.normal(size=(800, 2, 3)):
    cells = {('a', 'm'): of_seeds(one), ('b', 'm'): of_seeds(other, first)}
    found.append(judge(claim, cells).verdict)
  assert 0.008 < found.count('holds') / 800 < 0.04
  assert 0.008 < found.count('fails') / 800 < 0.04


def test_equal_seeds_are_paired_and_decide_where_their_spread_is_shared():
  """Seeds spread by 1 and move both rows alike; a is above b by 0.1 ± 0.01 in each of them."""
  rng = np.random.default_rng(0)
  shared, noise = rng.normal(size=5), 0.01 * rng.normal(size=5)
  claim = Claim('a is above b', ('a', 'm'), above=('b', 'm'))
  one, other = of_seeds(shared + 0.1 + noise), of_seeds(shared)
  paired = judge(claim, {('a', 'm'): one, ('b', 'm'): other})
  apart = judge(claim, {('a', 'm'): one, ('b', 'm'): of_seeds(shared, first=5)})
  assert (paired.verdict, apart.verdict) == ('holds', 'undecided')
  gaps = 0.1 + noise
  half_width = 2.77644511 * gaps.std(ddof=1) / math.sqrt(5)  # t of 4 degrees of freedom
  shown = format_estimate(Estimate(gaps.mean(), half_width / 1.95996398))
  effect = f'{gaps.mean() / gaps.std(ddof=1):.2g}'
  assert paired.detail.endswith(
    f'; difference {shown} (paired t-test over 5 seeds, effect size {effect})'
  )
  assert "(Welch's t-test over 5 and 5 seeds, effect size " in apart.detail
  assert apart.detail.endswith(' seeds would decide it if the means stay')
  twice = Claim('', ('a', 'm'), below=('b', 'm'), times=2.0)
  cells = {('a', 'm'): of_seeds(2 * shared - 0.1 + noise), ('b', 'm'): other}
  assert judge(twice, cells).verdict == 'holds'


@pytest.mark.parametrize(
  ('gap', 'room', 'expected'),
  [
    # s = 1: t(n - 1) / √n falls below 1 from 6 to 7 seeds (2.571 / 2.449 and 2.447 / 2.646).
    (Estimate(1.0, 1 / math.sqrt(3)), 0.0, 'about 7 seeds'),
    (Estimate(-1.0, 1 / math.sqrt(3)), 0.0, 'about 7 seeds'),
    # "near": the distance from the bound 3, on either side of it, is 1.
    (Estimate(2.0, 1 / math.sqrt(3)), 3.0, 'about 7 seeds'),
    (Estimate(-4.0, 1 / math.sqrt(3)), 3.0, 'about 7 seeds'),
    (Estimate(0.01, 1 / math.sqrt(3)), 0.0, 'more than 1,000 seeds'),
    (Estimate(0.0, 1 / math.sqrt(3)), 0.0, 'more than 1,000 seeds'),
  ],
)
def test_the_seeds_that_would_decide_follow_from_the_t_interval(gap, room, expected):
  assert seeds_to_decide(gap, 3, room) == expected


def test_more_seeds_do_not_reduce_the_error_of_a_measurement():
  """A baseline is measured once: no number of seeds of the model decides the claim."""
  claim = Claim('', ('a', 'm'), below=('b', 'm'))
  cells = {('a', 'm'): of_seeds([1.5, 1.6, 1.7]), ('b', 'm'): Estimate(2.0, 0.5)}
  found = judge(claim, cells)
  assert found.verdict == 'undecided' and 'seeds' not in found.detail
  exact = judge(claim, cells | {('b', 'm'): Estimate(2.0, 0.0)})
  # The difference is −0.4, and the seeds have a deviation of 0.1.
  assert exact.detail.endswith('(t-test over 3 seeds, effect size -4)')


def test_the_effect_size_of_seeds_apart_is_in_deviations_of_a_row():
  """Both rows have a deviation of 1, and their means differ by 3."""
  claim = Claim('', ('a', 'm'), above=('b', 'm'))
  cells = {('a', 'm'): of_seeds([3.0, 4.0, 5.0]), ('b', 'm'): of_seeds([0.0, 1.0, 2.0], 7)}
  assert "(Welch's t-test over 3 and 3 seeds, effect size 3)" in judge(claim, cells).detail


def test_as_many_seeds_as_it_says_decide_a_claim():
  """The same mean and spread over more seeds: one fewer than it says leaves it undecided."""
  values = np.array([0.0, 1.0, 2.0])
  claim = Claim('', ('a', 'm'), above=0.0)
  few = judge(claim, {('a', 'm'): of_seeds(values)})
  number = int(re.search(r'about (\d+) seeds would decide', few.detail).group(1))
  for seeds, expected in ((number - 1, 'undecided'), (number, 'holds')):
    rng = np.random.default_rng(seeds)
    drawn = rng.normal(size=seeds)
    drawn = (drawn - drawn.mean()) / drawn.std(ddof=1) * values.std(ddof=1) + values.mean()
    assert judge(claim, {('a', 'm'): of_seeds(drawn)}).verdict == expected


def test_of_the_same_examples_the_values_alone_decide():
  claim = Claim('', ('a', 'm'), near=2.0, within=0.05)
  alike = Claim('', ('a', 'm'), near=2.0, within=0.05, same_examples=True)
  assert verdict(claim, a=(2.01, 0.5)) == 'undecided'
  assert verdict(alike, a=(2.01, 0.5)) == 'holds'
  assert verdict(alike, a=(2.11, 0.5)) == 'fails'
  below = Claim('', ('a', 'm'), below=('b', 'm'), same_examples=True)
  cells = {('a', 'm'): of_seeds([1, 2, 3]), ('b', 'm'): of_seeds([4, 1.5, 5])}
  assert judge(below, cells).verdict == 'holds'


def test_a_seed_that_is_not_finite_is_not_left_out():
  found = estimate({0: Measure(1.0), 1: Measure(math.nan), 2: Measure(3.0)})
  assert format_estimate(found) == 'not finite'
  assert verdict(Claim('', ('a', 'm'), above=0.0), a=found) == 'undecided'


def test_times_below_a_second_are_in_milliseconds():
  assert unit('seconds_per_sample', [0.0012, 0.2]) == ('milliseconds per sample', 1000.0)
  for largest in (1.0, -2.0):
    assert unit('seconds_per_sample', [0.0012, largest]) == ('seconds per sample', 1.0)
  assert unit('agreement', [0.5]) == ('class agreement', 1.0)
  claim = Claim('fast', ('a', 'seconds_per_sample'), below=('b', 'seconds_per_sample'))
  cells = {
    ('a', 'seconds_per_sample'): Estimate(0.0012, 0.0),
    ('b', 'seconds_per_sample'): Estimate(0.002, 0.0),
  }
  assert judge(claim, cells).detail == 'milliseconds per sample: 1.2 (a) against 2 (b)'


def test_flops_have_the_prefix_of_their_column():
  assert unit('training_flops', [1.2e13, 3e9]) == ('training TFLOP', 1e-12)
  assert unit('training_flops', [2e16]) == ('training PFLOP', 1e-15)
  assert unit('training_flops', [999.0]) == ('training FLOPs', 1.0)
  ours = scaled(Estimate(12345678901234.0, 0.0), 1e-12)
  assert format_estimate(ours) == '12.35'


@pytest.mark.parametrize('metric', ['parameters', 'training_flops'])
@pytest.mark.parametrize(('ours', 'expected'), [(1.04e13, 'holds'), (1.06e13, 'fails')])
def test_exact_costs_of_several_seeds_are_near_or_not(metric, ours, expected):
  def of(value):
    return estimate({seed: Measure(value, 0.0) for seed in range(3)})

  claim = Claim('equal', ('a', metric), near=('b', metric), within=0.05)
  found = judge(claim, {('a', metric): of(ours), ('b', metric): of(1e13)})
  assert found.verdict == expected
  # The seeds of a diverged run have no cost that differs; fewer of them decide alike.
  fewer = estimate({0: Measure(ours, 0.0), 1: Measure(None)})
  assert judge(claim, {('a', metric): fewer, ('b', metric): of(1e13)}).verdict == expected


def test_a_diverged_row_is_named_as_such_and_decides_nothing():
  lost = Estimate(math.nan, math.nan, word='1 of 3 diverged')
  claim = Claim('', ('a', 'm'), below=('b', 'm'))
  found = judge(claim, {('a', 'm'): lost, ('b', 'm'): Estimate(1.0, 0.1)})
  assert found == ('', 'undecided', 'm: 1 of 3 diverged (a) against 1.00 ± 0.20 (b)')


@pytest.mark.parametrize(('hits', 'expected'), [(15, 'holds'), (10, 'undecided'), (3, 'fails')])
def test_a_claim_compares_shares_of_stable_runs(hits, expected):
  """Five learning rates × three seeds; Newcombe's interval of the difference from 8 of 15."""
  cells = {('a', 'stable_runs'): of_share(hits, 15), ('b', 'stable_runs'): of_share(8, 15)}
  if expected == 'fails':
    cells['b', 'stable_runs'] = of_share(12, 15)
  claim = Claim('', ('a', 'stable_runs'), above=('b', 'stable_runs'))
  found = judge(claim, cells)
  assert found.verdict == expected and found.detail.startswith('share of stable runs: ')


def test_times_scales_the_other_side_and_its_error():
  claim = Claim('', ('a', 'm'), above=('b', 'm'), times=2.0)
  assert verdict(claim, a=(3.0, 0.0), b=(1.0, 0.24)) == 'holds'
  assert verdict(claim, a=(3.0, 0.0), b=(1.0, 0.27)) == 'undecided'
  found = judge(claim, {('a', 'm'): Estimate(3.0, 0.0), ('b', 'm'): Estimate(1.0, 0.24)})
  assert found.detail == 'm: 3 (a) against 2 × (1.00 ± 0.47) (b)'
  assert verdict(claim, a=(1.0, 0.0), b=(1.0, 0.0)) == 'fails'


def test_near_means_within_a_fraction_of_the_other_side():
  claim = Claim('', ('a', 'm'), near=('b', 'm'), within=0.05)
  assert verdict(claim, a=(104.0, 0.0), b=(100.0, 0.0)) == 'holds'
  assert verdict(claim, a=(94.0, 0.0), b=(100.0, 0.0)) == 'fails'
  assert verdict(claim, a=(106.0, 0.0), b=(100.0, 0.0)) == 'fails'
  twice = Claim('', ('a', 'm'), near=('b', 'm'), times=2.0, within=0.05)
  assert verdict(twice, a=(209.0, 0.0), b=(100.0, 0.0)) == 'holds'
  assert verdict(claim, a=(104.0, 1.0), b=(100.0, 0.0)) == 'undecided'


def test_one_of_several_rows_suffices_but_all_other_sides_count():
  some = Claim('', (('a', 'b'), 'm'), above=0.9)
  assert verdict(some, a=(0.5, 0.0), b=(0.95, 0.0)) == 'holds'
  assert verdict(some, a=(0.5, 0.0), b=(0.85, 0.0)) == 'fails'
  assert verdict(some, a=(0.5, 0.0), b=(0.95, 0.1)) == 'undecided'
  every = Claim('', ('a', 'm'), below=(('b', 'c'), 'm'))
  assert verdict(every, a=(0.5, 0.0), b=(0.95, 0.0), c=(0.6, 0.0)) == 'holds'
  assert verdict(every, a=(0.5, 0.0), b=(0.95, 0.0), c=(0.4, 0.0)) == 'fails'
  assert verdict(every, a=(0.5, 0.0), b=(0.95, 0.0)) == 'undecided'  # c was not measured


def test_the_detail_names_the_deciding_row():
  claim = Claim('', (('a', 'b'), 'm'), above=0.9)
  found = judge(claim, {('a', 'm'): Estimate(0.5, 0.01), ('b', 'm'): Estimate(0.95, 0.01)})
  assert found.detail == 'm: 0.950 ± 0.020 (b) against 0.9'


def test_several_seeds_give_a_t_interval_and_one_seed_its_own_error():
  found = estimate({seed: Measure(seed + 1.0, 9.0) for seed in range(3)})
  assert found == Estimate(2.0, pytest.approx(1 / math.sqrt(3)), 2.0, {0: 1.0, 1: 2.0, 2: 3.0})
  assert found.half_width == pytest.approx(4.30265273 / math.sqrt(3))  # t of 2 degrees of freedom
  assert estimate({0: Measure(1.0, 0.5)}).half_width == pytest.approx(1.95996398 * 0.5)
  assert estimate({0: Measure(1.0, 0.5, dof=2)}).half_width == pytest.approx(4.30265273 * 0.5)
  assert estimate({0: Measure(None), 1: Measure(3.0, 0.5)}) == Estimate(3.0, 0.5)
  assert estimate({0: Measure(None)}) is None


@pytest.mark.parametrize(
  ('found', 'text'),
  [
    (Estimate(0.95712, 0.0064), '0.957 ± 0.013'),
    (Estimate(1203211.0, 0.0), '1,203,211'),
    (Estimate(20.0, None), '20'),
    (Estimate(1234.5678, 40.0), '1,235 ± 78'),
    (Estimate(9.97e-5, 1.1e-6), '9.97e-05 ± 2.2e-06'),
    (Estimate(2.31416, 0.0), '2.314'),
    (Estimate(math.nan, math.nan), 'not finite'),
    (None, ''),
  ],
)
def test_numbers_are_shown_to_the_digits_that_their_error_allows(found, text):
  assert format_estimate(found) == text


@pytest.mark.parametrize(
  'settings', [{}, dict(above=1.0, below=2.0), dict(near=1.0), dict(above=1.0, within=0.1)]
)
def test_a_claim_that_says_nothing_or_two_things_is_refused(settings):
  with pytest.raises(ConfigError, match="claim 'x'"):
    Claim('x', ('a', 'm'), **settings)


def of_share(hits, total):
  """The estimate of a share."""
  value, error, interval = proportion(hits, total)
  return estimate({0: Measure(value, error, interval=interval)})


def test_the_interval_of_a_share_stays_within_0_and_1():
  assert format_estimate(of_share(0, 10)) == '0.00 (0.00 to 0.28)'
  assert format_estimate(of_share(1, 10)) == '0.10 (0.02 to 0.40)'
  assert format_estimate(of_share(957, 1000)) == '0.957 ± 0.013'
  # Two seeds: t = 12.7 takes 0.9 ± 0.6 beyond 1.
  seeds = estimate({s: Measure(v, 0.1, interval=(0.6, 0.99)) for s, v in enumerate((0.85, 0.95))})
  assert format_estimate(seeds) == '0.90 (0.26 to 1.00)'


def test_verdicts_on_shares_follow_from_the_intervals_that_are_shown():
  """Wilson's interval of 10 of 10 begins at 0.722; that of 56/70 − 48/80 is Newcombe's example."""
  for number, expected in ((0.73, 'undecided'), (0.71, 'holds')):
    claim = Claim('', ('a', 'm'), above=number)
    assert judge(claim, {('a', 'm'): of_share(10, 10)}).verdict == expected
  gap = difference(of_share(56, 70), of_share(48, 80))
  assert gap.ends == pytest.approx((0.0524, 0.3339), abs=1e-4)
