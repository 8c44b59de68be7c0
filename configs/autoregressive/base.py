"""The sections of an autoregressive experiment, in addition to those of `configs/base.py`.

A component is a dict with a `name` and the settings that differ from its defaults. Each name is a
key of a table, and each default is in the signature of a constructor: the comment at the section
names the file of both. `experiments.families.complete` fills in the defaults.
"""

from ml_collections import ConfigDict

from common.config import plain_defaults
from common.ranges import BELOW_ONE, Setting
from configs import base

SETTINGS = base.SETTINGS | dict(
  family='autoregressive',
  ordering=dict(name='patches'),  # autoregressive/orderings/; patches of one pixel
  network=dict(name='transformer'),  # autoregressive/networks/__init__.py
  head=dict(name='categorical'),  # autoregressive/heads/__init__.py
  model=dict(  # also the settings of Model, autoregressive/model.py
    class_dropout=Setting(0.0, BELOW_ONE),  # share of hidden classes in training, for guidance
  ),
  objective=dict(),  # Objective, autoregressive/objectives.py
  finetune=dict(),  # Finetune, common/finetuning.py
  sampling=dict(),  # DecodingSettings, autoregressive/decoding/settings.py
)


def get_base() -> ConfigDict:
  """The base config of the autoregressive family: a transformer over the pixels of images."""
  return ConfigDict(plain_defaults(SETTINGS))
