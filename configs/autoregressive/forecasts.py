"""Forecasts of competitions by one global model: DeepAR, TCN, transformer and N-BEATS.

twofold train --config=configs/autoregressive/forecasts.py:nbeats \\
  --config.data.name=m3 --config.data.frequency=monthly --workdir=runs/nbeats

  twofold prepare_data --dataset=m3 --frequency=monthly --context=36   (once)
  twofold evaluate --workdir=runs/nbeats --metrics=smape,mase,mape,coverage \\
    --baselines=naive2,theta

Variants: deepar (an LSTM with Student's t; Salinas et al. 2020), tcn (Bai et al. 2018), transformer
and N-BEATS, which forecasts a whole horizon at once (Oreshkin et al. 2020, at a width for a CPU):
nbeats (generic) and nbeats_interpretable by quantiles, nbeats_smape and nbeats_mase by the paper's
losses, which give point forecasts without intervals. The data is M3, monthly, unless flags name
another competition.

Reproduces: nothing published yet; configs/ablations/forecasts/competitions.py holds the published
cells.

To expect: docs/results/forecasts.md.
"""

from ml_collections import ConfigDict

from common.config import merge, pick
from configs.autoregressive.base import get_base

COMMON = dict(
  data=dict(name='m3', frequency='monthly', context=36, batch_size=64, min_context=12),
  ordering=dict(name='windows', location='last', scale='change'),
  head=dict(name='student_t'),
  train=dict(steps='1000', steps_per_call=50),
  optimizer=dict(learning_rate=4e-3),
  evaluation=dict(num_samples=100, batch_size=2000),
)
# One emission is the horizon, so that a step costs little; more steps fit the noise.
DIRECT = dict(
  data=dict(batch_size=256),
  ordering=dict(name='horizon', location='last', scale='change'),
  train=dict(steps='500'),
  optimizer=dict(learning_rate=3e-3),
)
GENERIC = merge(DIRECT, dict(network=dict(name='nbeats', units=128, stacks=10)))
INTERPRETABLE = dict(name='nbeats_interpretable', trend_units=128, season_units=256)
QUANTILES = dict(head=dict(name='quantiles', levels=(0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95)))

VARIANTS = {
  'deepar': dict(network=dict(name='lstm', width=64, layers=2)),
  'tcn': dict(network=dict(name='tcn', width=64, layers=4)),
  'transformer': dict(network=dict(name='transformer', width=64, layers=2, positions='rotary')),
  'nbeats': merge(GENERIC, QUANTILES),
  'nbeats_smape': merge(GENERIC, dict(head=dict(name='percentage'))),
  'nbeats_mase': merge(GENERIC, dict(head=dict(name='point'))),
  'nbeats_interpretable': merge(DIRECT, QUANTILES, dict(network=INTERPRETABLE)),
}


def get_config(variant: str = 'deepar') -> ConfigDict:
  """The config of a variant, a key of VARIANTS."""
  return ConfigDict(merge(get_base(), COMMON, pick(VARIANTS, variant, 'variant')))
