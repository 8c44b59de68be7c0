"""DDPM's table 2: what the network predicts, the objective, and the variance of the reverse step.

twofold ablate --study=configs/ablations/diffusion/ddpm.py:cpu --workdir=runs/ddpm_table

Scales: cpu (scikit-learn's digits with T = 100, three seeds), mnist (MNIST at 14×14 with T = 100,
three seeds), gpu (CIFAR-10 with T = 100, a small network and a short training), paper (CIFAR-10,
configs/papers/ddpm.py, T = 1000, 50,000 samples), smoke (seconds; nothing is learned).
mnist needs, once: twofold prepare_data --dataset=mnist --image_size=14
gpu and paper need, once: twofold prepare_data --dataset=cifar10

Reproduces: Ho et al. 2020 (DDPM), table 2: FID, and the bound in bits/dim where it is printed. L is
the variational bound, of which each training step draws one term. A learned variance lies between
the two fixed ones on a log scale (Nichol & Dhariwal 2021), limits that the paper's does not have.
The Inception scores of the table are not measured.

To expect for cpu: docs/results/ddpm.md. mnist is not measured yet.
"""

from typing import Any

from common.config import pick
from common.studies.claims import Claim
from common.studies.plans import Row, Study
from configs.ablations.diffusion import parts

MEAN_LEARNED, MEAN_FIXED, MEAN_MSE = 'μ̃, L, learned Σ', 'μ̃, L, fixed Σ', 'μ̃, unweighted MSE'
NOISE_LEARNED, NOISE_FIXED, NOISE_SIMPLE = 'ε, L, learned Σ', 'ε, L, fixed Σ', 'ε, L_simple'
ROWS = {  # by name: target, weighting and variance
  MEAN_LEARNED: ('posterior_mean', 'vlb', 'learned'),
  MEAN_FIXED: ('posterior_mean', 'vlb', 'fixed_large'),
  MEAN_MSE: ('posterior_mean', 'simple', 'fixed_large'),
  NOISE_LEARNED: ('eps', 'vlb', 'learned'),
  NOISE_FIXED: ('eps', 'vlb', 'fixed_large'),
  NOISE_SIMPLE: ('eps', 'simple', 'fixed_large'),
}
UNSTABLE = 'unstable'
FIDS = {
  MEAN_LEARNED: 23.69,
  MEAN_FIXED: 13.22,
  MEAN_MSE: UNSTABLE,
  NOISE_LEARNED: UNSTABLE,
  NOISE_FIXED: 13.51,
  NOISE_SIMPLE: 3.17,
}
METRICS = ('frechet', 'bits_per_dim', 'evaluations', *parts.COMPUTE)
BITS = {NOISE_FIXED: '≤ 3.70', NOISE_SIMPLE: '≤ 3.75'}
SHORT_TABLE = {  # 100 steps, all of them sampled and summed over
  'process': {'name': 'ddpm', 'steps': 100},
  'sampling.sampler': {'name': 'ancestral'},
  'sampling.steps': 100,
  'sampling.grid': {'name': 'respaced'},
  'likelihood': {'name': 'vlb', 'terms': 99},
  'objective.times': {'name': 'uniform'},
}
SMALL = SHORT_TABLE | {'conditional': False, 'prediction.scale_input': False}
SMALL |= {'prediction.noise': 'time'}
DIGITS = SMALL | {'train.steps': '3000'}
CIFAR10 = 'configs/papers/ddpm.py:cifar10'
SCALES = {
  'cpu': parts.Scale(f'{parts.IMAGES}:digits_eps', parts.DIGITS | DIGITS, (0, 1, 2)),
  'mnist': parts.Scale(f'{parts.IMAGES}:mnist14_eps', parts.MNIST | SMALL, (0, 1, 2)),
  'gpu': parts.Scale(CIFAR10, SHORT_TABLE | parts.SHORT | {'train.steps': '2000'}),
  'paper': parts.Scale(CIFAR10, parts.PAPER),
  'smoke': parts.Scale(f'{parts.IMAGES}:digits_eps', DIGITS | parts.SMOKE | {'sampling.steps': 4}),
}


def settings(target: str, weighting: str, variance: str) -> dict[str, Any]:
  """The settings of a row."""
  return {
    'prediction.target': target,
    'objective.weighting': {'name': weighting},
    'prediction.variance': variance,
  }


def get_study(scale: str = 'cpu') -> Study:
  """The study at a scale, a key of SCALES."""
  chosen = pick(SCALES, scale, 'scale')
  smoke = scale == 'smoke'
  names = (MEAN_LEARNED,) if smoke else tuple(ROWS)
  rows = tuple(Row(name, settings(*ROWS[name])) for name in names)
  published = parts.of_rows(FIDS, rows)
  if not smoke:
    published |= parts.of_rows(BITS, rows, 'bits_per_dim')
  return Study(
    name='ddpm',
    title="DDPM's target, objective and variance",
    about=(
      'The network predicts the mean of the posterior q(x_s | x_t, x₀) or the noise. L weighs the '
      'steps as the bound does, and L_simple and the unweighted MSE weigh the errors of all steps '
      'alike. The fixed variance is the larger one, β.'
    ),
    base=chosen.base,
    scale=scale,
    paper='Ho et al. 2020 (DDPM), table 2',
    config=chosen.config,
    rows=rows,
    metrics=('frechet',) if smoke else METRICS,
    paper_training=parts.DDPM_TRAINING,
    published=published,
    published_as=parts.CIFAR10_FID | {'bits_per_dim': 'bits/dim of CIFAR-10'},
    claims=() if smoke else _claims(),
    seeds=chosen.seeds,
  )


def _claims() -> tuple[Claim, ...]:
  """What the paper says of its table."""
  others = tuple(name for name in ROWS if name != NOISE_SIMPLE)
  return (
    parts.lower('ε by L_simple has the best samples', NOISE_SIMPLE, others),
    parts.lower('for μ̃ a fixed variance is better than a learned one', MEAN_FIXED, MEAN_LEARNED),
    parts.lower('μ̃ needs the bound: the unweighted MSE is worse', MEAN_FIXED, MEAN_MSE),
    parts.lower('for ε too a learned variance is worse', NOISE_FIXED, NOISE_LEARNED),
    Claim(
      'ε and μ̃ are about as good as each other, by L with a fixed variance (±10 %)',
      (NOISE_FIXED, 'frechet'),
      near=(MEAN_FIXED, 'frechet'),
      within=0.1,
    ),
    parts.lower(
      'L has a better likelihood than L_simple', NOISE_FIXED, NOISE_SIMPLE, 'bits_per_dim'
    ),
  )
