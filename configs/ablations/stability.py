"""Stability: the share of trainings, over learning rates and seeds, that end near the best.

twofold ablate --study=configs/ablations/stability.py:digits --workdir=runs/stability

Autoregression, a GAN, a VAE and diffusion, each with a quarter, once and four times the learning
rate of its variant. A run is stable if its Fréchet distance is at most twice that of the best run
of its kind; one that diverges is not.

Scales: digits (three seeds, a quarter of the steps of configs/ablations/seeds.py), smoke (digits,
seconds; nothing is learned).

Reproduces: nothing published; our own table.

To expect: docs/results/seeds.md.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from common.config import pick
from common.studies.claims import Claim
from common.studies.plans import Row, Stability, Study
from configs.ablations import seeds
from configs.ablations.seeds import DIFFUSION, GAN, PIXELS, VAE

FACTORS = (0.25, 4.0)  # of the learning rates of tries
LEARNING_RATES = {PIXELS: 3e-3, GAN: 1e-3, VAE: 2e-3, DIFFUSION: 3e-3}  # as in the variants
GROUPS = tuple(f'optimizer.groups.{player}' for player in ('generator', 'discriminator'))
STEPS = {PIXELS: '280', GAN: '1200', VAE: '440', DIFFUSION: '2000'}
SCALES: dict[str, dict[str, Any]] = {
  'digits': dict(steps=STEPS, config={}, seeds=(0, 1, 2), factors=FACTORS),
  'smoke': dict(steps={GAN: '4'}, config=seeds.SMOKE, seeds=(0,), factors=FACTORS[:1]),
}


def rows(steps: Mapping[str, str], factors: Sequence[float]) -> tuple[Row, ...]:
  """Each kind of model with its own learning rate, and its tries with others, which inherit it."""
  made = []
  for name in steps:
    file, rate = seeds.FILES[name][0], LEARNING_RATES[name]
    config = seeds.DIGITS[name] | {'train.steps': steps[name]}
    made.append(Row(name, config, base=f'configs/{file}/images.py:digits'))
    for factor in factors:
      keys = GROUPS if file == 'gan' else ('optimizer',)
      changed = {f'{key}.learning_rate': rate * factor for key in keys}
      made.append(Row(f'{name}, learning rate × {factor:g}', changed, tries_of=name))
  return tuple(made)


def claim(row: str) -> Claim:
  """That a GAN is less stable than another kind."""
  return Claim(
    f'a smaller share of the runs of the GAN is stable than of those of {row}',
    (GAN, 'stable_runs'),
    below=(row, 'stable_runs'),
  )


def get_study(scale: str = 'digits') -> Study:
  """The study at a scale, a key of SCALES."""
  chosen = pick(SCALES, scale, 'scale')
  return Study(
    name='stability',
    title='Stability over learning rates and seeds',
    about=(
      'Each model with three learning rates and some seeds. A run is stable if its distance is at '
      'most twice that of the best run of its kind.'
    ),
    base='configs/diffusion/images.py:digits',
    scale=scale,
    config=seeds.EVERY | chosen['config'],
    rows=rows(chosen['steps'], chosen['factors']),
    metrics=('frechet', 'stable_runs'),
    claims=tuple(claim(row) for row in chosen['steps'] if row != GAN),
    seeds=chosen['seeds'],
    stability=Stability('frechet', 2.0),
  )
