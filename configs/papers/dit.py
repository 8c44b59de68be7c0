"""DiT on ImageNet at 256×256: class-conditional diffusion of latents (Peebles & Xie 2022).

twofold train --config=configs/papers/dit.py:XL2 --workdir=runs/dit \
    --config.data.source=LATENTS.npz

LATENTS.npz holds `latents` [n, 32, 32, 4], an encoder's draws times 0.18215, and `y`, the 1,000
classes [n]. The encoder is that of Stable Diffusion (ft-MSE), which is not part of this code. The
paper mirrors a random half of the images before the encoder: encode each image and its mirror
image, and put both into the file.

Reproduces: table 4 of the paper, and its result after 7,000,000 steps (XL2_7M). Settings: the
authors' repository (facebookresearch/DiT: train.py, diffusion/, sample.py) and the paper.

To expect, not measured here: FID of 50,000 samples, 250 steps, no guidance, after 400,000 steps
(Gflops as the paper counts them, multiplications; millions of parameters):

       /8                     /4                     /2
  S    153.60 (0.36, 33)      100.41 (1.41, 33)       68.40 (6.06, 33)
  B    122.74 (1.42, 131)      68.38 (5.56, 130)      43.47 (23.01, 130)
  L    118.87 (5.01, 459)      45.64 (19.70, 458)     23.33 (80.71, 458)
  XL   106.41 (7.39, 676)      43.01 (29.05, 675)     19.47 (118.64, 675)

  XL2_7M  7,000,000 steps: 9.62; with a guidance weight of 1.5: 2.27

XL2 with other blocks, --config.network.block=in_context, cross_attention or adaln, after 400,000
steps: 35.24 (119.4, 449), 26.14 (137.6, 598) and 25.21 (118.6, 600).

The authors' PyTorch code found 18.1 for XL/2, and 68.9 and 68.3 for two seeds of B/4 (its README).

Unspecified: how often the validation loss is measured.

What the paper does and this code does not yet:

- It encodes images while it trains, with a new draw of the encoder each time, and decodes samples;
  here latents are read from a file, which is held in memory while it is prepared.
- It trains on all images; here a tenth each is for validation and for testing.
- FID is of the Inception network.
- Guidance covers only the first three of the four channels of a latent; here all of them.
"""

import math

from ml_collections import ConfigDict

from common.config import merge, pick
from configs.diffusion.base import get_base

SIZES = {  # table 1
  'S': dict(name='dit', width=384, depth=12, heads=6),
  'B': dict(name='dit', width=768, depth=12, heads=12),
  'L': dict(name='dit', width=1024, depth=24, heads=16),
  'XL': dict(name='dit', width=1152, depth=28, heads=16),
}
PATCHES = (2, 4, 8)

COMMON = dict(
  data=dict(name='npz', batch_size=256),
  process=dict(name='ddpm'),  # linear betas from 1e-4 to 0.02, T = 1000
  prediction=dict(target='eps', scale_input=False, noise='time', variance='learned'),
  # The authors add the bound's cost of the step that was drawn, in bits. Here `hybrid` weighs that
  # cost times T, in nats.
  objective=dict(times=dict(name='uniform'), hybrid=1 / (1000 * math.log(2))),
  label_dropout=0.1,
  optimizer=dict(
    name='adamw',
    learning_rate=1e-4,
    schedule='constant',
    warmup='0',
    b2=0.999,
    weight_decay=0.0,
    clip=0.0,
  ),
  ema=dict(decay=0.9999, warmup=False),  # from the initial weights
  train=dict(
    steps='400000',
    steps_per_call=10,
    log_every='100',
    evaluate_every='10000',
    sample_every='50000',
    checkpoint_every='50000',
  ),
  sampling=dict(
    sampler=dict(name='ancestral'),
    steps=250,
    grid=dict(name='respaced'),
    threshold=dict(name='none'),
  ),
  evaluation=dict(num_samples=50_000, reference='all', extractor='pixels'),
)

VARIANTS = {
  f'{size}{patch}': dict(network=network | dict(patch=patch))
  for size, network in SIZES.items()
  for patch in PATCHES
}
VARIANTS['XL2_7M'] = merge(
  VARIANTS['XL2'], dict(train=dict(steps='7000000'), sampling=dict(guidance=dict(weight=1.5)))
)


def get_config(variant: str = 'XL2') -> ConfigDict:
  """The config of a variant, a key of VARIANTS."""
  return ConfigDict(merge(get_base(), COMMON, pick(VARIANTS, variant, 'variant')))
