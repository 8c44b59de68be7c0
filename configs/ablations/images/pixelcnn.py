"""PixelCNN++ without its parts: short cuts, resolutions, the mixture of logistics, dropout.

twofold ablate --study=configs/ablations/images/pixelcnn.py:cpu --workdir=runs/pixelcnn

Scales: cpu (scikit-learn's digits, three seeds), gpu (MNIST, three seeds), paper (CIFAR-10 at the
published settings, configs/papers/pixelcnn_pp.py), smoke (seconds; nothing is learned). gpu and
paper need, once:

  twofold prepare_data --dataset=mnist
  twofold prepare_data --dataset=cifar10

Reproduces: Salimans et al. 2017, table 1 and section 3.4: 2.92 bits/dim, the training that fails
without short cuts, and the overfitting without dropout, whose final test value is above 6.0. The
softmax is a curve there, whose end is not printed, and one resolution is no row of the paper.

To expect: not measured yet.
"""

from typing import Any

from common.config import pick
from common.studies.claims import Claim
from common.studies.plans import Row, Study
from configs.ablations.diffusion.parts import FEW_WRITES, SMOKE

OURS, PAPER = 'configs/autoregressive/pixelcnn.py', 'configs/papers/pixelcnn_pp.py'
FULL, NO_SHORT_CUTS, ONE_LEVEL = 'PixelCNN++', 'no short cuts', 'one resolution'
SOFTMAX, NO_DROPOUT, FITTED = 'softmax', 'no dropout', 'fitted to examples at first'
BITS = 'bits_per_dim'
ROWS: dict[str, dict[str, Any]] = {
  FULL: {},
  NO_SHORT_CUTS: {'network.skips': False},
  ONE_LEVEL: {'network.levels': 1},
  SOFTMAX: {'head': {'name': 'categorical'}},
  NO_DROPOUT: {'network.dropout': 0.0},
}
# The paper's network is fitted to examples anyway.
SMALL_ROWS = ROWS | {FITTED: {'network.init_examples': 100}}
PUBLISHED = {FULL: 2.92, NO_SHORT_CUTS: 'fails to train', NO_DROPOUT: 'above 6.0'}
SCALES: dict[str, dict[str, Any]] = {
  'cpu': dict(base=f'{OURS}:digits_pp', config=FEW_WRITES, rows=SMALL_ROWS, seeds=(0, 1, 2)),
  'gpu': dict(base=f'{OURS}:mnist_pp', config=FEW_WRITES, rows=SMALL_ROWS, seeds=(0, 1, 2)),
  'paper': dict(base=f'{PAPER}:cifar10', config={}, rows=ROWS),
  'smoke': dict(
    base=f'{OURS}:digits_pp',
    config={key: value for key, value in SMOKE.items() if key != 'network.depth'},
    rows={
      FITTED: {
        'network.width': 8,
        'network.init_examples': 8,
        'network.levels': 1,
        'network.skips': False,
      }
    },
  ),
}


def get_study(scale: str = 'cpu') -> Study:
  """The study at a scale, a key of SCALES."""
  chosen = pick(SCALES, scale, 'scale')
  return Study(
    name='pixelcnn',
    title='PixelCNN++ without its parts',
    about=(
      'Each row changes one part of the network of the first row. One resolution has as many '
      'blocks as one level of it, so that it has fewer parameters and sees less of the image.'
    ),
    base=chosen['base'],
    scale=scale,
    paper='Salimans et al. 2017, table 1 and section 3.4',
    config=chosen['config'],
    rows=tuple(Row(name, config) for name, config in chosen['rows'].items()),
    metrics=(BITS, 'best_validation_loss', 'parameters', 'training_flops', 'training_seconds'),
    published={
      (name, BITS): value
      for name, value in PUBLISHED.items()
      if name in chosen['rows'] and scale == 'paper'
    },
    claims=_claims() if FULL in chosen['rows'] else (),
    seeds=chosen.get('seeds', (0,)),
  )


def _claims() -> tuple[Claim, ...]:
  """That each part helps."""
  return tuple(
    Claim(f'PixelCNN++ is better than the row "{name}"', (name, BITS), above=(FULL, BITS))
    for name in (NO_SHORT_CUTS, ONE_LEVEL, SOFTMAX, NO_DROPOUT)
  )
