"""The sections of an autoregressive experiment, beside those of `configs/base.py`.

A component is a dict with a `name` and the settings that differ from that one's defaults. Each name
is a key of a table, and each default stands in the signature of a constructor: both are in the file
given at the section. `experiments.families.complete` fills the defaults in.
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
        model=dict(  # and the settings of Model, autoregressive/model.py
          class_dropout=0.0,  # how often training hides the class: guidance needs that
        ),
        objective=dict(),  # Objective, autoregressive/objectives.py
        finetune=dict(),  # Finetune, autoregressive/finetuning.py
        sampling=dict(),  # Options, autoregressive/decoding/transforms.py
      )
    )
  )
  return config
