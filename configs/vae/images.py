"""Variational autoencoders of small images, and autoencoders for models of their latents.

twofold train --config=configs/vae/images.py:digits --workdir=runs/vae
twofold sample --workdir=runs/vae --task=reconstruct
twofold train --config=configs/vae/images.py:mnist_first_stage --workdir=runs/first_stage
twofold train --config=configs/diffusion/images.py:mnist_latents --workdir=runs/latents

Reproduces: nothing published; our own settings from published parts: Kingma & Welling 2014, the
encoder and decoder of Rombach et al. 2022, the VQ-VAE of van den Oord et al. 2017.

To expect: docs/results/seeds.md (digits, mnist, and their first stages and codes),
docs/results/modes.md (stacked_mnist) and docs/latents.md. Not measured: digits_gaussian,
mnist_transformer and fashion_mnist; cifar10, cifar10_first_stage and cifar10_codes, for one
accelerator.
"""

from ml_collections import ConfigDict

from common.config import merge, pick
from configs.vae.base import get_base

DIGITS = dict(
  data=dict(name='digits', batch_size=64),
  network=dict(width=16, multipliers=(1, 2)),
  train=dict(steps='1500', steps_per_call=5),
  optimizer=dict(learning_rate=2e-3),
)
MNIST = dict(
  data=dict(name='mnist', batch_size=64),
  network=dict(width=16, multipliers=(1, 2, 2)),
  train=dict(steps='2000', steps_per_call=5),
  optimizer=dict(learning_rate=1e-3),
  evaluation=dict(batch_size=64),
)
# Little weight on the prior: the latents keep what an image looks like, and another model learns
# their distribution (Rombach et al. 2022, section 3.1).
FIRST_STAGE = dict(objective=dict(beta=0.1))
CODES = dict(latent=dict(name='codes'))
TRANSFORMER = dict(network=dict(name='transformer', patch=4, width=96, depth=4, heads=4))

# For one accelerator; latents of 8×8 positions.
CIFAR10 = dict(
  data=dict(name='cifar10', batch_size=128),
  network=dict(width=64, multipliers=(1, 2, 2)),
  optimizer=dict(learning_rate=3e-4),
  ema=dict(decay=0.9995),
  train=dict(
    steps='100000',
    steps_per_call=10,
    log_every='0.05%',
    evaluate_every='2.5%',
    sample_every='2.5%',
    checkpoint_every='2.5%',
  ),
)

STACKED = dict(num_samples=5000, extractor='pixels')  # no classes: 'mlp' needs some

VARIANTS = {
  'digits': DIGITS,
  'digits_gaussian': merge(DIGITS, dict(pixels=dict(name='gaussian'))),
  'digits_first_stage': merge(DIGITS, FIRST_STAGE),
  'digits_codes': merge(DIGITS, CODES),
  'mnist': MNIST,
  'mnist_transformer': merge(MNIST, TRANSFORMER),
  'mnist_first_stage': merge(MNIST, FIRST_STAGE),
  'mnist_codes': merge(MNIST, CODES),
  'stacked_mnist': merge(
    MNIST, dict(data=dict(name='stacked_mnist'), latent=dict(channels=8), evaluation=STACKED)
  ),
  'cifar10': CIFAR10,
  'cifar10_first_stage': merge(CIFAR10, FIRST_STAGE),
  'cifar10_codes': merge(CIFAR10, CODES, dict(latent=dict(codes=512))),
  'fashion_mnist': merge(MNIST, dict(data=dict(name='fashion_mnist'))),
}


def get_config(variant: str = 'digits') -> ConfigDict:
  """The config of a variant, a key of VARIANTS."""
  return ConfigDict(merge(get_base(), pick(VARIANTS, variant, 'variant')))
