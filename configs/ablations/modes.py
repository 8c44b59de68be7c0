"""Mode collapse, measured: how many modes of the data a GAN, a VAE and diffusion draw.

twofold ablate --study=configs/ablations/modes.py:points --workdir=runs/modes
twofold prepare_data --dataset=stacked_mnist                      (once)
twofold ablate --study=configs/ablations/modes.py:stacked --workdir=runs/stacked

Scales: points (a ring of 8 and a grid of 25 Gaussians, three seeds),
stacked (Stacked MNIST: 1,000 modes, three digits in the channels of an image), smoke (points,
seconds; nothing is learned).

Reproduces: nothing published; the data and measures of Metz et al. 2017, Srivastava et al. 2017
(VEEGAN) and Lin et al. 2018 (PacGAN), with our own small networks.

To expect: docs/results/modes.md.
"""

from collections.abc import Collection
from typing import Any

from common.config import pick
from common.studies.claims import Claim
from common.studies.plans import Row, Study

SETS = {'ring': 'ring', '25 Gaussians': 'gaussians25'}
KINDS = {  # by name in the table: the folder of the configs, and the end of the variant's name
  'GAN': ('gan', ''),
  'GAN with R1': ('gan', '_r1'),
  'VAE': ('vae', ''),
  'diffusion': ('diffusion', ''),
}
GAN, R1, VAE, DIFFUSION = KINDS
STACKED = 'stacked MNIST'
EVERY = {'train.sample_every': '0', 'train.checkpoint_every': '50%', 'train.evaluate_every': '50%'}
SMOKE = {
  'train.steps': '4',
  'train.steps_per_call': 2,
  'evaluation.num_samples': 40,
  'evaluation.batch_size': 40,
}


def name(data: str, kind: str) -> str:
  """The name of a row."""
  return f'{data}: {kind}'


def points(sets: Collection[str], kinds: Collection[str]) -> tuple[Row, ...]:
  """A row for each of these kinds of models on each of these mixtures."""
  return tuple(
    Row(name(data, kind), base=f'configs/{folder}/points.py:{SETS[data]}{end}')
    for data in sets
    for kind, (folder, end) in KINDS.items()
    if kind in kinds
  )


def stacked() -> tuple[Row, ...]:
  """A row for each kind of model on Stacked MNIST."""
  kinds = {kind: folder for kind, (folder, end) in KINDS.items() if kind != GAN}
  return tuple(
    Row(name(STACKED, kind), base=f'configs/{folder}/images.py:stacked_mnist')
    for kind, folder in kinds.items()
  )


def claims(sets: tuple[str, ...], gan: str) -> tuple[Claim, ...]:
  """What is said of GANs, on each set."""
  made = []
  for data in sets:
    one, other = (name(data, kind) for kind in (gan, DIFFUSION))
    made += [
      Claim(f'{data}: the GAN covers fewer modes', (one, 'modes'), below=(other, 'modes')),
      Claim(f'{data}: and less evenly', (one, 'mode_kl'), above=(other, 'mode_kl')),
    ]
  return tuple(made)


SCALES: dict[str, dict[str, Any]] = {
  'points': dict(
    rows=points(SETS, KINDS), config=EVERY, seeds=(0, 1, 2), claims=claims(tuple(SETS), GAN)
  ),
  'stacked': dict(rows=stacked(), config=EVERY, seeds=(0, 1, 2), claims=claims((STACKED,), R1)),
  'smoke': dict(
    rows=points(('ring',), (GAN, DIFFUSION)), config=EVERY | SMOKE, claims=claims(('ring',), GAN)
  ),
}


def get_study(scale: str = 'points') -> Study:
  """The study at a scale, a key of SCALES."""
  metrics = ('modes', 'mode_kl')
  metrics += ('precision', 'recall') if scale == 'stacked' else ('high_quality',)
  return Study(
    name='modes',
    title='Mode collapse, measured',
    about=(
      'A generator that fools its discriminator with some of the modes has no reason to draw the '
      'others; a likelihood, or a bound of it, punishes every mode that is left out. The modes of '
      'these data are known, so they can be counted.'
    ),
    base='configs/diffusion/points.py:ring',
    scale=scale,
    metrics=(*metrics, 'evaluations', 'parameters', 'training_flops'),
    **pick(SCALES, scale, 'scale'),
  )
