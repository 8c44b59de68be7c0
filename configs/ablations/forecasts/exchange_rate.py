"""Forecasts of exchange rates: the CRPS of each rate, and of the sum of all.

twofold ablate --study=configs/ablations/forecasts/exchange_rate.py --workdir=runs/rates

  twofold prepare_data --dataset=exchange_rate --context=30 --train_to=test \\
    --source=exchange_rate.txt.gz

Scales: cpu (three seeds), smoke (a few steps).

Reproduces: the data, the split and the metrics of Salinas et al. 2019 (GP-Copula) and of Rasul et
al. 2021 (TimeGrad): 8 rates, five horizons of 30 days. The published cells stay empty, because we
have read them only in transcriptions.

To expect: docs/results/forecasts.md. We expect no row far below the last value.
"""

from common.config import pick
from common.studies.claims import Claim
from common.studies.plans import Row, Study
from configs.ablations.forecasts.competitions import CONFIG, SMOKE

DATA = {
  'data.name': 'exchange_rate',
  'data.frequency': '',
  'data.context': 30,
  'data.min_context': 0,
  'data.train_to': 'test',
}
NAIVE, ETS = 'the last value', 'ETS'
MODELS = {'DeepAR': 'deepar', 'TCN': 'tcn', 'N-BEATS, generic': 'nbeats'}
# The set is small and noisy: few steps at a low learning rate.
SETTINGS = {'optimizer.learning_rate': 1e-3}
SCALES = {
  'cpu': dict(baselines={NAIVE: 'naive', ETS: 'ets'}, seeds=(0, 1, 2), config=SETTINGS),
  'smoke': dict(baselines={NAIVE: 'naive'}, seeds=(0,), config=SMOKE),
}


def get_study(scale: str = 'cpu') -> Study:
  """The study at a scale, a key of SCALES."""
  chosen = pick(SCALES, scale, 'scale')
  rows = [Row(name, DATA, baseline=which) for name, which in chosen['baselines'].items()]
  rows += [Row(name, DATA, base=f'{CONFIG}:{variant}') for name, variant in MODELS.items()]
  return Study(
    name='exchange_rate',
    title='Forecasts of exchange rates',
    about=(
      'Five forecasts of 30 days of 8 daily rates, from the 30 days before. Each rate is forecast '
      'by itself: draws of the sum take the rates as independent.'
    ),
    base=f'{CONFIG}:deepar',
    scale=scale,
    config=chosen['config'] | {'train.sample_every': '0'},
    rows=tuple(rows),
    metrics=('crps_sum', 'quantile_loss', 'normalised_deviation', 'coverage'),
    claims=(
      Claim(
        'a global model has a lower quantile loss than the last value',
        (tuple(MODELS), 'quantile_loss'),
        below=(NAIVE, 'quantile_loss'),
      ),
    ),
    seeds=chosen['seeds'],
  )
