"""A study's results as Markdown, CSV, JSON and as sections of a report.

Measured and published cells stand side by side; an unpublished cell stays empty.
"""

import csv
import io
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image as PillowImage

from common.reporting import plots
from common.reporting.report import (
  Cell,
  Facts,
  Gallery,
  Picture,
  Quote,
  Section,
  Table,
  Text,
  Verdicts,
)
from common.reporting.writers import to_json_number
from common.studies.estimates import Estimate, format_estimate, format_parts, scaled, unit
from common.studies.studies import Results, loss_kind

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
  else:
    lines.append(
      'one seed; ± is half of the 95 % interval of the measurement; another training differs more'
    )
  if study.published:
    lines.append(f'published: {study.paper}')
  lines += [f'{row} failed: {why}' for row, why in results.failures.items()]
  return lines


def _metric_notes(results: Results, metric: str) -> list[str]:
  """The notes on a metric; where rows have different ones, each names its rows."""
  name, rows_of = units(results)[metric][0], {}
  for row in results.study.rows:
    measures = results.measures.get((row.name, metric), {}).values()
    # The failures of the study say why a value is not finite.
    for note in dict.fromkeys(m.note for m in measures if m.note and m.is_finite):
      rows_of.setdefault(note, []).append(row.name)
  if len(rows_of) < 2:
    return [f'{name}: {note}' for note in rows_of]
  return [f'{name} of {_listed(rows)}: {note}' for note, rows in rows_of.items()]


def _listed(names: Sequence[str]) -> str:
  """'a; b; c': names may contain commas."""
  return '; '.join(names)


def _published(results: Results, row: str, metric: str) -> str:
  value = results.study.published.get((row, metric), '')
  # In the unit of the column, unless it is a quantity of its own.
  factor = 1.0 if metric in results.study.published_as else units(results)[metric][1]
  return value if isinstance(value, str) else f'{factor * value:g}'


def markdown(results: Results, facts: Mapping[str, str]) -> str:
  """The table, the claims and the conditions of measurement, as Markdown."""
  study, estimates = results.study, shown(results)
  lines = [f'# {study.title}', '']
  lines += [line for part in (study.about, study.paper) if part for line in (part, '')]
  titles = header(results)
  lines += [_bar(titles), _bar(['---'] + ['---:'] * (len(titles) - 1))]
  for row in study.rows:
    cells = [
      _published(results, row.name, metric)
      if published
      else format_estimate(estimates.get((row.name, metric)))
      for metric, published in columns(results)
    ]
    lines.append(_bar([row.name, *cells]))
  lines += ['', *(f'- {note}' for note in notes(results)), '']
  if study.claims:
    lines += ['## Claims', '']
    for text, verdict, detail in results.verdicts():
      lines.append(f'- **{verdict}**: {text}' + (f' ({detail})' if detail else ''))
    lines.append('')
  lines += ['## Measured with', '', *(f'- {name}: {value}' for name, value in facts.items()), '']
  return '\n'.join(lines)


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
        'cells': {m: _cell_record(results, estimates, row.name, m) for m in study.metrics},
        'failed': results.failures.get(row.name),
      }
      for row in study.rows
    ],
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
    'seeds': [{'seed': seed} | measure.to_json() for seed, measure in measures.items()],
  }


def sections(
  results: Results, facts: Mapping[str, str], records: Mapping[str, list[dict]]
) -> list[Section]:
  """The report of a study.

  Args:
    results: the results.
    facts: the conditions of measurement.
    records: lines of `metrics.jsonl` of the trained models, by name.
  """
  study = results.study
  found = []  # the answers first, then the numbers, then what they are based on
  if study.claims:
    found.append(Section('Claims', [Verdicts(results.verdicts())]))
  about = [Text(study.about)] if study.about else []
  found.append(Section('Table', [*about, _table(results)]))
  if results.pictures:
    found.append(Section('Samples', [Gallery(_pictures(results))]))
  # Curves of the runs' own logs, after the table's plots.
  drawn = [_scatter(results, x, y) for x, y in study.plots]
  drawn.append(plots.compare(records, 'bits_per_dim', 'validation'))
  losses = [plots.compare(kind, 'loss', 'train') for kind in _by_loss(results, records)]
  for name, several in (('Plots', drawn), ('Losses', losses)):
    if several := [plot for plot in several if plot is not None]:
      found.append(Section(name, [Gallery(several)]))
  return [*found, Section('Measured with', [Facts(facts)])]


def _by_loss(results: Results, records: Mapping[str, list[dict]]) -> list[dict[str, list[dict]]]:
  """The records, grouped by rows whose losses can be compared: only these share an axis."""
  groups: dict[str, dict[str, list[dict]]] = {}
  for row, lines in records.items():
    groups.setdefault(loss_kind(results.configs[row]), {})[row] = lines
  return list(groups.values())


def _table(results: Results) -> Table:
  estimates = shown(results)
  rows = []
  for row in results.study.rows:
    cells: list[str | Cell] = [row.name]
    for metric, published in columns(results):
      if published:
        cells.append(Cell(_published(results, row.name, metric), style='published'))
        continue
      estimate = estimates.get((row.name, metric))
      if estimate is None:
        # A failed row says so once, in its first column.
        failed = row.name in results.failures and len(cells) == 1
        cells.append(Cell('failed' if failed else '', style='failed' if failed else ''))
        continue
      cells.append(Cell(*format_parts(estimate)))
    rows.append(cells)
  return Table(['', *header(results)[1:]], rows, notes(results))


def _pictures(results: Results) -> list[Picture | Quote]:
  estimates, first = shown(results), results.study.metrics[0]
  name = units(results)[first][0]
  pictures = []
  for row in results.study.rows:
    if path := results.pictures.get(row.name):
      found = estimates.get((row.name, first))
      suffix = f': {name} {format_estimate(found)}' if found else ''
      # Texts are shown as text; everything else was saved as a picture.
      if path.suffix == '.txt':
        pictures.append(Quote(path.read_text('utf-8'), row.name + suffix))
        continue
      alt = f'Samples of {row.name}'
      pictures.append(Picture(path.read_bytes(), alt, row.name + suffix))
  return pictures


def overview(results: Results, height: float = 0.42) -> bytes | None:
  """A strip of samples for each row, in one picture as PNG; None if no row has images.

  Args:
    results: the results.
    height: height of a strip, in inches.
  """
  strips = {
    row.name: np.asarray(PillowImage.open(results.strips[row.name]))
    for row in results.study.rows
    if row.name in results.strips
  }
  if not strips:
    return None
  import matplotlib.figure

  figure = matplotlib.figure.Figure((6.4, height * len(strips)), dpi=140)
  axes = figure.subplots(len(strips), squeeze=False)[:, 0]
  for axis, (name, strip) in zip(axes, strips.items(), strict=True):
    axis.imshow(strip, interpolation='nearest')
    axis.set_axis_off()
    axis.text(-0.02, 0.5, name, transform=axis.transAxes, ha='right', va='center', fontsize=8)
  figure.subplots_adjust(left=0.36, right=1.0, top=1.0, bottom=0.0, hspace=0.05)
  buffer = io.BytesIO()
  figure.savefig(buffer, format='png', facecolor='white')
  return buffer.getvalue()


def _scatter(results: Results, x: str, y: str) -> plots.Plot | None:
  estimates, titles = shown(results), {metric: name for metric, (name, _) in units(results).items()}
  points = {}
  for row in results.study.rows:
    along, up = (estimates.get((row.name, metric)) for metric in (x, y))
    # The horizontal axis is logarithmic: it has no place for 0.
    if along is not None and up is not None and along.value > 0 and math.isfinite(up.value):
      low, high = (up.value, up.value) if up.half_width is None else up.ends
      points[row.name] = plots.Series(
        [along.value], [up.value], [up.value - low], [high - up.value]
      )
  if not points:
    return None
  return plots.scatter_plot(points, titles[x], titles[y], log_x=True)
