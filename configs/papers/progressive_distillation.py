"""Progressive distillation on CIFAR-10: the teacher, by target and weight (Salimans & Ho 2022).

twofold prepare_data --dataset=cifar10
twofold train --config=configs/papers/progressive_distillation.py:x_truncated_snr \
    --workdir=runs/teacher

Reproduces: table 1 of the paper, without classes: the network predicts the image (x), the noise
(eps) or v, and the squared error in the image is weighed by the SNR, by max(SNR, 1) or by SNR + 1;
60.0M parameters. Settings: the authors' repository (google-research/google-research:
diffusion_distillation/, config/cifar_base.py, unet.py, dpm.py, model.py), whose config is that of
x_truncated_snr.

To expect, not measured here: FID and Inception score, averages of 3 seeds (± 0.1 of the FID), of
samples with noise and by DDIM:

                       with noise    DDIM
  x_snr                2.65 / 9.80   2.75 / 9.56
  x_truncated_snr      2.53 / 9.92   2.51 / 9.58
  x_snr_plus_one       2.56 / 9.84   2.65 / 9.52
  eps_snr              2.59 / 9.84   2.91 / 9.52
  eps_truncated_snr    diverges      diverges
  eps_snr_plus_one     2.56 / 9.77   3.27 / 9.41
  v_snr                2.65 / 9.86   3.05 / 9.56
  v_truncated_snr      2.45 / 9.80   2.75 / 9.52
  v_snr_plus_one       2.49 / 9.77   2.87 / 9.43

The sampler is DDIM; --options=sampler=ancestral adds noise.

Unspecified, so our choice: the number of training steps (here 800,000, DDPM's); and how often it is
logged, evaluated and saved.

What the paper does and this code does not yet:

- The distillation: students that take two of the teacher's steps at once, halving after halving,
  from 8,192 steps to one.
- The network that predicts both the image and the noise.
- FID and Inception score are of the Inception network; `twofold evaluate` names its own features.
- Each device clips the gradient of its part of the batch; here that of the whole batch is clipped.
"""

from ml_collections import ConfigDict

from common.config import merge, pick
from configs.diffusion.base import get_base

TARGETS = {'x': 'x0', 'eps': 'eps', 'v': 'v'}
WEIGHTINGS = ('snr', 'truncated_snr', 'snr_plus_one')
NETWORK = dict(
  name='unet',
  width=256,
  multipliers=(1, 1, 1),
  blocks=3,
  attention=(16, 8),
  dropout=0.2,
  scale_shift=True,
  resample_in_block=True,
)

COMMON = dict(
  data=dict(name='cifar10', train_to='test', batch_size=128, flip=True),
  conditional=False,
  # The cosine schedule between log-SNRs of 20 and -20. The network is told 2/π·arctan(σ/α), which
  # is the time, apart from the ends that are cut off.
  process=dict(name='shifted', log_snr_max=20.0, log_snr_min=-20.0, t_min=1e-7),
  network=NETWORK,
  prediction=dict(scale_input=False, noise='time', variance='fixed_large'),
  objective=dict(times=dict(name='uniform')),
  optimizer=dict(
    name='adamw',
    learning_rate=2e-4,
    schedule='constant',
    warmup='1000',
    b2=0.999,
    weight_decay=0.001,
    no_decay='',  # all parameters are decayed
    clip=1.0,
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
  # Times 1, 1023/1024, ..., 1/1024, and then the estimate of the image.
  sampling=dict(sampler=dict(name='ddim'), steps=1024, grid=dict(name='uniform', last=1 / 1024)),
  evaluation=dict(num_samples=50_000, reference='all'),
)

VARIANTS = {
  f'{name}_{weighting}': dict(
    prediction=dict(target=target), objective=dict(weighting=dict(name=weighting))
  )
  for name, target in TARGETS.items()
  for weighting in WEIGHTINGS
}


def get_config(variant: str = 'x_truncated_snr') -> ConfigDict:
  """The config of a variant, a key of VARIANTS."""
  return ConfigDict(merge(get_base(), COMMON, pick(VARIANTS, variant, 'variant')))
