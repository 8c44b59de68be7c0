"""One network for all noise levels, against 2, 4 and 8 experts for an interval of noise each.

twofold ablate --study=configs/ablations/experts.py:cpu --workdir=runs/experts

Scales: cpu (scikit-learn's digits, three seeds, about 20 minutes on one core), smoke (seconds;
nothing is learned).

Reproduces: nothing published; our own table, of the experts of eDiff-I (Balaji et al. 2022), which
that paper splits from one network during training; here they are apart from the start.

To expect: docs/results/experts.md.
"""

from common.config import pick
from common.studies.claims import Claim
from common.studies.plans import Row, Study

SHARED = 'one network'
# {number: the network of each expert, of which all together have the parameters of the shared one}
SMALL = {
  2: dict(width=40, depth=2, mlp_ratio=4.0),
  4: dict(width=28, depth=2, mlp_ratio=3.0),
  8: dict(width=20, depth=2, mlp_ratio=2.0),
}
SCALES = {
  'cpu': dict(
    numbers=tuple(SMALL),
    seeds=(0, 1, 2),
    config={'train.steps': '2000', 'train.steps_per_call': 50},
  ),
  'smoke': dict(
    numbers=(2,),
    seeds=(0,),
    config={
      'network.depth': 1,
      'train.steps': '4',
      'train.steps_per_call': 2,
      'evaluation.num_samples': 20,
      'evaluation.batch_size': 20,
    },
  ),
}


def small(number: int) -> str:
  """The row of experts that share out the parameters of one network."""
  return f'{number} experts, an equal share each'


def full(number: int) -> str:
  """The row of experts that are each as large as the one network."""
  return f'{number} experts, full size each'


def get_study(scale: str = 'cpu') -> Study:
  """The study at a scale, a key of SCALES."""
  chosen = pick(SCALES, scale, 'scale')
  numbers = chosen['numbers']
  rows = [Row(SHARED)]
  rows += [
    Row(small(k), {'experts': k} | {f'network.{key}': value for key, value in SMALL[k].items()})
    for k in numbers
  ]
  rows += [Row(full(k), {'experts': k}) for k in numbers]
  return Study(
    name='experts',
    title='One network per interval of noise',
    about=(
      'Each expert has an interval of noise levels, and training hits all intervals equally often. '
      'An example passes through one expert: with experts of full size, training and sampling cost '
      'as many operations as with one network, and with an equal share of its parameters fewer. '
      'Times are spread evenly over the batch in every row.'
    ),
    base='configs/diffusion/images.py:digits',
    scale=scale,
    paper='Balaji et al. 2022 (eDiff-I), section 4',
    config=chosen['config']
    | {
      'objective.times.stratified': True,
      'train.sample_every': '0',
      'train.checkpoint_every': '50%',
      'train.evaluate_every': '25%',
    },
    rows=tuple(rows),
    metrics=(
      'agreement',
      'frechet',
      'bits_per_dim',
      'evaluations',
      'seconds_per_sample',
      'parameters',
      'training_seconds',
    ),
    claims=_claims(numbers),
    plots=(('parameters', 'bits_per_dim'), ('parameters', 'frechet')),
    seeds=chosen['seeds'],
  )


def _claims(numbers: tuple[int, ...]) -> tuple[Claim, ...]:
  """What experts are for, and that the rows have the sizes that they are named after."""
  shares, sizes = (tuple(map(name, numbers)) for name in (small, full))
  return (
    Claim(
      'at equal cost, some number of full-size experts has a better likelihood than one network',
      (sizes, 'bits_per_dim'),
      below=(SHARED, 'bits_per_dim'),
    ),
    Claim(
      'and a lower Fréchet distance',
      (sizes, 'frechet'),
      below=(SHARED, 'frechet'),
    ),
    Claim(
      'with equal parameters, some number of experts has a better likelihood than one network',
      (shares, 'bits_per_dim'),
      below=(SHARED, 'bits_per_dim'),
    ),
    Claim(
      'and a lower Fréchet distance',
      (shares, 'frechet'),
      below=(SHARED, 'frechet'),
    ),
    Claim(
      'one network has the parameters of all experts with an equal share each (±5 %)',
      (SHARED, 'parameters'),
      near=(shares, 'parameters'),
      within=0.05,
    ),
    *(
      Claim(
        f'{k} experts of full size have {k} times the parameters of one network',
        (full(k), 'parameters'),
        near=(SHARED, 'parameters'),
        times=k,
        within=0.001,
      )
      for k in numbers
    ),
  )
