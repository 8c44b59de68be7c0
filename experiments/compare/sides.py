"""What is known of a run without its data: its config, its log and its evaluations."""

import math
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from common.config import ConfigError, as_tuple, flatten
from common.evaluation.measures import Measure
from common.evaluation.results import Result, read_results
from common.finetuning import open_checkpoints
from common.reporting import plots, writers
from common.reporting.rates import is_speed
from common.reporting.writers import duration
from common.studies.estimates import estimate, format_estimate, title
from common.studies.studies import loss_kind
from experiments import families
from experiments.startup import workdir as folders

NONE = '-'  # a cell without a value
# Columns of metrics.jsonl, besides the speed, that do not describe the model.
BOOKKEEPING = {'step', 'split', 'time'}


class Side(NamedTuple):
  """One of the runs that are compared.

  Attributes:
    name: its folder.
    config: its config.
    rows: the rows of its metrics.
    results: its evaluations.
    last, best: steps of its checkpoints; None if there is none.
    parameters: the number of its parameters; None without a checkpoint.
  """

  name: str
  config: dict[str, Any]
  rows: list[dict[str, Any]]
  results: list[Result]
  last: int | None
  best: int | None
  parameters: int | None

  def last_row(self, split: str) -> dict[str, Any]:
    """The last row of metrics of a split; empty if there is none."""
    return next((row for row in reversed(self.rows) if row['split'] == split), {})


def read(workdir: str) -> Side:
  """Reads a run. Raises ConfigError if the folder holds none."""
  path = pathlib.Path(workdir)
  config = folders.config_of(path)
  last = best = parameters = None
  if folders.is_started(path):
    with open_checkpoints(config, path, read_only=True) as checkpoints:
      last, best, shapes = checkpoints.latest, checkpoints.best, checkpoints.shapes()
    averaged = [leaf for name, leaf in shapes.items() if name.startswith('ema/')]
    parameters = sum(math.prod(leaf.shape) for leaf in averaged)
  rows, results = writers.read(path), read_results(path / 'evaluations')
  return Side(str(path), config, rows, results, last, best, parameters)


def differing_settings(sides: Sequence[Side]) -> tuple[dict[str, list[str]], int]:
  """({setting: its value in each run}, the number of settings left out).

  A setting that only some of the runs have is left out if it has its default.
  """
  flat = [flatten(side.config) for side in sides]
  defaults = [flatten(families.defaults(side.config['family'])) for side in sides]
  shown, left_out = {}, 0
  for key in dict.fromkeys(key for settings in flat for key in settings):
    values = [as_tuple(settings.get(key)) for settings in flat]
    if all(value == values[0] for value in values) and all(key in settings for settings in flat):
      continue
    changed = [
      key in settings and as_tuple(default.get(key)) != as_tuple(settings[key])
      for settings, default in zip(flat, defaults, strict=True)
    ]
    if all(key in settings for settings in flat) or any(changed):
      shown[key] = [repr(settings[key]) if key in settings else NONE for settings in flat]
    else:
      left_out += 1
  return shown, left_out


def quantities(sides: Sequence[Side]) -> dict[str, list[str]]:
  """{what: its value in each run}: size, progress, losses and evaluations."""
  table = {
    'parameters': [NONE if s.parameters is None else f'{s.parameters:,}' for s in sides],
    'last step': [NONE if s.last is None else f'{s.last:,}' for s in sides],
    'training': [_training(s) for s in sides],
    'train loss': [_value(s.last_row('train'), 'loss') for s in sides],
  }
  names = dict.fromkeys(name for s in sides for name in s.last_row('validation'))
  for name in (n for n in names if n not in BOOKKEEPING and not is_speed(n)):
    table[f'validation {name}'] = [_value(s.last_row('validation'), name) for s in sides]
  table['best checkpoint'] = [_best(s) for s in sides]
  return table | _evaluations(sides)


def _training(side: Side) -> str:
  seconds = sum(row.get('seconds', 0.0) for row in side.rows if row['split'] == 'train')
  return duration(seconds) if seconds else NONE


def _value(row: Mapping[str, Any], name: str) -> str:
  return f'{row[name]:.4g} (step {row["step"]})' if name in row else NONE


def _best(side: Side) -> str:
  if side.best is None:
    return NONE
  metric = side.config['train']['best_metric']
  values = [
    row[metric]
    for row in side.rows
    if row['split'] == 'validation' and row['step'] == side.best and metric in row
  ]
  shown = f' ({metric} {values[-1]:.4g})' if values else ''
  return f'step {side.best}{shown}'


def _evaluations(sides: Sequence[Side]) -> dict[str, list[str]]:
  """The newest value of each metric under the same settings."""
  found: dict[str, list[str]] = {}
  for place, side in enumerate(sides):
    for result in side.results:  # later steps replace earlier ones
      settings = ', '.join(f'{key}={value}' for key, value in sorted(result.changed.items()))
      for metric, measure in result.measures.items():
        if measure.value is not None:
          what = title(metric) + (f' with {settings}' if settings else '')
          found.setdefault(what, [NONE] * len(sides))[place] = _measured(measure, result.step)
  return found


def _measured(measure: Measure, step: int) -> str:
  return f'{format_estimate(estimate({0: measure}))} (step {step})'


def notes(sides: Sequence[Side]) -> Iterator[str]:
  """Sentences that a reader of the tables needs."""
  if len({loss_kind(side.config) for side in sides}) > 1:
    yield 'the losses of these runs are different quantities, so only evaluations compare them'
  for side in sides:
    if not side.rows:
      yield f'{side.name} has no metrics yet'
  if any(side.results for side in sides):
    yield '± is half of a 95 % interval of the measurement; another training differs more'
  else:
    yield 'no run is evaluated yet: twofold evaluate --workdir=RUN'


def curves(sides: Sequence[Side]) -> dict[str, dict[str, plots.Series]]:
  """{title: {run: curve}}: a panel for each quantity; different losses never share one."""
  kinds = list(dict.fromkeys(loss_kind(side.config) for side in sides))
  panels: dict[str, dict[str, plots.Series]] = {}
  for split in ('train', 'validation'):
    for side in sides:
      curve = plots.curve(side.rows, 'loss', split)
      number = f' {kinds.index(loss_kind(side.config)) + 1}' if len(kinds) > 1 else ''
      if curve.x:
        panels.setdefault(f'{split} loss{number}', {})[side.name] = curve
  return panels


def check(names: Sequence[str]) -> None:
  """Raises ConfigError unless there are several different runs."""
  paths = [pathlib.Path(name).resolve() for name in names]
  if len(set(paths)) < max(len(paths), 2):
    raise ConfigError(
      f'give two or more different runs, such as runs/a runs/b; got {" ".join(names) or "none"}'
    )
