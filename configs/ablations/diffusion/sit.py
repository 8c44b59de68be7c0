"""SiT's tables 2 to 5: process, target, and sampling by the ODE or by the SDE.

twofold ablate --study=configs/ablations/diffusion/sit.py:cpu --workdir=runs/sit

Scales: cpu (scikit-learn's digits, three seeds), mnist (MNIST at 14×14, three seeds), paper
(latents of ImageNet at 256×256, the variants B2 of configs/papers/sit.py and, for the first row,
configs/papers/dit.py, which says what the latents are; 50,000 samples), smoke (seconds; nothing is
learned).
mnist needs, once: twofold prepare_data --dataset=mnist --image_size=14

Reproduces: Ma et al. 2024 (SiT), tables 2 to 5, SiT-B/2 after 400,000 steps; without the row of the
weighted score. Two rows more, of digits and MNIST, tell model and sampler apart. The SDE's
diffusion coefficient is that of the process (w^KL). The ODE is solved by an adaptive method at
scale paper, and by Heun's at the others.

To expect for cpu: docs/results/sit.md. mnist is not measured yet.
"""

import dataclasses
from typing import Any

from common.config import pick
from common.studies.claims import Claim
from common.studies.plans import Row, Study
from configs.ablations.diffusion import parts

DDPM = 'DDPM: noise'
SCORE = 'VP: score, ODE'
# Not in the paper, whose first step changes model and sampler: each model with the other sampler.
DDPM_ODE, SCORE_SDE = 'DDPM: noise, ODE', 'VP: score, SDE'
PROCESSES = {'VP': 'vp_linear', 'linear': 'rectified_flow', 'GVP': 'gvp'}
ODE, SDE = (
  {process: f'{process}: velocity, {way}' for process in PROCESSES} for way in ('ODE', 'SDE')
)
PUBLISHED = {  # FID of ImageNet at 256×256, without guidance
  DDPM: 44.2,
  SCORE: 43.6,
  ODE['VP']: 39.8,
  ODE['linear']: 34.8,
  ODE['GVP']: 34.6,
  SDE['VP']: 37.8,
  SDE['linear']: 33.6,
  SDE['GVP']: 32.9,
}
IMAGENET_FID = {'frechet': 'FID of ImageNet at 256×256 (Inception network, SiT-B/2)'}
# By data: the least times, at which σ is 0.03 of α, or 0.004.
LEAST = {
  'digits': {'vp_linear': 0.0058, 'rectified_flow': 0.03, 'gvp': 0.019},
  'mnist': {'vp_linear': 1.6e-4, 'rectified_flow': 0.004, 'gvp': 0.0025},
}
SMALL = parts.UNCLIPPED | {
  'prediction.noise': 'time',
  'prediction.scale_input': False,
  'prediction.variance': 'fixed_small',
  'objective.times': {'name': 'uniform'},
}
DIGITS = SMALL | {'train.steps': '3000'}
PAPER = 'configs/papers/sit.py'
SCALES = {
  'cpu': parts.Scale(f'{parts.IMAGES}:digits_eps', parts.DIGITS | DIGITS, (0, 1, 2)),
  'mnist': parts.Scale(f'{parts.IMAGES}:mnist14_eps', parts.MNIST | SMALL, (0, 1, 2)),
  'paper': parts.Scale(f'{PAPER}:B2', parts.PAPER),
  'smoke': parts.Scale(f'{parts.IMAGES}:digits_eps', DIGITS | parts.SMOKE),
}
UNIFORM = {'grid': {'name': 'uniform'}}
WAYS = {  # sampler options at cpu and mnist: of DDPM, the ODE and the SDE
  DDPM: {'sampler': {'name': 'ancestral'}, 'steps': 100, 'grid': {'name': 'respaced'}},
  'ODE': {'sampler': {'name': 'heun'}, 'steps': 50} | UNIFORM,
  'SDE': {'sampler': {'name': 'euler_maruyama'}, 'steps': 100} | UNIFORM,
  DDPM_ODE: {'sampler': {'name': 'ddim'}, 'steps': 100, 'grid': {'name': 'respaced'}},
}
ADAPTIVE = {  # of the ODE at paper; DDPM and the SDE are those of the configs
  'sampler': {'name': 'adaptive', 'rtol': 1e-3, 'atol': 1e-6},
  'steps': 2,
  'grid': {'name': 'uniform', 'last': 0.0},
}


def small_rows(data: str) -> tuple[Row, ...]:
  """The rows for small images, a key of LEAST."""
  score = {
    'process': process_of('VP', data),
    'prediction.target': 'score',
    'objective.weighting': {'name': 'snr'},  # the error of the score times σ²: that of the noise
  }
  velocity = {
    name: {'process': process_of(name, data), 'prediction.target': 'velocity'} for name in PROCESSES
  }
  discrete = {'process': {'name': 'ddpm'}, 'prediction.target': 'eps'}
  return (
    Row(DDPM, discrete, WAYS[DDPM]),
    Row(DDPM_ODE, discrete, WAYS[DDPM_ODE]),
    Row(SCORE, score, WAYS['ODE']),
    Row(SCORE_SDE, score, WAYS['SDE']),
    *(Row(ODE[name], velocity[name], WAYS['ODE']) for name in PROCESSES),
    *(Row(SDE[name], velocity[name], WAYS['SDE']) for name in PROCESSES),
  )


def process_of(name: str, data: str) -> dict[str, Any]:
  """The process of a name in the table, as a component, for small images."""
  process = PROCESSES[name]
  return {'name': process, 't_min': LEAST[data][process]}


def paper_rows() -> tuple[Row, ...]:
  """The rows of the paper."""
  bases = {
    name: f'{PAPER}:B2' if name == 'linear' else f'{PAPER}:B2_{name.lower()}_velocity'
    for name in PROCESSES
  }
  return (
    Row(DDPM, base='configs/papers/dit.py:B2'),
    Row(SCORE, sampling=ADAPTIVE, base=f'{PAPER}:B2_vp_score'),
    *(Row(ODE[name], sampling=ADAPTIVE, base=base) for name, base in bases.items()),
    *(Row(SDE[name], base=base) for name, base in bases.items()),
  )


def get_study(scale: str = 'cpu') -> Study:
  """The study at a scale, a key of SCALES."""
  chosen, smoke = pick(SCALES, scale, 'scale'), scale == 'smoke'
  small = small_rows('mnist' if scale == 'mnist' else 'digits')
  rows = paper_rows() if scale == 'paper' else small
  if smoke:
    rows = tuple(
      dataclasses.replace(row, sampling=row.sampling | {'steps': 4}) for row in rows[-1:]
    )
  return Study(
    name='sit',
    title='Processes and targets of interpolants',
    about=(
      'From a discrete process that predicts the noise, step by step to the straight path that '
      'predicts the velocity; then the same models sampled by the SDE.'
    ),
    base=chosen.base,
    scale=scale,
    paper='Ma et al. 2024 (SiT), tables 2 to 5',
    config=chosen.config,
    rows=rows,
    metrics=('frechet', 'evaluations', *(() if smoke else parts.COMPUTE)),
    paper_training=parts.SIT_TRAINING,
    published=parts.of_rows(PUBLISHED, rows),
    published_as=IMAGENET_FID,
    claims=() if smoke else _claims(),
    seeds=chosen.seeds,
  )


def _claims() -> tuple[Claim, ...]:
  """The orders of the paper's tables."""
  return (
    parts.lower('the continuous score is better than discrete noise', SCORE, DDPM),
    parts.lower('the velocity is better than the score', ODE['VP'], SCORE),
    *(
      parts.lower(f'the {name} path is better than VP, by the ODE', ODE[name], ODE['VP'])
      for name in ('linear', 'GVP')
    ),
    *(
      parts.lower(f'the {name} path is better than VP, by the SDE', SDE[name], SDE['VP'])
      for name in ('linear', 'GVP')
    ),
    *(parts.lower(f'the SDE is better than the ODE: {name}', SDE[name], ODE[name]) for name in ODE),
  )
