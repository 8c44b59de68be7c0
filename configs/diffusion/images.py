"""Class-conditional diffusion of small images: a DiT or U-Net with EDM's preconditioning.

twofold train --config=configs/diffusion/images.py:digits --workdir=runs/diffusion
twofold train --config=configs/diffusion/images.py:folder32 --workdir=runs/mine \
    --config.data.source=IMAGES/

Reproduces: nothing published; our own settings from published parts: EDM (Karras et al. 2022), the
prediction of noise (Ho et al. 2020) on the cosine schedule (Nichol & Dhariwal 2021), the U-Nets of
Ho et al. 2020 and Dhariwal & Nichol 2021, and a regression as the baseline for comparison. Digits,
mnist, mnist14, stacked_mnist (docs/results/modes.md) and fashion_mnist are for two CPU cores, the
others for one accelerator.

To expect, on a 2-core CPU machine (digits: 2026-11-28, `make demo`;
mnist, fashion_mnist: 2026-11-22, twofold evaluate):

  digits             47 s: agreement 0.98, FD(mlp, n=722) 0.72 (floor 0.42), 1.84 bits/dim; 20 steps
  digits_eps         46 s: the same with the noise as target: 0.95, 0.75, 1.92 bits/dim
  digits_x0          47 s: the same with the image as target: 0.99, 0.67, 2.69 bits/dim
  digits_regression  49 s: no diffusion, one step: 1.00, FD 6.69
  mnist              12,000 steps: agreement 0.85, FD(mlp, n=1000) 3.0 (floor 1.9), 1.51 bits/dim;
                     35 evaluations by Heun's method; others: docs/solvers.md
  fashion_mnist      the same network, 1,200 steps, a short run: 0.45, 13.1 (floor 0.7), 4.36
  mnist14            MNIST at 14×14, a U-Net of 178 thousand parameters, 1,500 steps (2026-12-01):
                     0.66, FD(mlp, n=1000) 1.63 (floor 0.61); 35 evaluations
  mnist14_eps        the same with the noise as target; only within docs/results/ddim.md

Not measured here by themselves (docs/results/seeds.md has them in a table):

  digits_latents, mnist_latents  over the latents of a first stage: train configs/vae/images.py:
                     digits_first_stage or mnist_first_stage first, in runs/first_stage, or name its
                     folder in --config.data.first_stage

Not measured here, for one accelerator:

  cifar10            the U-Net of Ho et al. 2020, 36M parameters, with classes
  folder32           the same on your own images (IMAGES/CLASS/NAME, or IMAGES/NAME without classes)
  folder64           your own images at 64×64; a U-Net of 100M parameters
  cifar10_latents    a transformer over latents: train configs/vae/images.py:cifar10_first_stage
                     first, in runs/first_stage, as above
"""

from ml_collections import ConfigDict

from common.config import merge, pick
from configs.diffusion.base import get_base
from configs.papers import ddpm, guidance

DIGITS = dict(
  data=dict(name='digits', batch_size=32),
  network=dict(patch=2, width=48, depth=3, heads=4, scan=False),
  train=dict(steps='4600', steps_per_call=50),
  optimizer=dict(learning_rate=3e-3),
)
MNIST = dict(
  data=dict(name='mnist', batch_size=64),
  network=dict(patch=4, width=96, depth=4, heads=4, scan=False),
  train=dict(steps='12000', steps_per_call=10),
  optimizer=dict(learning_rate=2e-3),
)
EDM = dict(  # Karras et al. 2022, table 1, last column; sampled by Heun's method in 35 evaluations
  process=dict(name='edm'),
  prediction=dict(target='edm', noise='edm'),
  objective=dict(weighting=dict(name='edm'), times=dict(name='log_normal')),
  sampling=dict(sampler=dict(name='heun'), steps=18, grid=dict(name='karras', end='clean')),
)
# The smallest noise at which the 17 levels of a pixel can still be told apart (docs/decisions.md).
# The cosine schedule has this noise at time 0.011.
DIGITS_EDM = merge(DIGITS, EDM, dict(process=dict(sigma_min=0.03)))
DIGITS_COSINE = merge(DIGITS, dict(process=dict(name='cosine', t_min=0.011)))
# For one accelerator: batch, learning rate and average of Ho et al. 2020 for CIFAR-10.
U_NET = dict(
  data=dict(batch_size=128),
  optimizer=dict(learning_rate=2e-4, schedule='constant', warmup='2.5%', b2=0.999),
  ema=dict(decay=0.9999),
  train=dict(
    steps='200000',
    steps_per_call=10,
    log_every='0.05%',
    evaluate_every='2.5%',
    sample_every='2.5%',
    checkpoint_every='2.5%',
  ),
)
# ADM's, two thirds as wide and with a block less at each level.
U_NET_64 = merge(guidance.NETWORK, dict(width=128, blocks=2, attention=(16, 8)))
# Over the latents of a first stage (configs/vae/images.py), which have unit variance and no bounds.
LATENTS = dict(
  data=dict(first_stage='runs/first_stage'),
  prediction=dict(sigma_data=1.0),
  sampling=dict(threshold=dict(name='none')),
)
# With as many FLOPs, a transformer over patches draws no digits (docs/results/modes.md).
STACKED = dict(
  data=dict(name='stacked_mnist', batch_size=32),
  network=dict(
    name='unet', width=24, multipliers=(1, 2, 2), blocks=1, attention=(7,), head_width=24
  ),
  train=dict(steps='1500'),
  evaluation=dict(num_samples=5000, extractor='pixels'),  # 'mlp' needs classes
)
MNIST14 = dict(  # at half the size, for studies of many trainings
  data=dict(image_size=14),
  network=dict(name='unet', width=16, multipliers=(1, 2), blocks=1, attention=(7,), head_width=16),
  train=dict(steps='1500', steps_per_call=50),
)
FOLDER = dict(
  data=dict(name='image_folder'),
  evaluation=dict(extractor='pixels'),  # 'mlp' needs classes
)
REGRESSION = dict(  # no diffusion: one step from pure noise to the image, trained by squared error
  process=dict(name='rectified_flow'),
  prediction=dict(target='x0'),
  objective=dict(times=dict(name='terminal')),
  sampling=dict(steps=1),
)

VARIANTS = {
  'digits': DIGITS_EDM,
  'digits_eps': merge(DIGITS_COSINE, dict(prediction=dict(target='eps'))),
  'digits_x0': merge(DIGITS_COSINE, dict(prediction=dict(target='x0'))),
  'digits_regression': merge(DIGITS, REGRESSION),
  'digits_latents': merge(
    DIGITS, EDM, LATENTS, dict(network=dict(patch=1, width=36), train=dict(steps='8000'))
  ),
  'mnist': merge(MNIST, EDM),
  'mnist14': merge(MNIST, EDM, MNIST14),
  'mnist14_eps': merge(
    MNIST, MNIST14, dict(process=dict(name='cosine'), prediction=dict(target='eps'))
  ),
  'mnist_latents': merge(MNIST, EDM, LATENTS, dict(network=dict(patch=1))),
  'stacked_mnist': merge(MNIST, EDM, STACKED),
  'fashion_mnist': merge(
    MNIST, EDM, dict(data=dict(name='fashion_mnist'), train=dict(steps='1200'))
  ),
  'cifar10': merge(U_NET, EDM, dict(data=dict(name='cifar10'), network=ddpm.NETWORK)),
  'cifar10_latents': merge(
    U_NET,
    EDM,
    LATENTS,
    dict(
      data=dict(name='cifar10'),
      network=dict(name='dit', patch=1, width=384, depth=6, heads=6),
    ),
  ),
  'folder32': merge(U_NET, EDM, FOLDER, dict(data=dict(image_size=32), network=ddpm.NETWORK)),
  'folder64': merge(
    U_NET,
    EDM,
    FOLDER,
    dict(
      data=dict(image_size=64, batch_size=64),
      network=U_NET_64,
      optimizer=dict(learning_rate=1e-4),
      sampling=dict(steps=40),  # Karras et al. 2022, for 64×64
    ),
  ),
}


def get_config(variant: str = 'digits') -> ConfigDict:
  """The config of a variant, a key of VARIANTS."""
  return ConfigDict(merge(get_base(), pick(VARIANTS, variant, 'variant')))
