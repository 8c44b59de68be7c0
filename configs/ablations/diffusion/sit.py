"""SiT's tables 2 to 5: process, target, and sampling by the ODE or by the SDE.

twofold ablate --study=configs/ablations/diffusion/sit.py:cpu --workdir=runs/sit

Scales: cpu (scikit-learn's digits, three seeds), paper (latents of ImageNet at 256×256, the network
B/2 of configs/papers/dit.py, which says what the latents are; 50,000 samples), smoke (seconds;
nothing is learned).

Reproduces: Ma et al. 2024 (SiT), tables 2 to 5, SiT-B/2 after 400,000 steps; without the row of the
weighted score. The SDE's diffusion coefficient is that of the process (w^KL). The paper's SDE ends
with a step of 0.04 to clean data, and here with the grid's last one; the ODE is solved by an
adaptive method at scale paper, and by Heun's at cpu.

To expect: not measured yet.
"""

from typing import Any

from common.config import pick
from common.studies.claims import Claim
from common.studies.plans import Row, Study
from configs.ablations.diffusion import parts

DDPM = 'DDPM: noise'
SCORE = 'VP: score, ODE'
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
# Of digits: the least times, at which σ is 0.03 of α.
LEAST = {'vp_linear': 0.0058, 'rectified_flow': 0.03, 'gvp': 0.019}
COMMON = parts.UNCLIPPED | {
  'prediction.noise': 'time',
  'prediction.scale_input': False,
  'prediction.variance': 'fixed_small',
  'objective.times': {'name': 'uniform'},
}
DIGITS = COMMON | {'train.steps': '3000'}
SCALES = {
  'cpu': parts.Scale(f'{parts.IMAGES}:digits_eps', parts.DIGITS | DIGITS, (0, 1, 2)),
  'paper': parts.Scale('configs/papers/dit.py:B2', COMMON | parts.PAPER),
  'smoke': parts.Scale(f'{parts.IMAGES}:digits_eps', DIGITS | parts.SMOKE),
}
UNIFORM = {'grid': {'name': 'uniform'}}
WAYS = {  # sampler options, by scale: of the ODE, the SDE and DDPM
  'cpu': (
    {'sampler': {'name': 'heun'}, 'steps': 50} | UNIFORM,
    {'sampler': {'name': 'euler_maruyama'}, 'steps': 100} | UNIFORM,
    {'sampler': {'name': 'ancestral'}, 'steps': 100, 'grid': {'name': 'respaced'}},
  ),
  'paper': (
    {'sampler': {'name': 'adaptive', 'rtol': 1e-3, 'atol': 1e-6}, 'steps': 2} | UNIFORM,
    {'sampler': {'name': 'euler_maruyama'}, 'steps': 250} | UNIFORM,
    {'sampler': {'name': 'ancestral'}, 'steps': 250, 'grid': {'name': 'respaced'}},
  ),
}


def process_of(name: str, scale: str) -> dict[str, Any]:
  """The process of a name in the table, as a component."""
  component = {'name': PROCESSES[name]}
  return component if scale == 'paper' else component | {'t_min': LEAST[PROCESSES[name]]}


def get_study(scale: str = 'cpu') -> Study:
  """The study at a scale, a key of SCALES."""
  chosen, smoke = pick(SCALES, scale, 'scale'), scale == 'smoke'
  ode, sde, ddpm = WAYS['paper' if scale == 'paper' else 'cpu']
  noise = {'process': {'name': 'ddpm'}, 'prediction.target': 'eps'}
  # The score, with its error times σ², which is the error in the noise.
  score = {
    'process': process_of('VP', scale),
    'prediction.target': 'score',
    'objective.weighting': {'name': 'snr'},
  }
  velocity = {
    name: {'process': process_of(name, scale), 'prediction.target': 'velocity'}
    for name in PROCESSES
  }
  rows = (
    Row(DDPM, noise, ddpm),
    Row(SCORE, score, ode),
    *(Row(ODE[name], velocity[name], ode) for name in PROCESSES),
    *(Row(SDE[name], velocity[name], sde) for name in PROCESSES),
  )
  if smoke:
    rows = (Row(SDE['GVP'], velocity['GVP'], sde | {'steps': 4}),)
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
    paper_training=parts.DIT_TRAINING,
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
