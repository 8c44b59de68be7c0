"""Diffusion of points in the plane: a ring of 8 and a grid of 25 Gaussians.

twofold train --config=configs/diffusion/points.py:ring --workdir=runs/ring
twofold evaluate --workdir=runs/ring
twofold sample --workdir=runs/ring --out=ring.png

Reproduces: nothing published; our own settings from the parts of EDM (Karras et al. 2022), on the
mixtures of Lin et al. 2018 (PacGAN).

To expect, on a 2-core CPU machine with 10,000 samples (2026-11-29; about 70 s of one core each):

  ring         8 of 8 modes; KL 0.0008 (floor 0.0004); 0.953 of the samples within three deviations
  gaussians25  25 of 25 modes; KL 0.005 (floor 0.001); 0.946 (a perfect model: 0.989)
"""

from ml_collections import ConfigDict

from common.config import merge, pick
from configs.diffusion.base import get_base

POINTS = dict(
  data=dict(batch_size=512),
  network=dict(name='mlp', width=128, depth=2),
  process=dict(name='edm'),
  prediction=dict(target='edm', noise='edm', sigma_data=1.0),
  objective=dict(weighting=dict(name='edm'), times=dict(name='log_normal')),
  optimizer=dict(learning_rate=3e-3),
  train=dict(steps='6000', steps_per_call=100),
  evaluation=dict(batch_size=2500, num_samples=10_000),
  sampling=dict(
    sampler=dict(name='heun'),
    steps=18,
    grid=dict(name='karras', end='clean'),
    threshold=dict(name='none'),  # points are not bounded
  ),
)
VARIANTS = {
  'ring': merge(POINTS, dict(data=dict(name='ring'))),
  'gaussians25': merge(POINTS, dict(data=dict(name='gaussians25'))),
}


def get_config(variant: str = 'ring') -> ConfigDict:
  """The config of a variant, a key of VARIANTS."""
  return ConfigDict(merge(get_base(), pick(VARIANTS, variant, 'variant')))
