"""Plots of metrics as SVG, for light and for dark pages; panels of small plots as pixels.

Curves come from `metrics.jsonl` (`writers.read`): records with 'step', 'split' and scalars. Runs of
both families can share an axis, because they log the same names. Matplotlib is imported only when a
plot is drawn.
"""

import contextlib
import io
import textwrap
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, UInt8

# More points than these make the SVG larger without a visible difference.
PLOT_POINTS = 400
# Distinct on light and dark pages, also for most colour-blind readers (after Okabe & Ito 2008).
COLOURS = ('#0084d1', '#d55e00', '#009e73', '#cc79a7', '#c99700', '#56b4e9', '#8c8c8c', '#8b5cf6')
MARKERS = 'osD^vP*X'
LINES = ('-', '--', '-.', ':')
MANY_DECADES = 1e4  # the ratio of the ends of an axis from which only powers of ten are labelled
INK = {'light': '#30343b', 'dark': '#d5d9e0'}


class Plot(NamedTuple):
  """A plot drawn twice, for light and for dark pages.

  Attributes:
    light, dark: SVG with a transparent background.
    alt: a description for readers who cannot see it.
    caption: the text below it.
  """

  light: bytes
  dark: bytes
  alt: str
  caption: str = ''
  kind = 'plot'


class Series(NamedTuple):
  """Points of a curve or a scatter plot.

  Attributes:
    x, y: the points; either may be names.
    error: half the height of each error bar, or None.
    above: the part of each error bar above its point, if `error` is only the part below.
  """

  x: Sequence[float] | Sequence[str]
  y: Sequence[float] | Sequence[str]
  error: Sequence[float] | None = None
  above: Sequence[float] | None = None


def curve(
  records: Iterable[Mapping[str, Any]], metric: str, split: str = 'train', axis: str = 'step'
) -> Series:
  """One metric of one split over `axis`, thinned to at most PLOT_POINTS points."""
  chosen = [r for r in records if r.get('split') == split and metric in r and axis in r]
  stride = -(-len(chosen) // PLOT_POINTS) or 1  # rounded up; 1 for an empty curve
  kept = chosen[::-1][::stride][::-1]  # from the end, so that the last point is always kept
  return Series([r[axis] for r in kept], [r[metric] for r in kept])


def compare(
  runs: Mapping[str, Iterable[Mapping[str, Any]]],
  metric: str,
  split: str = 'train',
  axis: str = 'step',
  **settings: Any,
) -> Plot | None:
  """One metric of several runs on one axis; None if no run has it.

  Args:
    runs: {name of the run: its records}.
    metric: the scalar to show.
    split: the split to show.
    axis: the horizontal axis: 'step', or another scalar of the records.
    **settings: further arguments of `line_plot`.
  """
  curves = {name: curve(records, metric, split, axis) for name, records in runs.items()}
  curves = {name: series for name, series in curves.items() if series.x}
  if not curves:
    return None
  return line_plot(curves, axis, f'{metric} ({split})', **settings)


def line_plot(
  series: Mapping[str, Series],
  x_title: str,
  y_title: str,
  log_x: bool = False,
  log_y: bool = False,
  caption: str = '',
) -> Plot:
  """Curves over a common axis, with a band of `error` around those that have one."""
  return _plot(_draw_line, series, Axes(x_title, y_title, log_x, log_y), caption)


class Style(NamedTuple):
  """How one of several series is drawn: no two have the same colour and marker, or line."""

  colour: str
  marker: str
  line: str


def style_of(index: int) -> Style:
  """The style of series `index`; distinct for 32 curves and 64 scatter plots."""
  # Once all colours are used, the markers start one further, and the lines change.
  turn, place = divmod(index, len(COLOURS))
  return Style(COLOURS[place], MARKERS[(place + turn) % len(MARKERS)], LINES[turn % len(LINES)])


def _draw_line(axes, index: int, name: str, points: Series) -> None:
  colour, marker, line = style_of(index)
  marker = marker if len(points.x) == 1 else None  # a line of one point would be invisible
  axes.plot(points.x, points.y, line, color=colour, label=name, linewidth=1.6, marker=marker)
  if points.error is not None:
    band = [[y + sign * e for y, e in zip(points.y, points.error, strict=True)] for sign in (-1, 1)]
    axes.fill_between(points.x, *band, color=colour, alpha=0.2, linewidth=0)


def scatter_plot(
  series: Mapping[str, Series],
  x_title: str,
  y_title: str,
  log_x: bool = False,
  log_y: bool = False,
  caption: str = '',
) -> Plot:
  """Points with error bars, distinguished by colour and shape."""
  return _plot(_draw_points, series, Axes(x_title, y_title, log_x, log_y), caption)


def _draw_points(axes, index: int, name: str, points: Series) -> None:
  colour, marker, _ = style_of(index)
  style = dict(color=colour, marker=marker, linestyle='none')
  error = points.error if points.above is None else [points.error, points.above]
  axes.errorbar(points.x, points.y, error, label=name, capsize=3, **style)


class Panel(NamedTuple):
  """One of several small plots that share a legend.

  Attributes:
    title: the text above it.
    lines: {name: line}.
    bands: {name: (x, lower end, upper end)}.
  """

  title: str
  lines: Mapping[str, Series]
  bands: Mapping[str, tuple[Sequence[float], Sequence[float], Sequence[float]]]


def panels(
  several: Sequence[Panel], columns: int, x_title: str, y_title: str
) -> UInt8[np.ndarray, 'tall wide 3']:
  """Panels side by side, as pixels on white. Horizontal axes may be dates (datetime64).

  The first line of a panel is black and the others take COLOURS in order. Bands have the colour of
  the last line.
  """
  from matplotlib import dates
  from matplotlib import figure as figures
  from matplotlib.backends.backend_agg import FigureCanvasAgg

  columns = min(columns, len(several))
  rows = -(-len(several) // columns)
  # Our own figure and canvas, because pyplot keeps its figures in global state.
  # A single panel is wide enough for the legend.
  size = (max(4.6 * columns, 7.5), (2.2 if columns > 1 else 3.0) * rows + 0.7)
  figure = figures.Figure(size, dpi=100, layout='constrained')
  canvas = FigureCanvasAgg(figure)
  grid = figure.subplots(rows, columns, squeeze=False)
  for axes, panel in zip(grid.flat, several, strict=False):
    # Bands before lines, so that the lines stay visible on top.
    for index, (name, (x, low, high)) in enumerate(panel.bands.items()):
      shade = dict(color=COLOURS[len(panel.lines) - 2], alpha=0.2 + 0.15 * index, linewidth=0)
      axes.fill_between(x, low, high, label=name, **shade)
    for index, (name, line) in enumerate(panel.lines.items()):
      axes.plot(line.x, line.y, color=(INK['light'], *COLOURS)[index], label=name, linewidth=1.2)
    if isinstance(axes.xaxis.get_major_locator(), dates.AutoDateLocator):
      locator = dates.AutoDateLocator(minticks=3, maxticks=6)
      axes.xaxis.set_major_locator(locator)
      axes.xaxis.set_major_formatter(dates.ConciseDateFormatter(locator))
      axes.xaxis.get_offset_text().set_size(8)
    # 4,000.5 and not 0.5 + 4e3, wherever it fits.
    axes.ticklabel_format(axis='y', useOffset=False)
    axes.set_title(panel.title, fontsize=8, wrap=True)
    axes.tick_params(labelsize=8)
    axes.spines[['top', 'right']].set_visible(False)
    axes.grid(alpha=0.15)
  for axes in grid.flat[len(several) :]:
    axes.set_visible(False)
  figure.supxlabel(x_title, fontsize=9)
  figure.supylabel(y_title, fontsize=9)
  handles, labels = grid.flat[0].get_legend_handles_labels()
  figure.legend(handles, labels, loc='outside upper center', ncols=5, frameon=False, fontsize=8)
  canvas.draw()
  return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def curve_panels(
  several: Mapping[str, Mapping[str, Series]],
  x_title: str,
  columns: int = 2,
  log_y: Collection[str] = (),
) -> UInt8[np.ndarray, 'tall wide 3']:
  """Curves of several runs, as pixels on white: a panel for each quantity, and one legend.

  Args:
    several: {title of a panel: {name of a run: its curve}}. A run looks alike in all panels.
    x_title: the title of all horizontal axes.
    columns: panels in a row.
    log_y: titles of panels with a logarithmic vertical axis.
  """
  from matplotlib import figure as figures
  from matplotlib.backends.backend_agg import FigureCanvasAgg

  names = list(dict.fromkeys(name for curves in several.values() for name in curves))
  columns = min(columns, len(several))
  rows = -(-len(several) // columns)
  size = (5.2 * columns, 3.0 * rows + 0.25 * len(names))
  figure = figures.Figure(size, dpi=120, layout='constrained')
  canvas = FigureCanvasAgg(figure)
  grid, handles = figure.subplots(rows, columns, squeeze=False), {}
  for axes, (title, curves) in zip(grid.flat, several.items(), strict=False):
    for name, points in curves.items():
      _draw_line(axes, names.index(name), name, points)
    handles |= dict(zip(curves, axes.get_lines(), strict=True))
    axes.set_title(textwrap.fill(title, 64), fontsize=10)
    if title in log_y:
      axes.set_yscale('log')
      _plain_ticks(axes.yaxis)
    axes.spines[['top', 'right']].set_visible(False)
    axes.grid(alpha=0.15)
  for axes in grid.flat[len(several) :]:
    axes.set_visible(False)
  figure.supxlabel(x_title, fontsize=10)
  shown = [handles[name] for name in names]
  figure.legend(shown, names, loc='outside upper left', frameon=False, fontsize=9)
  canvas.draw()
  return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def dot_panels(
  several: Mapping[str, Series], log_x: Collection[str] = ()
) -> UInt8[np.ndarray, 'tall wide 3']:
  """A value for each of several names, as pixels on white: panels side by side share the names.

  Args:
    several: {title of a panel: its series}, in which `y` are names and `x` values, whose errors are
      drawn along x.
    log_x: titles of panels with a logarithmic axis of values.
  """
  from matplotlib import figure as figures
  from matplotlib.backends.backend_agg import FigureCanvasAgg

  names = list(dict.fromkeys(name for series in several.values() for name in series.y))
  size = (2.6 + 3.4 * len(several), 0.9 + 0.24 * len(names))
  figure = figures.Figure(size, dpi=120, layout='constrained')
  canvas = FigureCanvasAgg(figure)
  grid = figure.subplots(1, len(several), squeeze=False, sharey=True)[0]
  for axes, (title, series) in zip(grid, several.items(), strict=True):
    places = [names.index(name) for name in series.y]
    error = series.error if series.above is None else [series.error, series.above]
    style = dict(color=COLOURS[0], marker='o', linestyle='none', capsize=3)
    axes.errorbar(series.x, places, xerr=error, **style)
    axes.set_title(textwrap.fill(title, 44), fontsize=10)
    axes.set_yticks(range(len(names)), names, fontsize=9)
    if title in log_x:
      axes.set_xscale('log')
      _plain_ticks(axes.xaxis)
    axes.spines[['top', 'right']].set_visible(False)
    axes.grid(alpha=0.15)
  grid[0].invert_yaxis()  # the first name on top, as in a table
  canvas.draw()
  return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def point_clouds(
  clouds: Mapping[str, Float[np.ndarray, 'num 2']], half: float, title: str = ''
) -> UInt8[np.ndarray, 'tall wide 3']:
  """A scatter plot of points in the plane, as pixels on white.

  Args:
    clouds: points by name: the background in grey, then others in colours, and last a few that are
      marked by crosses.
    half: the picture shows [-half, half]².
    title: a line above.
  """
  from matplotlib import figure as figures
  from matplotlib.backends.backend_agg import FigureCanvasAgg

  figure = figures.Figure((6.0, 6.2), dpi=100, layout='constrained')
  canvas, axes = FigureCanvasAgg(figure), figure.subplots()
  background, *others, marked = clouds.items()
  dots = dict(linestyle='none', marker='o', markeredgewidth=0)
  axes.plot(*background[1].T, label=background[0], color='0.72', markersize=3.5, **dots)
  for index, (name, points) in enumerate(others):
    axes.plot(*points.T, label=name, color=COLOURS[index], markersize=2.5, alpha=0.6, **dots)
  crosses = dict(linestyle='none', marker='+', markersize=9, markeredgewidth=1.2)
  axes.plot(*marked[1].T, label=marked[0], color=INK['light'], **crosses)
  axes.set(xlim=(-half, half), ylim=(-half, half), aspect='equal')
  axes.set_title(title, fontsize=9)
  axes.tick_params(labelsize=8)
  axes.spines[['top', 'right']].set_visible(False)
  figure.legend(loc='outside upper center', ncols=len(clouds), frameon=False, fontsize=9)
  canvas.draw()
  return np.asarray(canvas.buffer_rgba())[..., :3].copy()


class Axes(NamedTuple):
  """Titles and scales of the two axes of a plot."""

  x_title: str
  y_title: str
  log_x: bool
  log_y: bool


def _plot(
  draw: Callable[..., None], series: Mapping[str, Series], titles: Axes, caption: str
) -> Plot:
  """Draws each series by `draw(axes, index, name, points)`, once for light and once for dark."""
  images = {}
  columns = 2 if max(map(len, series)) <= 20 else 1  # of the legend; long names need the width
  for theme, ink in INK.items():
    with _figure(ink, legend_rows=-(-len(series) // columns)) as (figure, axes):
      for index, (name, points) in enumerate(series.items()):
        draw(axes, index, name, points)
      axes.set(xlabel=titles.x_title, ylabel=titles.y_title)
      if titles.log_x:
        axes.set_xscale('log')
        _plain_ticks(axes.xaxis)
      if titles.log_y:
        axes.set_yscale('log')
        _plain_ticks(axes.yaxis)
      figure.legend(loc='outside lower center', ncols=columns, frameon=False, labelcolor=ink)
      buffer = io.BytesIO()
      # Without a date, so that the same numbers give the same bytes.
      figure.savefig(buffer, format='svg', transparent=True, metadata={'Date': None})
      images[theme] = buffer.getvalue()
  alt = f'{titles.y_title} over {titles.x_title} for {", ".join(series)}'
  return Plot(images['light'], images['dark'], alt, caption)


def _plain_ticks(axis) -> None:
  """Labels the ticks of a logarithmic axis as 0.2 and 50, not as 2·10⁻¹ and 5·10¹."""
  from matplotlib import ticker

  low, high = axis.get_view_interval()
  # Over many decades, Matplotlib draws no ticks at all between powers of ten.
  between = (1.0, 2.0, 5.0) if high < MANY_DECADES * low else (1.0,)
  axis.set_major_locator(ticker.LogLocator(10, between))
  axis.set_major_formatter(ticker.FuncFormatter(lambda value, _: f'{value:g}'))
  axis.set_minor_formatter(ticker.NullFormatter())


@contextlib.contextmanager
def _figure(ink: str, legend_rows: int):
  """A figure with text legible on a phone; opens no window and changes no global state."""
  import matplotlib
  from matplotlib import figure as figures

  style = {
    'svg.hashsalt': 'twofold',  # fixed, so that identifiers in the SVG are reproducible
    'font.size': 10,
    'axes.edgecolor': ink,
    'axes.labelcolor': ink,
    'xtick.color': ink,
    'ytick.color': ink,
    'axes.spines.top': False,
    'axes.spines.right': False,
  }
  with matplotlib.rc_context(style):
    figure = figures.Figure((4.6, 3.0 + 0.22 * legend_rows), layout='constrained')
    axes = figure.add_subplot()
    axes.grid(color=ink, alpha=0.15)
    yield figure, axes
