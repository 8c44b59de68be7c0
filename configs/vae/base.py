"""The sections of a variational autoencoder, in addition to those of `configs/base.py`.

A component is a dict with a `name` and the settings that differ from its defaults. Each name is a
key of a table, and each default is in the signature of a constructor: the comment at the section
names the file of both. `experiments.families.complete` fills in the defaults.
"""

from ml_collections import ConfigDict

from common.config import plain_defaults
from configs import base

SETTINGS = base.SETTINGS | dict(
  family='vae',
  conditional=False,  # tell encoder and decoder the class, if the data has classes
  network=dict(name='conv'),  # common/baselines/vae/networks/__init__.py
  latent=dict(name='gaussian'),  # common/baselines/vae/latents.py; codes: a VQ-VAE
  pixels=dict(name='logistic'),  # common/baselines/vae/pixels.py
  objective=dict(),  # Objective, common/baselines/vae/method.py
  finetune=dict(),  # Source, common/finetuning/settings.py
  sampling=dict(  # also SamplingSettings, common/baselines/vae/sampling.py
    task=dict(  # what is drawn
      name='generate',  # generate; reconstruct and interpolate need images
    ),
  ),
  likelihood=dict(name='importance'),  # common/baselines/vae/method.py: LIKELIHOODS
)


def get_base() -> ConfigDict:
  """The base config of the family vae: a small convolutional VAE without classes."""
  return ConfigDict(plain_defaults(SETTINGS))
