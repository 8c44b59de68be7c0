"""A temporal convolutional network (TCN) over piano rolls, copies from memory, and pixels.

twofold prepare_data --dataset=piano_rolls --collection=jsb --context=160 --source=MATFILES/  (once)
twofold train --config=configs/autoregressive/tcn.py:jsb --workdir=runs/jsb
twofold evaluate --workdir=runs/jsb --step=best --metrics=nats_per_position
twofold sample --workdir=runs/jsb --step=best --length=64 --out=rolls.png

nottingham needs --collection=nottingham --context=512 --overlap=152; sequential_mnist needs
--dataset=sequential_mnist alone, and permuted_mnist that with --permutation=1; copy_memory,
sequential_digits and permuted_digits need nothing.

Reproduces: Bai, Kolter & Koltun 2018 (TCN), tables 1 and 2: networks, dropout, Adam with 1e-3, one
piece per batch, and the best epoch on the validation split; and the code's clipping of pieces,
which clips nothing. For sequential and permuted MNIST, they are those of table 2 (no dropout), with
Adam with 2e-3, batches of 64, 20 epochs, and a tenth of the rate after the tenth.

To expect: configs/ablations/sequences/tcn.py has the published cells, docs/results/tcn.md ours.
Over digits, seconds to a minute on a CPU (`--step=best --metrics=accuracy`).

What differs from the paper and its code:

- The learning rate of music falls linearly over the second half of the run, where the code divides
  it by 10 whenever the validation loss stops falling. Every second epoch is validated.
- A piece counts the same in every step, where the code adds up its frames.
- Keys are mapped linearly first, so each convolution has as many inputs as outputs and no
  residual connection needs a projection. Dropout is of whole channels, as in the paper's text.
- Longer pieces of Nottingham are cut into windows whose given frames cover the receptive field of
  the TCN. Recurrent networks and transformers would remember more of such a piece.
- Pixels are embedded as tokens, where the code takes a normalised number; the class is one of 266
  tokens, not of 10, and outputs have no bias. Embedding and output have 6,650 parameters each.
  5,000 of the 60,000 training images are the validation split, the others are shuffled in every
  epoch, and the permutation is fixed; the code shuffles nothing, and draws a permutation in each
  run. Its default dropout is 0.05 (--config.network.dropout=0.05), of single numbers
  (--config.network.drop_channels=False).
- copy_memory has one sequence as input and target (docs/datasets.md), 100 blanks in place of 1,000
  with a network to match, no dropout (with one of 0.05, 1,800 steps were no better than a guess),
  and Adam in place of RMSprop.
"""

from ml_collections import ConfigDict

from common.config import merge, pick
from configs.autoregressive.base import get_base

COMMON = dict(
  network=dict(name='tcn'),
  model=dict(start='none'),  # the first frame or token is given
  optimizer=dict(name='adam', b2=0.999, schedule='trapezoid', warmup='0', cooldown='50%', clip=0.0),
  ema=dict(decay=0.0, warmup=False),  # no average
  train=dict(sample_every='0'),
)
ROLLS = dict(
  data=dict(name='piano_rolls', batch_size=1),
  ordering=dict(name='frames'),
  head=dict(name='bernoulli'),
  model=dict(output_bias=True),
  optimizer=dict(learning_rate=1e-3),
  train=dict(
    steps_per_call=100, log_every='2 epochs', evaluate_every='2 epochs', checkpoint_every='2 epochs'
  ),
  evaluation=dict(batch_size=16),
)
# Pixels and then the class, which alone counts.
PIXELS = dict(
  data=dict(batch_size=64),
  ordering=dict(name='tokens'),
  optimizer=dict(learning_rate=2e-3, schedule='drop', final=0.1),
  train=dict(log_every='1 epoch', evaluate_every='1 epoch', checkpoint_every='1 epoch'),
)
MNIST = merge(
  PIXELS,
  dict(
    data=dict(name='sequential_mnist'),
    network=dict(width=25, layers=8, kernel=7),
    train=dict(steps='20 epochs'),
  ),
)
DIGITS = merge(
  PIXELS,
  dict(
    data=dict(name='sequential_digits'),
    network=dict(width=25, layers=4, kernel=4),
    train=dict(
      steps='30 epochs',
      steps_per_call=22,
      log_every='10%',
      evaluate_every='10%',
      checkpoint_every='10%',
    ),
  ),
)
PERMUTED = dict(data=dict(permutation=1))

VARIANTS = {
  'jsb': merge(
    ROLLS,
    dict(
      data=dict(collection='jsb', context=160),
      network=dict(width=150, layers=2, kernel=3, dropout=0.5),
      train=dict(steps='100 epochs'),
    ),
  ),
  'nottingham': merge(
    ROLLS,
    dict(
      data=dict(collection='nottingham', context=512, overlap=152),
      network=dict(width=150, layers=4, kernel=6, dropout=0.2),
      train=dict(steps='30 epochs'),
    ),
  ),
  'copy_memory': dict(
    data=dict(name='copy_memory', blanks=100, batch_size=32),
    ordering=dict(name='tokens'),
    network=dict(width=10, layers=4, kernel=8),
    optimizer=dict(learning_rate=2e-3),
    train=dict(steps='2000', steps_per_call=50, evaluate_every='10%', checkpoint_every='10%'),
  ),
  'sequential_mnist': MNIST,
  'permuted_mnist': merge(MNIST, PERMUTED),
  'sequential_digits': DIGITS,
  'permuted_digits': merge(DIGITS, PERMUTED),
}


def get_config(variant: str = 'jsb') -> ConfigDict:
  """The config of a variant, a key of VARIANTS."""
  return ConfigDict(merge(get_base(), COMMON, pick(VARIANTS, variant, 'variant')))
