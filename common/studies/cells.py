"""The measured cells of a study, on disk, with where each comes from."""

import json
import pathlib
from collections.abc import Collection, Iterable, Mapping
from typing import Any, NamedTuple

from common.evaluation.measures import Evaluation, Measure
from common.files import atomic_write
from common.reporting import pictures


class Origin(NamedTuple):
  """Where the cells of a job come from.

  Attributes:
    settings: what was measured: the resolved config with its seed, the sampler options, what the
      run remembers of its data.
    conditions: how: machine, devices, versions, code and date (common/reporting/provenance.py).
  """

  settings: Mapping[str, Any]
  conditions: Mapping[str, str]


class CellStore:
  """The cells of one job: a file for metrics of the model, and one for metrics of its samples.

  A file holds the settings of the job, its measures by metric, and the conditions under which they
  were measured: each measure names its own by number.
  """

  def __init__(self, folder: pathlib.Path, keys: tuple[str, str], model_metrics: Collection[str]):
    self.model, self.samples = (folder / f'{key}.json' for key in keys)
    self.picture, self.texts = (folder / f'{keys[1]}.{suffix}' for suffix in ('png', 'txt'))
    self.strip = folder / f'{keys[1]}-strip.png'
    self.failure = folder / f'{keys[1]}-failed.txt'
    self.model_metrics = model_metrics

  @property
  def files(self) -> list[pathlib.Path]:
    """The files that there are."""
    every = (self.model, self.samples, self.picture, self.texts, self.strip, self.failure)
    return [path for path in every if path.exists()]

  def read(self) -> dict[str, Measure]:
    """Every stored measure. A damaged file counts as missing, so its cells are measured again."""
    return {metric: measure for metric, (measure, _) in self._read().items()}

  def conditions(self, metrics: Iterable[str] | None = None) -> list[dict[str, str]]:
    """The different conditions of the stored measures of some metrics, or of all."""
    found = []
    for metric, (_, conditions) in self._read().items():
      if (metrics is None or metric in metrics) and conditions not in found:
        found.append(conditions)
    return found

  def missing(self, metrics: Iterable[str]) -> list[str]:
    """The metrics that are not stored yet."""
    found = self._read()
    return [metric for metric in metrics if metric not in found]

  def add(self, evaluation: Evaluation, origin: Origin) -> None:
    """Adds measures with their origin, and the picture or texts of the samples."""
    now = dict(origin.conditions)
    found = self._read() | {name: (one, now) for name, one in evaluation.measures.items()}
    display = evaluation.display
    for path, picture in ((self.picture, display.picture()), (self.strip, display.strip())):
      if picture is not None:
        pictures.save_png(path, picture)
    if display.text:
      atomic_write(self.texts, display.text)
    # The picture before the cells: once a cell is there, its row is never drawn again.
    for path, of_model in ((self.model, True), (self.samples, False)):
      kept = {k: v for k, v in found.items() if (k in self.model_metrics) == of_model}
      atomic_write(path, json.dumps(_record(kept, origin), indent=2, allow_nan=False))

  def _read(self) -> dict[str, tuple[Measure, dict[str, str]]]:
    """Every stored measure with its conditions."""
    found = {}
    for path in (self.model, self.samples):
      try:
        record = json.loads(path.read_text('utf-8'))
        conditions = record['conditions']
        found |= {
          metric: (Measure.from_json(one['measure']), conditions[one['conditions']])
          for metric, one in record['measures'].items()
        }
      except (OSError, ValueError, TypeError, KeyError, IndexError, AttributeError):
        continue
    return found


def _record(measures: Mapping[str, tuple[Measure, dict[str, str]]], origin: Origin) -> dict:
  """The contents of a file."""
  conditions = []
  for _, one in measures.values():
    if one not in conditions:
      conditions.append(one)
  return {
    'settings': origin.settings,
    'conditions': conditions,
    'measures': {
      metric: {'measure': measure.to_json(), 'conditions': conditions.index(one)}
      for metric, (measure, one) in measures.items()
    },
  }
