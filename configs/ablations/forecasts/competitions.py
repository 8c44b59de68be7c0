"""Forecasts of competitions, M1, M3, Tourism and M4, next to the published cells.

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

and in the same way, for monash: m1, yearly (context and least context 12 and 4), quarterly (24, 8)
and monthly (36, 12); m3, yearly (12, 4) and other (16, 8); tourism, yearly (8, 4); m4, weekly
(104, 26).

Scales: baselines (classical forecasts, nothing is trained; needs the extra `forecasts`), models
(those, one global model per set by DeepAR, TCN, transformer and N-BEATS, three seeds each, and
those with a distribution pooled), quarterly (the same for the quarterly sets alone), monash (the
classical forecasts of eleven sets), monash_models (the models too), smoke (the naive rows and two
models of few steps, of Tourism's quarterly series).

Reproduces: MASE and sMAPE of the Monash archive (Godahewa et al. 2021, tables 2 and 7) for SES,
Theta, ETS, ARIMA, DeepAR, transformer and N-BEATS; MAPE of seasonal naive on Tourism (Oreshkin et
al. 2020, table 15); and sMAPE of Naive2 where M3 has no season (table 14). The archive has other
yearly series of Tourism, and takes m = 52 for the MASE of weeks, where m is 1 here, as in M4: these
cells are left out.

To expect: docs/results/forecasts.md; monash_models is not measured yet.
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
FOUR = tuple(SETS)
SETS |= {
  'M1 yearly': dict(name='m1', frequency='yearly', context=12, min_context=4),
  'M1 quarterly': dict(name='m1', frequency='quarterly', context=24, min_context=8),
  'M1 monthly': dict(name='m1', frequency='monthly', context=36, min_context=12),
  'M3 yearly': dict(name='m3', frequency='yearly', context=12, min_context=4),
  'M3 other': dict(name='m3', frequency='other', context=16, min_context=8),
  'Tourism yearly': dict(name='tourism', frequency='yearly', context=8, min_context=4),
  'M4 weekly': dict(name='m4', frequency='weekly', context=104, min_context=26),
}
QUARTERLY = ('M3 quarterly', 'Tourism quarterly')
SLOW = ('ARIMA',)  # takes an hour for a monthly set
MONTHLY = ('M3 monthly', 'Tourism monthly', 'M1 monthly', 'M4 weekly')
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
# MASE and sMAPE of the Monash archive, by set, in the order of ARCHIVE.
ARCHIVE = ('SES', 'Theta', 'ETS', 'ARIMA', 'DeepAR', 'transformer', 'N-BEATS, generic')
MONASH = {
  'M3 quarterly': (
    (1.417, 1.117, 1.17, 1.24, 1.31, 2.452, 1.182),
    (10.9, 9.2, 9.68, 10.24, 9.93, 13.17, 9.47),
  ),
  'M3 monthly': (
    (1.091, 0.864, 0.865, 0.873, 1.167, 1.454, 0.934),
    (16.22, 13.86, 14.14, 14.24, 15.74, 17.13, 14.76),
  ),
  'Tourism quarterly': (
    (3.21, 1.661, 1.592, 1.782, 1.597, 1.859, 1.475),
    (27.41, 15.37, 15.07, 16.58, 15.29, 16.97, 14.45),
  ),
  'Tourism monthly': (
    (3.306, 1.649, 1.526, 1.589, 1.409, 1.571, 1.574),
    (36.39, 19.9, 19.02, 19.73, 18.35, 19.75, 20.42),
  ),
  'M1 yearly': (
    (4.938, 4.191, 3.771, 4.479, 4.603, 5.519, 4.384),
    (23.1, 20.17, 18.61, 19.47, 18.72, 18.96, 20.52),
  ),
  'M1 quarterly': (
    (1.929, 1.702, 1.658, 1.787, 1.833, 2.772, 1.788),
    (18.1, 16.35, 17.47, 16.62, 16.17, 19.37, 16.76),
  ),
  'M1 monthly': (
    (1.379, 1.091, 1.074, 1.164, 1.192, 2.191, 1.168),
    (17.43, 16.53, 15.05, 15.65, 17.16, 22.17, 16.77),
  ),
  'M3 yearly': (
    (3.167, 2.774, 2.86, 3.417, 3.508, 3.003, 2.961),
    (17.76, 16.76, 17.0, 18.84, 17.24, 15.82, 17.03),
  ),
  'M3 other': (
    (3.089, 2.271, 1.814, 1.831, 2.975, 2.781, 2.39),
    (6.28, 4.92, 4.37, 4.35, 5.57, 5.78, 4.97),
  ),
  'M4 weekly': ((), (9.01, 7.83, 8.73, 7.94, 7.93, 9.21, 6.81)),
}
POOLED = 'models pooled'
TOURISM_MAPE = {'Tourism yearly': 23.61, 'Tourism quarterly': 16.46, 'Tourism monthly': 22.56}
M3_NAIVE2 = {'M3 yearly': 17.88, 'M3 other': 6.30}
SMOKE = {  # settings of the smoke scale
  'train.steps': '4',
  'train.steps_per_call': 2,
  'evaluation.num_samples': 4,
  'evaluation.batch_size': 2000,
}
SCALES = {
  'baselines': dict(sets=FOUR, baselines=tuple(BASELINES), models=(), seeds=(0,)),
  'models': dict(sets=FOUR, baselines=tuple(BASELINES), models=tuple(MODELS), seeds=(0, 1, 2)),
  'monash': dict(sets=tuple(SETS), baselines=tuple(BASELINES), models=(), seeds=(0,)),
  'monash_models': dict(
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
      if series not in MONTHLY or method not in SLOW
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
    for series, cells in MONASH.items()
    for metric, values in zip(('mase', 'smape'), cells, strict=True)
    for method, value in zip(ARCHIVE, values, strict=bool(values))
  }
  published |= {
    (row_name(series, 'seasonal naive'), 'mape'): value for series, value in TOURISM_MAPE.items()
  }
  published |= {(row_name(series, 'Naive2'), 'smape'): value for series, value in M3_NAIVE2.items()}
  return Study(
    name='forecasts',
    title='Forecasts of competitions',
    about=(
      'One forecast of the last horizon of each series, from all values before it. Classical '
      'methods fit a model to each series; the others are one model for all series of a set, and '
      'an ensemble that pools the draws of those with a distribution. '
      'Metrics are those of the competitions: MASE with m = 1, 4 and 12, averaged over series.'
    ),
    base=f'{CONFIG}:deepar',
    scale=scale,
    paper='Godahewa et al. 2021, tables 2 and 7; Oreshkin et al. 2020, tables 14 and 15',
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
