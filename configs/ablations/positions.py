"""All positions at once, or one position per example: what causal training saves.

twofold ablate --study=configs/ablations/positions.py:cpu --workdir=runs/positions

Scales: cpu (scikit-learn's digits, three seeds, about 10 minutes on one core), smoke (seconds;
nothing is learned).

Reproduces: nothing published; our own table.

To expect: docs/results/positions.md.
"""

from common.config import pick
from common.studies.claims import Claim
from common.studies.plans import Row, Study

ALL, ONE = 'all positions', 'one position'
TIMES = (4,)
SCALES = {
  'cpu': dict(steps=400, seeds=(0, 1, 2), config={'train.steps_per_call': 50}),
  'smoke': dict(
    steps=2,
    seeds=(0,),
    config={
      'train.steps_per_call': 2,
      'evaluation.num_samples': 20,
      'evaluation.batch_size': 20,
    },
  ),
}


def row_name(times: int) -> str:
  """The row of one position with so many times the examples."""
  return f'{ONE}, {times} × the examples'


def get_study(scale: str = 'cpu') -> Study:
  """The study at a scale, a key of SCALES."""
  chosen = pick(SCALES, scale, 'scale')
  one = {'objective.positions': 'one'}
  rows = [Row(ALL), Row(ONE, one)]
  rows += [
    Row(row_name(times), one | {'train.steps': str(times * chosen['steps'])}) for times in TIMES
  ]
  return Study(
    name='positions',
    title='All positions at once, or one per example',
    about=(
      'A causal network predicts every pixel of an image in one pass, so an image is as many '
      'examples as it has pixels. The other rows train the same network on one random pixel of '
      'each image, as if each example were a single prefix. The batch is always 32 images, and an '
      'image drawn again counts again as an example.'
    ),
    base='configs/autoregressive/images.py:digits',
    scale=scale,
    config=chosen['config']
    | {
      'train.steps': str(chosen['steps']),
      'train.sample_every': '0',
      'train.checkpoint_every': '50%',
      'train.evaluate_every': '25%',
    },
    rows=tuple(rows),
    metrics=('bits_per_dim', 'validation_loss', 'training_seconds'),
    claims=(
      Claim(
        'with as many examples, one position per example has a worse likelihood',
        (ONE, 'bits_per_dim'),
        above=(ALL, 'bits_per_dim'),
      ),
      Claim(
        'with 4 times the examples too',
        (row_name(4), 'bits_per_dim'),
        above=(ALL, 'bits_per_dim'),
      ),
    ),
    seeds=chosen['seeds'],
  )
