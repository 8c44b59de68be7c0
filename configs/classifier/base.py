"""The sections of a classifier of noisy data, in addition to those of `configs/base.py`.

A component is a dict with a `name` and the settings that differ from its defaults. Each name is a
key of a table, and each default is in the signature of a constructor: the comment at the section
names the file of both. `experiments.families.complete` fills in the defaults.
"""

from ml_collections import ConfigDict

from common.config import plain_defaults
from common.ranges import ABOVE_ZERO, Setting
from configs import base

SETTINGS = base.SETTINGS | dict(
  family='classifier',
  # that of the model whose samples it guides; diffusion/processes/__init__.py
  process=dict(name='cosine'),
  network=dict(name='unet_encoder'),  # diffusion/networks/__init__.py: CLASSIFIERS
  prediction=dict(  # what the network is given
    sigma_data=Setting(0.5, ABOVE_ZERO),  # standard deviation of the data in [-1, 1]
    scale_input=True,  # feed the network x at unit variance (EDM's c_in)
    # the network's measure of the noise level: time, log_snr, edm, c_noise, unit_time, log_sigma
    noise='log_snr',
  ),
  objective=dict(  # the cross-entropy of the class
    times=dict(name='low_discrepancy'),  # of times in training; diffusion/objectives/__init__.py
  ),
  train=base.SETTINGS['train'] | dict(sample_every='0'),  # there are no samples
  finetune=dict(),  # Source, common/finetuning/settings.py
  sampling=dict(),  # no settings: a classifier draws no samples
)


def get_base() -> ConfigDict:
  """The base config of a classifier: on the cosine VP process, like that of diffusion."""
  return ConfigDict(plain_defaults(SETTINGS))
