"""A study's results as sections of a report, and as a strip of samples."""

import io
import math
from collections.abc import Mapping, Sequence

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
from common.studies import grids, tables
from common.studies.estimates import Estimate, format_estimate, format_parts
from common.studies.studies import Results, loss_kind

Records = list[dict]  # lines of metrics.jsonl
# Losses whose largest is this factor above the smallest have a logarithmic axis.
WIDE = 30.0


def sections(
  results: Results,
  facts: Mapping[str, str],
  records: Mapping[str, Records],
  of_runs: Mapping[tuple[str, int], Records] | None = None,
) -> list[Section]:
  """The report of a study.

  Args:
    results: the results.
    facts: the conditions of measurement.
    records: lines of `metrics.jsonl` of the trained models, by name.
    of_runs: those of the runs whose stability is measured, by (row, seed).
  """
  study = results.study
  found = []  # the answers first, then the numbers, then what they are based on
  if study.claims:
    found.append(Section('Claims', [Verdicts(results.verdicts())]))
  about = [Text(study.about)] if study.about else []
  found.append(Section('Table', [*about, *_grid_tables(results), _table(results)]))
  if study.stability:
    found.append(Section('Stable runs', _stable_runs(results, of_runs or {})))
  if results.pictures:
    found.append(Section('Samples', [Gallery(_pictures(results))]))
  # Curves of the runs' own logs, after the table's plots.
  drawn = [*_grid_plots(results), *(_scatter(results, x, y) for x, y in study.plots)]
  drawn.append(plots.compare(records, 'bits_per_dim', 'validation'))
  losses = [plots.compare(kind, 'loss', 'train') for kind in _by_loss(results, records)]
  for name, several in (('Plots', drawn), ('Losses', losses)):
    if several := [plot for plot in several if plot is not None]:
      found.append(Section(name, [Gallery(several)]))
  return [*found, Section('Measured with', [Facts(facts)])]


def _stable_runs(
  results: Results, of_runs: Mapping[tuple[str, int], Records]
) -> list[Text | Table | Gallery]:
  """The distance of each run, and the loss curves of each row with its tries in one plot."""
  header, lines = tables.table_of_runs(results)
  study = results.study
  drawn = []
  for row, group in study.groups.items():
    curves = {
      (f'{name}, seed {seed}' if len(study.seeds) > 1 else name): of_runs[name, seed]
      for name in group
      for seed in study.seeds
      if (name, seed) in of_runs
    }
    if len(curves) > 1:
      settings = dict(log_y=_is_wide(curves), caption=row)
      drawn.append(plots.compare(curves, 'loss', 'train', **settings))
  drawn = [plot for plot in drawn if plot is not None]
  table = Table(['', *header[1:]], lines, [tables.about_runs(results)])
  return [table, *([Gallery(drawn)] if drawn else [])]


def _is_wide(curves: Mapping[str, Records]) -> bool:
  """Whether only a logarithmic axis shows all losses, as beside those of a run that diverged."""
  losses = [line['loss'] for lines in curves.values() for line in lines if 'loss' in line]
  losses = [loss for loss in losses if math.isfinite(loss)]
  return bool(losses) and _are_wide(losses)


def _by_loss(results: Results, records: Mapping[str, Records]) -> list[dict[str, Records]]:
  """The records, grouped by rows whose losses can be compared: only these share an axis."""
  groups: dict[str, dict[str, Records]] = {}
  for row, lines in records.items():
    groups.setdefault(loss_kind(results.configs[row]), {})[row] = lines
  return list(groups.values())


def _table(results: Results) -> Table:
  estimates = tables.shown(results)
  rows = []
  for row in results.study.shown:
    cells: list[str | Cell] = [row.name]
    for metric, published in tables.columns(results):
      if published:
        cells.append(Cell(tables.published_cell(results, row.name, metric), style='published'))
        continue
      estimate = estimates.get((row.name, metric))
      if estimate is None:
        # A failed row says so once, in its first column.
        failed = row.name in results.failures and len(cells) == 1
        cells.append(Cell('failed' if failed else '', style='failed' if failed else ''))
        continue
      cells.append(Cell(*format_parts(estimate)))
    rows.append(cells)
  return Table(['', *tables.header(results)[1:]], rows, tables.notes(results))


def _grid_tables(results: Results) -> list[Table]:
  return [
    Table([table.title, *table.header[1:]], table.lines, [])
    for table in tables.grid_tables(results)
  ]


Values = Mapping[tuple[str, str], Estimate]  # by (row, metric)


def _published(results: Results) -> Values:
  """The published cells that are numbers, in the units of their columns."""
  study, found = results.study, {}
  for (row, metric), value in study.published.items():
    if not isinstance(value, str):
      factor = 1.0 if metric in study.published_as else tables.units(results)[metric][1]
      found[row, metric] = Estimate(factor * value, None)
  return found


def _grid_lines(results: Results, values: Values, metric: str) -> dict[str, plots.Series]:
  """A metric over the last axis of the study, a line for each value of the others."""
  layout, lines = grids.layout(results.study), {}
  if layout is None:
    return lines
  for line in layout.down:
    rows = {column: layout.rows.get((line, column)) for column in layout.across}
    cells = {c: values[row, metric].value for c, row in rows.items() if (row, metric) in values}
    finite = {column: value for column, value in cells.items() if math.isfinite(value)}
    if finite:
      lines[line] = plots.Series(list(finite), list(finite.values()))
  return lines


def _is_wide_in(lines: Mapping[str, plots.Series]) -> bool:
  return _are_wide([value for line in lines.values() for value in line.y])


def _are_wide(values: Sequence[float]) -> bool:
  return min(values) > 0 and max(values) > WIDE * min(values)


def _grid_plots(results: Results) -> list[plots.Plot]:
  drawn = []
  for metric in grids.laid_out(results.study):
    if lines := _grid_lines(results, tables.shown(results), metric):
      titles = results.study.axes[-1], tables.units(results)[metric][0]
      drawn.append(plots.line_plot(lines, *titles, log_y=_is_wide_in(lines)))
  return drawn


def picture(results: Results) -> bytes | None:
  """The first metric of the table as a PNG, with published cells next to it; None if it is empty.

  A study with axes has lines over its last axis, and any other a dot for each row.
  """
  metric = results.study.metrics[0]
  title = tables.units(results)[metric][0]
  published = results.study.published_as.get(metric, title)
  sides = {title: tables.shown(results), f'published {published}': _published(results)}
  several = {name: _grid_lines(results, values, metric) for name, values in sides.items()}
  if several := {name: lines for name, lines in several.items() if lines}:
    wide = [name for name, lines in several.items() if _is_wide_in(lines)]
    pixels = plots.curve_panels(several, results.study.axes[-1], log_y=wide)
  else:
    several = {name: _dots(results, values, metric) for name, values in sides.items()}
    several = {name: dots for name, dots in several.items() if dots.x}
    if not several:
      return None
    wide = [name for name, dots in several.items() if _are_wide(dots.x)]
    pixels = plots.dot_panels(several, log_x=wide)
  buffer = io.BytesIO()
  PillowImage.fromarray(pixels).save(buffer, 'PNG', optimize=True)
  return buffer.getvalue()


def _dots(results: Results, values: Values, metric: str) -> plots.Series:
  """The finite values of a metric by row, with their intervals."""
  cells = {row.name: values.get((row.name, metric)) for row in results.study.shown}
  cells = {name: cell for name, cell in cells.items() if cell and math.isfinite(cell.value)}
  x = [cell.value for cell in cells.values()]
  ends = [(c.value, c.value) if c.half_width is None else c.ends for c in cells.values()]
  below = [value - low for value, (low, _) in zip(x, ends, strict=True)]
  above = [high - value for value, (_, high) in zip(x, ends, strict=True)]
  return plots.Series(x, list(cells), below, above)


def _pictures(results: Results) -> list[Picture | Quote]:
  estimates, first = tables.shown(results), results.study.metrics[0]
  name = tables.units(results)[first][0]
  pictures = []
  for row in results.study.shown:
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
    for row in results.study.shown
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
  estimates, points = tables.shown(results), {}
  for row in results.study.shown:
    along, up = (estimates.get((row.name, metric)) for metric in (x, y))
    # The horizontal axis is logarithmic: it has no place for 0.
    if along is not None and up is not None and along.value > 0 and math.isfinite(up.value):
      low, high = (up.value, up.value) if up.half_width is None else up.ends
      points[row.name] = plots.Series(
        [along.value], [up.value], [up.value - low], [high - up.value]
      )
  if not points:
    return None
  titles = [tables.units(results)[metric][0] for metric in (x, y)]
  return plots.scatter_plot(points, *titles, log_x=True)
