"""Diffusion against autoregression at equal training FLOPs, in three sizes each.

twofold ablate --study=configs/ablations/compute.py:digits --workdir=runs/compute

All six models train with the same FLOPs, so a larger one sees fewer examples; of each size, the two
families have the same number of parameters (±5 %). Diffusion draws with 5 to 250 evaluations of its
network, and `sampling_flops` puts both families on one axis. The bits/dim of autoregression are
exact. Those of diffusion are the variational bound, and in rows of their own the likelihood of the
probability flow, which shares their models.

Scales: digits (scikit-learn's 8×8 digits, three seeds, for two CPU cores), gpu (CIFAR-10, one seed,
for one accelerator), smoke (digits, seconds; nothing is learned).
gpu needs, once: twofold prepare_data --dataset=cifar10

Reproduces: nothing published; our own table.

To expect for digits: docs/results/compute.md, of one seed.
"""

from typing import Any, NamedTuple

from common.config import pick
from common.studies.claims import Claim
from common.studies.plans import Row, Study

PIXELS, DIFFUSION, FLOW = 'autoregression', 'diffusion', 'diffusion, probability flow'
SIZES = ('S', 'M', 'L')
NUMBERS = (5, 20, 100, 250)  # evaluations of diffusion, besides those of its config
Config = dict[str, Any]


class Scale(NamedTuple):
  """A size of the study.

  Attributes:
    data: the dataset: the name of a variant.
    pixels, diffusion: by size, the settings of the models.
    config: settings of all rows.
    seeds: the seeds.
    sizes: the sizes.
    numbers: numbers of evaluations.
    flow: whether diffusion has rows with the likelihood of the probability flow.
  """

  data: str
  pixels: dict[str, Config]
  diffusion: dict[str, Config]
  config: Config
  seeds: tuple[int, ...] = (0, 1, 2)
  sizes: tuple[str, ...] = SIZES
  numbers: tuple[int, ...] = NUMBERS
  flow: bool = True


def transformer(width: int, steps: int, layers: int = 3, mlp: float = 3.75) -> Config:
  """An autoregressive transformer over pixels."""
  sizes = {'width': width, 'layers': layers, 'mlp_width': round(mlp * width)}
  return {f'network.{k}': v for k, v in sizes.items()} | {'train.steps': str(steps)}


DIGITS = Scale(
  'digits',
  {'S': transformer(32, 3800), 'M': transformer(64, 1100), 'L': transformer(128, 306, mlp=3.6)},
  {
    'S': {'network.width': 24, 'train.steps': '30300'},
    'M': {'network.width': 48, 'train.steps': '8000'},
    'L': {'network.width': 96, 'train.steps': '2100'},
  },
  {},
)
U_NET = {'network.multipliers': (1, 2, 2), 'network.dropout': 0.0}
PLAIN = {'network.heads': 4, 'network.dropout': 0.0}
CIFAR10 = Scale(
  'cifar10',
  {
    'S': transformer(144, 2330, layers=6, mlp=4) | PLAIN,
    'M': transformer(288, 800, layers=6, mlp=4) | PLAIN,
    'L': transformer(584, 240, layers=6, mlp=4) | PLAIN,
  },
  {
    'S': U_NET | {'network.width': 32, 'train.steps': '9330'},
    'M': U_NET | {'network.width': 64, 'train.steps': '2460'},
    'L': U_NET | {'network.width': 128, 'train.steps': '630'},
  },
  {'ema.decay': 0.999, 'evaluation.num_samples': 5000},
  seeds=(0,),
)
SMOKE = {
  'train.steps': '4',
  'train.steps_per_call': 2,
  'evaluation.num_samples': 20,
  'evaluation.batch_size': 20,
}
SCALES = {
  'digits': DIGITS,
  'gpu': CIFAR10,
  'smoke': Scale(
    'digits',
    {'S': {'network.layers': 1}},
    {'S': {'network.depth': 1}},
    SMOKE,
    seeds=(0,),
    sizes=('S',),
    numbers=(5,),
    flow=False,
  ),
}
EVERY = {'train.sample_every': '0', 'train.checkpoint_every': '50%', 'train.evaluate_every': '25%'}
METRICS = (
  'bits_per_dim',
  'frechet',
  'evaluations',
  'sampling_flops',
  'seconds_per_sample',
  'parameters',
  'training_flops',
  'examples_seen',
)


def name_of(kind: str, size: str, number: int = 0) -> str:
  """The name of a row."""
  return f'{kind}, {size}' + (f', {number} evaluations' if number else '')


def rows_of(scale: Scale) -> list[Row]:
  """The rows of a scale."""
  autoregressive, diffusion = (
    f'configs/{family}/images.py:{scale.data}' for family in ('autoregressive', 'diffusion')
  )
  rows = [Row(name_of(PIXELS, s), scale.pixels[s], base=autoregressive) for s in scale.sizes]
  for size in scale.sizes:
    settings = scale.diffusion[size]
    rows.append(Row(name_of(DIFFUSION, size), settings, base=diffusion))
    for number in scale.numbers:
      options = {'sampler': {'name': 'ddim'}, 'steps': number, 'grid.end': 'clean'}
      rows.append(Row(name_of(DIFFUSION, size, number), settings, options, base=diffusion))
    if scale.flow:
      flow = settings | {'likelihood': {'name': 'flow'}}
      rows.append(Row(name_of(FLOW, size), flow, base=diffusion))
  return rows


def get_study(scale: str = 'digits') -> Study:
  """The study at a scale, a key of SCALES."""
  chosen = pick(SCALES, scale, 'scale')
  return Study(
    name='compute',
    title='Diffusion against autoregression at equal training FLOPs',
    about=(
      'Six models, three of each family, trained with the same FLOPs: a larger model sees fewer '
      'examples. Sizes of the same letter have the same number of parameters.'
    ),
    base=f'configs/diffusion/images.py:{chosen.data}',
    scale=scale,
    config=EVERY | chosen.config,
    rows=tuple(rows_of(chosen)),
    metrics=METRICS,
    claims=() if scale == 'smoke' else claims_of(chosen),
    plots=(('sampling_flops', 'frechet'), ('parameters', 'bits_per_dim')),
    seeds=chosen.seeds,
  )


def claims_of(scale: Scale) -> tuple[Claim, ...]:
  """That the comparison is fair, and what it shows."""
  first, *others = (name_of(kind, size) for size in scale.sizes for kind in (PIXELS, DIFFUSION))
  claims = [
    Claim(
      'all train with the same FLOPs (±5 %)',
      (first, 'training_flops'),
      near=(tuple(others), 'training_flops'),
      within=0.05,
    )
  ]
  for size in scale.sizes:
    pixels, diffusion, flow = (name_of(kind, size) for kind in (PIXELS, DIFFUSION, FLOW))
    claims += [
      Claim(
        f'{size}: both have the same number of parameters (±5 %)',
        (pixels, 'parameters'),
        near=(diffusion, 'parameters'),
        within=0.05,
      ),
      Claim(
        f'{size}: autoregression has the better likelihood, by the bound and by the flow',
        (pixels, 'bits_per_dim'),
        below=((diffusion, flow), 'bits_per_dim'),
      ),
      Claim(
        f'{size}: the samples of diffusion have the lower Fréchet distance',
        (diffusion, 'frechet'),
        below=(pixels, 'frechet'),
      ),
      Claim(
        f'{size}: and so with 5 evaluations, which cost less than a sample of autoregression',
        (name_of(DIFFUSION, size, 5), 'frechet'),
        below=(pixels, 'frechet'),
      ),
    ]
  return tuple(claims)
