"""The sections of a diffusion experiment, in addition to those of `configs/base.py`.

A component is a dict with a `name` and the settings that differ from its defaults. Each name is a
key of a table, and each default is in the signature of a constructor: the comment at the section
names the file of both. `experiments.families.complete` fills in the defaults.
"""

from ml_collections import ConfigDict

from common.config import plain_defaults
from common.data.series.inputs import LOCATIONS, SCALES
from common.ranges import (
  ABOVE_ZERO,
  AT_LEAST_ZERO,
  BELOW_ONE,
  FINITE,
  PROBABILITY,
  ZERO_IS_OFF,
  Interval,
  OneOf,
  Setting,
)
from configs import base

SETTINGS = base.SETTINGS | dict(
  family='diffusion',
  conditional=True,  # tell the network the class, if the data has classes
  # share of the training examples whose class is hidden, for guidance
  label_dropout=Setting(0.1, BELOW_ONE),
  process=dict(name='cosine'),  # diffusion/processes/__init__.py
  network=dict(name='dit', width=192, depth=6),  # diffusion/networks/__init__.py
  # networks of this kind, each for an equal share of the training times, by noise level (eDiff-I)
  experts=Setting(1, Interval(1, 64, note='1: one network for all')),
  prediction=dict(  # what the network is given and what it predicts
    target='v',  # x0, eps, v, velocity, score, edm, posterior_mean
    sigma_data=Setting(0.5, ABOVE_ZERO),  # standard deviation of the data in [-1, 1]
    scale_input=True,  # feed the network x at unit variance (EDM's c_in)
    # the network's measure of the noise level: time, log_snr, edm, c_noise, unit_time, log_sigma
    noise='log_snr',
    variance='fixed_small',  # of discrete reverse steps: fixed_small, fixed_large, learned
  ),
  objective=dict(  # the loss
    weighting=dict(name='simple'),  # diffusion/objectives/__init__.py: WEIGHTINGS
    times=dict(name='low_discrepancy'),  # the distribution of times in training; same file
    # with a learned variance: weight of the bound that is added to the loss
    hybrid=Setting(0.001, AT_LEAST_ZERO),
    uncertainty=False,  # balance the noise levels by a learned uncertainty (EDM2)
  ),
  classifier=dict(  # classifies noisy data, trained together with the model, to guide it
    weight=Setting(0.0, AT_LEAST_ZERO),  # weight of its cross-entropy in the loss; 0: no classifier
    network=dict(name='mlp'),  # diffusion/networks/__init__.py
  ),
  augmentation=dict(  # a condition of the network, so that samples show none (EDM)
    # of each kind, times its multiplier; EDM's config F: 0.12
    probability=Setting(0.0, Interval(0, 1, note='0: off')),
    # multipliers, 0: off; x flips are certain, so that half of all images are flipped
    x_flip=Setting(1e8, ZERO_IS_OFF),
    y_flip=Setting(1.0, ZERO_IS_OFF),  # multiplier: up and down
    scale=Setting(1.0, ZERO_IS_OFF),  # multiplier: both sides alike
    rotate=Setting(1.0, ZERO_IS_OFF),  # multiplier: about the centre
    anisotropy=Setting(1.0, ZERO_IS_OFF),  # multiplier: one axis against the other
    translate=Setting(1.0, ZERO_IS_OFF),  # multiplier: by part of the image
    scale_std=Setting(0.2, AT_LEAST_ZERO),  # of log2
    rotate_max=Setting(1.0, PROBABILITY),  # share of a half turn, in both directions
    anisotropy_std=Setting(0.2, AT_LEAST_ZERO),  # of log2
    # probability of a random axis; otherwise the rows are stretched
    anisotropy_turned=Setting(0.5, PROBABILITY),
    translate_std=Setting(0.125, AT_LEAST_ZERO),  # relative to the image's size
  ),
  windows=dict(  # time series: how the values of a window are scaled (common/data/series/inputs.py)
    location=Setting('mean', OneOf(*LOCATIONS)),  # what is subtracted, of the context
    # what the rest is divided by: the mean deviation from the location, or change between values
    scale=Setting('deviation', OneOf(*SCALES)),
  ),
  finetune=dict(),  # Source, common/finetuning/settings.py
  sampling=dict(  # how samples are drawn
    task=dict(  # what is drawn
      name='generate',  # a key of diffusion/sampling/tasks.py: inpaint, sdedit, ...
      strength=Setting(0.5, Interval(0, 1, above=True)),  # sdedit: share of the steps to take
      jump=Setting(5, Interval(1, 100_000)),  # repaint: number of steps in a stretch
      repeats=Setting(5, Interval(1, 1000)),  # repaint: how often each stretch is denoised
    ),
    sampler=dict(name='ddim'),  # diffusion/sampling/driver.py
    steps=Setting(50, Interval(1, 100_000)),  # of the sampler
    grid=dict(  # diffusion/sampling/grids.py
      name='uniform',  # and the settings of that grid
      # for every grid: the last time is 0 ('clean') or 't_min'
      end=Setting('clean', OneOf('clean', 't_min')),
    ),
    guidance=dict(  # towards the requested class
      weight=Setting(1.0, FINITE),  # 1: no guidance; above 1: guided
      low=Setting(0.0, AT_LEAST_ZERO),  # guide only where low < sigma/alpha <= high
      high=Setting(0.0, Interval(0, note='0: no upper end')),  # see low
      # φ of Lin et al. 2023: how far the contrast is restored
      rescale=Setting(0.0, Interval(0, 1, note='0: off')),
      # scale of classifier guidance, in addition to the above; 0: off
      classifier=Setting(0.0, FINITE),
    ),
    threshold=dict(  # how clean estimates are clipped
      name=Setting('static', OneOf('none', 'static', 'dynamic')),  # dynamic: Imagen
      bound=Setting(1.0, ABOVE_ZERO),  # static: the largest size; dynamic: the least bound
      percentile=Setting(0.995, Interval(0, 1, above=True)),  # dynamic: of one example's sizes
    ),
    final_denoise=False,  # one more evaluation at the end, if the grid ends at t_min
  ),
  likelihood=dict(name='vlb'),  # diffusion/likelihood/__init__.py
)


def get_base() -> ConfigDict:
  """The base config of the diffusion family: class-conditional, on the cosine VP process."""
  return ConfigDict(plain_defaults(SETTINGS))
