"""A causal transformer over Bach's chorales: four voices, frame by frame, in sixteenths.

twofold prepare_data --dataset=chorales   (once)
twofold train --config=configs/autoregressive/chorales.py:apart --workdir=runs/bach
twofold sample --workdir=runs/bach --length=256 --out=chorale.mid
twofold sample --workdir=runs/bach --prompt=BEGINNING.mid --out=chorales.png

Reproduces: nothing published; our own settings.

To expect, on the test split (127 windows of 64 frames; a dimension is a voice in a sixteenth;
± is half of a 95 % interval), on a 2-core CPU machine shared with other work, 2026-11-25:

            steps  parameters  bits/dim        nats per frame  network evaluations of 64 frames
  apart       500     378,432  1.211 ± 0.037            3.357                               257
  together  1,000     413,280  1.315 ± 0.039            3.647                                65

Apart took 4 minutes of CPU time, together 2 minutes. The voices of a frame are far from independent
given the past: drawn together they clash, and score worse even after twice the steps.
"""

from ml_collections import ConfigDict

from common.config import merge, pick
from configs.autoregressive.base import get_base

COMMON = dict(
  data=dict(name='chorales', context=64, batch_size=16),
  ordering=dict(name='frames'),
  network=dict(width=96, layers=3),
  model=dict(start='none'),  # a window's first frame is given
  optimizer=dict(learning_rate=2e-3, weight_decay=0.1),
  train=dict(steps_per_call=10),
  ema=dict(decay=0.99),
)

VARIANTS = {
  'together': dict(
    ordering=dict(voices='together'), network=dict(dropout=0.2), train=dict(steps='1000')
  ),
  'apart': dict(ordering=dict(voices='apart'), network=dict(dropout=0.1), train=dict(steps='500')),
}


def get_config(variant: str = 'apart') -> ConfigDict:
  """The config of a variant, a key of VARIANTS."""
  return ConfigDict(merge(get_base(), COMMON, pick(VARIANTS, variant, 'variant')))
