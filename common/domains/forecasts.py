"""Forecasts of windows of time series: asked for, drawn, and shown as a picture or a table."""

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Float, Key, UInt8

from common.data.sources import Source
from common.data.spec import DataSpec
from common.method import Method, PyTree, Request
from common.reporting import plots

LEVELS = (0.05, 0.25, 0.5, 0.75, 0.95)  # median, and the ends of intervals of 50 and 90 %


class Forecasts(NamedTuple):
  """Draws of what comes after the given part of windows.

  Attributes:
    names: of the series.
    past: values that were given.
    truth: values that came.
    draws: of these, several for each window.
  """

  names: tuple[str, ...]
  past: Float[np.ndarray, 'windows context']
  truth: Float[np.ndarray, 'windows horizon']
  draws: Float[np.ndarray, 'windows draws horizon']

  def quantiles(
    self, levels: Sequence[float] = LEVELS
  ) -> Float[np.ndarray, 'levels windows horizon']:
    """Quantiles of the draws, of each step by itself."""
    return np.quantile(self.draws, levels, axis=1)

  def first(self, number: int) -> 'Forecasts':
    """Those of the first so many windows."""
    return Forecasts(*(part[:number] for part in self))


def request(
  spec: DataSpec, batch: Mapping[str, Any], options: Mapping[str, Any] | None = None
) -> Request:
  """A request for one draw of each window of a batch: values before the horizon are given, and
  covariates everywhere."""
  mask = np.ones(spec.shape, bool)
  mask[-spec.series.horizon :, 0] = False
  return Request(len(batch['x']), batch['label'], batch['x'], mask, options or {})


def repeated(source: Source, windows: np.ndarray, draws: int) -> dict[str, np.ndarray]:
  """A batch of windows, each `draws` times in a row."""
  return source.gather(np.repeat(windows, draws))


def collect(spec: DataSpec, batch: Mapping[str, Any], x: np.ndarray, draws: int) -> Forecasts:
  """Forecasts from samples of a batch in which each window stands `draws` times in a row."""
  context = spec.shape[0] - spec.series.horizon
  values = np.asarray(batch['x'])[::draws, :, 0]
  names = tuple(spec.class_names[i] for i in np.asarray(batch['label'])[::draws])
  drawn = np.asarray(x)[:, context:, 0].reshape(len(values), draws, -1)
  return Forecasts(names, values[:, :context], values[:, context:], drawn)


def forecast(
  method: Method,
  params: PyTree,
  key: Key[Array, ''],
  spec: DataSpec,
  source: Source,
  *,
  windows: np.ndarray,
  draws: int,
  rows: int = 500,
  options: Mapping[str, Any] | None = None,
) -> Forecasts:
  """Draws forecasts of windows of a split.

  Args:
    method, params: the model.
    key: of all randomness.
    spec: of the data.
    source: the split.
    windows: which of it, indices.
    draws: of each.
    rows: draws that are made at once.
    options: sampler settings that replace those of the config.
  """
  batch = repeated(source, windows, draws)
  total, x = len(batch['x']), []
  rows = min(rows, total)
  for call, start in enumerate(range(0, total, rows)):
    part = np.minimum(start + np.arange(rows), total - 1)  # of one shape, so compiled once
    asked = request(spec, {k: v[part] for k, v in batch.items()}, options)
    x.append(np.asarray(method.sample(params, jax.random.fold_in(key, call), asked).x))
  return collect(spec, batch, np.concatenate(x)[:total], draws)


def picture(found: Forecasts, columns: int = 2) -> UInt8[np.ndarray, 'height width 3']:
  """A panel for each window: its past, what came, the median and intervals of 50 and 90 %."""
  context, horizon = found.past.shape[1], found.truth.shape[1]
  shown = min(context, 4 * horizon)
  before, after = np.arange(-shown + 1, 1), np.arange(1, horizon + 1)
  panels = []
  for name, past, truth, levels in zip(
    found.names, found.past, found.truth, found.quantiles().swapaxes(0, 1), strict=True
  ):
    panels.append(
      plots.Panel(
        title=name,
        lines={
          'past': plots.Series(before, past[-shown:]),
          'truth': plots.Series([0, *after], [past[-1], *truth]),
          'median': plots.Series(after, levels[2]),
        },
        bands={
          '90 %': (after, levels[0], levels[4]),
          '50 %': (after, levels[1], levels[3]),
        },
      )
    )
  return plots.panels(panels, columns, 'steps after the last given value')


def table(found: Forecasts) -> str:
  """Quantiles as CSV: a row for each step of each window."""
  buffer = io.StringIO()
  writer = csv.writer(buffer, lineterminator='\n')
  writer.writerow(['window', 'series', 'step', 'truth', 'mean', *(f'q{q:g}' for q in LEVELS)])
  levels, means = found.quantiles(), found.draws.mean(1)
  for i, name in enumerate(found.names):
    for step, truth in enumerate(found.truth[i]):
      numbers = (truth, means[i, step], *levels[:, i, step])
      writer.writerow([i, name, step + 1, *(f'{float(number):.6g}' for number in numbers)])
  return buffer.getvalue()
