"""Repeating the last value over long horizons, beside the published cells: nothing is trained.

twofold ablate --study=configs/ablations/forecasts/long_horizons.py --workdir=runs/long

  twofold prepare_data --dataset=exchange_rate_long --context=1 --horizon=96 --stride=96 \\
    --roll_by=1 --rolling_multiple=32    (and with the horizons 192, 336 and 720)
  twofold prepare_data --dataset=etth1 --context=1 --horizon=96 --stride=96 --roll_by=1 \\
    --rolling_multiple=32                (and with the horizons 192, 336 and 720)

Scales: cpu (all horizons), exchange (the exchange rates alone), smoke (the first horizon of the
exchange rates).

Reproduces: the rows "Repeat" of Zeng et al. 2023 (DLinear), table 2, for ETTh1, and of the authors'
LTSF-Linear, LTSF-Benchmark.md, for the exchange rates. They pin the split, the scaling, the windows
and the metrics: every origin of the test part, series divided by their standard deviation in
training, and only whole batches of 32 windows, because the authors' loader leaves out the last.

To expect: docs/results/forecasts.md.
"""

from typing import Any

from common.config import pick
from common.studies.claims import Claim
from common.studies.plans import Row, Study

HORIZONS = (96, 192, 336, 720)
ETT, RATES = 'ETTh1', 'exchange rates'
DATASETS = {ETT: 'etth1', RATES: 'exchange_rate_long'}
TITLES = {'standardised_mse': 'the MSE', 'standardised_mae': 'the MAE'}
METRICS = tuple(TITLES)
PUBLISHED = {  # MSE and MAE, in the order of HORIZONS
  ETT: ((1.295, 0.713), (1.325, 0.733), (1.323, 0.744), (1.339, 0.756)),
  RATES: ((0.081, 0.196), (0.167, 0.289), (0.305, 0.396), (0.823, 0.681)),
}
# Cells are printed to three decimals.
HALF_A_DIGIT = 5e-4
WINDOWS: dict[str, Any] = {
  'data.frequency': '',
  'data.context': 1,
  'data.min_context': 0,
  'data.roll_by': 1,
  'data.rolling_multiple': 32,
  'data.stride': 96,  # nothing is trained: few windows of the training part
  'evaluation.num_samples': 1,
}
SCALES = {
  'cpu': dict(sets=(ETT, RATES), horizons=HORIZONS),
  'exchange': dict(sets=(RATES,), horizons=HORIZONS),
  'smoke': dict(sets=(RATES,), horizons=HORIZONS[:1]),
}


def name(data: str, horizon: int) -> str:
  """The name of a row."""
  return f'{data}, horizon {horizon}'


def get_study(scale: str = 'cpu') -> Study:
  """The study at a scale, a key of SCALES."""
  chosen = pick(SCALES, scale, 'scale')
  cells = [(data, horizon) for data in chosen['sets'] for horizon in chosen['horizons']]
  published = {
    (name(data, horizon), metric): value
    for data, horizon in cells
    for metric, value in zip(METRICS, PUBLISHED[data][HORIZONS.index(horizon)], strict=True)
  }
  return Study(
    name='long_horizons',
    title='Repeating the last value over long horizons',
    about='The test part of each set from every origin, with series divided by their deviation.',
    base='configs/autoregressive/forecasts.py:deepar',
    scale=scale,
    paper='Zeng et al. 2023, table 2 (ETTh1); LTSF-Linear, LTSF-Benchmark.md (exchange rates)',
    config=WINDOWS,
    rows=tuple(
      Row(
        name(data, horizon),
        {'data.name': DATASETS[data], 'data.horizon': horizon},
        baseline='naive',
      )
      for data, horizon in cells
    ),
    metrics=METRICS,
    published=published,
    claims=tuple(
      Claim(
        f'{row}: {TITLES[metric]} is the published one, to its digits',
        (row, metric),
        near=value,
        within=HALF_A_DIGIT / value,
        same_examples=True,
      )
      for (row, metric), value in published.items()
    ),
  )
