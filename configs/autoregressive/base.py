"""The sections of an autoregressive experiment, in addition to those of `configs/base.py`.

A component is a dict with a `name` and the settings that differ from its defaults. Each name is a
key of a table, and each default is in the signature of a constructor: the comment at the section
names the file of both. `experiments.families.complete` fills in the defaults.
"""

from ml_collections import ConfigDict

from configs import base


def get_base() -> ConfigDict:
  """The base config of the autoregressive family: a transformer over the pixels of images."""
  config = base.get_base()
  config.family = 'autoregressive'
  config.update(
    ConfigDict(
      dict(
        ordering=dict(name='patches'),  # autoregressive/orderings.py; patches of one pixel
        network=dict(name='transformer'),  # autoregressive/networks/__init__.py
        head=dict(name='categorical'),  # autoregressive/heads/__init__.py
        model=dict(  # also the settings of Model, autoregressive/model.py
          class_dropout=0.0,  # share of examples whose class training hides, for guidance
        ),
        objective=dict(),  # Objective, autoregressive/objectives.py
        finetune=dict(),  # Finetune, common/finetuning.py
        sampling=dict(),  # DecodingSettings, autoregressive/decoding/settings.py
      )
    )
  )
  return config
