"""DiT's table 4: sizes of the network and of its patches, and designs of its blocks.

twofold ablate --study=configs/ablations/diffusion/dit.py:cpu --workdir=runs/dit_sizes

Scales: cpu (scikit-learn's digits, three widths and patches of 1 to 4 pixels, three seeds), paper
(latents of ImageNet at 256×256, configs/papers/dit.py, which says what they are; 50,000 samples),
smoke (seconds; nothing is learned).

Reproduces: Peebles & Xie 2022 (DiT), table 4 and figure 5: FID after 400,000 steps, parameters, and
operations. tests/configs/test_papers.py compares parameters and operations with the paper's. At cpu
there are no published cells, because its networks are others. How the modulation of adaLN without
zero starts is not known to us; here it starts at zero too, and only the gates are left out.

To expect: not measured yet.
"""

from typing import Any

from common.config import pick
from common.studies.claims import Claim
from common.studies.plans import Row, Study
from configs.ablations.diffusion import parts

PAPER = 'configs/papers/dit.py'
SIZES, PATCHES = ('S', 'B', 'L', 'XL'), (8, 4, 2)
# FID, billions of multiplications, and millions of parameters, in the order of PATCHES.
PUBLISHED = {
  'S': ((153.60, 0.36, 33), (100.41, 1.41, 33), (68.40, 6.06, 33)),
  'B': ((122.74, 1.42, 131), (68.38, 5.56, 130), (43.47, 23.01, 130)),
  'L': ((118.87, 5.01, 459), (45.64, 19.70, 458), (23.33, 80.71, 458)),
  'XL': ((106.41, 7.39, 676), (43.01, 29.05, 675), (19.47, 118.64, 675)),
}
BLOCKS = {  # of the largest network with the smallest patch: network.block, and the same numbers
  'in-context': ('in_context', (35.24, 119.4, 449)),
  'cross-attention': ('cross_attention', (26.14, 137.6, 598)),
  'adaLN': ('adaln', (25.21, 118.6, 600)),
}
PUBLISHED_AS = {
  'frechet': 'FID of ImageNet at 256×256 (Inception network)',
  'training_flops': 'Gflops of an image (multiplications)',
}
SMALL_SIZES = {  # of digits: width, depth and heads
  'width 16': dict(width=16, depth=2, heads=2),
  'width 32': dict(width=32, depth=3, heads=4),
  'width 64': dict(width=64, depth=3, heads=4),
}
SMALL_PATCHES = (4, 2, 1)
LARGEST, SMALL_LARGEST = ('XL', 2), ('width 64', 2)  # whose blocks are varied
DIGITS = {'train.steps': '1500', 'optimizer.learning_rate': 2e-3}
SCALES = {
  'cpu': parts.Scale(f'{parts.IMAGES}:digits', parts.DIGITS | DIGITS, (0, 1, 2)),
  'paper': parts.Scale(f'{PAPER}:XL2', parts.PAPER),
  'smoke': parts.Scale(f'{parts.IMAGES}:digits', parts.SMOKE),
}


def row_name(size: str, patch: int, block: str = '') -> str:
  """The name of a row, as the paper writes it: 'XL/2', or 'XL/2, in-context'."""
  return f'{size}/{patch}, {block}' if block else f'{size}/{patch}'


def paper_rows() -> tuple[Row, ...]:
  """The rows of the paper's table."""
  sizes = tuple(
    Row(row_name(size, patch), base=f'{PAPER}:{size}{patch}') for size in SIZES for patch in PATCHES
  )
  return sizes + tuple(
    Row(row_name(*LARGEST, name), {'network.block': block}, base=f'{PAPER}:XL2')
    for name, (block, _) in BLOCKS.items()
  )


def small_rows() -> tuple[Row, ...]:
  """The same for images of 8×8 pixels."""
  sizes = tuple(
    Row(row_name(size, patch), small_network(size, patch))
    for size in SMALL_SIZES
    for patch in SMALL_PATCHES
  )
  return sizes + tuple(
    Row(row_name(*SMALL_LARGEST, name), small_network(*SMALL_LARGEST) | {'network.block': block})
    for name, (block, _) in BLOCKS.items()
  )


def small_network(size: str, patch: int) -> dict[str, Any]:
  """The settings of a network for digits."""
  settings = SMALL_SIZES[size] | {'patch': patch}
  return {f'network.{key}': value for key, value in settings.items()}


def published_cells() -> dict[tuple[str, str], float]:
  """The published cells, parameters as numbers."""
  rows = {
    row_name(size, patch): numbers
    for size, of_size in PUBLISHED.items()
    for patch, numbers in zip(PATCHES, of_size, strict=True)
  }
  rows |= {row_name(*LARGEST, name): numbers for name, (_, numbers) in BLOCKS.items()}
  cells = {}
  for row, (fid, gflops, millions) in rows.items():
    cells |= {
      (row, 'frechet'): fid,
      (row, 'training_flops'): gflops,
      (row, 'parameters'): millions * 1e6,
    }
  return cells


def get_study(scale: str = 'cpu') -> Study:
  """The study at a scale, a key of SCALES."""
  chosen, paper = pick(SCALES, scale, 'scale'), scale == 'paper'
  rows, claims = (paper_rows() if paper else small_rows()), ()
  if scale == 'smoke':
    rows = (Row(row_name('width 48', 4), {'network.patch': 4}, {'steps': 2}),)
  else:
    claims = _claims(*((SIZES, PATCHES) if paper else (tuple(SMALL_SIZES), SMALL_PATCHES)))
    claims += _block_claims(*(LARGEST if paper else SMALL_LARGEST))
  return Study(
    name='dit',
    title='Sizes, patches and blocks of diffusion transformers',
    about=(
      'With the same number of training steps, a smaller patch costs more operations and no '
      'parameters, and a larger network both. Blocks are told the condition by adaLN-Zero, apart '
      'from the rows that name another way.'
    ),
    base=chosen.base,
    scale=scale,
    paper='Peebles & Xie 2022 (DiT), table 4 and figure 5',
    config=chosen.config,
    rows=rows,
    metrics=('frechet', 'parameters', 'training_flops', 'examples_seen'),
    paper_training=parts.DIT_TRAINING if paper else None,
    published=published_cells() if paper else {},
    published_as=PUBLISHED_AS,
    claims=claims,
    plots=() if scale == 'smoke' else (('training_flops', 'frechet'),),
    seeds=chosen.seeds,
  )


def _claims(sizes: tuple[str, ...], patches: tuple[int, ...]) -> tuple[Claim, ...]:
  """That each step to a larger network or a smaller patch pays."""
  claims = []
  for size in sizes:
    rows = [row_name(size, patch) for patch in reversed(patches)]
    claims += parts.in_order('a smaller patch is better: {} below {}', rows)
  for patch in patches:
    rows = [row_name(size, patch) for size in reversed(sizes)]
    claims += parts.in_order('a larger network is better: {} below {}', rows)
  return tuple(claims)


def _block_claims(size: str, patch: int) -> tuple[Claim, ...]:
  """The order of the paper's figure 5: adaLN-Zero, then adaLN, cross-attention and in-context."""
  rows = [row_name(size, patch), *(row_name(size, patch, name) for name in reversed(BLOCKS))]
  return tuple(parts.in_order('blocks: {} below {}', rows))
