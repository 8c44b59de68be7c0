"""Six ways to draw an image, at equal parameters and equal training FLOPs.

twofold ablate --study=configs/ablations/seeds.py:digits --workdir=runs/seeds

Autoregression, a GAN, a VAE, diffusion over pixels, diffusion over the latents of a VAE, and
autoregression over the codes of a VQ-VAE. `twofold ablate --show` prints the parameters and the
training FLOPs of every row, those of a first stage included. configs/ablations/stability.py tries
other learning rates.

Scales: digits (scikit-learn's 8×8 digits, three seeds, half an hour on two quiet cores), cpu
(MNIST, three seeds, 100 minutes on two), gpu (CIFAR-10, three seeds, for one accelerator),
smoke (digits, seconds; nothing is learned).

Reproduces: nothing published; our own table.

To expect: docs/results/seeds.md, where digits and cpu are; gpu has not been measured.
"""

from typing import Any, NamedTuple

from common.config import pick
from common.studies.claims import Claim
from common.studies.plans import Row, Stability, Study

PIXELS, GAN, VAE = 'autoregression', 'GAN', 'VAE'
DIFFUSION = 'diffusion, 35 evaluations'
FEW = {n: f'diffusion, {n} evaluation{"s" if n > 1 else ""}' for n in (1, 5, 20, 100, 250)}
STAGE, LATENTS = 'first stage (VAE)', 'diffusion over latents'
CODE_STAGE, CODES = 'first stage (VQ-VAE)', 'autoregression over codes'
# Rows of the comparison, each with all parameters and FLOPs of its kind.
KINDS = (PIXELS, GAN, VAE, DIFFUSION, LATENTS, CODES)

Config = dict[str, Any]
DIGITS: dict[str, Config] = {  # by row: settings that differ from the variant `digits` of its file
  PIXELS: {},
  GAN: {'generator.width': 44, 'discriminator.width': 44, 'train.steps': '4800'},
  VAE: {
    'conditional': True,
    'network.width': 15,
    'network.groups': 5,
    'network.attention': False,
    'train.steps': '1760',
  },
  DIFFUSION: {'train.steps': '8000'},
  STAGE: {'network.width': 10, 'network.groups': 5},
  LATENTS: {'train.steps': '8400'},
  CODE_STAGE: {'network.width': 10, 'network.groups': 5},
  CODES: {},
}
MNIST: dict[str, Config] = {  # settings that differ from the variant `mnist` of its file
  PIXELS: {'network.width': 48, 'network.mlp_width': 128, 'train.steps': '1000'},
  GAN: {'generator.width': 22, 'discriminator.width': 22, 'train.steps': '5200'},
  VAE: {
    'conditional': True,
    'network.width': 14,
    'network.groups': 7,
    'network.attention': False,
    'train.steps': '680',
  },
  DIFFUSION: {'network.width': 48, 'train.steps': '3200'},
  STAGE: {'network.width': 10, 'network.groups': 5, 'train.steps': '500'},
  LATENTS: {'network.width': 36, 'network.depth': 4, 'train.steps': '3300'},
  CODE_STAGE: {'network.width': 10, 'network.groups': 5, 'train.steps': '500'},
  CODES: {
    'network.width': 48,
    'network.layers': 3,
    'network.mlp_width': 160,
    'train.steps': '5400',
  },
}
NARROW = {'network.width': 40, 'network.groups': 20, 'network.attention': False}
CIFAR10: dict[str, Config] = {  # settings that differ from the variant `cifar10` of its file
  PIXELS: {
    'network.width': 288,
    'network.layers': 6,
    'network.heads': 4,
    'network.dropout': 0.0,
    'train.steps': '2130',
  },
  GAN: {'generator.width': 272, 'data.flip': False, 'train.steps': '4100'},
  VAE: {
    'conditional': True,
    'network.width': 80,
    'network.groups': 20,
    'network.attention': False,
    'train.steps': '8100',
  },
  DIFFUSION: {
    'network.width': 64,
    'network.multipliers': (1, 2, 2),
    'network.dropout': 0.0,
    'train.steps': '6560',
  },
  STAGE: NARROW | {'train.steps': '8000'},
  LATENTS: {
    'network.width': 256,
    'network.depth': 4,
    'network.heads': 4,
    'train.steps': '36800',
  },
  CODE_STAGE: NARROW | {'train.steps': '8000'},
  CODES: {
    'network.width': 256,
    'network.layers': 6,
    'network.heads': 4,
    'network.dropout': 0.0,
    'train.steps': '48300',
  },
}
FILES = {  # by row: the file and the end of the variant's name
  PIXELS: ('autoregressive', ''),
  GAN: ('gan', ''),
  VAE: ('vae', ''),
  DIFFUSION: ('diffusion', ''),
  STAGE: ('vae', '_first_stage'),
  LATENTS: ('diffusion', '_latents'),
  CODE_STAGE: ('vae', '_codes'),
  CODES: ('autoregressive', '_codes'),
}
STAGES = {LATENTS: STAGE, CODES: CODE_STAGE}
EVERY = {'train.sample_every': '0', 'train.checkpoint_every': '50%', 'train.evaluate_every': '25%'}


class Scale(NamedTuple):
  """A size of the study.

  Attributes:
    data: the dataset, and the beginning of the variants' names.
    rows: by row, settings that differ from its variant.
    config: settings of all rows.
    seeds: the seeds.
    few: other numbers of evaluations of diffusion.
  """

  data: str
  rows: dict[str, Config]
  config: Config
  seeds: tuple[int, ...] = (0, 1, 2)
  few: tuple[int, ...] = tuple(FEW)


SMOKE = {
  'train.steps': '4',
  'train.steps_per_call': 2,
  'evaluation.num_samples': 20,
  'evaluation.batch_size': 20,
}
SCALES = {
  'digits': Scale('digits', DIGITS, {}),
  'cpu': Scale('mnist', MNIST, {}),
  'gpu': Scale('cifar10', CIFAR10, {'ema.decay': 0.999}),
  'smoke': Scale('digits', {row: {} for row in (GAN, STAGE, LATENTS)}, SMOKE, (0,), ()),
}
METRICS = (
  'evaluations',
  'seconds_per_sample',
  'frechet',
  'precision',
  'recall',
  'high_frequency',
  'reconstruction',
  'agreement',
  'bits_per_dim',
  'stable_runs',
  'parameters',
  'training_flops',
)


CLAIMS = (
  Claim(
    'all have the same number of parameters (±5 %)',
    (PIXELS, 'parameters'),
    near=(KINDS[1:], 'parameters'),
    within=0.05,
  ),
  Claim(
    'all train with the same FLOPs (±5 %)',
    (PIXELS, 'training_flops'),
    near=(KINDS[1:], 'training_flops'),
    within=0.05,
  ),
  Claim(
    'the samples of the VAE have less high-frequency energy than those of diffusion',
    (VAE, 'high_frequency'),
    below=(DIFFUSION, 'high_frequency'),
  ),
  Claim('and a larger Fréchet distance', (VAE, 'frechet'), above=(DIFFUSION, 'frechet')),
  Claim(
    'the GAN draws a sample faster than diffusion',
    (GAN, 'seconds_per_sample'),
    below=(DIFFUSION, 'seconds_per_sample'),
  ),
  Claim('the GAN has a lower recall than diffusion', (GAN, 'recall'), below=(DIFFUSION, 'recall')),
  Claim(
    'autoregression has the best likelihood',
    (PIXELS, 'bits_per_dim'),
    below=((VAE, DIFFUSION), 'bits_per_dim'),
  ),
  Claim(
    'diffusion is better with 20 evaluations than with 5',
    (FEW[20], 'frechet'),
    below=(FEW[5], 'frechet'),
  ),
  Claim('and with 5 than with 1', (FEW[5], 'frechet'), below=(FEW[1], 'frechet')),
  Claim(
    'with 20 evaluations its distance is below that of autoregression, which needs one for each '
    'pixel or patch',
    (FEW[20], 'frechet'),
    below=(PIXELS, 'frechet'),
  ),
  Claim(
    'diffusion over latents draws a sample faster than diffusion over pixels',
    (LATENTS, 'seconds_per_sample'),
    below=(DIFFUSION, 'seconds_per_sample'),
  ),
)


def model_rows(data: str, settings: dict[str, Config], numbers: tuple[int, ...]) -> list[Row]:
  """A row for each model, and diffusion with other numbers of evaluations."""
  rows = []
  for name in settings:
    file, end = FILES[name]
    base = f'configs/{file}/images.py:{data}{end}'
    rows.append(Row(name, settings[name], base=base, first_stage=STAGES.get(name, '')))
  few = {n: {'sampler': {'name': 'ddim'}, 'steps': n, 'grid.end': 'clean'} for n in numbers}
  diffusion = f'configs/diffusion/images.py:{data}'
  rows += [Row(FEW[n], settings[DIFFUSION], few[n], base=diffusion) for n in numbers]
  return rows


def get_study(scale: str = 'digits') -> Study:
  """The study at a scale, a key of SCALES."""
  chosen = pick(SCALES, scale, 'scale')
  return Study(
    name='seeds',
    title='Six ways to draw an image',
    about=(
      'Autoregression draws pixel after pixel; a GAN and a VAE in one evaluation of a network; '
      'diffusion in as many as one likes. Over the latents of an autoencoder, diffusion and '
      'autoregression draw fewer numbers. All have the same number of parameters and the same '
      'training FLOPs (±5 %), first stages included; claims below check both.'
    ),
    base=f'configs/diffusion/images.py:{chosen.data}',
    scale=scale,
    config=EVERY | chosen.config,
    rows=tuple(model_rows(chosen.data, chosen.rows, chosen.few)),
    metrics=METRICS,
    claims=() if scale == 'smoke' else CLAIMS,
    plots=(('evaluations', 'frechet'), ('precision', 'recall')),
    seeds=chosen.seeds,
    stability=Stability('frechet', 2.0),
  )
