"""Class-conditional PixelCNNs of small images: plain, gated, and PixelCNN++.

python -m experiments.train --config=configs/autoregressive/pixelcnn.py:digits --workdir=runs/pcnn

The gated PixelCNN is the default; `_plain` has the blind spot that it closes, `_pp` is PixelCNN++
with its mixture of logistics. `cifar10` is the published PixelCNN++ (Salimans et al. 2017, section
3): 192 features, 5 blocks at 3 levels, dropout 0.5; 2.94 bits/dim with classes, as published.

To expect of digits after 1,100 steps (experiments.evaluate, 166 test images, 1,000 samples; 2-core
CPU machine that other work shared, 2026-11-25; floor of the distance 0.42):

                parameters  training  bits/dim       agreement      FD(mlp, n=722)
  digits           141,856      40 s  1.672 ± 0.020  0.904 ± 0.009  0.82 ± 0.12
  digits_plain      32,032      14 s  1.738 ± 0.021  0.848 ± 0.011  1.55 ± 0.19
  digits_pp        218,040      74 s  1.635 ± 0.021  0.915 ± 0.009  0.65 ± 0.13
"""

from ml_collections import ConfigDict

from configs.autoregressive import base

SMALL = dict(width=32, layers=5, first_kernel=5)
VARIANTS = {  # dataset, length, network, its settings
  'digits': ('digits', '1100', 'gated_pixelcnn', SMALL),
  'digits_plain': ('digits', '1100', 'pixelcnn', SMALL),
  'digits_pp': ('digits', '1100', 'pixelcnn_pp', dict(width=24, blocks=1, levels=2, dropout=0.1)),
  'mnist': ('mnist', '20 epochs', 'gated_pixelcnn', dict(width=64, layers=8)),
  'mnist_pp': ('mnist', '20 epochs', 'pixelcnn_pp', dict(width=64, blocks=2)),
  'cifar10': ('cifar10', '5000 epochs', 'pixelcnn_pp', dict(width=192)),
}


def get_config(variant: str = 'digits') -> ConfigDict:
  """The config of a variant, a key of VARIANTS."""
  if variant not in VARIANTS:
    raise ValueError(f'unknown variant {variant!r}; known: {", ".join(VARIANTS)}')
  data, steps, network, settings = VARIANTS[variant]
  config = base.get_base()
  config.data.name = data
  config.train.steps = steps
  config.network = base.NETWORKS[network] | settings
  if network == 'pixelcnn_pp':
    config.head = base.HEADS['logistic_mixture']
  if data == 'digits':
    config.data.batch_size = 32
    config.train.steps_per_call = 50
    config.optimizer.learning_rate = 3e-3
  if data == 'cifar10':
    config.ema.decay = 0.9995
  return config
