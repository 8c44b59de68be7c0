"""A class-conditional causal transformer over the pixels, or the patches, of small images.

python -m experiments.train --config=configs/autoregressive/images.py:digits --workdir=runs/pixels

To expect, on a 2-core CPU machine (digits: 2026-11-25, `make demo`;
mnist, fashion_mnist: 2026-11-22, experiments.evaluate):

  digits         35 s: agreement 0.95, FD(mlp, n=722) 0.63 (floor 0.42), 1.71 bits/dim
  digits_2x2     32 s: agreement 0.92, FD 0.98, 1.79 bits/dim
  digits_4x4     31 s: agreement 0.96, FD 1.04, 2.21 bits/dim
  mnist          2×2 patches, 2,000 steps, a beginning: agreement 0.66, FD(mlp, n=1000) 19.5
                 (floor 1.9), 1.028 bits/dim
  fashion_mnist  the same, 1,000 steps: 0.45, 16.6 (floor 0.7), 3.419 bits/dim
  palette        a folder of colour images (--config.data.source=IMAGES/) at 16×16, a pixel one of
                 16 colours. 1,911 emoji, 200 steps, 1.5 minutes of processor time, 2026-11-25:
                 1.409 ± 0.030 bits per palette index
"""

from ml_collections import ConfigDict

from configs.autoregressive import base

SMALL = dict(width=64, layers=3, dropout=0.0)
MEDIUM = dict(width=96, layers=4, mlp_width=384, dropout=0.0)
VARIANTS = {  # dataset, side of a patch, length, network
  'digits': ('digits', 1, '1100', SMALL | dict(mlp_width=240)),
  # Cheaper steps make more passes over 1,445 images: without dropout these learn them by heart.
  'digits_2x2': ('digits', 2, '2900', SMALL | dict(mlp_width=232, dropout=0.2)),
  'digits_4x4': ('digits', 4, '9400', SMALL | dict(mlp_width=160, dropout=0.3)),
  'mnist': ('mnist', 2, '2000', MEDIUM),
  'fashion_mnist': ('fashion_mnist', 2, '1000', MEDIUM),
  'palette': ('image_folder', 1, '200', SMALL | dict(mlp_width=256)),
}


def get_config(variant: str = 'digits') -> ConfigDict:
  """The config of a variant, a key of VARIANTS."""
  if variant not in VARIANTS:
    raise ValueError(f'unknown variant {variant!r}; known: {", ".join(VARIANTS)}')
  name, size, steps, network = VARIANTS[variant]
  config = base.get_base()
  config.data.name = name
  config.ordering.size = size
  config.network.update(network)
  config.train.steps = steps
  config.data.batch_size = 32
  config.train.steps_per_call = 50 if name == 'digits' else 10
  config.optimizer.learning_rate = 3e-3 if name == 'digits' else 2e-3
  if variant == 'palette':
    config.data.update(image_size=16, palette=16)
  return config
