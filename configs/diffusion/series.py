"""Forecasts of time series by conditional diffusion over windows (as CSDI: Tashiro et al. 2021).

twofold train --config=configs/diffusion/series.py:aus_retail \\
  --workdir=runs/retail_diffusion

  twofold prepare_data --dataset=aus_retail --context=48 --horizon=12   (once)
  twofold evaluate --workdir=runs/retail_diffusion --metrics=crps,normalised_crps
  twofold sample --workdir=runs/retail_diffusion --horizon=18 --out=forecast.png

The network is a transformer over the steps of a window (a DiT with patches of one step). It sees
the clean context, the noisy horizon and the covariates of all steps, and draws the whole horizon at
once. Variant file: your own file (docs/datasets.md), --config.data.source=FILE.csv.

Reproduces: nothing published; our own settings.

To expect: a short run on another set is in docs/results/forecasts.md; these settings have not been
measured.
"""

from ml_collections import ConfigDict

from common.config import merge, pick
from configs.diffusion.base import get_base

COMMON = dict(
  data=dict(context=48, horizon=12, batch_size=64),
  network=dict(name='dit', width=64, depth=3, heads=4, patch=1),
  # values are scaled by the mean distance of their context
  prediction=dict(target='v', sigma_data=1.0),
  train=dict(steps='3000', steps_per_call=50),
  optimizer=dict(learning_rate=1e-3),
  sampling=dict(sampler=dict(name='ddim', eta=0.0), steps=20, threshold=dict(name='none')),
  evaluation=dict(num_samples=100, batch_size=500),
)

VARIANTS = {
  'aus_retail': dict(data=dict(name='aus_retail')),
  'file': dict(data=dict(name='series')),
}


def get_config(variant: str = 'aus_retail') -> ConfigDict:
  """The config of a variant, a key of VARIANTS."""
  return ConfigDict(merge(get_base(), COMMON, pick(VARIANTS, variant, 'variant')))
