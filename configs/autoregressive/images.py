"""A class-conditional causal transformer over the pixels, or the patches, of small images.

twofold train --config=configs/autoregressive/images.py:digits --workdir=runs/pixels
twofold train --config=configs/autoregressive/images.py:folder32 --workdir=runs/mine \
    --config.data.source=IMAGES/

Reproduces: nothing published; our own settings, for one accelerator (cifar10, cifar10_codes,
folder32, folder64) or for two CPU cores (all others).

To expect, on a 2-core CPU machine (digits: 2026-11-28, `make demo`;
mnist, fashion_mnist: 2026-11-22, twofold evaluate):

  digits         30 s: agreement 0.95, FD(mlp, n=722) 0.69 (floor 0.42), 1.71 bits/dim
  digits_2x2     40 s: agreement 0.91, FD 0.77, 1.79 bits/dim
  digits_4x4     38 s: agreement 0.97, FD 1.15, 2.20 bits/dim
  mnist          2×2 patches, 2,000 steps, a short run: agreement 0.66, FD(mlp, n=1000) 19.5
                 (floor 1.9), 1.028 bits/dim
  fashion_mnist  the same, 1,000 steps: 0.45, 16.6 (floor 0.7), 3.419 bits/dim
  palette        a folder of colour images (--config.data.source=IMAGES/) at 16×16, each pixel one
                 of 16 colours. 1,911 emoji, 200 steps, 1.5 minutes of CPU time, 2026-11-25:
                 1.409 ± 0.059 (half of a 95 % interval) bits per palette index

Not measured here by themselves (docs/results/seeds.md has them in a table):

  digits_codes, mnist_codes  over the codes of a first stage: train configs/vae/images.py:
                 digits_codes or mnist_codes first, in runs/codes, or name its folder in
                 --config.data.first_stage

Not measured here, for one accelerator; all but cifar10_codes are sequences of 1,024 emissions:

  cifar10        pixels under a mixture of logistics, 38M parameters; bits/dim are comparable with
                 those of papers, such as 2.90 of the Image Transformer (Parmar et al. 2018)
  cifar10_codes  over 64 codes: train configs/vae/images.py:cifar10_codes first, in runs/codes
  folder32       your own colour images at 32×32, each pixel one of 512 colours; 39M parameters
  folder64       the same at 64×64 in patches of 2×2 pixels, which are independent given the past;
                 with ordering.size=1, a sequence has 4,096 pixels. For grey images: data.palette=0
"""

from ml_collections import ConfigDict

from common.config import merge, pick
from configs.autoregressive.base import get_base

COMMON = dict(data=dict(batch_size=32))
DIGITS = dict(
  data=dict(name='digits'),
  network=dict(width=64, layers=3, mlp_width=240),
  train=dict(steps='1100', steps_per_call=50),
  optimizer=dict(learning_rate=3e-3),
)
MNIST = dict(
  data=dict(name='mnist'),
  ordering=dict(size=2),
  network=dict(width=96, layers=4, mlp_width=384),
  train=dict(steps='2000', steps_per_call=10),
  optimizer=dict(learning_rate=2e-3),
)

# Over the codes of a VQ-VAE (configs/vae/images.py): a sequence of a code for each position.
CODES = dict(data=dict(first_stage='runs/codes'))

# For one accelerator: sequences of 1,024 emissions, with the settings of a GPT (Brown et al. 2020).
LARGE = dict(
  data=dict(batch_size=64),
  network=dict(width=512, layers=12, heads=8, dropout=0.1, scan=True),
  model=dict(class_dropout=0.1),
  optimizer=dict(learning_rate=3e-4, b2=0.95, weight_decay=0.1, warmup='2%'),
  ema=dict(decay=0.9995),
  train=dict(
    steps='100000',
    steps_per_call=10,
    log_every='0.1%',
    evaluate_every='5%',
    sample_every='10%',
    checkpoint_every='5%',
  ),
)
FOLDER = dict(
  data=dict(name='image_folder', palette=512),  # as many colours as Chen et al. 2020
  evaluation=dict(extractor='pixels'),  # 'mlp' needs classes
)

VARIANTS = {
  'digits': DIGITS,
  # Larger patches make steps cheaper, so the same time allows more passes over the 1,445 images:
  # without dropout, these models overfit. The widths keep the number of parameters equal.
  'digits_2x2': merge(
    DIGITS,
    dict(ordering=dict(size=2), network=dict(mlp_width=232, dropout=0.2), train=dict(steps='2900')),
  ),
  'digits_4x4': merge(
    DIGITS,
    dict(ordering=dict(size=4), network=dict(mlp_width=160, dropout=0.3), train=dict(steps='9400')),
  ),
  'digits_codes': merge(
    DIGITS,
    CODES,
    dict(network=dict(width=48, mlp_width=136), train=dict(steps='5300')),
  ),
  'mnist': MNIST,
  'mnist_codes': merge(MNIST, CODES, dict(ordering=dict(size=1))),
  'fashion_mnist': merge(MNIST, dict(data=dict(name='fashion_mnist'), train=dict(steps='1000'))),
  'palette': dict(
    data=dict(name='image_folder', image_size=16, palette=16),
    network=dict(width=64, layers=3, mlp_width=256),
    train=dict(steps='200', steps_per_call=10),
    optimizer=dict(learning_rate=2e-3),
  ),
  # Like Parmar et al. 2018 (Image Transformer), but with attention to the whole past.
  'cifar10': merge(
    LARGE,
    dict(
      data=dict(name='cifar10'),
      head=dict(name='logistic_mixture'),
      network=dict(dropout=0.3),
    ),
  ),
  'cifar10_codes': merge(LARGE, CODES, dict(data=dict(name='cifar10'))),
  'folder32': merge(LARGE, FOLDER, dict(data=dict(image_size=32))),
  # 4,096 pixels would be too long a sequence.
  'folder64': merge(LARGE, FOLDER, dict(data=dict(image_size=64), ordering=dict(size=2))),
}


def get_config(variant: str = 'digits') -> ConfigDict:
  """The config of a variant, a key of VARIANTS."""
  return ConfigDict(merge(get_base(), COMMON, pick(VARIANTS, variant, 'variant')))
