"""Forecasts as pictures: small multiples, with a panel for each window."""

import numpy as np
from jaxtyping import Float, Int, UInt8

from common.data.series import times
from common.data.spec import SeriesSpec
from common.domains.forecasts.draws import Forecasts
from common.reporting import plots

HORIZONS, SEASONS = 4, 3  # of the past that are shown; more would squeeze the forecast
WIDE = 6  # panels; of more, there are three in a row


def picture(forecasts: Forecasts, columns: int = 0) -> UInt8[np.ndarray, 'height width 3']:
  """A panel for each window: past, truth if it is known, median, and 50 % and 90 % intervals.

  Args:
    forecasts: the windows.
    columns: panels in a row; 0: two, or three if there are many.
  """
  columns = columns or (2 if len(forecasts.names) <= WIDE else 3)
  levels = forecasts.quantiles().swapaxes(0, 1)
  several = [_panel(forecasts, window, levels[window]) for window in range(len(levels))]
  series = forecasts.series
  title = f'{series.value} ({series.unit})' if series.unit else series.value
  return plots.panels(several, columns, series.time, title)


def _panel(
  forecasts: Forecasts, window: int, levels: Float[np.ndarray, 'levels horizon']
) -> plots.Panel:
  series, past, truth = forecasts.series, forecasts.past[window], forecasts.truth[window]
  context = len(past)
  shown = max(HORIZONS * len(truth), SEASONS * series.season)
  # Padding is no past.
  first = int(np.argmax(~np.isnan(past)))
  begin = max(context - shown, min(first, context - 1))
  moments = forecasts.times[window]
  (since,) = times.format_times(
    series.clock.unit, series.clock.style, moments[context : context + 1]
  )
  moments = _axis(series, moments)
  # From the last given value on, so that the lines are joined and the fan opens there.
  after, now = moments[context - 1 :], past[-1]
  lines = {'given': plots.Series(moments[begin:context], past[begin:])}
  if not forecasts.is_future:
    lines['truth'] = plots.Series(after, [now, *truth])
  fan = np.concatenate([np.full((len(levels), 1), now), levels], 1)
  lines['median of the forecast'] = plots.Series(after, fan[2])
  return plots.Panel(
    title=f'{forecasts.names[window]}\nfrom {since}',
    lines=lines,
    bands={
      '90 % interval': (after, fan[0], fan[4]),
      '50 % interval': (after, fan[1], fan[3]),
    },
  )


def _axis(series: SeriesSpec, moments: Int[np.ndarray, 'length']) -> np.ndarray:
  """Times as an axis shows them: dates, or numbers of steps."""
  if series.clock.unit == 'step':
    return moments
  return np.array(times.moments_of(series.clock.unit, moments), 'datetime64[s]')
