"""A causal transformer over Bach's chorales: four voices, frame by frame, in sixteenths.

python -m experiments.prepare_data --dataset=chorales   (once)
python -m experiments.train --config=configs/autoregressive/chorales.py:apart --workdir=runs/bach
python -m experiments.sample --workdir=runs/bach --length=256 --out=chorale.mid
python -m experiments.sample --workdir=runs/bach --prompt=BEGINNING.mid --out=chorales.png

To expect, of the test split (127 windows of 64 frames; a dimension is a voice in a sixteenth), on a
2-core CPU machine that other work shared, 2026-11-25:

            steps  parameters  bits/dim        nats per frame  network evaluations of 64 frames
  apart       500     378,432  1.211 ± 0.019            3.357                               257
  together  1,000     413,280  1.315 ± 0.020            3.647                                65

Apart took 4 minutes of processor time, together 2 minutes. The voices of a frame are far from
independent given the past: drawn together they clash, and score worse after twice the steps.
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
