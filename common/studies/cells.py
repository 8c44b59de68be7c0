"""The measured cells of a study, on disk."""

import json
import pathlib
from collections.abc import Collection, Iterable

from common.evaluation.measures import Evaluation, Measure
from common.files import atomic_write
from common.reporting import pictures


class CellStore:
  """The cells of one job: a file for metrics of the model, and one for metrics of its samples."""

  def __init__(self, folder: pathlib.Path, keys: tuple[str, str], model_metrics: Collection[str]):
    self.model, self.samples = (folder / f'{key}.json' for key in keys)
    self.picture, self.texts = (folder / f'{keys[1]}.{suffix}' for suffix in ('png', 'txt'))
    self.strip = folder / f'{keys[1]}-strip.png'
    self.model_metrics = model_metrics

  def read(self) -> dict[str, Measure]:
    """Every stored measure. A damaged file counts as missing, so its cells are measured again."""
    found = {}
    for path in (self.model, self.samples):
      try:
        found |= {k: Measure.from_json(v) for k, v in json.loads(path.read_text('utf-8')).items()}
      except (OSError, ValueError, TypeError, KeyError, AttributeError):
        continue
    return found

  def missing(self, metrics: Iterable[str]) -> list[str]:
    """The metrics that are not stored yet."""
    found = self.read()
    return [metric for metric in metrics if metric not in found]

  def add(self, evaluation: Evaluation) -> None:
    """Adds measures, and the picture or texts of the samples."""
    found = self.read() | evaluation.measures
    display = evaluation.display
    if len(display.images):
      pictures.save_png(self.picture, display.picture())
      pictures.save_png(self.strip, display.strip())
    if display.text:
      atomic_write(self.texts, display.text)
    # The picture before the cells: once a cell is there, its row is never drawn again.
    for path, of_model in ((self.model, True), (self.samples, False)):
      kept = {k: v.to_json() for k, v in found.items() if (k in self.model_metrics) == of_model}
      atomic_write(path, json.dumps(kept, indent=2, allow_nan=False))
