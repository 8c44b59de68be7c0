"""DDPM on CIFAR-10: the prediction of noise with a U-Net, without classes (Ho et al. 2020).

twofold prepare_data --dataset=cifar10
twofold train --config=configs/papers/ddpm.py:cifar10 --workdir=runs/ddpm

Reproduces: the last row of the paper's table 2, which predicts the noise by L_simple; 35.7M
parameters. Settings: the authors' repository (hojonathanho/diffusion: scripts/run_cifar.py) and
appendix B of the paper.

To expect, not measured here:

  cifar10  FID 3.17 of 50,000 samples against the training split, Inception score 9.46 ± 0.11, at
           most 3.75 bits/dim on the test split (3.72 on the training split). 800,000 steps took
           10.6 hours on 8 cores of TPU v3.

Unspecified, so at our defaults or our choice: the seed of training, and how often it is logged,
evaluated and saved.

What the paper does and this code does not yet:

- FID and Inception score are of the Inception network; `twofold evaluate` names its own features.
- Each of its 8 cores clips the gradient of its 16 images; here the gradient of the whole batch is
  clipped, by the same norm of 1.
- Its likelihood clips the estimates of the image to [-1, 1]; here they are not clipped.
"""

from ml_collections import ConfigDict

from common.config import merge, pick
from configs.diffusion.base import get_base

NETWORK = dict(  # 35.7M parameters
  name='unet', width=128, multipliers=(1, 2, 2, 2), blocks=2, attention=(16,), dropout=0.1
)

VARIANTS = {
  'cifar10': dict(
    data=dict(name='cifar10', train_to='test', batch_size=128, flip=True),
    conditional=False,
    process=dict(name='ddpm'),  # linear betas from 1e-4 to 0.02, T = 1000
    network=NETWORK,
    prediction=dict(target='eps', scale_input=False, noise='time', variance='fixed_large'),
    objective=dict(times=dict(name='uniform')),  # L_simple
    optimizer=dict(
      name='adam', learning_rate=2e-4, schedule='constant', warmup='5000', b2=0.999, clip=1.0
    ),
    ema=dict(decay=0.9999, warmup=False),
    train=dict(
      steps='800000',
      steps_per_call=10,
      log_every='100',
      evaluate_every='10000',
      sample_every='50000',
      checkpoint_every='10000',
    ),
    sampling=dict(sampler=dict(name='ancestral'), steps=1000, grid=dict(name='respaced')),
    likelihood=dict(terms=999),  # the exact sum over the steps
    evaluation=dict(num_samples=50_000, reference='all'),
  ),
}


def get_config(variant: str = 'cifar10') -> ConfigDict:
  """The config of a variant, a key of VARIANTS."""
  return ConfigDict(merge(get_base(), pick(VARIANTS, variant, 'variant')))
