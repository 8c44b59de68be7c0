"""Class-conditional GANs of small images: a baseline that samples in one evaluation.

twofold train --config=configs/gan/images.py:digits --workdir=runs/gan

Reproduces: nothing published; our own settings from published parts: DCGAN (Radford et al. 2016)
and the residual networks of Miyato et al. 2018 with group norm in place of batch norm, the
projection discriminator (Miyato & Koyama 2018), the non-saturating loss (Goodfellow et al. 2014)
with R1 (Mescheder et al. 2018), and the hinge loss with spectral norm (Miyato et al. 2018). Digits,
mnist and fashion_mnist are for two CPU cores, cifar10 for one accelerator.

The loss in the logs and on the validation split is the sum of both players' losses. It measures no
quality, so the checkpoint that is best by it is no better than others: judge samples, by their
Fréchet distance and class agreement (twofold evaluate --workdir=WORKDIR). There is no likelihood.
A run that diverges or whose samples are all alike is a result: the metrics record it, and nothing
restarts it.

To expect, on a 2-core CPU machine that other work shared (2026-11-29, twofold evaluate):

  digits         3,000 steps: agreement 1.00, FD(mlp, n=722) 0.58 (floor 0.42); 1 evaluation
  mnist          1,500 steps: agreement 0.96, FD(mlp, n=1000) 5.1 (floor 1.9)

Not measured here:

  digits_hinge   hinge loss and spectral norm in place of R1
  fashion_mnist  the network and length of mnist
  cifar10        residual networks, hinge loss and spectral norm, for one accelerator
"""

from ml_collections import ConfigDict

from common.config import merge, pick
from configs.gan.base import get_base

# Each player has its own learning rate.
TWO_PLAYERS = dict(
  optimizer=dict(
    name='adam',
    schedule='constant',
    warmup='0',
    b1=0.0,  # Mescheder et al. 2018: with momentum, the players circle around their optimum
    b2=0.99,
    clip=0.0,  # one norm for both would couple the players
    groups=dict(
      generator=dict(paths='^generator/', learning_rate=1e-3),
      discriminator=dict(paths='^discriminator/', learning_rate=1e-3),
    ),
  ),
)
DCGAN = merge(
  TWO_PLAYERS,
  dict(
    generator=dict(name='dcgan', width=32, multipliers=(1, 2), latent=32),
    discriminator=dict(name='dcgan', width=32, multipliers=(1, 2)),
    objective=dict(loss=dict(name='non_saturating'), r1=1.0),
  ),
)
DIGITS = merge(
  DCGAN,
  dict(data=dict(name='digits', batch_size=64), train=dict(steps='3000', steps_per_call=50)),
)
MNIST = merge(
  DCGAN,
  dict(data=dict(name='mnist', batch_size=64), train=dict(steps='1500', steps_per_call=10)),
)
# Networks, loss and spectral norm of Miyato et al. 2018. Where they take five steps of the
# discriminator for each of the generator, its learning rate is four times as large here (Heusel et
# al. 2017).
CIFAR10 = merge(
  TWO_PLAYERS,
  dict(
    data=dict(name='cifar10', batch_size=128, flip=True),
    generator=dict(name='resnet', width=256, multipliers=(1, 1, 1), latent=128),
    discriminator=dict(name='resnet', width=128, multipliers=(1, 1), blocks=2, spectral_norm=True),
    objective=dict(loss=dict(name='hinge')),
    optimizer=dict(
      b2=0.9,
      groups=dict(
        generator=dict(learning_rate=1e-4),
        discriminator=dict(learning_rate=4e-4),
      ),
    ),
    ema=dict(decay=0.9999),
    train=dict(
      steps='200000',
      steps_per_call=10,
      log_every='0.05%',
      evaluate_every='2.5%',
      sample_every='2.5%',
      checkpoint_every='2.5%',
    ),
  ),
)

VARIANTS = {
  'digits': DIGITS,
  'digits_hinge': merge(
    DIGITS,
    dict(discriminator=dict(spectral_norm=True), objective=dict(loss=dict(name='hinge'), r1=0.0)),
  ),
  'mnist': MNIST,
  'stacked_mnist': merge(
    MNIST,
    dict(
      data=dict(name='stacked_mnist'),
      evaluation=dict(num_samples=5000, extractor='pixels'),  # 'mlp' needs classes
    ),
  ),
  'fashion_mnist': merge(MNIST, dict(data=dict(name='fashion_mnist'))),
  'cifar10': CIFAR10,
}


def get_config(variant: str = 'digits') -> ConfigDict:
  """The config of a variant, a key of VARIANTS."""
  return ConfigDict(merge(get_base(), pick(VARIANTS, variant, 'variant')))
