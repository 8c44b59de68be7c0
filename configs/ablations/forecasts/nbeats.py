"""Ensembles of N-BEATS: over look-backs, over losses, and over both.

twofold ablate --study=configs/ablations/forecasts/nbeats.py:m3_quarterly --workdir=runs/nbeats

Needs the data of configs/ablations/forecasts/competitions.py, prepared as its docstring says.

Scales: m3_quarterly, m3_monthly, tourism_quarterly and tourism_monthly (three seeds each), smoke (a
few steps on the quarterly series of Tourism).

Reproduces: the kind of ensemble of Oreshkin et al. 2020, section 3.4, not its size: nine networks a
seed, with three look-backs and three losses, in place of 180 larger ones with six and three. The
published cells are those of the ensemble of generic networks (table 14 for M3, 15 for Tourism).

To expect: docs/results/forecasts.md; tourism_monthly has not been run.
"""

from common.config import pick
from common.studies.claims import Claim
from common.studies.plans import Row, Study
from configs.ablations.forecasts.competitions import CONFIG, REFIT, SETS, SMOKE

LOSSES = {'sMAPE': 'nbeats_smape', 'MASE': 'nbeats_mase', 'quantiles': 'nbeats'}
SHARES = (2, 3, 4)  # look-backs, in quarters of the context
EVERY = 'all look-backs and losses'
SCALES = {
  'm3_quarterly': dict(series='M3 quarterly', metric='smape', published=8.92),
  'm3_monthly': dict(series='M3 monthly', metric='smape', published=13.19),
  'tourism_quarterly': dict(series='Tourism quarterly', metric='mape', published=14.71),
  'tourism_monthly': dict(series='Tourism monthly', metric='mape', published=19.17),
  'smoke': dict(
    series='Tourism quarterly',
    metric='mape',
    published=14.71,
    config=SMOKE,
    shares=(2, 4),
    losses=('sMAPE', 'quantiles'),
    seeds=(0,),
  ),
}


def member_name(lookback: int, loss: str) -> str:
  """The name of the row of one network."""
  return f'look-back {lookback}, {loss}'


def get_study(scale: str = 'm3_quarterly') -> Study:
  """The study at a scale, a key of SCALES."""
  chosen = pick(SCALES, scale, 'scale')
  data = {f'data.{key}': value for key, value in (SETS[chosen['series']] | REFIT).items()}
  lookbacks = [data['data.context'] * share // 4 for share in chosen.get('shares', SHARES)]
  losses = chosen.get('losses', tuple(LOSSES))
  members = {(each, loss): member_name(each, loss) for each in lookbacks for loss in losses}
  rows = [Row('seasonal naive', data, baseline='seasonal_naive')]
  rows += [
    Row(name, data | {'ordering.lookback': lookback}, base=f'{CONFIG}:{LOSSES[loss]}')
    for (lookback, loss), name in members.items()
  ]
  rows += [
    Row(f'{loss}, all look-backs', ensemble=tuple(members[each, loss] for each in lookbacks))
    for loss in losses
  ]
  rows += [
    Row(f'look-back {each}, all losses', ensemble=tuple(members[each, loss] for loss in losses))
    for each in lookbacks
  ]
  rows.append(Row(EVERY, ensemble=tuple(members.values())))
  return Study(
    name='nbeats',
    title=f'Ensembles of N-BEATS on {chosen["series"]}',
    about=(
      'The forecast of an ensemble is the median of the draws of its members. MASE and sMAPE as a '
      'loss give point forecasts, whose draws are all the same; quantiles give a distribution.'
    ),
    base=f'{CONFIG}:nbeats',
    scale=scale,
    paper='Oreshkin et al. 2020 (N-BEATS)',
    config=chosen.get('config', {}) | {'train.sample_every': '0'},
    rows=tuple(rows),
    metrics=('smape', 'mase', 'mape', 'owa'),
    published={(EVERY, chosen['metric']): chosen['published']},
    claims=_claims(tuple(members.values())),
    seeds=chosen.get('seeds', (0, 1, 2)),
  )


def _claims(members: tuple[str, ...]) -> tuple[Claim, ...]:
  """What ensembles are made for."""
  return (
    Claim(
      'the ensemble of all has a lower sMAPE than each of its members',
      (EVERY, 'smape'),
      below=(members, 'smape'),
    ),
    Claim(
      'the ensemble of all has a lower MASE than each of its members',
      (EVERY, 'mase'),
      below=(members, 'mase'),
    ),
    Claim(
      'the ensemble of all has a lower sMAPE than seasonal naive',
      (EVERY, 'smape'),
      below=('seasonal naive', 'smape'),
    ),
  )
