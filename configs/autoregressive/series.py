"""Forecasts of time series by a causal transformer with covariates (DeepAR: Salinas et al. 2020).

python -m experiments.train --config=configs/autoregressive/series.py:aus_retail \\
  --workdir=runs/retail

  python -m experiments.prepare_data --dataset=aus_retail --context=48 --horizon=12   (once)
  python -m experiments.evaluate --workdir=runs/retail --metrics=crps,normalised_crps
  python -m experiments.sample --workdir=runs/retail --out=forecasts.png

To expect: the last 12 months of 150 series from the 48 before them, 100 draws of each, on a 2-core
CPU machine that much other work shared (2026-11-25), 114k parameters, 1,500 steps. Inside: what the
intervals of 50 and 90 % held.

                         normalised CRPS    CRPS        inside       seconds
  aus_retail             0.0289 ± 0.0019    9.9 ± 1.0   59 %, 95 %   268
  aus_retail_gaussian    0.0308 ± 0.0025   10.6 ± 1.0   61 %, 96 %   252
  aus_retail_quantiles   0.0347 ± 0.0023   11.9 ± 1.2   48 %, 86 %   239
  seasonal naive         0.0422            14.5

file, file_counts: a CSV file of one's own (docs/datasets.md), --config.data.source=FILE.csv; the
latter of whole numbers, by a negative binomial. It holds on this small data.
"""

from ml_collections import ConfigDict

from configs.autoregressive import base

VARIANTS = {  # dataset, head
  'aus_retail': ('aus_retail', 'student_t'),
  'aus_retail_gaussian': ('aus_retail', 'gaussian'),
  'aus_retail_quantiles': ('aus_retail', 'quantiles'),
  'file': ('series', 'student_t'),
  'file_counts': ('series', 'negative_binomial'),
}


def get_config(variant: str = 'aus_retail') -> ConfigDict:
  """The config of a variant, a key of VARIANTS."""
  if variant not in VARIANTS:
    raise ValueError(f'unknown variant {variant!r}; known: {", ".join(VARIANTS)}')
  name, head = VARIANTS[variant]
  config = base.get_base()
  config.data.update(name=name, context=48, horizon=12, batch_size=64)
  config.ordering = ConfigDict(base.ORDERINGS['windows'])
  config.head = ConfigDict(base.HEADS[head])
  config.network.update(width=64, layers=2, heads=4)
  config.train.update(steps='1500', steps_per_call=50, sample_every='50%')
  config.optimizer.learning_rate = 2e-3
  config.evaluation.update(num_samples=100, batch_size=500)
  return config
