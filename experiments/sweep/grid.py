"""A sweep as a study: a row for each point of a grid of settings."""

import itertools
import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from common.config import ConfigError, read_json, to_json
from common.files import atomic_write
from common.studies.estimates import difference, format_estimate, scaled, unit
from common.studies.plans import Row, Study
from common.studies.studies import Results, loss_kind
from experiments import cli, config_flag, families

SAMPLING = 'sampling.'
HIGHER_IS_BETTER = frozenset(
  ('accuracy', 'agreement', 'precision', 'recall', 'modes', 'high_quality')
)
# Neither less nor more is better: {metric: the value of a perfect model}.
TARGETS = {'high_frequency': 1.0}

Grid = dict[str, list[str]]  # {dotted key: values as text}


def parse_grid(axes: Sequence[str]) -> Grid:
  """{'a.b': ['1', '2']} from ['a.b=1,2'].

  Raises:
    ConfigError: for an axis without values, or a setting that cannot be swept.
  """
  grid: Grid = {}
  for axis in axes:
    key, _, text = (part.strip() for part in axis.partition('='))
    values = [value.strip() for value in cli.split_items(text)]
    flag = f'--grid={axis}'
    if not key or not values or not all(values):
      raise ConfigError(f'{flag}: write SETTING=VALUE,VALUE, such as optimizer.learning_rate=1,2')
    if key in grid or len(set(values)) < len(values):
      raise ConfigError(f'{flag}: {key} or one of its values is given twice; remove one')
    if key == 'seed':
      raise ConfigError(f'{flag}: --seeds={len(values)} trains each row with several seeds')
    if key.startswith('evaluation.'):
      raise ConfigError(
        f'{flag}: all rows of a table are measured alike; set --config.{key}=VALUE for all of them'
      )
    grid[key] = values
  return grid


def build(
  file: str, settings: Mapping[str, list[str]], grid: Grid, seeds: int, metrics: Sequence[str]
) -> Study:
  """The study of a sweep.

  Args:
    file: the config, 'FILE.py:variant'.
    settings: {dotted key: values as text} for all rows.
    grid: the values of each swept setting. Those of `sampling` become sampler options: rows that
      differ only in these share one trained model.
    seeds: number of seeds: the config's, and those that follow it.
    metrics: the columns of the table.

  Raises:
    ConfigError: for a setting that does not exist, or has a value that is not valid.
  """
  config = config_flag.load(file, settings)
  if both := settings.keys() & grid.keys():
    raise ConfigError(f'--grid={min(both)}: --config.{min(both)} sets it too; remove one of them')
  first = config['seed']
  rows = tuple(
    _row(config, dict(zip(grid, point, strict=True))) for point in itertools.product(*grid.values())
  )
  return Study(
    name='sweep',
    title=f'Sweep of {", ".join(grid)}',
    about=f'All rows start from {file}.',
    base=file,
    config={key: value for key, value in settings.items() if key != 'seed'},
    rows=rows,
    axes=tuple(grid),
    metrics=tuple(metrics),
    seeds=tuple(range(first, first + seeds)),
  )


def _row(config: Mapping, point: Mapping[str, str]) -> Row:
  """The row of one point of the grid."""
  leaves = [key.removesuffix('.name').rpartition('.')[2] for key in point]
  short = dict(zip(point, leaves, strict=True)) if len(set(leaves)) == len(leaves) else {}
  name = ', '.join(f'{short.get(key, key)}={value}' for key, value in point.items())
  trained = {key: [value] for key, value in point.items() if not key.startswith(SAMPLING)}
  options = {
    key.removeprefix(SAMPLING).removesuffix('.name'): cli.parse_value(value)
    for key, value in point.items()
    if key.startswith(SAMPLING)
  }
  try:
    families.check_options(config, options)
  except ValueError as error:
    raise ConfigError(f'--grid: {name}: {error}') from error
  return Row(name, trained, options, at=tuple(point.values()))


def load(base: str, overrides: Mapping[str, Any], grid: Grid) -> dict[str, Any]:
  """The config of a row; its settings are text, as on the command line."""
  texts = {k: v if isinstance(v, list) else [str(v)] for k, v in overrides.items()}
  return config_flag.load(base, texts, {key: f'--grid={key}' for key in grid})


def reserve(workdir: pathlib.Path, file: str, settings: Mapping[str, list[str]]) -> None:
  """Reserves a folder for sweeps of one config, whose grids may differ.

  Raises:
    ConfigError: the folder holds a sweep of another config.
  """
  path, wanted = workdir / 'sweep.json', {'config': file, 'settings': dict(settings)}
  if path.exists() and (found := read_json(path)) != wanted:
    flags = [f'--config={found.get("config")}']
    flags += [f'--config.{key}={",".join(text)}' for key, text in found['settings'].items()]
    raise ConfigError(
      f'{workdir} holds a sweep of {" ".join(flags)}: use these flags (--grid, --seeds and '
      '--metrics may change), or choose another --workdir'
    )
  atomic_write(path, to_json(wanted))


def best(results: Results) -> str:
  """A line that names the best row by the first metric, and says how sure that is."""
  metric, losses = results.study.metrics[0], set(map(loss_kind, results.configs.values()))
  if metric == 'validation_loss' and len(losses) > 1:
    return 'the rows have different losses: sweep with a metric that compares them, such as frechet'
  found = {row: estimate for (row, name), estimate in results.estimates().items() if name == metric}
  found = {row: e for row, e in found.items() if e is not None and math.isfinite(e.value)}
  if not found:
    return f'no row has a value of {metric}'
  sign = -1 if metric in HIGHER_IS_BETTER else 1
  cost = {row: sign * estimate.value for row, estimate in found.items()}
  if metric in TARGETS:
    cost = {row: abs(estimate.value - TARGETS[metric]) for row, estimate in found.items()}
  first, *others = sorted(found, key=cost.__getitem__)
  title, factor = unit(metric, [estimate.value for estimate in found.values()])
  shown = f'{title}: {first} ({format_estimate(scaled(found[first], factor))})'
  if metric in TARGETS:
    return f'closest to {TARGETS[metric]:g} by {shown}'
  said = f'best by {shown}'
  if not others:
    return said
  one, other = found[first], found[others[0]]
  if one.error is None or other.error is None:
    return f'{said}; one seed cannot say how sure that is: add --seeds=3'
  gap = difference(one, other)
  sure = gap.ends[0] > 0 or gap.ends[1] < 0
  return f'{said}; {"" if sure else "not "}clearly better than the next, {others[0]}'
