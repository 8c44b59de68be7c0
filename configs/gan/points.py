"""GANs of points in the plane: a ring of 8 and a grid of 25 Gaussians.

twofold train --config=configs/gan/points.py:ring --workdir=runs/ring_gan
twofold sample --workdir=runs/ring_gan --out=ring.png

Reproduces: nothing published; small perceptrons on the mixtures of Lin et al. 2018 (PacGAN).

To expect: docs/results/modes.md.
"""

from ml_collections import ConfigDict

from common.config import merge, pick
from configs.gan.base import get_base
from configs.gan.images import TWO_PLAYERS

POINTS = merge(
  TWO_PLAYERS,
  dict(
    data=dict(batch_size=256),
    # The modes are narrow. Wide networks (two layers of 256 units) at a constant rate draw 0.07 of
    # the samples on the grid near a centre; in one run each, a schedule raised this to 0.12, and
    # momentum with it to 0.17.
    generator=dict(name='mlp', width=144, depth=4, latent=2),
    discriminator=dict(name='mlp', width=144, depth=4),
    optimizer=dict(b1=0.5, schedule='cosine'),
    train=dict(steps='8000', steps_per_call=100),
    evaluation=dict(batch_size=2500, num_samples=10_000),
  ),
)
R1 = dict(objective=dict(r1=0.1))
VARIANTS = {
  'ring': merge(POINTS, dict(data=dict(name='ring'))),
  'ring_r1': merge(POINTS, R1, dict(data=dict(name='ring'))),
  'gaussians25': merge(POINTS, dict(data=dict(name='gaussians25'))),
  'gaussians25_r1': merge(POINTS, R1, dict(data=dict(name='gaussians25'))),
}


def get_config(variant: str = 'ring') -> ConfigDict:
  """The config of a variant, a key of VARIANTS."""
  return ConfigDict(merge(get_base(), pick(VARIANTS, variant, 'variant')))
