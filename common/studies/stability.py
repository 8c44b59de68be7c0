"""Stability of training: the share of runs that end within a factor of the best run's distance.

The runs of a row are those of its seeds, and those of its tries: rows with another setting, such as
another learning rate (`Row.tries_of`). A run that diverged or failed counts as not stable.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from common.config import ConfigError
from common.evaluation.measures import Measure, proportion

STABLE_RUNS = 'stable_runs'  # the column of the shares
Measures = Mapping[tuple[str, str], Mapping[int, Measure]]  # by (row, metric), and by seed


@dataclasses.dataclass(frozen=True)
class Stability:
  """Which runs of a study are stable.

  Attributes:
    metric: the distance: a metric of which lower is better, and 0 is best.
    factor: a run is stable if its distance is at most this factor times the lowest of its group.
  """

  metric: str = 'frechet'
  factor: float | int = 2.0

  def __post_init__(self):
    if not self.factor > 1:
      raise ConfigError(f'the factor of a stability must be above 1, got {self.factor}')

  def is_stable(self, distance: float, best: float) -> bool:
    """Whether a run of this distance is stable; False for NaN."""
    return distance <= max(self.factor * best, best)


class Run(NamedTuple):
  """A run of a group.

  Attributes:
    row, seed: the row and the seed.
    distance: its distance; NaN if it diverged or failed.
    stable: whether it is stable.
  """

  row: str
  seed: int
  distance: float
  stable: bool


def runs(
  stability: Stability, group: Sequence[str], seeds: Sequence[int], measures: Measures
) -> list[Run]:
  """Every run of a group, in the order of its rows and seeds, also those without a distance."""
  distances = {}
  for row in group:
    of_seeds = measures.get((row, stability.metric), {})
    for seed in seeds:
      value = of_seeds[seed].value if seed in of_seeds else None
      distances[row, seed] = math.nan if value is None or math.isinf(value) else float(value)
  best = min((d for d in distances.values() if math.isfinite(d)), default=math.nan)
  return [
    Run(row, seed, distance, stability.is_stable(distance, best))
    for (row, seed), distance in distances.items()
  ]


def share_of(stability: Stability, found: Sequence[Run]) -> Measure:
  """The share of stable runs of a group, with Wilson's interval."""
  if len(found) < 2:
    return Measure(None, note='not of a single run')
  hits = sum(run.stable for run in found)
  value, error, interval = proportion(hits, len(found))
  finite = [run.distance for run in found if math.isfinite(run.distance)]
  best = f', {min(finite):.3g}' if finite else ''
  lost = len(found) - len(finite)
  without = f'; {lost} diverged or failed' if lost else ''
  note = (
    f'{hits} of {len(found)} runs (settings × seeds) end within {stability.factor:g} × the '
    f"distance of the row's best run{best}{without}; Wilson's interval"
  )
  return Measure(value, error, note, interval=interval)


def shares(
  stability: Stability,
  groups: Mapping[str, Sequence[str]],
  seeds: Sequence[int],
  measures: Measures,
) -> dict[str, Measure]:
  """The share of stable runs of each group.

  Args:
    stability: which runs are stable.
    groups: the rows whose runs belong together, by the row of the table (`plans.Study.groups`).
    seeds: the seeds of the study.
    measures: the distances, by (row, metric) and seed; an entry is missing if its run failed.
  """
  return {
    row: share_of(stability, runs(stability, group, seeds, measures))
    for row, group in groups.items()
  }


def json_record(found: Sequence[Run]) -> list[dict[str, Any]]:
  """The runs as JSON objects; the distance of a run without one is None."""
  return [
    run._asdict() | {'distance': run.distance if math.isfinite(run.distance) else None}
    for run in found
  ]
