"""Variational autoencoders of points in the plane: a ring of 8 and a grid of 25 Gaussians.

twofold train --config=configs/vae/points.py:ring --workdir=runs/ring_vae
twofold sample --workdir=runs/ring_vae --out=ring.png

Reproduces: nothing published; perceptrons (a transformer of one token) on the mixtures of Lin et
al. 2018 (PacGAN).

To expect: docs/results/modes.md.
"""

from ml_collections import ConfigDict

from common.config import merge, pick
from configs.vae.base import get_base

POINTS = dict(
  data=dict(batch_size=256),
  network=dict(name='transformer', patch=1, width=72, depth=1, heads=1),
  latent=dict(channels=2),
  pixels=dict(name='gaussian'),
  optimizer=dict(learning_rate=3e-3),
  train=dict(steps='12000', steps_per_call=100),
  evaluation=dict(batch_size=2500, num_samples=10_000),
  sampling=dict(pixels='draw'),  # a point is noisy, where an image is not
)
VARIANTS = {
  'ring': merge(POINTS, dict(data=dict(name='ring'))),
  'gaussians25': merge(POINTS, dict(data=dict(name='gaussians25'))),
}


def get_config(variant: str = 'ring') -> ConfigDict:
  """The config of a variant, a key of VARIANTS."""
  return ConfigDict(merge(get_base(), pick(VARIANTS, variant, 'variant')))
