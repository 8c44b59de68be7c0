"""Class-conditional diffusion of small images: a DiT with EDM's preconditioning and weighting.

python -m experiments.train --config=configs/diffusion/images.py --workdir=runs/diffusion
"""

from ml_collections import ConfigDict

from configs.diffusion import base

VARIANTS = {
  'digits': dict(name='digits', steps='3000', patch=2, width=96, depth=4, heads=4),
  'mnist': dict(name='mnist', steps='20 epochs', patch=4, width=192, depth=6, heads=6),
  'fashion_mnist': dict(
    name='fashion_mnist', steps='20 epochs', patch=4, width=192, depth=6, heads=6
  ),
}


def get_config(variant: str = 'digits') -> ConfigDict:
  """The config of a variant, a key of VARIANTS."""
  if variant not in VARIANTS:
    raise ValueError(f'unknown variant {variant!r}; known: {", ".join(VARIANTS)}')
  chosen = dict(VARIANTS[variant])
  config = base.get_base()
  config.data.name = chosen.pop('name')
  config.train.steps = chosen.pop('steps')
  config.network.update(chosen)
  config.process = base.PROCESSES['edm']
  config.prediction.update(target='edm', noise='edm')
  config.objective.weighting = base.WEIGHTINGS['edm']
  config.objective.times = base.TIMES['log_normal']
  config.sampling.update(sampler=dict(name='heun'), steps=18, grid=base.GRIDS['karras'])
  return config
