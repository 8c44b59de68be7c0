"""Forecasts of M3 and Tourism, quarterly and monthly, beside the published cells.

twofold ablate --study=configs/ablations/forecasts/competitions.py:baselines \\
    --workdir=runs/forecasts

  twofold prepare_data --dataset=m3 --frequency=quarterly --context=24 --min_context=8 \\
    --train_to=test    (once)
  twofold prepare_data --dataset=m3 --frequency=monthly --context=36 --min_context=12 \\
    --train_to=test
  twofold prepare_data --dataset=tourism --frequency=quarterly --context=24 --min_context=8 \\
    --train_to=test
  twofold prepare_data --dataset=tourism --frequency=monthly --context=48 --min_context=12 \\
    --train_to=test

Scales: baselines (classical forecasts, nothing is trained; needs the extra `forecasts`), models
(those, one global model per set by DeepAR, TCN, transformer and N-BEATS, three seeds each, and
those with a distribution pooled), quarterly (the same for the quarterly sets alone), smoke (the
naive rows and two models of few steps, of Tourism's quarterly series).

Reproduces: MASE and sMAPE of the Monash archive (Godahewa et al. 2021, tables 2 and 7) for SES,
Theta, ETS, ARIMA, DeepAR, transformer and N-BEATS; and MAPE of seasonal naive on Tourism (Oreshkin
et al. 2020, table 15).

To expect: docs/results/forecasts.md.
"""

from common.config import pick
from common.studies.claims import Claim
from common.studies.plans import Row, Study

CONFIG = 'configs/autoregressive/forecasts.py'
SETS = {  # by name in the table: the data, and context and least context of training windows
  'M3 quarterly': dict(name='m3', frequency='quarterly', context=24, min_context=8),
  'M3 monthly': dict(name='m3', frequency='monthly', context=36, min_context=12),
  'Tourism quarterly': dict(name='tourism', frequency='quarterly', context=24, min_context=8),
  'Tourism monthly': dict(name='tourism', frequency='monthly', context=48, min_context=12),
}
QUARTERLY = ('M3 quarterly', 'Tourism quarterly')
ONLY_QUARTERLY = ('ARIMA',)  # takes an hour for a monthly set
REFIT = dict(train_to='test')  # models see all that the baselines see
BASELINES = {
  'seasonal naive': 'seasonal_naive',
  'Naive2': 'naive2',
  'SES': 'ses',
  'Theta': 'theta',
  'ETS': 'ets',
  'ARIMA': 'auto_arima',
}
MODELS = {
  'DeepAR': 'deepar',
  'TCN': 'tcn',
  'transformer': 'transformer',
  'N-BEATS, generic': 'nbeats',
  'N-BEATS, interpretable': 'nbeats_interpretable',
  'N-BEATS, sMAPE as loss': 'nbeats_smape',
}
POINTS = ('N-BEATS, sMAPE as loss',)  # without a distribution: not pooled with the others
# MASE and sMAPE of the Monash archive, in the order of SETS.
MONASH = {
  'SES': ((1.417, 10.90), (1.091, 16.22), (3.210, 27.41), (3.306, 36.39)),
  'Theta': ((1.117, 9.20), (0.864, 13.86), (1.661, 15.37), (1.649, 19.90)),
  'ETS': ((1.170, 9.68), (0.865, 14.14), (1.592, 15.07), (1.526, 19.02)),
  'ARIMA': ((1.240, 10.24), (0.873, 14.24), (1.782, 16.58), (1.589, 19.73)),
  'DeepAR': ((1.310, 9.93), (1.167, 15.74), (1.597, 15.29), (1.409, 18.35)),
  'transformer': ((2.452, 13.17), (1.454, 17.13), (1.859, 16.97), (1.571, 19.75)),
  'N-BEATS, generic': ((1.182, 9.47), (0.934, 14.76), (1.475, 14.45), (1.574, 20.42)),
}
POOLED = 'models pooled'
TOURISM_MAPE = {'Tourism quarterly': 16.46, 'Tourism monthly': 22.56}  # of seasonal naive
SMOKE = {  # settings of the smoke scale
  'train.steps': '4',
  'train.steps_per_call': 2,
  'evaluation.num_samples': 4,
  'evaluation.batch_size': 2000,
}
SCALES = {
  'baselines': dict(sets=tuple(SETS), baselines=tuple(BASELINES), models=(), seeds=(0,)),
  'models': dict(
    sets=tuple(SETS), baselines=tuple(BASELINES), models=tuple(MODELS), seeds=(0, 1, 2)
  ),
  'quarterly': dict(
    sets=QUARTERLY, baselines=tuple(BASELINES), models=tuple(MODELS), seeds=(0, 1, 2)
  ),
  'smoke': dict(
    sets=('Tourism quarterly',),
    baselines=('seasonal naive', 'Naive2'),
    models=('DeepAR', 'N-BEATS, generic'),
    seeds=(0,),
    config=SMOKE,
  ),
}


def row_name(series: str, method: str) -> str:
  """The name of a row."""
  return f'{series}: {method}'


def get_study(scale: str = 'baselines') -> Study:
  """The study at a scale, a key of SCALES."""
  chosen = pick(SCALES, scale, 'scale')
  rows = []
  for series in chosen['sets']:
    data = {f'data.{key}': value for key, value in (SETS[series] | REFIT).items()}
    rows += [
      Row(row_name(series, method), data, baseline=BASELINES[method])
      for method in chosen['baselines']
      if series in QUARTERLY or method not in ONLY_QUARTERLY
    ]
    rows += [
      Row(row_name(series, method), data, base=f'{CONFIG}:{MODELS[method]}')
      for method in chosen['models']
    ]
    if chosen['models']:
      pooled = [method for method in chosen['models'] if method not in POINTS]
      members = tuple(row_name(series, method) for method in pooled)
      rows.append(Row(row_name(series, POOLED), ensemble=members))
  names = {row.name for row in rows}
  published = {
    (row_name(series, method), metric): value
    for method, cells in MONASH.items()
    for series, pair in zip(SETS, cells, strict=True)
    for metric, value in zip(('mase', 'smape'), pair, strict=True)
  }
  published |= {
    (row_name(series, 'seasonal naive'), 'mape'): value for series, value in TOURISM_MAPE.items()
  }
  return Study(
    name='forecasts',
    title='Forecasts of M3 and Tourism',
    about=(
      'One forecast of the last horizon of each series, from all values before it. Classical '
      'methods fit a model to each series; the others are one model for all series of a set, and '
      'an ensemble that pools the draws of those with a distribution. '
      'Metrics are those of the competitions: MASE with m = 4 and 12, averaged over series.'
    ),
    base=f'{CONFIG}:deepar',
    scale=scale,
    paper='Godahewa et al. 2021, tables 2 and 7; Oreshkin et al. 2020, table 15',
    config=chosen.get('config', {}) | {'train.sample_every': '0'},
    rows=tuple(rows),
    metrics=('smape', 'mase', 'mape', 'owa', 'coverage', 'normalised_crps'),
    published={cell: value for cell, value in published.items() if cell[0] in names},
    claims=_claims(chosen),
    seeds=chosen['seeds'],
  )


def _claims(chosen: dict) -> tuple[Claim, ...]:
  """What the rows of a scale claim, for each set."""
  claims = []
  for series in chosen['sets']:
    best = tuple(row_name(series, method) for method in ('Theta', 'ETS'))
    naive, ours = (
      row_name(series, 'seasonal naive'),
      tuple(row_name(series, method) for method in (*chosen['models'], POOLED)),
    )
    if 'Theta' in chosen['baselines']:
      claims.append(
        Claim(
          f'{series}: Theta or ETS has a lower sMAPE than seasonal naive',
          (best, 'smape'),
          below=(naive, 'smape'),
        )
      )
    if 'Theta' in chosen['baselines'] and chosen['models']:
      claims += [
        Claim(
          f'{series}: a global model has a lower sMAPE than seasonal naive',
          (ours, 'smape'),
          below=(naive, 'smape'),
        ),
        Claim(
          f'{series}: its sMAPE is within 5 % of the better of Theta and ETS, or lower',
          (ours, 'smape'),
          below=(best, 'smape'),
          times=1.05,
        ),
        Claim(
          f'{series}: the 80 % intervals of a global model hold 75 to 85 % of the values',
          (ours, 'coverage'),
          near=0.8,
          within=0.0625,
        ),
      ]
  return tuple(claims)
