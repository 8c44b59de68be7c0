"""N-BEATS on M3, Tourism and M4: members of the ensembles (Oreshkin et al. 2020).

twofold prepare_data --dataset=m3 --frequency=yearly --context=42 --min_context=12 --train_to=test
twofold train --config=configs/papers/nbeats.py:m3_yearly --workdir=runs/nbeats

A variant is one network, generic or `_interpretable`, with a look-back of two horizons. The paper's
ensembles have 180 of them: ten draws for each look-back (--config.ordering.lookback, two to seven
horizons) and each loss: sMAPE, --config.head.loss=mape, or MASE (--config.head.name=point
--config.ordering.scale=change). Tourism's are of MAPE only.

Reproduces: tables 13 (M4 hourly), 14 (M3) and 15 (Tourism) of the paper, by the settings of its
table 18.

To expect, not measured here: sMAPE of M3 and M4, MAPE of Tourism, by the ensembles of generic |
interpretable networks; a member is worse.

  m3       yearly 16.2 | 15.84, quarterly 8.92 | 9.03, monthly 13.19 | 13.15, other 4.19 | 4.30
  tourism  yearly 21.67 | 21.55, quarterly 14.71 | 15.22, monthly 19.17 | 19.82
  m4       hourly, generic and interpretable together: 8.197

configs/ablations/forecasts/nbeats.py has ensembles of smaller networks.

Unspecified, so at our defaults: the learning rate and its schedule, betas and epsilon of the
optimiser, clipping, precision, seeds, averages, and how often the loss is measured.

What the paper does and this code does not yet:

- Windows end only within the last L_H horizons before the test part, a number for each set and
  architecture; here anywhere. They are padded if the series is too short; here a window is used if
  at least data.min_context values of it are known, and the others are at its location.
- MASE divides by the change of the whole series at the season's lag; here by that of the window
  from one value to the next. Inputs are divided by the same number.
"""

from ml_collections import ConfigDict

from common.config import merge, pick
from configs.autoregressive.base import get_base

COMMON = dict(
  data=dict(batch_size=1024, train_to='test'),
  ordering=dict(name='horizon', location='last', scale='change'),
  network=dict(name='nbeats', units=512, layers=4, stacks=30),
  head=dict(name='percentage'),
  train=dict(steps_per_call=10, sample_every='0'),
  evaluation=dict(num_samples=1, batch_size=2000),
)
INTERPRETABLE = dict(
  network=dict(
    name='nbeats_interpretable',
    trend_units=256,
    season_units=2048,
    layers=4,
    repeats=3,
    degree=2,
  )
)
MAPE = dict(head=dict(loss='mape'))
# Table 18: the horizon, and steps of the generic and of the interpretable network.
SETS = {
  'm3': dict(
    yearly=(6, 20, 50), quarterly=(8, 250, 6000), monthly=(18, 10_000, 6000), other=(8, 250, 250)
  ),
  'tourism': dict(yearly=(4, 30, 30), quarterly=(8, 100, 500), monthly=(24, 100, 300)),
  'm4': dict(hourly=(48, 5000, 5000), weekly=(13, 5000, 5000)),
}


def member(name: str, frequency: str, horizon: int, steps: int) -> dict:
  """The settings of one network for one set of series, with a look-back of two horizons."""
  data = dict(name=name, frequency=frequency, context=7 * horizon, min_context=2 * horizon)
  found = dict(data=data, ordering=dict(lookback=2 * horizon), train=dict(steps=str(steps)))
  return merge(found, MAPE) if name == 'tourism' else found


VARIANTS = {
  f'{name}_{frequency}': member(name, frequency, horizon, steps)
  for name, sets in SETS.items()
  for frequency, (horizon, steps, _) in sets.items()
}
VARIANTS |= {
  f'{name}_{frequency}_interpretable': merge(member(name, frequency, horizon, steps), INTERPRETABLE)
  for name, sets in SETS.items()
  for frequency, (horizon, _, steps) in sets.items()
}


def get_config(variant: str = 'm3_yearly') -> ConfigDict:
  """The config of a variant, a key of VARIANTS."""
  return ConfigDict(merge(get_base(), COMMON, pick(VARIANTS, variant, 'variant')))
