"""Patches of an image: autoregression over 1, 4 or 16 pixels at once, and diffusion transformers.

twofold ablate --study=configs/ablations/images/patches.py:cpu --workdir=runs/patches

Scales: cpu (scikit-learn's digits, three seeds), gpu (MNIST, three seeds), smoke (seconds; nothing
is learned). gpu needs, once:

  twofold prepare_data --dataset=mnist

Reproduces: two published questions on our own data. What does it cost a causal network to draw
several emissions at once, independent given the past? The published cells are of PAR (Wang et al.
2024, table 2), class-conditional ImageNet at 256×256 by one, 4 and 16 tokens at once, of which 16
are a patch of 4×4; its tokens are codes, and those of a step lie far apart. And what do larger
patches cost a diffusion transformer (Peebles & Xie 2022; configs/ablations/diffusion/dit.py has
their table)? bits/dim of autoregression is exact, that of diffusion a bound.

To expect for cpu: docs/results/patches.md.
"""

from typing import Any

from common.config import pick
from common.studies.claims import Claim
from common.studies.plans import Row, Study
from configs.ablations.diffusion import parts

AUTOREGRESSION, DIFFUSION = 'autoregression', 'diffusion'
PATCHES, BITS = (1, 2, 4), 'bits_per_dim'
BASES = {
  AUTOREGRESSION: 'configs/autoregressive/images.py',
  DIFFUSION: 'configs/diffusion/images.py',
}
SETTINGS = {AUTOREGRESSION: 'ordering.size', DIFFUSION: 'network.patch'}
METRICS = (BITS, 'frechet', 'evaluations', 'parameters', 'training_flops')
# FID and calls of the network for an image.
PUBLISHED = {1: (2.34, 576), 2: (2.35, 147), 4: (3.02, 51)}
PUBLISHED_AS = {
  'frechet': 'FID of ImageNet at 256×256 (1, 4 and 16 tokens at once)',
  'evaluations': 'of 576 tokens',
}
# The networks of both are those of digits and of MNIST, at the same number of steps for each patch.
DIGITS: dict[str, Any] = parts.DIGITS | {'train.steps': '3000', 'optimizer.learning_rate': 2e-3}
MNIST: dict[str, Any] = parts.FEW_WRITES | {'train.steps': '20000'}
SMOKE: dict[str, Any] = {
  key: value for key, value in parts.SMOKE.items() if key != 'network.depth'
} | {'optimizer.learning_rate': 2e-3}
# Settings of the networks, and options, at the smoke scale.
TINY = {
  AUTOREGRESSION: ({'network.layers': 1}, {}),
  DIFFUSION: ({'network.depth': 1}, {'steps': 2}),
}
SCALES: dict[str, dict[str, Any]] = {
  'cpu': dict(data='digits', config=DIGITS, seeds=(0, 1, 2)),
  'gpu': dict(data='mnist', config=MNIST, seeds=(0, 1, 2)),
  'smoke': dict(data='digits', config=SMOKE, patches=(4,)),
}


def row_name(kind: str, patch: int) -> str:
  """The name of a row."""
  return f'{kind}, {patch}×{patch}'


def row(kind: str, patch: int, data: str, config: dict, sampling: dict) -> Row:
  """A model of patches, with more settings and options."""
  config = {SETTINGS[kind]: patch} | config
  return Row(row_name(kind, patch), config, sampling, base=f'{BASES[kind]}:{data}')


def get_study(scale: str = 'cpu') -> Study:
  """The study at a scale, a key of SCALES."""
  chosen = pick(SCALES, scale, 'scale')
  patches = chosen.get('patches', PATCHES)
  rows = tuple(
    row(kind, patch, chosen['data'], *(TINY[kind] if scale == 'smoke' else ({}, {})))
    for kind in BASES
    for patch in patches
  )
  return Study(
    name='patches',
    title='Patches of pixels',
    about=(
      'A larger patch makes an image fewer emissions, or fewer positions, so that a step of '
      'training and a sample cost less. Pixels of a patch are independent given the patches '
      'before it; a diffusion model has no such restriction.'
    ),
    base=f'{BASES[AUTOREGRESSION]}:{chosen["data"]}',
    scale=scale,
    paper='Wang et al. 2024 (PAR), table 2',
    config=chosen['config'],
    rows=rows,
    metrics=METRICS[1:] if scale == 'smoke' else METRICS,  # a likelihood is another program
    published={
      (row_name(AUTOREGRESSION, patch), metric): value
      for patch in patches
      for metric, value in zip(PUBLISHED_AS, PUBLISHED[patch], strict=True)
    },
    published_as=PUBLISHED_AS,
    claims=_claims() if patches == PATCHES else (),
    seeds=chosen.get('seeds', (0,)),
  )


def _claims() -> tuple[Claim, ...]:
  """That each larger patch has a price."""
  pixels, small, large = (row_name(AUTOREGRESSION, patch) for patch in PATCHES)
  claims = [
    parts.lower('bits/dim: autoregression by pixels is the best', pixels, (small, large), BITS),
    parts.lower('bits/dim: 2×2 is better than 4×4', small, large, BITS),
    parts.lower('distance: autoregression by pixels is better than by 4×4', pixels, large),
  ]
  rows = [row_name(DIFFUSION, patch) for patch in PATCHES]
  return (*claims, *parts.in_order('distance of diffusion: {} below {}', rows))
