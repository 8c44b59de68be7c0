"""Networks of equal size over music, copies from memory and pixels: is a TCN the best?

twofold ablate --study=configs/ablations/sequences/tcn.py:jsb --workdir=runs/tcn_jsb

Piano rolls need, once, with the folder of the `.mat` files or from their home:

  twofold prepare_data --dataset=piano_rolls --collection=jsb --context=160 --source=MATFILES/
  twofold prepare_data --dataset=piano_rolls --collection=nottingham --context=512 --overlap=152 \\
      --source=MATFILES/

Sequential and permuted MNIST need `twofold prepare_data --dataset=sequential_mnist`, the second one
with --permutation=1.

Scales: jsb (three seeds; one row clips the gradients of the TCN, as the paper says, where its code
clips nothing), nottingham (three seeds; 23 to 38 minutes of a CPU core for each training), copy
(copies after 100 blanks, three seeds), copy_1000 (after 1,000, as in the paper; not measured yet),
sequential_mnist and permuted_mnist (three seeds; a GPU), digits (images of 8x8 pixels in both
orders, three seeds, minutes), smoke (copies after 5 blanks, seconds; nothing is learned).

Reproduces: Bai, Kolter & Koltun 2018, table 1 (copies, music and MNIST) and table 5 (gated TCN):
nats per token or frame of the test split, or the share of its images whose class is right.
configs/autoregressive/tcn.py says what differs. The paper's recurrent networks have settings of
their own for each task. Over music, here they have a dropout of 0.2 or 0.1; over pixels they have
none, as there, but the optimiser of the TCN, where the paper's LSTM has RMSprop with 1e-3. Their
gradients are clipped to a norm of 1. Sizes include the embedding of tokens and the output. Copies
after 100 blanks have no published cell, because the paper's come after 1,000; nor have digits.

To expect: docs/results/tcn.md.
"""

import math
from collections.abc import Mapping
from typing import Any

from common.config import pick
from common.studies import grids
from common.studies.claims import Claim
from common.studies.plans import Row, Study

CONFIG = 'configs/autoregressive/tcn.py'
COST = ('training_flops', 'examples_seen', 'training_seconds')
TCN, GATED, LSTM, GRU, RNN, TRANSFORMER = 'TCN', 'gated TCN', 'LSTM', 'GRU', 'RNN', 'transformer'
NATS, ACCURACY = 'nats_per_position', 'accuracy'
# From a published cell: nats, or a share of the images.
WITHIN = {NATS: 0.1, ACCURACY: 0.005}
RASTER, PERMUTED = 'sequential', 'permuted'
ORDERS = {RASTER: grids.Setting(), PERMUTED: grids.Setting({'data.permutation': 1})}
CLIPPED = {'optimizer.clip': 1.0}
# The paper clips the gradient of JSB to a norm of 0.4. That of its code adds up the frames and keys
# of a piece, and ours is their mean, over 59 frames of 88 keys on average: a norm of 7.7e-5.
CLIPPED_TCN, CLIP = 'TCN, gradients clipped', {'optimizer.clip': 0.4 / (59 * 88)}
# The networks of each task next to the TCN of the config, with about as many parameters.
NETWORKS: dict[str, dict[str, dict[str, Any]]] = {
  'jsb': {
    GATED: dict(name='tcn', width=108, layers=2, kernel=3, dropout=0.5, gated=True),
    LSTM: dict(name='lstm', width=131, layers=2, dropout=0.2),
    GRU: dict(name='gru', width=150, layers=2, dropout=0.2),
    RNN: dict(name='rnn', width=247, layers=2, dropout=0.2),
    TRANSFORMER: dict(name='transformer', width=104, layers=2, heads=4, dropout=0.3),
  },
  'nottingham': {
    GATED: dict(name='tcn', width=107, layers=4, kernel=6, dropout=0.2, gated=True),
    LSTM: dict(name='lstm', width=211, layers=3, dropout=0.1),
    GRU: dict(name='gru', width=243, layers=3, dropout=0.1),
    RNN: dict(name='rnn', width=412, layers=3, dropout=0.1),
    TRANSFORMER: dict(name='transformer', width=144, layers=4, heads=4, dropout=0.1),
  },
  'copy_memory': {
    LSTM: dict(name='lstm', width=28, layers=1),
    GRU: dict(name='gru', width=32, layers=1),
    RNN: dict(name='rnn', width=53, layers=1),
  },
  'copy_1000': {
    GATED: dict(name='tcn', width=7, layers=8, kernel=8, dropout=0.05, gated=True),
    LSTM: dict(name='lstm', width=39, layers=1, dropout=0.05),
    GRU: dict(name='gru', width=45, layers=1, dropout=0.05),
    RNN: dict(name='rnn', width=77, layers=1, dropout=0.05),
  },
  'sequential_mnist': {
    GATED: dict(name='tcn', width=18, layers=8, kernel=7, gated=True),
    LSTM: dict(name='lstm', width=74, layers=1),
    GRU: dict(name='gru', width=82, layers=1),
    RNN: dict(name='rnn', width=111, layers=1),
    TRANSFORMER: dict(name='transformer', width=30, layers=4, heads=3),
  },
  'sequential_digits': {
    GATED: dict(name='tcn', width=18, layers=4, kernel=4, gated=True),
    LSTM: dict(name='lstm', width=49, layers=1),
    GRU: dict(name='gru', width=56, layers=1),
    RNN: dict(name='rnn', width=92, layers=1),
    TRANSFORMER: dict(name='transformer', width=27, layers=2, heads=3),
  },
}
NETWORKS['permuted_mnist'] = NETWORKS['sequential_mnist']
# Learning rates that differ from that of the TCN: gates learn slowly in the 660 steps of digits.
# Over Nottingham it is the rate of the paper's LSTM.
RATES = {
  'sequential_digits': {LSTM: 1e-2, GRU: 1e-2},
  'nottingham': {LSTM: 4e-3},
}
PUBLISHED = {
  'jsb': {TCN: 8.10, GATED: 8.13, LSTM: 8.45, GRU: 8.43, RNN: 8.91},
  'nottingham': {TCN: 3.07, GATED: 3.12, LSTM: 3.29, GRU: 3.46, RNN: 4.05},
  'copy_1000': {TCN: 3.5e-5, GATED: 0.00508, LSTM: 0.0204, GRU: 0.0197, RNN: 0.0202},
  'sequential_mnist': {TCN: 0.990, GATED: 0.990, LSTM: 0.872, GRU: 0.962, RNN: 0.215},
  'permuted_mnist': {TCN: 0.972, GATED: 0.969, LSTM: 0.857, GRU: 0.873, RNN: 0.253},
}
BLANKS = 100
SMOKE = {
  'data.blanks': 5,
  'data.batch_size': 4,
  'train.steps': '4',
  'train.steps_per_call': 2,
  'train.evaluate_every': '2',
  'train.checkpoint_every': '2',
}
SCALES: dict[str, dict[str, Any]] = {
  'jsb': dict(task='jsb'),
  'nottingham': dict(task='nottingham'),
  'copy': dict(task='copy_memory', config={'data.blanks': BLANKS}, blanks=BLANKS),
  'copy_1000': dict(
    task='copy_1000', base='configs/papers/tcn.py:copy_1000', blanks=1000, seeds=(0,)
  ),
  'sequential_mnist': dict(task='sequential_mnist'),
  'permuted_mnist': dict(task='permuted_mnist'),
  'digits': dict(task='sequential_digits', orders=ORDERS),
  'smoke': dict(task='copy_memory', config=SMOKE, blanks=5, others=(RNN,), seeds=(0,)),
}


TITLES = {
  'copy_memory': 'copies from memory',
  'copy_1000': 'copies after 1,000 blanks',
  'sequential_mnist': 'sequential MNIST',
  'permuted_mnist': 'permuted MNIST',
  'sequential_digits': 'the pixels of digits',
}
OF_PIXELS = ('sequential_mnist', 'permuted_mnist', 'sequential_digits')


def get_study(scale: str = 'jsb') -> Study:
  """The study at a scale, a key of SCALES."""
  chosen = pick(SCALES, scale, 'scale')
  task, orders = chosen['task'], chosen.get('orders', {})
  others = chosen.get('others', tuple(NETWORKS[task]))
  metric = ACCURACY if task in OF_PIXELS else NATS
  networks = {TCN: grids.Setting()} | {name: _network(task, name) for name in others}
  plain = tuple(Row(name, setting.config) for name, setting in networks.items())
  if task == 'jsb':
    plain += (Row(CLIPPED_TCN, CLIP),)
  return Study(
    name='tcn',
    title=f'Networks of equal size over {TITLES.get(task, task)}',
    about=(
      'Each network has about as many parameters as the TCN. The best epoch on the validation '
      'split is measured on the test split.'
    ),
    base=chosen.get('base', f'{CONFIG}:{task}'),
    scale=scale,
    paper='Bai, Kolter & Koltun 2018, tables 1 and 5',
    config=chosen.get('config', {}),
    rows=grids.cross(networks, orders) if orders else plain,
    metrics=tuple(dict.fromkeys((metric, NATS, 'best_validation_loss', 'parameters', *COST))),
    published={(name, metric): value for name, value in PUBLISHED.get(task, {}).items()},
    claims=_claims(task, others, chosen),
    axes=('network', 'order') if orders else (),
    seeds=chosen.get('seeds', (0, 1, 2)),
    checkpoint='best',
  )


def _network(task: str, name: str) -> grids.Setting:
  """What a row sets in place of the TCN of a task."""
  rate = RATES.get(task, {}).get(name)
  return grids.Setting(
    {
      'network': NETWORKS[task][name],
      **({} if name == GATED else CLIPPED),
      **({} if rate is None else {'optimizer.learning_rate': rate}),
    }
  )


def _claims(task: str, others: tuple[str, ...], chosen: Mapping[str, Any]) -> tuple[Claim, ...]:
  """The claims about a scale, the value `chosen` of SCALES: equal sizes, and those of the paper."""
  orders, published = tuple(chosen.get('orders', {})), PUBLISHED.get(task, {})
  if task in OF_PIXELS:
    found = pixel_claims(others, published, orders)
  elif task.startswith('copy'):
    found = copy_claims(others, chosen['blanks'])
  else:
    found = music_claims(others, published)
  rows = {name: grids.row_name(name, *orders[:1]) for name in (TCN, *others)}
  return (
    Claim(
      'every network has as many parameters as the TCN, within 5 %',
      (rows[TCN], 'parameters'),
      near=(tuple(rows[name] for name in others), 'parameters'),
      within=0.05,
    ),
    *found,
  )


def pixel_claims(
  others: tuple[str, ...], published: Mapping[str, float], orders: tuple[str, ...]
) -> tuple[Claim, ...]:
  """That the TCN is the best and the RNN the worst, in each order; and published cells."""
  recurrent = tuple(name for name in others if name in (LSTM, GRU, RNN))
  claims = []
  for order in orders or ('',):
    rows = {name: grids.row_name(name, order) if order else name for name in (TCN, *others)}
    of = f', {order}' if order else ''
    claims += [
      Claim(
        f'the TCN is better than each recurrent network{of}',
        (rows[TCN], ACCURACY),
        above=(tuple(rows[name] for name in recurrent), ACCURACY),
      ),
      Claim(
        f'the RNN is worse than LSTM and GRU{of}',
        (rows[RNN], ACCURACY),
        below=((rows[LSTM], rows[GRU]), ACCURACY),
      ),
    ]
  claims += [
    Claim(
      f'the {name} has the published accuracy, within {WITHIN[ACCURACY]}',
      (name, ACCURACY),
      near=published[name],
      within=WITHIN[ACCURACY] / published[name],
    )
    for name in (TCN, GATED)
    if name in published
  ]
  return tuple(claims)


def music_claims(others: tuple[str, ...], published: Mapping[str, float]) -> tuple[Claim, ...]:
  """That the TCN is the best, and that each cell is the published one."""
  recurrent = tuple(name for name in others if name in (LSTM, GRU, RNN))
  return (
    Claim('the TCN is better than each recurrent network', (TCN, NATS), below=(recurrent, NATS)),
    Claim('the RNN is worse than LSTM and GRU', (RNN, NATS), above=((LSTM, GRU), NATS)),
    *(
      Claim(
        f'the {name} has the published nats per frame, within {WITHIN[NATS]}',
        (name, NATS),
        near=nats,
        within=WITHIN[NATS] / nats,
      )
      for name, nats in published.items()
    ),
  )


def copy_claims(others: tuple[str, ...], blanks: int) -> tuple[Claim, ...]:
  """That the TCN copies, and no recurrent network does much better than a guess."""
  guess = 10 * math.log(8) / (blanks + 20)
  return (
    Claim('the TCN has a hundredth of the cost of a guess', (TCN, NATS), below=guess / 100),
    *(
      Claim(f'the {name} costs at least half as much as a guess', (name, NATS), above=guess / 2)
      for name in others
      if name != GATED  # its published cost is a quarter of a guess
    ),
  )
