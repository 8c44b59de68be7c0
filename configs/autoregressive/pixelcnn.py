"""Class-conditional PixelCNNs of small images: plain, gated, and PixelCNN++.

twofold train --config=configs/autoregressive/pixelcnn.py:digits --workdir=runs/pcnn

The gated PixelCNN is the default; `_plain` has the blind spot that the gated PixelCNN avoids, `_pp`
is PixelCNN++ with its mixture of logistics.

Reproduces: nothing published; our own settings. configs/papers/pixelcnn_pp.py and gated_pixelcnn.py
have those of the papers.

To expect for digits after 1,100 steps (twofold evaluate, 166 test images, 1,000 samples; 2-core
CPU machine shared with other work, 2026-11-25; floor of the distance 0.42; ± is half of a 95 %
interval):

                parameters  training  bits/dim       agreement      FD(mlp, n=722)
  digits           141,856      40 s  1.672 ± 0.039  0.904 ± 0.018  0.82 ± 0.24
  digits_plain      32,032      14 s  1.738 ± 0.041  0.848 ± 0.022  1.55 ± 0.37
  digits_pp        218,040      74 s  1.635 ± 0.041  0.915 ± 0.018  0.65 ± 0.25
"""

from ml_collections import ConfigDict

from common.config import merge, pick
from configs.autoregressive.base import get_base

DIGITS = dict(
  data=dict(name='digits', batch_size=32),
  train=dict(steps='1100', steps_per_call=50),
  optimizer=dict(learning_rate=3e-3),
)
MNIST = dict(data=dict(name='mnist'), train=dict(steps='20 epochs'))
SMALL = dict(width=32, layers=5, first_kernel=5)
PP = dict(network=dict(name='pixelcnn_pp'), head=dict(name='logistic_mixture'))

VARIANTS = {
  'digits': merge(DIGITS, dict(network=dict(name='gated_pixelcnn', **SMALL))),
  'digits_plain': merge(DIGITS, dict(network=dict(name='pixelcnn', **SMALL))),
  'digits_pp': merge(DIGITS, PP, dict(network=dict(width=24, blocks=1, levels=2, dropout=0.1))),
  'mnist': merge(MNIST, dict(network=dict(name='gated_pixelcnn'))),
  'mnist_pp': merge(MNIST, PP, dict(network=dict(width=64, blocks=2))),
}


def get_config(variant: str = 'digits') -> ConfigDict:
  """The config of a variant, a key of VARIANTS."""
  return ConfigDict(merge(get_base(), pick(VARIANTS, variant, 'variant')))
