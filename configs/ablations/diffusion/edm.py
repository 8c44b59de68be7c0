"""EDM's axes: solver, grid and churn of one model; and preconditioning, loss and augmentation.

twofold ablate --study=configs/ablations/diffusion/edm.py:cpu --workdir=runs/edm_axes

Scales: cpu (scikit-learn's digits, three seeds), long (the models of cpu trained four times as
long, one seed), mnist (MNIST at 14×14, three seeds), gpu (CIFAR-10, a small network and a short
training), paper (CIFAR-10, configs/papers/edm.py:cond_vp, 50,000 samples), smoke (seconds; nothing
is learned).
mnist needs, once: twofold prepare_data --dataset=mnist --image_size=14
gpu and paper need, once: twofold prepare_data --dataset=cifar10

Reproduces: Karras et al. 2022, table 2, configs C to F with classes (VP), as far as they are known:
the settings of C and D are ours, by the definition of each part, because we have not read the
authors'. The rows of solvers and grids stand for figure 2, whose numbers are not printed.

To expect for cpu, long and mnist: docs/results/edm.md.
"""

import math
from typing import Any

from common.config import pick
from common.studies.claims import Claim
from common.studies.plans import Row, Study
from configs.ablations.diffusion import parts

VP_EPS = 1e-3  # the smallest time of the VP grid (Song et al. 2021)
C, D, E, F = 'C: predicts ε', 'D: + preconditioning', 'E: + loss', 'F: + augmentation'
PUBLISHED = {C: 2.08, D: 2.09, E: 1.88, F: 1.79}
GRIDS = ('ρ=7', 'even in σ', 'even in log σ (VE)', 'VP', 'cosine')
EVALUATIONS = {11: {'Euler': 11, 'Heun': 6}, 35: {'Euler': 35, 'Heun': 18}}  # {n: steps}
CHURNS = (2.0, 10.0)  # with 18 steps, all above 7.5 add the same noise
OFF = {'augmentation.probability': 0.0}
# By data: the noise levels of E's process, and the least time of C's at which σ/α is the smaller.
LEVELS = {'digits': (0.03, 80.0, 0.0058), 'others': (0.002, 80.0, 1e-5)}
AUGMENTED = {'augmentation.probability': 0.12} | parts.UNCLIPPED
DIGITS = AUGMENTED | {'train.steps': '2000'}
CIFAR10 = 'configs/papers/edm.py:cond_vp'
SHORT = parts.SHORT | {
  'train.steps': '3000',
  'data.batch_size': 128,
  'optimizer.learning_rate': 5e-4,
  'ema.half_life': '0',
}
SCALES = {
  'cpu': parts.Scale(f'{parts.IMAGES}:digits', parts.DIGITS | DIGITS, (0, 1, 2)),
  'long': parts.Scale(f'{parts.IMAGES}:digits', parts.DIGITS | DIGITS | {'train.steps': '8000'}),
  'mnist': parts.Scale(f'{parts.IMAGES}:mnist14', parts.MNIST | AUGMENTED, (0, 1, 2)),
  'gpu': parts.Scale(CIFAR10, SHORT),
  'paper': parts.Scale(CIFAR10, parts.PAPER),
  'smoke': parts.Scale(f'{parts.IMAGES}:digits', DIGITS | parts.SMOKE),
}


def sampler_name(solver: str, grid: str, evaluations: int) -> str:
  """The name of a row of a solver and a grid."""
  return f'{solver}, {grid}, {evaluations} evaluations'


def churn_name(churn: float) -> str:
  """The name of a row with added noise."""
  return f'Heun, ρ=7, 35 evaluations, S_churn={churn:g}'


def grid_settings(name: str, steps: int, low: float, high: float) -> dict[str, Any]:
  """The grid of a name, with this number of noise levels from `high` down to `low`."""
  shares = [index / (steps - 1) for index in range(steps)]
  if name == 'VP':
    # σ² + 1 = exp(½·β_d·t² + β_min·t) (Karras et al. 2022, table 1), at equal steps in t; the β
    # that give `high` at t = 1 and `low` at VP_EPS.
    start, end = math.log1p(high**2), math.log1p(low**2)
    slope = 2 * (end / VP_EPS - start) / (VP_EPS - 1)
    times = [1 + share * (VP_EPS - 1) for share in shares]
    exponents = [0.5 * slope * t**2 + (start - 0.5 * slope) * t for t in times]
    levels = [math.sqrt(math.expm1(exponent)) for exponent in exponents]
  elif name == 'cosine':
    # Equal steps in the angle whose tangent is σ: Nichol & Dhariwal 2021, without their table.
    first, last = math.atan(high), math.atan(low)
    levels = [math.tan(first + share * (last - first)) for share in shares]
  else:
    kinds = {'ρ=7': 'karras', 'even in σ': 'uniform', 'even in log σ (VE)': 'log_snr'}
    return {'name': kinds[name]}
  # The ends exactly: rounding may not take the first beyond the largest time.
  return {'name': 'given', 'times': (high, *levels[1:-1], low)}


def training_rows(levels: tuple[float, float, float]) -> list[Row]:
  """Configs C to F, sampled by Heun's method on EDM's grid."""
  preconditioned = OFF | {
    'process': {'name': 'vp_linear', 't_min': levels[2]},
    'objective.weighting': {'name': 'snr'},  # 1/σ²
    'objective.times': {'name': 'uniform'},
  }
  plain = preconditioned | {
    'prediction.target': 'eps',
    'prediction.noise': 'time',
    'prediction.scale_input': False,
  }
  vp = {'sampler': {'name': 'heun', 'space': 'ratio'}}
  return [Row(C, plain, vp), Row(D, preconditioned, vp), Row(E, OFF), Row(F)]


def sampler_rows(levels: tuple[float, float, float]) -> list[Row]:
  """Solvers and grids at equal numbers of evaluations, and added noise, of config E's model."""
  rows = []
  for number, budget in EVALUATIONS.items():
    for solver, steps in budget.items():
      for grid in GRIDS:
        if (number, solver, grid) == (35, 'Heun', 'ρ=7'):
          continue  # which is config E
        settings = grid_settings(grid, steps, *levels[:2])
        options = {'sampler': {'name': solver.lower()}, 'steps': steps, 'grid': settings}
        rows.append(Row(sampler_name(solver, grid, number), OFF, options))
  rows += [
    Row(churn_name(churn), OFF, {'sampler': {'name': 'edm', 's_churn': churn}}) for churn in CHURNS
  ]
  return rows


def get_study(scale: str = 'cpu') -> Study:
  """The study at a scale, a key of SCALES."""
  chosen = pick(SCALES, scale, 'scale')
  levels = LEVELS['others' if scale in ('mnist', 'gpu', 'paper') else 'digits']
  trainings, samplers = training_rows(levels), sampler_rows(levels)
  rows = tuple(trainings if scale == 'long' else trainings + samplers)
  smoke = scale == 'smoke'
  if smoke:
    wanted = (E, sampler_name('Euler', 'VP', 11))
    rows = tuple(row for row in rows if row.name in wanted)
  return Study(
    name='edm',
    title="EDM's parts",
    about=(
      'Config C predicts the noise on the VP process; D adds preconditioning, E the noise levels '
      'and the weighting of EDM, and F augmentation. The other rows sample the model of E: Euler '
      'and Heun on five grids of noise levels, with as many evaluations, and with added noise.'
    ),
    base=chosen.base,
    scale=scale,
    paper='Karras et al. 2022, table 2 (configs C to F, with classes, VP)',
    config=chosen.config,
    rows=rows,
    metrics=('frechet', 'evaluations', *(() if smoke else parts.COMPUTE)),
    paper_training=parts.EDM_TRAINING,
    published=parts.of_rows(PUBLISHED, rows),
    published_as=parts.CIFAR10_FID,
    claims=_claims_of(scale),
    plots=() if scale in ('smoke', 'long') else (('evaluations', 'frechet'),),
    seeds=chosen.seeds,
  )


def _claims_of(scale: str) -> tuple[Claim, ...]:
  """The claims of a scale."""
  if scale == 'smoke':
    return ()
  return _training_claims() if scale == 'long' else _training_claims() + _sampling_claims()


def _training_claims() -> tuple[Claim, ...]:
  """What the paper says of the parts of training."""
  return (
    parts.lower('the loss of E is better than that of D', E, D),
    parts.lower('augmentation (F) is better than none (E)', F, E),
    Claim(
      'preconditioning alone changes little (±25 %)',
      (D, 'frechet'),
      near=(C, 'frechet'),
      within=0.25,
    ),
  )


def _sampling_claims() -> tuple[Claim, ...]:
  """What the paper says of solvers, grids and added noise."""
  heun = {grid: sampler_name('Heun', grid, 35) for grid in GRIDS} | {'ρ=7': E}
  others = GRIDS[1:]
  return (
    *(
      parts.lower(
        f"with 35 evaluations, Heun's method is better than Euler's: {grid}",
        heun[grid],
        sampler_name('Euler', grid, 35),
      )
      for grid in GRIDS
    ),
    *(
      parts.lower(f'with 35 evaluations of Heun, ρ=7 is better than the grid {grid}', E, heun[grid])
      for grid in others
    ),
    *(
      parts.lower(
        f'with 11 evaluations of Heun, ρ=7 is better than the grid {grid}',
        sampler_name('Heun', 'ρ=7', 11),
        sampler_name('Heun', grid, 11),
      )
      for grid in others
    ),
    *(
      parts.lower(f'no added noise is better than S_churn={churn:g}', E, churn_name(churn))
      for churn in CHURNS
    ),
  )
