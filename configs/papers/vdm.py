"""VDM on CIFAR-10: a U-Net of one resolution, trained by the exact bound (Kingma et al. 2021).

twofold prepare_data --dataset=cifar10
twofold train --config=configs/papers/vdm.py:cifar10 --workdir=runs/vdm

Reproduces: the model of the authors' config without augmentation, and that of the paper's config
with it, but without the augmentation itself: 32 residual blocks down and 33 up without a change of
the resolution, Fourier features of the input, a learned schedule, low-discrepancy times; 30.6M and
139M parameters. Settings: the authors' repository (google-research/vdm: configs/cifar10.py,
configs/cifar10_aug_paper.py, model_vdm.py, experiment.py).

To expect, not measured here: bits/dim of the test split after 10,000,000 steps (and 100,000,000).

  cifar10    2.637; 2.64 in the paper
  augmented  2.522; 2.49 in the paper, with augmented training images, which are not here

Unspecified, so at our defaults: the number of steps of samples.

What the paper does and this code does not yet:

- Random augmentation of the training images, which `augmented` needs: here they are only mirrored.
- The schedule of `cifar10` is linear with two learned ends; here the monotone network of the paper
  (that of `augmented`), which begins as such a line.
- The network is told the share of the way between the first ends of the schedule, from 0 to 1000;
  here the log-SNR, whose ends of ±20 are 0 and 1000: another scale and offset.
- Pixels are the middles of 256 cells of [-1, 1]; here the ends of the interval are pixels too.
- The bias of each block's projected condition is left out, and its weights start at zero; other
  kernels start by Flax's defaults. Here the projection has a bias, and kernels start as in DDPM.
- Samples end with the most probable value of each pixel; here with the clean estimate, rounded.
"""

from ml_collections import ConfigDict

from common.config import merge, pick
from configs.diffusion.base import get_base

NETWORK = dict(
  name='unet',
  width=128,
  multipliers=(1,),
  blocks=32,
  dropout=0.1,
  input_fourier=(6, 7),
  add_input=True,
)

COMMON = dict(
  seed=1,
  data=dict(name='cifar10', train_to='test', batch_size=128),
  conditional=False,
  process=dict(name='learned', log_snr_max=13.3, log_snr_min=-5.0, width=1024),
  network=NETWORK,
  prediction=dict(target='eps', scale_input=False, noise='log_snr', variance='fixed_small'),
  objective=dict(weighting=dict(name='vlb'), times=dict(name='low_discrepancy')),
  optimizer=dict(
    name='adamw',
    learning_rate=2e-4,
    schedule='constant',
    warmup='100',
    b2=0.99,
    weight_decay=0.01,
    no_decay='bias$',  # scales are decayed
    clip=0.0,
  ),
  ema=dict(decay=0.9999, warmup=False),
  train=dict(
    steps='10000000',
    steps_per_call=100,
    log_every='1000',
    evaluate_every='10000',
    sample_every='100000',
    checkpoint_every='10000',
  ),
  sampling=dict(sampler=dict(name='ancestral'), steps=1000, grid=dict(name='uniform')),
  likelihood=dict(name='vlb'),
  evaluation=dict(num_samples=50_000, reference='all'),
)

VARIANTS = {
  'cifar10': dict(),
  'augmented': dict(
    data=dict(batch_size=1024, flip=True),
    network=dict(width=256, attention=(32,), dropout=0.05),  # attention after every block
    train=dict(steps='100000000', steps_per_call=10),
  ),
}


def get_config(variant: str = 'cifar10') -> ConfigDict:
  """The config of a variant, a key of VARIANTS."""
  return ConfigDict(merge(get_base(), COMMON, pick(VARIANTS, variant, 'variant')))
