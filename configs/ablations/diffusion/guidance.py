"""Classifier-free guidance, tables 1 and 2: its weight, the share of hidden classes, and steps.

twofold ablate --study=configs/ablations/diffusion/guidance.py:cpu --workdir=runs/guidance

Scales: cpu (scikit-learn's digits, three seeds), mnist (MNIST at 14×14, three seeds), steps
(table 2 on digits, three seeds), gpu (CIFAR-10, a small network and a short training), paper
(ImageNet at 64×64, configs/papers/guidance.py, 50,000 samples), smoke (seconds; nothing is
learned).
mnist needs, once: twofold prepare_data --dataset=mnist --image_size=14
gpu needs, once: twofold prepare_data --dataset=cifar10
paper needs, once: twofold prepare_data --dataset=imagenet --image_size=64 --source=ILSVRC/

Reproduces: Ho & Salimans 2022 (classifier-free guidance), table 1 (ImageNet at 64×64; at the
smaller scales for some of its weights) and some weights of table 2 (ImageNet at 128×128, whose
model is no config here): FID and Inception score. The paper's w = 0 is no guidance; here the weight
is 1 + w. In the place of the Inception score, which is not measured, stands the share of samples in
which a classifier recognises the class: both rise as samples become more typical of their class.
The steps of table 2 are an eighth of the paper's.

To expect for cpu, mnist and steps: docs/results/guidance.md.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from common.config import pick
from common.studies import grids
from common.studies.claims import Claim
from common.studies.grids import Setting
from common.studies.plans import Row, Study
from configs.ablations.diffusion import parts

SHARES = (0.1, 0.2, 0.5)  # p_uncond, the share of hidden classes
WEIGHTS = (0, 0.1, 0.3, 1, 2, 4)  # the paper's w; all of PUBLISHED at scale paper
PUBLISHED = {  # by w: FID and Inception score, in the order of SHARES
  0: ((1.80, 1.80, 2.21), (53.71, 52.9, 47.61)),
  0.1: ((1.55, 1.62, 1.91), (66.11, 64.58, 56.1)),
  0.2: ((2.04, 2.10, 2.08), (78.91, 76.99, 65.6)),
  0.3: ((3.03, 2.93, 2.65), (92.8, 88.64, 74.92)),
  0.4: ((4.30, 4.00, 3.44), (106.2, 101.11, 84.27)),
  0.5: ((5.74, 5.19, 4.34), (119.3, 112.15, 92.95)),
  0.6: ((7.19, 6.48, 5.27), (131.1, 122.13, 102)),
  0.7: ((8.62, 7.73, 6.23), (141.8, 131.6, 109.8)),
  0.8: ((10.08, 8.90, 7.25), (151.6, 140.82, 116.9)),
  0.9: ((11.41, 10.09, 8.21), (161, 150.26, 124.6)),
  1: ((12.6, 11.21, 9.13), (170.1, 158.29, 131.1)),
  2: ((21.03, 18.79, 16.16), (225.5, 212.98, 183)),
  3: ((24.83, 22.36, 19.75), (250.4, 237.65, 208.9)),
  4: ((26.22, 23.84, 21.48), (260.2, 248.97, 225.1)),
}
STEPS = {16: 128, 32: 256, 128: 1024}  # of table 2: ours, and the paper's
PUBLISHED_STEPS = {  # by w: FID and Inception score of ImageNet at 128×128, in the order of STEPS
  0: ((8.11, 7.27, 7.22), (81.46, 82.45, 81.54)),
  0.1: ((5.31, 4.53, 4.50), (105.01, 106.12, 104.67)),
  0.3: ((3.04, 2.43, 2.43), (156.09, 158.47, 156)),
  1: ((7.88, 7.86, 7.80), (295.29, 297.98, 294.56)),
  2: ((15.9, 15.93, 15.75), (378.56, 377.37, 373.18)),
  4: ((21.55, 21.53, 21.45), (422.29, 421.03, 419.06)),
}
PUBLISHED_AS = {
  'frechet': 'FID of ImageNet at 64×64 (Inception network)',
  'agreement': 'Inception score of ImageNet at 64×64',
}
PUBLISHED_AS_STEPS = {k: title.replace('64×64', '128×128') for k, title in PUBLISHED_AS.items()}
SHARE, WEIGHT, STEP = 'p_uncond={:g}', 'w={:g}', 'T={}'  # names of values
METRICS = ('frechet', 'agreement', 'precision', 'recall', 'evaluations', *parts.COMPUTE)
DIGITS = parts.DIGITS | {'train.steps': '2000'}
SCALES = {
  'cpu': parts.Scale(f'{parts.IMAGES}:digits', DIGITS, (0, 1, 2)),
  'mnist': parts.Scale(f'{parts.IMAGES}:mnist14', parts.MNIST, (0, 1, 2)),
  'steps': parts.Scale(f'{parts.IMAGES}:digits', DIGITS | {'label_dropout': SHARES[0]}, (0, 1, 2)),
  'gpu': parts.Scale(f'{parts.IMAGES}:cifar10', parts.SHORT | {'train.steps': '2000'}),
  'paper': parts.Scale('configs/papers/guidance.py:p10', parts.PAPER),
  'smoke': parts.Scale(f'{parts.IMAGES}:digits', parts.SMOKE),
}
ABOUT = (
  'A model is trained with the class hidden in a share p_uncond of the examples, and sampled with '
  'the estimate (1 + w) × conditional − w × unconditional. Guidance makes samples more typical and '
  'less varied.'
)
ABOUT_STEPS = ABOUT + (
  f' Here p_uncond is {SHARES[0]}, and T is the number of steps of ancestral sampling; published '
  f'cells have {", ".join(map(str, STEPS.values()))} steps.'
)


def row_name(first: float, weight: float, of: str = SHARE) -> str:
  """The name of a row, with the paper's weight; `first` is a share, or a number of steps."""
  return grids.row_name(of.format(first), WEIGHT.format(weight))


def cells_of(published: Mapping[float, Any], columns: Iterable[float], of: str = SHARE) -> dict:
  """Published cells by row and metric, from those of each weight in the order of columns."""
  return {
    (row_name(column, weight, of), metric): value
    for weight, cells in published.items()
    for metric, values in zip(('frechet', 'agreement'), cells, strict=True)
    for column, value in zip(columns, values, strict=True)
  }


def get_study(scale: str = 'cpu') -> Study:
  """The study at a scale, a key of SCALES."""
  chosen, smoke, of_steps = pick(SCALES, scale, 'scale'), scale == 'smoke', scale == 'steps'
  metrics = {'smoke': METRICS[:1], 'steps': METRICS[:-1]}.get(scale, METRICS)
  weights = PUBLISHED if scale == 'paper' else WEIGHTS
  weighted = {WEIGHT.format(w): Setting(sampling={'guidance': 1.0 + w}) for w in weights}
  if of_steps:
    first = {STEP.format(steps): steps_options(steps) for steps in STEPS}
    published, claims = cells_of(PUBLISHED_STEPS, STEPS, STEP), _claims_of_steps()
  else:
    first = {SHARE.format(share): Setting({'label_dropout': share}) for share in SHARES}
    published, claims = cells_of(PUBLISHED, SHARES), _claims()
  rows = grids.cross(first, weighted)
  if smoke:
    rows = (Row(rows[1].name, rows[1].config, rows[1].sampling | {'steps': 2}),)
  cells = {(row.name, metric) for row in rows for metric in metrics}
  return Study(
    name='guidance',
    title='The weight of guidance',
    about=ABOUT_STEPS if of_steps else ABOUT,
    base=chosen.base,
    scale=scale,
    paper=f'Ho & Salimans 2022 (classifier-free guidance), table {2 if of_steps else 1}',
    config=chosen.config,
    rows=rows,
    axes=('steps' if of_steps else 'share of examples without class', 'weight'),
    metrics=metrics,
    paper_training=None if of_steps else parts.GUIDANCE_TRAINING,
    published={cell: value for cell, value in published.items() if cell in cells},
    published_as=PUBLISHED_AS_STEPS if of_steps else PUBLISHED_AS,
    claims=() if smoke else claims,
    plots=() if smoke else (('agreement', 'frechet'), ('precision', 'recall')),
    seeds=chosen.seeds,
  )


def steps_options(steps: int) -> Setting:
  """Sampler options of a number of steps."""
  return Setting(sampling={'sampler': {'name': 'ancestral'}, 'steps': steps})


def _claims_of_steps() -> tuple[Claim, ...]:
  """The orders of the paper's table 2."""
  few, some, many = STEPS
  claims = []
  for weight in (0, 0.1, 0.3):
    first, second, last = (row_name(steps, weight, STEP) for steps in (few, some, many))
    claims += [
      parts.lower(f'more steps are better: {second} than {first}', second, first),
      Claim(
        f'and beyond that the distance stays (±10 %): {last}',
        (last, 'frechet'),
        near=(second, 'frechet'),
        within=0.1,
      ),
    ]
  for steps in STEPS:
    none, *small, large = (row_name(steps, weight, STEP) for weight in (0, 0.1, 0.3, 4))
    claims += [
      Claim(
        f'a small weight (0.1 or 0.3) has a lower Fréchet distance than none: T={steps}',
        (tuple(small), 'frechet'),
        below=(none, 'frechet'),
      ),
      parts.lower(f'and none a lower one than w=4: T={steps}', none, large),
    ]
  return tuple(claims)


def _claims() -> tuple[Claim, ...]:
  """The orders of the paper's table."""
  claims = []
  for share in SHARES:
    none, *small, two, four = (row_name(share, weight) for weight in (0, 0.1, 0.3, 2, 4))
    claims += [
      Claim(
        f'a small weight (0.1 or 0.3) has a lower Fréchet distance than none: p_uncond={share:g}',
        (tuple(small), 'frechet'),
        below=(none, 'frechet'),
      ),
      parts.lower('and none a lower one than w=2', none, two),
      parts.lower('and w=2 than w=4', two, four),
      parts.lower('classes are recognised more often at w=2 than at 0', none, two, 'agreement'),
      parts.lower('recall is lower at w=4 than at 0', four, none, 'recall'),
    ]
  first, second, last = (row_name(share, 0) for share in SHARES)
  return (
    *claims,
    parts.lower('without guidance, p_uncond=0.1 is better than 0.5', first, last),
    parts.lower('and 0.2 too', second, last),
  )
