"""The gated PixelCNN, and its class-conditional form (van den Oord et al. 2016b).

twofold prepare_data --dataset=cifar10
twofold train --config=configs/papers/gated_pixelcnn.py:cifar10 --workdir=runs/gated_pixelcnn

imagenet64 needs, once, twofold prepare_data --dataset=imagenet --source=IMAGENET/ --image_size=64

Reproduces: the architecture of figure 2 of the paper, with a softmax over the 256 values of each
channel, on its data. No repository of the authors is known, and the paper states sizes for its
largest network only, which could not be verified here.

To expect, not measured here: bits/dim of the test split (cifar10 as quoted by Salimans et al. 2017,
table 1).

  cifar10     3.03
  imagenet64  3.57, and 3.48 on the training split

Unspecified, so at our defaults: features, layers and windows of the network; optimiser, learning
rate and its schedule; batch size, number of steps, precision, seed, averages, and how often the
loss is measured.

What the paper does and this code does not yet:

- Its numbers above are of images without classes; here every layer sees the class (equation 4), as
  in its section 3.2.
- A decoder of an autoencoder, and portraits by an embedding of a face (sections 3.3 and 3.4).
"""

from ml_collections import ConfigDict

from common.config import merge, pick
from configs.autoregressive.base import get_base

COMMON = dict(
  ordering=dict(name='patches', channels='apart'),  # green sees red, blue sees both
  network=dict(name='gated_pixelcnn'),
  train=dict(steps_per_call=10),
)

VARIANTS = {
  'cifar10': dict(data=dict(name='cifar10', train_to='test')),
  'imagenet64': dict(data=dict(name='imagenet', image_size=64, train_to='test')),
}


def get_config(variant: str = 'cifar10') -> ConfigDict:
  """The config of a variant, a key of VARIANTS."""
  return ConfigDict(merge(get_base(), COMMON, pick(VARIANTS, variant, 'variant')))
