"""Improved DDPM on CIFAR-10: objectives, schedules, learned variances (Nichol & Dhariwal 2021).

twofold prepare_data --dataset=cifar10
twofold train --config=configs/papers/improved_ddpm.py:hybrid_cosine --workdir=runs/iddpm

Reproduces: the models of 4,000 steps and 500,000 training steps on CIFAR-10: L_simple with linear
and cosine schedules, and L_hybrid and L_vlb with the cosine schedule; about 50M parameters (52.5M
here). Settings: the authors' repository (openai/improved-diffusion: README.md, script_util.py,
scripts/image_train.py, resample.py), whose README has the flags of the last two. They leave
use_fp16 off.

To expect, not measured here: FID of 50,000 samples of 4,000 steps, and bits/dim of the test split.

  simple_linear  2.90, at most 3.37, as Austin et al. 2021 quote L_simple, without its schedule
  vlb_cosine     11.47, at most 2.94, as they quote L_vlb
  hybrid_cosine  3.19, 3.17, read at second hand only

Unspecified, so at our defaults or our choice: the seed; the dropout of the linear schedule (here
that of the others, 0.3); and how often it is logged, evaluated and saved.

What the paper does and this code does not yet:

- FID is of the Inception network; `twofold evaluate` names its own features.
- Biases begin as small random numbers there, and at 0 here.
- L_vlb draws steps by the last 10 losses of each; here by a decaying average over about as many,
  and evenly until each step has half of them.
"""

import math

from ml_collections import ConfigDict

from common.config import merge, pick
from configs.diffusion.base import get_base

NETWORK = dict(
  name='unet',
  width=128,
  multipliers=(1, 2, 2, 2),
  blocks=3,
  attention=(16, 8),
  head_width=64,  # 4 heads of 256 channels
  dropout=0.3,
  embedding='adm',
  scale_shift=True,
  initialisation='adm',
  norm_epsilon=1e-5,
)
BITS = 1 / math.log(2)  # the authors' bound is in bits, and ours in nats

LINEAR = dict(process=dict(name='ddpm', schedule='linear', steps=4000))
COSINE = dict(process=dict(name='ddpm', schedule='cosine', steps=4000))
SIMPLE = dict(prediction=dict(variance='fixed_large'))
# L_simple + L_vlb/1000, whose gradient reaches the variance alone.
HYBRID = dict(prediction=dict(variance='learned'), objective=dict(hybrid=BITS / 1000))
VLB = dict(
  prediction=dict(variance='learned'),
  objective=dict(
    weighting=dict(name='vlb'),
    times=dict(name='loss_second_moment', buckets=4000, history=10.0, floor=0.001),
  ),
  optimizer=dict(eps=1e-8 / BITS),  # with which Adam takes the steps of a bound in bits
)

COMMON = dict(
  data=dict(name='cifar10', train_to='test', batch_size=128),
  conditional=False,
  network=NETWORK,
  prediction=dict(target='eps', scale_input=False, noise='time'),
  objective=dict(times=dict(name='uniform')),
  optimizer=dict(
    name='adamw',
    learning_rate=1e-4,
    schedule='constant',
    warmup='0',
    b2=0.999,
    weight_decay=0.0,
    clip=0.0,
  ),
  ema=dict(decay=0.9999, warmup=False),
  train=dict(
    steps='500000',
    steps_per_call=10,
    log_every='100',
    evaluate_every='10000',
    sample_every='50000',
    checkpoint_every='10000',
  ),
  sampling=dict(sampler=dict(name='ancestral'), steps=4000, grid=dict(name='respaced')),
  likelihood=dict(terms=3999),  # the exact sum over the steps
  evaluation=dict(num_samples=50_000, reference='all'),
)

VARIANTS = {
  'simple_linear': merge(LINEAR, SIMPLE),
  'simple_cosine': merge(COSINE, SIMPLE),
  'hybrid_cosine': merge(COSINE, HYBRID),
  'vlb_cosine': merge(COSINE, VLB),
}


def get_config(variant: str = 'hybrid_cosine') -> ConfigDict:
  """The config of a variant, a key of VARIANTS."""
  return ConfigDict(merge(get_base(), COMMON, pick(VARIANTS, variant, 'variant')))
