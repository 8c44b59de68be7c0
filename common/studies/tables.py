"""A study's results as Markdown, CSV and JSON.

Measured and published cells stand side by side; an unpublished cell stays empty.
"""

import csv
import io
import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from common.reporting.writers import to_json_number
from common.studies import grids
from common.studies.estimates import Estimate, format_estimate, scaled, unit
from common.studies.plans import CHECKPOINTS
from common.studies.stability import STABLE_RUNS, Run, json_record, runs
from common.studies.studies import Results

ERROR = re.compile(r'± (\d+(?:\.\d+)?(?:e[+-]?\d+)?)')  # an error in a note

# Which checkpoint of a run the cells are of.
OF_CHECKPOINT = dict(
  zip(
    CHECKPOINTS,
    (
      'each model is that of the last checkpoint of its training',
      'each model is that of the best checkpoint of its training, on the validation split',
    ),
    strict=True,
  )
)

Estimates = Mapping[tuple[str, str], Estimate | None]  # by (row, metric)


def columns(results: Results) -> list[tuple[str, bool]]:
  """(metric, whether published) of each column; published ones only for metrics that have them."""
  published = {metric for _, metric in results.study.published}
  return [
    (metric, is_published)
    for metric in results.study.metrics
    for is_published in ((False, True) if metric in published else (False,))
  ]


def units(results: Results) -> dict[str, tuple[str, float]]:
  """By metric: its title with the unit of its column, and the factor from its own unit."""
  estimates, found = results.estimates(), {}
  for metric in results.study.metrics:
    cells = (estimates.get((row.name, metric)) for row in results.study.rows)
    found[metric] = unit(metric, [cell.value for cell in cells if cell is not None])
  return found


def shown(results: Results) -> dict[tuple[str, str], Estimate]:
  """The estimates in the units of their columns, by (row, metric), without empty cells."""
  factors = {metric: factor for metric, (_, factor) in units(results).items()}
  estimates = results.estimates().items()
  return {cell: scaled(found, factors[cell[1]]) for cell, found in estimates if found is not None}


def header(results: Results) -> list[str]:
  """The title of each column, starting with the column of row names."""
  titles = {metric: name for metric, (name, _) in units(results).items()}
  published_titles = titles | dict(results.study.published_as)
  return [
    'row',
    *(
      f'published {published_titles[metric]}' if published else titles[metric]
      for metric, published in columns(results)
    ),
  ]


def notes(results: Results) -> list[str]:
  """Notes for readers of the numbers: on metrics, seeds, sources and failures."""
  study = results.study
  lines = [line for metric in study.metrics for line in _metric_notes(results, metric)]
  if len(study.seeds) > 1:
    lines.append(f'means of {len(study.seeds)} seeds; ± is half of a 95 % t-interval over them')
  elif not any(row.is_model for row in study.rows):
    lines.append('nothing is trained; ± is half of the 95 % interval of the measurement')
  else:
    lines.append(
      'one seed; ± is half of the 95 % interval of the measurement; another training differs more'
    )
  if any(row.is_model for row in study.rows):
    lines.append(OF_CHECKPOINT[study.checkpoint])
  if study.published:
    lines.append(f'published: {study.paper}')
  for row, seeds in results.diverged.items():
    several = len(study.seeds) > 1
    whys = [f'seed {seed}: {why}' if several else why for seed, why in seeds.items()]
    lines.append(f'{row} diverged: {"; ".join(whys)}')
  lines += [f'{row} failed: {why}' for row, why in results.failures.items()]
  return lines


def _metric_notes(results: Results, metric: str) -> list[str]:
  """The notes on a metric; where rows have different ones, each names its rows.

  Notes that differ only in their errors are one, with the range of these errors.
  """
  name, rows_of, errors = units(results)[metric][0], {}, {}
  for row in results.study.shown:
    measures = results.measures.get((row.name, metric), {}).values()
    # The failures of the study say why a value is not finite.
    for note in (m.note for m in measures if m.note and m.is_finite):
      shape = ERROR.sub('± {}', note.replace('{', '{{').replace('}', '}}'))
      rows_of.setdefault(shape, {})[row.name] = None
      errors.setdefault(shape, []).append(ERROR.findall(note))
  texts = {shape: shape.format(*map(_range, zip(*errors[shape], strict=True))) for shape in rows_of}
  if len(rows_of) < 2:
    return [f'{name}: {text}' for text in texts.values()]
  return [f'{name} of {_listed(list(rows_of[shape]))}: {texts[shape]}' for shape in rows_of]


def _range(numbers: Sequence[str]) -> str:
  """'0.019 to 0.023'; one number if all are equal."""
  low, high = min(numbers, key=float), max(numbers, key=float)
  return low if low == high else f'{low} to {high}'


def _listed(names: Sequence[str]) -> str:
  """'a; b; c': names may contain commas."""
  return '; '.join(names)


def published_cell(results: Results, row: str, metric: str) -> str:
  """The published value of a cell, as text; '' if there is none."""
  value = results.study.published.get((row, metric), '')
  # In the unit of the column, unless it is a quantity of its own.
  factor = 1.0 if metric in results.study.published_as else units(results)[metric][1]
  return value if isinstance(value, str) else f'{factor * value:g}'


class GridTable(NamedTuple):
  """A metric by two axes: measured cells, with the published ones in parentheses."""

  title: str
  header: list[str]
  lines: list[list[str]]


def grid_tables(results: Results) -> list[GridTable]:
  """The tables of a study with axes, one for each metric with published cells."""
  layout = grids.layout(results.study)
  if layout is None:
    return []
  estimates, found = shown(results), []
  for metric in grids.laid_out(results.study):
    lines = []
    for line in layout.down:
      rows = (layout.rows.get((line, column)) for column in layout.across)
      lines.append([line, *(_grid_cell(results, estimates, row, metric) for row in rows)])
    title = f'{units(results)[metric][0]}, {layout.title}'
    found.append(GridTable(title, ['', *layout.across], lines))
  return found


def _grid_cell(results: Results, estimates: Estimates, row: str | None, metric: str) -> str:
  """'4.2 ± 1.6 (4.67)'; only the published part, or none, where the other is missing."""
  if row is None:
    return ''
  measured = format_estimate(estimates.get((row, metric)))
  published = published_cell(results, row, metric)
  return ' '.join(part for part in (measured, published and f'({published})') if part)


def _markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
  return [_bar(header), _bar(['---'] + ['---:'] * (len(header) - 1)), *map(_bar, rows), '']


def markdown(results: Results, facts: Mapping[str, str]) -> str:
  """The table, the claims and the conditions of measurement, as Markdown."""
  study, estimates = results.study, shown(results)
  lines = [f'# {study.title}', '']
  lines += [line for part in (study.about, study.paper) if part for line in (part, '')]
  for table in grid_tables(results):
    lines += [f'## {table.title}', '', *_markdown_table(table.header, table.lines)]
  rows = []
  for row in study.shown:
    cells = [
      published_cell(results, row.name, metric)
      if published
      else format_estimate(estimates.get((row.name, metric)))
      for metric, published in columns(results)
    ]
    rows.append([row.name, *cells])
  lines += _markdown_table(header(results), rows)
  lines += [*(f'- {note}' for note in notes(results)), '']
  if study.stability:
    lines += ['## Stable runs', '', about_runs(results), '']
    lines += _markdown_table(*table_of_runs(results))
  if study.claims:
    lines += ['## Claims', '']
    for text, verdict, detail in results.verdicts():
      lines.append(f'- **{verdict}**: {text}' + (f' ({detail})' if detail else ''))
    lines.append('')
  lines += ['## Measured with', '', *(f'- {name}: {value}' for name, value in facts.items()), '']
  return '\n'.join(lines)


def runs_of(results: Results) -> dict[str, list[Run]]:
  """The runs of each row of the table and its tries, by row; empty without a stability."""
  study = results.study
  if study.stability is None:
    return {}
  return {
    row: runs(study.stability, group, study.seeds, results.measures)
    for row, group in study.groups.items()
  }


def about_runs(results: Results) -> str:
  """A sentence on the table of runs."""
  stability = results.study.stability
  return (
    f'{units(results)[stability.metric][0]} of each run. A run is stable if it ends within '
    f"{stability.factor:g} × the best run of its row and that row's other settings."
  )


def table_of_runs(results: Results) -> tuple[list[str], list[list[str]]]:
  """The header and cells of a table of runs: a line for each setting, a column for each seed."""
  study = results.study
  factor = units(results)[study.stability.metric][1]
  header = ['setting', 'another setting of', *(f'seed {seed}' for seed in study.seeds), 'stable']
  rows = []
  for row, found in runs_of(results).items():
    for name in study.groups[row]:
      ours = [run for run in found if run.row == name]
      cells = [_run_cell(results, run, factor) for run in ours]
      stable = f'{sum(run.stable for run in ours)} of {len(ours)}'
      rows.append([name, '' if name == row else row, *cells, stable])
  return header, rows


def _run_cell(results: Results, run: Run, factor: float) -> str:
  """'1.23', '45.6 (not stable)', 'diverged', 'not finite' or 'failed'."""
  if math.isfinite(run.distance):
    return f'{factor * run.distance:.3g}' + ('' if run.stable else ' (not stable)')
  if run.seed in results.diverged.get(run.row, {}):
    return 'diverged'
  measured = run.seed in results.measures.get((run.row, results.study.stability.metric), {})
  return 'not finite' if measured else 'failed'


def _bar(cells: Iterable[str]) -> str:
  return '| ' + ' | '.join(cell.replace('|', '\\|') for cell in cells) + ' |'


def as_csv(results: Results) -> str:
  """One line per row: for each metric the value, half the 95 % interval, the published value."""
  published = {metric for _, metric in results.study.published}
  names = ['row']
  for metric in results.study.metrics:
    names += [metric, f'{metric}_interval', *([f'{metric}_published'] * (metric in published))]
  buffer = io.StringIO()
  writer = csv.writer(buffer, lineterminator='\n')
  writer.writerow(names)
  estimates = results.estimates()
  for row in results.study.rows:
    line = [row.name]
    for metric in results.study.metrics:
      found = estimates.get((row.name, metric))
      # A value without a known error has an empty interval, a missing value two empty cells.
      half_width = None if found is None else found.half_width
      line += ['' if found is None else found.value, '' if half_width is None else half_width]
      if metric in published:
        line.append(results.study.published.get((row.name, metric), ''))
    writer.writerow(line)
  return buffer.getvalue()


def as_json(results: Results, facts: Mapping[str, str]) -> str:
  """All results: measurements of each seed, estimates, published cells, claims, environment."""
  study, estimates = results.study, results.estimates()
  record = {
    'study': study.name,
    'title': study.title,
    'scale': study.scale,
    'paper': study.paper,
    'rows': [
      {
        'name': row.name,
        'config': dict(row.config),
        'sampling': dict(row.sampling),
        'tries_of': row.tries_of,
        'cells': {m: _cell_record(results, estimates, row.name, m) for m in study.metrics},
        'failed': results.failures.get(row.name),
        'diverged': {str(s): why for s, why in results.diverged.get(row.name, {}).items()},
      }
      for row in study.rows
    ],
    'runs': {row: json_record(found) for row, found in runs_of(results).items()},
    'claims': [verdict._asdict() for verdict in results.verdicts()],
    'measured_with': dict(facts),
  }
  return json.dumps(record, indent=2, allow_nan=False)


def _cell_record(results: Results, estimates: Estimates, row: str, metric: str) -> dict[str, Any]:
  found = estimates.get((row, metric))
  half_width = None if found is None else found.half_width
  measures = results.measures.get((row, metric), {})
  return {
    'value': None if found is None else to_json_number(found.value),
    'interval': None if half_width is None else to_json_number(half_width),
    'published': results.study.published.get((row, metric)),
    'seeds': [
      ({} if metric == STABLE_RUNS else {'seed': seed}) | measure.to_json()
      for seed, measure in measures.items()
    ],
  }
