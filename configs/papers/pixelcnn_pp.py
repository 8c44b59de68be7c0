"""PixelCNN++ on CIFAR-10: a mixture of logistics over whole pixels (Salimans et al. 2017).

twofold prepare_data --dataset=cifar10
twofold train --config=configs/papers/pixelcnn_pp.py:cifar10 --workdir=runs/pixelcnn_pp

Reproduces: table 1 of the paper, its classes (section 3.2) and the ablations of section 3.4 that
this network states. Settings: the authors' repository (openai/pixel-cnn: train.py, pixel_cnn_pp/),
whose network has 160 features; the paper's has 192 (cifar10_192).

To expect, not measured here: bits/dim of the test split.

  cifar10         2.92, after about 5 days on 8 GPUs (the repository's README); the paper's table 1
                  has the same number
  cifar10_classes 2.94
  no_short_cuts   fails to train
  no_dropout      below 2.0 on the training split, above 6.0 on the test split at the end
  softmax         slower, shown only as a curve

Unspecified: how often the validation loss is measured.

What the paper does and this code does not yet:

- Its last layer has normalised weights, fitted to the first examples like all others; here it
  begins with small weights. Pixels enter through one more linear map.
- Its softmax lets the logits of a channel depend on the channels before it (1,536 outputs for a
  pixel); here the three channels of a pixel are independent given the pixels before it (768), and
  pixels enter by an embedding of each value.
- Adam adds its epsilon inside the root; here outside, as its square root.
- The networks of small receptive fields (section 3.4.3) are other networks.
"""

from ml_collections import ConfigDict

from common.config import merge, pick
from configs.autoregressive.base import get_base

# The authors add up the nats of a batch, which are averaged here over its values. Adam takes the
# same steps if its epsilon, √1e-8 outside the root, is smaller by the same factor.
BATCH = 16 * 8  # images for each of 8 GPUs
VALUES = BATCH * 32 * 32 * 3

NETWORK = dict(
  name='pixelcnn_pp',
  width=160,
  blocks=5,
  levels=3,
  dropout=0.5,
  conditional=False,
  init_examples=100,
)
COMMON = dict(
  seed=1,
  data=dict(name='cifar10', train_to='test', batch_size=BATCH),
  network=NETWORK,
  head=dict(name='logistic_mixture', components=10),
  optimizer=dict(
    name='adam',
    learning_rate=1e-3,
    schedule='exponential',
    learning_rate_decay=0.999995,
    warmup='0',
    b1=0.95,
    b2=0.9995,
    eps=1e-4 / VALUES,
    clip=0.0,
  ),
  ema=dict(decay=0.9995, warmup=False),
  train=dict(
    steps='5000 epochs',
    steps_per_call=10,
    log_every='1 epoch',
    evaluate_every='5 epochs',
    sample_every='20 epochs',
    checkpoint_every='20 epochs',
  ),
)

VARIANTS = {
  'cifar10': {},
  'cifar10_192': dict(network=dict(width=192)),
  'cifar10_classes': dict(network=dict(conditional=True)),
  'no_short_cuts': dict(network=dict(skips=False)),
  'no_dropout': dict(network=dict(dropout=0.0)),
  'softmax': dict(head=dict(name='categorical')),
}


def get_config(variant: str = 'cifar10') -> ConfigDict:
  """The config of a variant, a key of VARIANTS."""
  return ConfigDict(merge(get_base(), COMMON, pick(VARIANTS, variant, 'variant')))
