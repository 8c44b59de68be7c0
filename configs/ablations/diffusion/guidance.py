"""Classifier-free guidance, table 1: the weight of guidance and the share of hidden classes.

twofold ablate --study=configs/ablations/diffusion/guidance.py:cpu --workdir=runs/guidance

Scales: cpu (scikit-learn's digits, three seeds), mnist (MNIST at 14×14, three seeds), gpu
(CIFAR-10, a small network and a short training), paper (ImageNet at 64×64,
configs/papers/guidance.py, 50,000 samples), smoke (seconds; nothing is learned).
mnist needs, once: twofold prepare_data --dataset=mnist --image_size=14
gpu needs, once: twofold prepare_data --dataset=cifar10
paper needs, once: twofold prepare_data --dataset=imagenet --image_size=64 --source=ILSVRC/

Reproduces: Ho & Salimans 2022 (classifier-free guidance), table 1, for some of its weights: FID and
Inception score of ImageNet at 64×64. The paper's w = 0 is no guidance; here the weight is 1 + w. In
the place of the Inception score, which is not measured, stands the share of samples in which a
classifier recognises the class: both rise as samples become more typical of their class.

To expect for cpu and mnist: docs/results/guidance.md.
"""

from common.config import pick
from common.studies import grids
from common.studies.claims import Claim
from common.studies.grids import Setting
from common.studies.plans import Row, Study
from configs.ablations.diffusion import parts

SHARES = (0.1, 0.2, 0.5)  # p_uncond, the share of hidden classes
WEIGHTS = (0, 0.1, 0.3, 1, 2, 4)  # the paper's w
PUBLISHED = {  # by w: FID and Inception score, in the order of SHARES
  0: ((1.80, 1.80, 2.21), (53.71, 52.9, 47.61)),
  0.1: ((1.55, 1.62, 1.91), (66.11, 64.58, 56.1)),
  0.3: ((3.03, 2.93, 2.65), (92.8, 88.64, 74.92)),
  1: ((12.6, 11.21, 9.13), (170.1, 158.29, 131.1)),
  2: ((21.03, 18.79, 16.16), (225.5, 212.98, 183)),
  4: ((26.22, 23.84, 21.48), (260.2, 248.97, 225.1)),
}
PUBLISHED_AS = {
  'frechet': 'FID of ImageNet at 64×64 (Inception network)',
  'agreement': 'Inception score of ImageNet at 64×64',
}
SHARE, WEIGHT = 'p_uncond={:g}', 'w={:g}'  # names of values
METRICS = ('frechet', 'agreement', 'precision', 'recall', 'evaluations', *parts.COMPUTE)
DIGITS = parts.DIGITS | {'train.steps': '2000'}
SCALES = {
  'cpu': parts.Scale(f'{parts.IMAGES}:digits', DIGITS, (0, 1, 2)),
  'mnist': parts.Scale(f'{parts.IMAGES}:mnist14', parts.MNIST, (0, 1, 2)),
  'gpu': parts.Scale(f'{parts.IMAGES}:cifar10', parts.SHORT | {'train.steps': '2000'}),
  'paper': parts.Scale('configs/papers/guidance.py:p10', parts.PAPER),
  'smoke': parts.Scale(f'{parts.IMAGES}:digits', parts.SMOKE),
}


def row_name(share: float, weight: float) -> str:
  """The name of a row, with the paper's weight."""
  return grids.row_name(SHARE.format(share), WEIGHT.format(weight))


def get_study(scale: str = 'cpu') -> Study:
  """The study at a scale, a key of SCALES."""
  chosen, smoke = pick(SCALES, scale, 'scale'), scale == 'smoke'
  rows = grids.cross(
    {SHARE.format(share): Setting({'label_dropout': share}) for share in SHARES},
    {WEIGHT.format(w): Setting(sampling={'guidance': 1.0 + w}) for w in WEIGHTS},
  )
  published = {
    (row_name(share, weight), metric): value
    for weight, cells in PUBLISHED.items()
    for metric, values in zip(('frechet', 'agreement'), cells, strict=True)
    for share, value in zip(SHARES, values, strict=True)
  }
  if smoke:
    rows = (Row(rows[1].name, rows[1].config, rows[1].sampling | {'steps': 2}),)
  cells = {(row.name, metric) for row in rows for metric in (METRICS[:1] if smoke else METRICS)}
  return Study(
    name='guidance',
    title='The weight of guidance',
    about=(
      'A model is trained with the class hidden in a share p_uncond of the examples, and sampled '
      'with the estimate (1 + w) × conditional − w × unconditional. Guidance makes samples more '
      'typical and less varied.'
    ),
    base=chosen.base,
    scale=scale,
    paper='Ho & Salimans 2022 (classifier-free guidance), table 1',
    config=chosen.config,
    rows=rows,
    axes=('share of examples without class', 'weight'),
    metrics=('frechet',) if smoke else METRICS,
    paper_training=parts.GUIDANCE_TRAINING,
    published={cell: value for cell, value in published.items() if cell in cells},
    published_as=PUBLISHED_AS,
    claims=() if smoke else _claims(),
    plots=() if smoke else (('agreement', 'frechet'), ('precision', 'recall')),
    seeds=chosen.seeds,
  )


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
