"""A class-conditional causal transformer over the pixels, or the patches, of small images.

python -m experiments.train --config=configs/autoregressive/images.py:digits --workdir=runs/pixels
"""

from ml_collections import ConfigDict

from configs.autoregressive import base

VARIANTS = {  # dataset, side of a patch, length, (width, layers, width within the MLP)
  'digits': ('digits', 1, '1100', (64, 3, 240)),
  'digits_2x2': ('digits', 2, '3500', (64, 3, 232)),
  'digits_4x4': ('digits', 4, '10500', (64, 3, 160)),
  'mnist': ('mnist', 2, '20 epochs', (192, 6, 768)),
  'fashion_mnist': ('fashion_mnist', 2, '20 epochs', (192, 6, 768)),
}


def get_config(variant: str = 'digits') -> ConfigDict:
  """The config of a variant, a key of VARIANTS."""
  if variant not in VARIANTS:
    raise ValueError(f'unknown variant {variant!r}; known: {", ".join(VARIANTS)}')
  name, size, steps, (width, layers, mlp_width) = VARIANTS[variant]
  config = base.get_base()
  config.data.name = name
  config.ordering.size = size
  config.network.update(width=width, layers=layers, mlp_width=mlp_width)
  config.train.steps = steps
  if name == 'digits':
    config.data.batch_size = 32
    config.train.steps_per_call = 50
    config.optimizer.learning_rate = 3e-3
  return config
