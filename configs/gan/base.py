"""The sections of a GAN's experiment, in addition to those of `configs/base.py`.

A component is a dict with a `name` and the settings that differ from its defaults. Each name is a
key of a table, and each default is in the signature of a constructor: the comment at the section
names the file of both. `experiments.families.complete` fills in the defaults.
"""

from ml_collections import ConfigDict

from common.config import plain_defaults
from common.ranges import ZERO_IS_OFF, Setting
from configs import base

SETTINGS = base.SETTINGS | dict(
  family='gan',
  conditional=True,  # tell both networks the class, if the data has classes
  generator=dict(name='dcgan'),  # common/baselines/gan/generators.py
  discriminator=dict(name='dcgan'),  # common/baselines/gan/discriminators.py
  objective=dict(  # the two losses; their sum, the loss in the logs, measures no quality
    loss=dict(name='non_saturating'),  # common/baselines/gan/losses.py
    # γ of Mescheder et al. 2018: weight of the discriminator's squared gradient on real data
    r1=Setting(0.0, ZERO_IS_OFF),
  ),
  finetune=dict(),  # Source, common/finetuning/settings.py
  sampling=dict(),  # SamplingSettings, common/baselines/gan/sampling.py
)


def get_base() -> ConfigDict:
  """The base config of the GAN: class-conditional; both players share one optimiser's settings."""
  return ConfigDict(plain_defaults(SETTINGS))
