"""Forecasts of time series by a causal transformer with covariates (DeepAR: Salinas et al. 2020).

twofold train --config=configs/autoregressive/series.py:aus_retail \\
  --workdir=runs/retail

  twofold prepare_data --dataset=aus_retail --context=48 --horizon=12   (once)
  twofold evaluate --workdir=runs/retail --metrics=crps,normalised_crps
  twofold sample --workdir=runs/retail --out=forecasts.png

Reproduces: nothing published; our own settings.

To expect: the last 12 months of 152 series from the 48 before them, 100 draws of each, on a 2-core
CPU machine (2026-11-29), 110k parameters, 1,500 steps; ± is half of a 95 % interval. Inside: share
of the values within the 50 % and 90 % intervals.

                         normalised CRPS    CRPS         inside
  aus_retail             0.0226 ± 0.0032    7.7 ± 1.3    56 %, 91 %
  aus_retail_gaussian    0.0216 ± 0.0032    7.3 ± 1.2    59 %, 93 %
  aus_retail_quantiles   0.0231 ± 0.0031    7.8 ± 1.4    61 %, 93 %
  seasonal naive         0.0423             14.3

Variants file and file_counts: your own CSV file (docs/datasets.md), --config.data.source=FILE.csv;
file_counts is for counts, with a negative binomial. If its columns have other names:
--config.data.target=NAME, and data.time, data.series, data.covariates. If each column or each row
is a series: --config.data.layout=columns, or rows.
"""

from ml_collections import ConfigDict

from common.config import merge, pick
from configs.autoregressive.base import get_base

COMMON = dict(
  data=dict(context=48, horizon=12, batch_size=64),
  ordering=dict(name='windows'),
  # rotary positions, so that a forecast may be longer than in training
  network=dict(width=64, layers=2, positions='rotary'),
  model=dict(class_dropout=0.1),  # so that series which training has not seen can be forecast
  train=dict(steps='1500', steps_per_call=50),
  optimizer=dict(learning_rate=2e-3),
  evaluation=dict(num_samples=100, batch_size=500),
)
RETAIL = dict(data=dict(name='aus_retail'))
FILE = dict(data=dict(name='series'))

VARIANTS = {
  'aus_retail': merge(RETAIL, dict(head=dict(name='student_t'))),
  'aus_retail_gaussian': merge(RETAIL, dict(head=dict(name='gaussian'))),
  'aus_retail_quantiles': merge(RETAIL, dict(head=dict(name='quantiles'))),
  'file': merge(FILE, dict(head=dict(name='student_t'))),
  'file_counts': merge(FILE, dict(head=dict(name='negative_binomial'))),
}


def get_config(variant: str = 'aus_retail') -> ConfigDict:
  """The config of a variant, a key of VARIANTS."""
  return ConfigDict(merge(get_base(), COMMON, pick(VARIANTS, variant, 'variant')))
