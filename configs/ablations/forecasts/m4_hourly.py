"""Forecasts of the hourly series of M4, next to the cells of the Monash archive.

twofold ablate --study=configs/ablations/forecasts/m4_hourly.py --workdir=runs/hourly

  twofold prepare_data --dataset=m4 --frequency=hourly --context=168 --train_to=test --source=m4/

Scales: cpu (three seeds), smoke (a few steps).

Reproduces: MASE and sMAPE of the Monash archive (Godahewa et al. 2021, tables 2 and 7) for SES,
Theta and N-BEATS; its DeepAR has 2.145 and 15.07. The archive's SES and Theta do not take out the
season of a day; Theta here does.

To expect: docs/results/forecasts.md.
"""

from common.config import pick
from common.studies.claims import Claim
from common.studies.plans import Row, Study
from configs.ablations.forecasts.competitions import CONFIG, SMOKE

DATA = {
  'data.name': 'm4',
  'data.frequency': 'hourly',
  'data.context': 168,
  'data.min_context': 0,
  'data.train_to': 'test',
}
BASELINES = {
  'seasonal naive': 'seasonal_naive',
  'Naive2': 'naive2',
  'SES': 'ses',
  'Theta': 'theta',
}
MODELS = {'TCN': 'tcn', 'N-BEATS, generic': 'nbeats'}
# Of the archive: MASE, sMAPE.
PUBLISHED = {
  'SES': (11.607, 42.95),
  'Theta': (11.524, 42.98),
  'N-BEATS, generic': (2.247, 15.75),
}
SCALES = {
  'cpu': dict(baselines=tuple(BASELINES), seeds=(0, 1, 2), config={}),
  'smoke': dict(baselines=('seasonal naive',), seeds=(0,), config=SMOKE),
}


def get_study(scale: str = 'cpu') -> Study:
  """The study at a scale, a key of SCALES."""
  chosen = pick(SCALES, scale, 'scale')
  rows = [Row(name, DATA, baseline=BASELINES[name]) for name in chosen['baselines']]
  rows += [Row(name, DATA, base=f'{CONFIG}:{variant}') for name, variant in MODELS.items()]
  names = {row.name for row in rows}
  return Study(
    name='m4_hourly',
    title='Forecasts of the hourly series of M4',
    about='One forecast of the last two days of 414 series, from the week before them.',
    base=f'{CONFIG}:nbeats',
    scale=scale,
    paper='Godahewa et al. 2021, tables 2 and 7',
    config=chosen['config'] | {'train.sample_every': '0'},
    rows=tuple(rows),
    metrics=('mase', 'smape', 'owa', 'coverage', 'normalised_deviation'),
    published={
      (name, metric): value
      for name, cells in PUBLISHED.items()
      if name in names
      for metric, value in zip(('mase', 'smape'), cells, strict=True)
    },
    claims=(
      Claim(
        "a global model has a lower MASE than the archive's DeepAR",
        (tuple(MODELS), 'mase'),
        below=2.145,
      ),
      Claim(
        'a global model has a lower MASE than seasonal naive',
        (tuple(MODELS), 'mase'),
        below=('seasonal naive', 'mase'),
      ),
    ),
    seeds=chosen['seeds'],
  )
