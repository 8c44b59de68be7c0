"""Class-conditional GANs of small images: a baseline of one network evaluation.

twofold train --config=configs/gan/images.py:digits --workdir=runs/gan

Reproduces: nothing published; our own settings from published parts.
"""

from ml_collections import ConfigDict

from common.config import merge, pick
from configs.gan.base import get_base

# Each player has its own learning rate.
TWO_PLAYERS = dict(
  optimizer=dict(
    name='adam',
    learning_rate=2e-4,
    schedule='constant',
    warmup='0',
    b1=0.0,  # Mescheder et al. 2018: momentum keeps the players circling each other
    b2=0.99,
    # A joint norm would couple the players: a steep discriminator would slow the generator.
    clip=0.0,
    groups=dict(
      generator=dict(paths='^generator/', learning_rate=2e-4),
      discriminator=dict(paths='^discriminator/', learning_rate=2e-4),
    ),
  ),
)
DIGITS = merge(
  TWO_PLAYERS,
  dict(
    data=dict(name='digits', batch_size=64),
    generator=dict(name='dcgan', width=32, multipliers=(1, 2), latent=32),
    discriminator=dict(name='dcgan', width=32, multipliers=(1, 2)),
    objective=dict(loss=dict(name='non_saturating'), r1=1.0),
    train=dict(steps='4000', steps_per_call=50),
  ),
)
VARIANTS = {'digits': DIGITS}


def get_config(variant: str = 'digits') -> ConfigDict:
  """The config of a variant, a key of VARIANTS."""
  return ConfigDict(merge(get_base(), pick(VARIANTS, variant, 'variant')))
