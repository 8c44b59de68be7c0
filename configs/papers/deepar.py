"""DeepAR: forecasts of many series by one recurrent network (Salinas et al. 2020).

twofold train --config=configs/papers/deepar.py:electricity --workdir=runs/deepar \
    --config.data.source=ELECTRICITY.csv

The data are files of your own, with a column for each series, or of any layout (data.layout); the
last horizon of each series is forecast. electricity and traffic are hourly, ec weekly, parts
monthly: the last two hold counts.

Reproduces: the networks and likelihoods of section 4 of the paper (its data sets parts,
electricity, traffic and ec); the numbers of layers, nodes and draws, and the lengths of context and
horizon, are the paper's.

To expect, not measured here: a normalised deviation of 0.07 for electricity and 0.17 for traffic.
ec and parts are compared by quantile losses relative to a baseline, which are no metric here.

Unspecified: the learning rate of each set and its schedule, found by a search; the batch of each
set, from 64 to 512 (here 64); the number of training steps; precision, seed, averages and
clipping; and how often the loss is measured. All of these are at our defaults.

What the paper does and this code does not yet:

- It divides values by 1 plus the mean of the context; here ν counts the 1 as one more value.
- Windows are drawn in proportion to the scale of their series; here all alike.
- Windows may begin before their series, padded with zeros; here a series needs
  data.min_context values before the horizon.
- Each series, and age and calendar, are covariates; here those of the file's times and its columns.
- Rolling forecasts of a week (electricity, traffic) are set by data.rolling.
"""

from ml_collections import ConfigDict

from common.config import merge, pick
from configs.autoregressive.base import get_base

COMMON = dict(
  data=dict(name='series', layout='columns', batch_size=64),
  ordering=dict(name='windows', location='zero'),
  network=dict(name='lstm', layers=3, width=40),
  evaluation=dict(num_samples=200),
)
HOURLY = dict(data=dict(context=168, horizon=24), head=dict(name='gaussian'))
COUNTS = dict(head=dict(name='negative_binomial'))

VARIANTS = {
  'electricity': HOURLY,
  'traffic': HOURLY,
  'parts': merge(COUNTS, dict(data=dict(context=8, horizon=8))),
  'ec': merge(COUNTS, dict(data=dict(context=52, horizon=52), network=dict(width=120))),
}


def get_config(variant: str = 'electricity') -> ConfigDict:
  """The config of a variant, a key of VARIANTS."""
  return ConfigDict(merge(get_base(), COMMON, pick(VARIANTS, variant, 'variant')))
