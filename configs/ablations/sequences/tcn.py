"""Networks of equal size over music, and over copies from memory: is a TCN the best?

twofold ablate --study=configs/ablations/sequences/tcn.py:jsb --workdir=runs/tcn_jsb

Piano rolls need, once, with the folder of the `.mat` files or from their home:

  twofold prepare_data --dataset=piano_rolls --collection=jsb --context=160 --source=MATFILES/
  twofold prepare_data --dataset=piano_rolls --collection=nottingham --context=512 --overlap=152 \\
      --source=MATFILES/

Scales: jsb (three seeds), nottingham (three seeds; a GPU, or a night), copy (copies after 100
blanks, three seeds), smoke (copies after 5 blanks, seconds; nothing is learned).

Reproduces: Bai, Kolter & Koltun 2018, table 1 (music) and table 5 (gated TCN), in nats per frame of
the test split. configs/autoregressive/tcn.py says what differs. The paper's recurrent networks have
settings of their own for each task; here they have a dropout of 0.2 or 0.1 and gradients clipped to
a norm of 1. Copies after 100 blanks have no published cell: the paper's come after 1,000.

To expect: docs/results/tcn.md.
"""

import math
from collections.abc import Mapping
from typing import Any

from common.config import pick
from common.studies.claims import Claim
from common.studies.plans import Row, Study

CONFIG = 'configs/autoregressive/tcn.py'
TCN, GATED, LSTM, GRU, RNN, TRANSFORMER = 'TCN', 'gated TCN', 'LSTM', 'GRU', 'RNN', 'transformer'
NATS = 'nats_per_position'
WITHIN = 0.1  # nats from a published cell
CLIPPED = {'optimizer.clip': 1.0}
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
}
PUBLISHED = {
  'jsb': {TCN: 8.10, GATED: 8.13, LSTM: 8.45, GRU: 8.43, RNN: 8.91},
  'nottingham': {TCN: 3.07, GATED: 3.12, LSTM: 3.29, GRU: 3.46, RNN: 4.05},
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
  'copy': dict(task='copy_memory', config={'data.blanks': BLANKS}),
  'smoke': dict(task='copy_memory', config=SMOKE, others=(RNN,), seeds=(0,)),
}


def get_study(scale: str = 'jsb') -> Study:
  """The study at a scale, a key of SCALES."""
  chosen = pick(SCALES, scale, 'scale')
  task = chosen['task']
  others = chosen.get('others', tuple(NETWORKS[task]))
  published = PUBLISHED.get(task, {})
  blanks = chosen.get('config', {}).get('data.blanks', BLANKS)
  rows = [Row(TCN)]
  for name in others:
    clip = {} if name == GATED else CLIPPED
    rows.append(Row(name, {'network': NETWORKS[task][name], **clip}))
  return Study(
    name='tcn',
    title=f'Networks of equal size over {"copies from memory" if not published else task}',
    about=(
      'Each network has about as many parameters as the TCN. The best epoch on the validation '
      'split is measured on the test split.'
    ),
    base=f'{CONFIG}:{task}',
    scale=scale,
    paper='Bai, Kolter & Koltun 2018, tables 1 and 5',
    config=chosen.get('config', {}),
    rows=tuple(rows),
    metrics=(NATS, 'best_validation_loss', 'parameters', 'training_seconds'),
    published={(name, NATS): nats for name, nats in published.items()},
    claims=(
      Claim(
        'every network has as many parameters as the TCN, within 5 %',
        (TCN, 'parameters'),
        near=(others, 'parameters'),
        within=0.05,
      ),
      *(music_claims(others, published) if published else copy_claims(others, blanks)),
    ),
    seeds=chosen.get('seeds', (0, 1, 2)),
    checkpoint='best',
  )


def music_claims(others: tuple[str, ...], published: Mapping[str, float]) -> tuple[Claim, ...]:
  """That the TCN is the best, and that each cell is the published one."""
  recurrent = tuple(name for name in others if name in (LSTM, GRU, RNN))
  return (
    Claim('the TCN is better than each recurrent network', (TCN, NATS), below=(recurrent, NATS)),
    Claim('the RNN is worse than LSTM and GRU', (RNN, NATS), above=((LSTM, GRU), NATS)),
    *(
      Claim(
        f'the {name} has the published nats per frame, within {WITHIN}',
        (name, NATS),
        near=nats,
        within=WITHIN / nats,
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
    ),
  )
