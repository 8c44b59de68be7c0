"""Solvers of one diffusion model: Fréchet distance by sampler and number of network evaluations.

twofold ablate --study=configs/ablations/solvers.py:mnist --workdir=runs/solvers

Scales: mnist (one model of configs/diffusion/images.py:mnist, trained for half its steps, then 38
evaluations of it), digits (the same in minutes), smoke (seconds; nothing is learned).

Reproduces: nothing published; our own table. Its rows with η are like those of DDIM (Song et al.
2021, table 1).

To expect for mnist: docs/solvers.md, with all numbers and which claims hold.
"""

from common.config import pick
from common.studies.claims import Claim
from common.studies.plans import Row, Study

BASES = {'mnist': 'mnist', 'digits': 'digits', 'smoke': 'digits'}  # variants, by scale
SCALES = {  # settings that differ from the variant, by scale
  'mnist': {'train.steps': '6000'},
  'digits': {},
  'smoke': {
    'train.steps': '4',
    'train.steps_per_call': 2,
    'evaluation.num_samples': 20,
    'evaluation.batch_size': 20,
  },
}

# {network evaluations: steps}
ONE = {n: n for n in (5, 10, 20, 40)}
TWO = {5: 3, 11: 6, 21: 11, 41: 21}  # two evaluations per step, one for the last step
# (name in the table, sampler, budgets)
DETERMINISTIC = (
  ('Euler', {'name': 'euler'}, ONE),
  ('DDIM', {'name': 'ddim', 'eta': 0.0}, ONE),
  ('Heun', {'name': 'heun'}, TWO),
  ('DPM-Solver++(2M)', {'name': 'dpmpp_2m'}, ONE),
  ('UniPC', {'name': 'unipc'}, ONE),
)
STOCHASTIC = (
  ('DDIM, η=0.2', {'name': 'ddim', 'eta': 0.2}, {n: n for n in (10, 20, 40)}),
  ('DDIM, η=0.5', {'name': 'ddim', 'eta': 0.5}, {n: n for n in (10, 20, 40)}),
  ('DDIM, η=1', {'name': 'ddim', 'eta': 1.0}, {n: n for n in (10, 20, 40)}),
  ('DPM-Solver++(3M) SDE', {'name': 'dpmpp_3m_sde'}, {n: n for n in (10, 20, 40)}),
  ('EDM, churned', {'name': 'edm', 's_churn': 10.0}, {21: 11, 41: 21}),
  ('predictor', {'name': 'reverse_diffusion'}, {n: n for n in (40, 100)}),
  ('predictor and corrector', {'name': 'predictor_corrector'}, {n: n // 2 for n in (40, 100)}),
)

CLAIMS = (
  Claim(
    'with 10 evaluations, a second-order multistep solver is better than DDIM',
    ('DPM-Solver++(2M), 10', 'frechet'),
    below=('DDIM, 10', 'frechet'),
  ),
  Claim(
    'with 10 steps, less noise is better: η=0 below η=1',
    ('DDIM, 10', 'frechet'),
    below=('DDIM, η=1, 10', 'frechet'),
  ),
  Claim(
    'with 10 steps, less noise is better: η=0.5 below η=1',
    ('DDIM, η=0.5, 10', 'frechet'),
    below=('DDIM, η=1, 10', 'frechet'),
  ),
  Claim(
    'at 100 evaluations, it is better to spend half of them in a corrector',
    ('predictor and corrector, 100', 'frechet'),
    below=('predictor, 100', 'frechet'),
  ),
)


def get_study(scale: str = 'mnist') -> Study:
  """The study at a scale, a key of SCALES."""
  config = pick(SCALES, scale, 'scale')
  # At scale smoke each solver has its smallest budget alone, and nothing is claimed.
  smoke = scale == 'smoke'
  rows = tuple(
    Row(f'{name}, {evaluations}', sampling={'sampler': sampler, 'steps': steps})
    for name, sampler, budget in (*DETERMINISTIC, *STOCHASTIC)
    for evaluations, steps in list(budget.items())[: 1 if smoke else None]
  )
  return Study(
    name='solvers',
    title='Solvers and their network evaluations',
    about=(
      'One trained model, sampled by each solver with a budget of network evaluations. '
      'Deterministic solvers follow the same flow, so they differ only in their error; '
      'η scales the noise that DDIM adds in each step (Song et al. 2021, table 1).'
    ),
    base=f'configs/diffusion/images.py:{BASES[scale]}',
    scale=scale,
    config=config | {'train.sample_every': '0'},
    rows=rows,
    metrics=('frechet', 'agreement', 'evaluations', 'seconds_per_sample'),
    claims=() if smoke else CLAIMS,
    plots=(('evaluations', 'frechet'),),
  )
