"""Score SDE's table 1: predictors and correctors of the reverse SDE, for VE and VP.

twofold ablate --study=configs/ablations/diffusion/score_sde.py:cpu --workdir=runs/score_sde

Scales: cpu (scikit-learn's digits, three seeds; N = 50), gpu (CIFAR-10, a small network and a
short training; N = 100), paper (CIFAR-10, the network of configs/papers/ddpm.py trained for
1,300,000 steps, 50,000 samples; N = 1000), smoke (seconds; nothing is learned).
gpu and paper need, once: twofold prepare_data --dataset=cifar10

Reproduces: Song et al. 2021 (Score SDE), table 1. With N steps, PN are those of the predictor
alone, P2N twice as many, C2N as many corrections alone, and PCN a correction before each step.

What the paper does and this study does not: its corrector measures norms over the batch, and here
they are expected ones; its signal-to-noise ratio is 0.16 for VE, and not known to us for VP, which
has 0.16 here too; its probability flow is discretised like the reverse SDE, and here by Euler's
method; its networks are trained on the discrete steps of each process, and here in continuous time.

To expect: not measured yet.
"""

from typing import Any

from common.config import pick
from common.studies import grids
from common.studies.claims import Claim
from common.studies.plans import Row, Study
from configs.ablations.diffusion import parts

PREDICTORS = {  # by name in the table: the sampler
  'ancestral': {'name': 'ancestral'},
  'reverse diffusion': {'name': 'reverse_diffusion'},
  'probability flow': {'name': 'euler'},
}
PROCESSES: dict[str, dict[str, Any]] = {
  'VE': {'process': {'name': 've'}},
  'VP': {'process': {'name': 'vp_linear', 't_min': 1e-3}},  # samples end at 1e-3
}
COLUMNS = ('P1000', 'P2000', 'PC1000')
CORRECTOR = 'corrector'
PUBLISHED = {  # FID of CIFAR-10, by process and predictor, in the order of COLUMNS
  ('VE', 'ancestral'): (4.98, 4.88, 3.62),
  ('VE', 'reverse diffusion'): (4.79, 4.74, 3.60),
  ('VE', 'probability flow'): (15.41, 10.54, 3.51),
  ('VP', 'ancestral'): (3.24, 3.24, 3.21),
  ('VP', 'reverse diffusion'): (3.21, 3.19, 3.18),
  ('VP', 'probability flow'): (3.59, 3.23, 3.06),
}
CORRECTOR_ALONE = {'VE': 20.43, 'VP': 19.06}  # C2000
COMMON = parts.UNCLIPPED | {  # of continuous time: the network is given x at unit variance
  'conditional': False,
  'prediction.target': 'eps',
  'prediction.scale_input': True,
  'prediction.noise': 'log_snr',
  'prediction.variance': 'fixed_small',
  'likelihood': {'name': 'vlb'},
}
DIGITS = COMMON | parts.DIGITS | {'train.steps': '3000'}
CIFAR10 = 'configs/papers/ddpm.py:cifar10'
LENGTH = {'train.steps': '1300000'}  # 1.3 million
PAPER = parts.PAPER | LENGTH
TRAINING = parts.DDPM_TRAINING._replace(settings=LENGTH)
SCALES = {
  'cpu': parts.Scale(f'{parts.IMAGES}:digits_eps', DIGITS, (0, 1, 2)),
  'gpu': parts.Scale(CIFAR10, COMMON | parts.SHORT | {'train.steps': '3000'}),
  'paper': parts.Scale(CIFAR10, COMMON | PAPER),
  'smoke': parts.Scale(f'{parts.IMAGES}:digits_eps', COMMON | parts.SMOKE),
}
NUMBERS = {'cpu': 50, 'gpu': 100, 'paper': 1000, 'smoke': 4}  # N


def at(process: str, predictor: str, column: str, number: int) -> tuple[str, str, str]:
  """The place of a row on the axes: ('VE', 'ancestral', 'PC1000') with N in the place of 1000."""
  for old, new in ((2000, 2 * number), (1000, number)):
    column = column.replace(str(old), str(new))
  return process, predictor, column


def row_name(process: str, predictor: str, column: str, number: int) -> str:
  """The name of a row."""
  return grids.row_name(*at(process, predictor, column, number))


def sampling(predictor: str, column: str, number: int) -> dict[str, Any]:
  """Sampler options of a row."""
  sampler = PREDICTORS[predictor]
  if column.startswith('PC'):
    sampler = {'name': 'predictor_corrector', 'predictor': sampler['name']}
  steps = 2 * number if '2000' in column else number
  return {'sampler': sampler, 'steps': steps, 'grid': {'name': 'uniform'}}


def get_study(scale: str = 'cpu') -> Study:
  """The study at a scale, a key of SCALES."""
  chosen, number = pick(SCALES, scale, 'scale'), NUMBERS[scale]
  smoke = scale == 'smoke'
  rows, cells = [], {}
  for process, settings in PROCESSES.items():
    for predictor in PREDICTORS:
      for column, value in zip(COLUMNS, PUBLISHED[process, predictor], strict=True):
        name = row_name(process, predictor, column, number)
        place = at(process, predictor, column, number)
        rows.append(Row(name, settings, sampling(predictor, column, number), at=place))
        cells[name] = value
    name = row_name(process, CORRECTOR, 'C2000', number)
    alone = {'name': 'predictor_corrector', 'predictor': 'none'}
    options = {'sampler': alone, 'steps': 2 * number, 'grid': {'name': 'uniform'}}
    rows.append(Row(name, settings, options, at=at(process, CORRECTOR, 'C2000', number)))
    cells[name] = CORRECTOR_ALONE[process]
  if smoke:
    rows = [row for row in rows if row.name.startswith('VE') and 'P4' not in row.name][-2:]
  return Study(
    name='score_sde',
    title='Predictors and correctors',
    about=(
      'A predictor takes a step to the next noise level, and a corrector moves samples at one '
      'level by Langevin dynamics. PC with N steps takes as many evaluations as a predictor with '
      f'2N. Here N = {number}; published cells are of N = 1000.'
    ),
    base=chosen.base,
    scale=scale,
    paper='Song et al. 2021 (Score SDE), table 1',
    config=chosen.config,
    rows=tuple(rows),
    axes=('process', 'predictor', 'steps'),
    metrics=('frechet', 'evaluations', *(() if smoke else parts.COMPUTE)),
    paper_training=TRAINING,
    published=parts.of_rows(cells, rows),
    published_as=parts.CIFAR10_FID,
    claims=() if smoke else _claims(number),
    seeds=chosen.seeds,
  )


def _claims(number: int) -> tuple[Claim, ...]:
  """The orders of the paper's table."""
  claims = []
  for process in PROCESSES:
    alone = row_name(process, CORRECTOR, 'C2000', number)
    for predictor in PREDICTORS:
      one, two, both = (row_name(process, predictor, column, number) for column in COLUMNS)
      claims += [
        parts.lower(f'{both} is better than {one}', both, one),
        parts.lower(f'and, with as many evaluations, than {two}', both, two),
        parts.lower(f'and than {alone}', both, alone),
      ]
    reverse, ancestral, flow = (
      row_name(process, predictor, 'P1000', number)
      for predictor in ('reverse diffusion', 'ancestral', 'probability flow')
    )
    claims.append(parts.lower(f'{reverse} is better than {ancestral}', reverse, ancestral))
    claims.append(parts.lower(f'{ancestral} is better than {flow}', ancestral, flow))
  return tuple(claims)
