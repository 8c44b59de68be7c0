"""EDM on CIFAR-10, config F: preconditioning, loss and augmentation (Karras et al. 2022).

twofold prepare_data --dataset=cifar10
twofold train --config=configs/papers/edm.py:cond_vp --workdir=runs/edm
twofold evaluate --workdir=runs/edm --metrics=frechet

Reproduces: table 2 of the paper, config F, with classes (cond) and without (uncond), by the network
of DDPM++ (vp) and of NCSN++ (ve); 55.7M parameters. Settings: the authors' repository (NVlabs/edm:
train.py, generate.py, training/).

To expect, not measured here: FID of 50,000 samples against the training split, the least of three
sets of samples (evaluation.sample_sets); 35 network evaluations per sample. Training took about 2
days on 8 V100s.

  cond_vp 1.79    cond_ve 1.79    uncond_vp 1.97    uncond_ve 1.98

Unspecified: the seed (the authors draw one), and how often the validation loss is measured.

What the paper does and this code does not yet:

- FID is of the Inception network; `twofold evaluate` names its own features.
- Augmentation filters images with a wavelet at twice the resolution; here bilinearly.
- Noise levels in training are not bounded; here they lie in the process's 0.002 to 80, which leaves
  out 2 in 100,000.
- Its warm-up begins with a rate of 0; here a step has about the rate of the authors' next one.
"""

from ml_collections import ConfigDict

from common.config import merge, pick
from configs.diffusion.base import get_base

DDPMPP = dict(  # Song et al. 2021, as retrained by Karras et al. 2022: 55.7M parameters
  name='unet',
  width=128,
  multipliers=(2, 2, 2),
  blocks=4,
  attention=(16,),
  up_attention='last',
  dropout=0.13,
  early_label=True,
  resample_in_block=True,
  resample_projection=True,
  skip_rescale=True,
  initialisation='edm',
)
NCSNPP = merge(
  DDPMPP, dict(embedding='fourier', embedding_width=256, fir=True, progressive_input=True)
)
VP = dict(network=DDPMPP, prediction=dict(noise='c_noise'))
VE = dict(network=NCSNPP, prediction=dict(noise='edm'))
UNCONDITIONAL = dict(conditional=False)

# The authors add up the squared errors of an image, which are averaged here. Adam takes the same
# steps if its epsilon, and the bound of infinite gradients, are smaller by the same factor.
VALUES = 32 * 32 * 3

COMMON = dict(
  data=dict(name='cifar10', train_to='test', batch_size=512),
  process=dict(name='edm'),
  prediction=dict(target='edm'),
  objective=dict(weighting=dict(name='edm'), times=dict(name='log_normal')),
  label_dropout=0.0,
  augmentation=dict(probability=0.12),
  optimizer=dict(
    name='adam',
    learning_rate=1e-3,
    schedule='constant',
    warmup='10 Mimg',
    b2=0.999,
    eps=1e-8 / VALUES,
    clip=0.0,
    nan_to_num=1e5 / VALUES,
  ),
  ema=dict(half_life='0.5 Mimg', ramp_up=0.05),
  train=dict(
    steps='200 Mimg',
    steps_per_call=10,
    log_every='50 kimg',
    evaluate_every='2.5 Mimg',
    sample_every='2.5 Mimg',
    checkpoint_every='2.5 Mimg',
  ),
  sampling=dict(
    sampler=dict(name='heun'),
    steps=18,
    grid=dict(name='karras'),
    threshold=dict(name='none'),
  ),
  evaluation=dict(num_samples=50_000, reference='all', sample_sets=3),
)

VARIANTS = {
  'cond_vp': VP,
  'cond_ve': VE,
  'uncond_vp': merge(VP, UNCONDITIONAL),
  'uncond_ve': merge(VE, UNCONDITIONAL),
}


def get_config(variant: str = 'cond_vp') -> ConfigDict:
  """The config of a variant, a key of VARIANTS."""
  return ConfigDict(merge(get_base(), COMMON, pick(VARIANTS, variant, 'variant')))
