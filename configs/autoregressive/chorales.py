"""A causal transformer over Bach's chorales: four voices, frame by frame, in sixteenths.

python -m experiments.prepare_data --dataset=chorales   (once)
python -m experiments.train --config=configs/autoregressive/chorales.py:together \\
  --workdir=runs/chorales
python -m experiments.sample --workdir=runs/chorales --length=256 --out=chorale.mid
"""

from ml_collections import ConfigDict

from configs.autoregressive import base

VARIANTS = {  # voices of a frame, steps, dropout
  'together': ('together', '1000', 0.2),
  'apart': ('apart', '500', 0.1),
}


def get_config(variant: str = 'apart') -> ConfigDict:
  """The config of a variant, a key of VARIANTS."""
  if variant not in VARIANTS:
    raise ValueError(f'unknown variant {variant!r}; known: {", ".join(VARIANTS)}')
  voices, steps, dropout = VARIANTS[variant]
  config = base.get_base()
  config.data.update(name='chorales', context=64, batch_size=16)
  config.ordering = ConfigDict(dict(name='frames', voices=voices))
  config.network.update(width=96, layers=3, dropout=dropout)
  config.model.start = 'none'  # a window's first frame is given
  config.optimizer.update(learning_rate=2e-3, weight_decay=0.1)
  config.train.update(steps=steps, steps_per_call=10)
  config.ema.decay = 0.99
  return config
