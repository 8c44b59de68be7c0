"""Temporal convolutional networks over piano rolls, copies and pixels (Bai et al. 2018).

twofold prepare_data --dataset=piano_rolls --collection=jsb --context=160 --source=MATFILES/
twofold train --config=configs/papers/tcn.py:jsb --workdir=runs/tcn

nottingham needs --collection=nottingham --context=512 --overlap=152; sequential_mnist needs
--dataset=sequential_mnist alone, and permuted_mnist that with --permutation=1; copies need nothing.

Reproduces: the TCN's cells for music, copy memory and MNIST in table 1 of the paper, with the
networks, dropout and optimisers of tables 2 and 3; what those leave open is in the authors'
repository (locuslab/TCN: poly_music/music_test.py, copymem_test.py, pmnist_test.py).

To expect, not measured here: nats per frame of the test split, at the best epoch on the validation
split (`--step=best`); nats per token of copies, where a guess costs 10·ln 8 / (blanks + 20); and
the share of the test images whose class is right, at the last epoch (`--metrics=accuracy`).

  jsb 8.10    nottingham 3.07    copy_1000 3.5e-5 (a guess: 0.0204)
  sequential_mnist 0.990    permuted_mnist 0.972

copy_500 and copy_2000 are shown only as curves. configs/ablations/sequences/tcn.py has the tables.

Unspecified: how often samples are drawn, and of which epoch the accuracy is. The clipping of the
authors' code stands before the gradient is computed and clips nothing; here it is off. Dropout is
of whole channels, as the paper says; its code drops single numbers
(--config.network.drop_channels=False). Networks over pixels have none, as in table 2; the default
of their code is 0.05.

What the paper does and this code does not yet:

- The learning rate of music falls by 10 whenever the validation loss stops falling; here it falls
  linearly over the second half of the run.
- Its music networks see keys directly, and a residual connection projects them; here a linear
  map does. A piece counts the same in every step; there, its frames are added up.
- Pieces of Nottingham are whole; here longer ones are cut into windows that reach back as far as
  the network sees.
- Copies have one sequence as input and target here (docs/datasets.md).
- Its networks over MNIST see a pixel as a normalised number, and have ten outputs; here pixels are
  embedded as tokens, and the class is one token of 266. They train on 60,000 images in a fixed
  order, and draw a permutation in each run; here 5,000 of them are for validation, the others are
  shuffled, and the permutation is fixed (docs/datasets.md).
- The adding problem: a causal network here predicts its next input, not one number at the end. The
  paper's network for 600 steps has 8 blocks of 24 channels with 8 taps.
- Words and characters of Penn Treebank, WikiText-103, LAMBADA and text8, which are no data here.
"""

from ml_collections import ConfigDict

from common.config import merge, pick
from configs.autoregressive import tcn
from configs.autoregressive.base import get_base

SEED = dict(seed=1111)
MUSIC = dict(train=dict(steps='100 epochs'))
COPIES = dict(
  data=dict(name='copy_memory', batch_size=32),
  ordering=dict(name='tokens'),
  network=dict(name='tcn', width=10, kernel=8, dropout=0.05),
  model=dict(start='none'),
  optimizer=dict(
    name='rmsprop', learning_rate=5e-4, schedule='constant', warmup='0', b2=0.99, clip=0.0
  ),
  ema=dict(decay=0.0, warmup=False),
  train=dict(
    steps='50 epochs',
    steps_per_call=26,
    log_every='1 epoch',
    evaluate_every='1 epoch',
    sample_every='0',
    checkpoint_every='1 epoch',
  ),
)

VARIANTS = {
  'jsb': merge(tcn.COMMON, tcn.VARIANTS['jsb'], MUSIC),
  'nottingham': merge(tcn.COMMON, tcn.VARIANTS['nottingham'], MUSIC),
  'copy_500': merge(COPIES, dict(data=dict(blanks=500), network=dict(layers=9, kernel=6))),
  'copy_1000': merge(COPIES, dict(data=dict(blanks=1000), network=dict(layers=8))),
  'copy_2000': merge(COPIES, dict(data=dict(blanks=2000), network=dict(layers=9))),
  'sequential_mnist': merge(tcn.COMMON, tcn.VARIANTS['sequential_mnist']),
  'permuted_mnist': merge(tcn.COMMON, tcn.VARIANTS['permuted_mnist']),
}


def get_config(variant: str = 'jsb') -> ConfigDict:
  """The config of a variant, a key of VARIANTS."""
  return ConfigDict(merge(get_base(), SEED, pick(VARIANTS, variant, 'variant')))
