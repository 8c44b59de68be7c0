"""Classifiers of noisy images, which guide the samples of a diffusion model to a class.

twofold train --config=configs/classifier/images.py:digits --workdir=runs/classifier
twofold sample --workdir=runs/diffusion --classifier_from=runs/classifier \
    --options=classifier=2.0

Reproduces: nothing published; the encoder half of ADM's U-Net with attention pooling (Dhariwal &
Nichol 2021), small enough for two CPU cores. The paper's own: configs/papers/guidance.py.

To expect, on a 2-core CPU machine that other work shared (2026-12-01, twofold evaluate):

  digits  1,500 steps, 64 s of a core: accuracy 0.99 at σ/α = 0.1, 0.79 at 1, 0.15 at 10. It guides
          a model without classes from a class agreement of 0.10 to 0.94: docs/guidance.md
"""

from ml_collections import ConfigDict

from common.config import merge, pick
from configs.classifier.base import get_base
from configs.diffusion import images

NETWORK = dict(
  name='unet_encoder',
  width=16,
  multipliers=(1, 2),
  blocks=1,
  attention=(4,),
  embedding='adm',
  scale_shift=True,
  resample_in_block=True,
)
DIGITS = dict(
  data=dict(name='digits', batch_size=64),
  network=NETWORK,
  process=images.VARIANTS['digits']['process'],  # that of the model
  prediction=dict(noise='edm'),
  objective=dict(times=dict(name='log_normal')),
  optimizer=dict(learning_rate=3e-3, weight_decay=0.05),
  train=dict(steps='1500', steps_per_call=50),
)

VARIANTS = {'digits': DIGITS}


def get_config(variant: str = 'digits') -> ConfigDict:
  """The config of a variant, a key of VARIANTS."""
  return ConfigDict(merge(get_base(), pick(VARIANTS, variant, 'variant')))
