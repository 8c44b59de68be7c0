"""A class-conditional causal transformer over the pixels, or the patches, of small images.

  python -m experiments.train --config=configs/autoregressive/images.py --workdir=runs/pixels
"""

from ml_collections import ConfigDict

from configs.autoregressive import base

VARIANTS = {
  'digits': dict(name='digits', size=1, steps='1500', width=96, layers=4),
  'digits_2x2': dict(name='digits', size=2, steps='1500', width=96, layers=4),
  'digits_4x4': dict(name='digits', size=4, steps='1500', width=96, layers=4),
  'mnist': dict(name='mnist', size=2, steps='20 epochs', width=192, layers=6),
  'fashion_mnist': dict(name='fashion_mnist', size=2, steps='20 epochs', width=192, layers=6),
}


def get_config(variant: str = 'digits') -> ConfigDict:
  """The config of a variant, a key of VARIANTS."""
  if variant not in VARIANTS:
    raise ValueError(f'unknown variant {variant!r}; known: {", ".join(VARIANTS)}')
  chosen = VARIANTS[variant]
  config = base.get_base()
  config.data.name = chosen['name']
  config.ordering.size = chosen['size']
  config.network.width, config.network.layers = chosen['width'], chosen['layers']
  config.train.steps = chosen['steps']
  return config
