"""Five ways to draw an image, at equal parameters and equal training FLOPs.

twofold ablate --study=configs/ablations/seeds.py:digits --workdir=runs/seeds

Autoregression, a GAN, a VAE, diffusion over pixels, diffusion over the latents of a VAE, and
autoregression over the codes of a VQ-VAE. `twofold ablate --show` prints the parameters and the
training FLOPs of every row, those of a first stage included. Tries, rows with another learning
rate, show how stable a training is.

Scales: digits (scikit-learn's 8×8 digits, three seeds and tries), cpu (MNIST at 28×28, three
seeds), gpu (CIFAR-10, three seeds), smoke (digits, seconds; nothing is learned).

Reproduces: nothing published; our own table.

To expect: docs/results/seeds.md.
"""

from typing import Any

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
LEARNING_RATES = (0.25, 4.0)  # of the tries, as factors
GROUPS = tuple(f'optimizer.groups.{player}' for player in ('generator', 'discriminator'))

Config = dict[str, Any]
DIGITS: dict[str, Config] = {  # by row: settings that differ from the variant `digits` of its file
  PIXELS: {},
  GAN: {'generator.width': 44, 'discriminator.width': 44, 'train.steps': '4800'},
  VAE: {'network.width': 15, 'network.groups': 5, 'train.steps': '1700'},
  DIFFUSION: {'train.steps': '8000'},
  STAGE: {'network.width': 10, 'network.groups': 5},
  LATENTS: {'train.steps': '8400'},
  CODE_STAGE: {'network.width': 10, 'network.groups': 5},
  CODES: {},
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
# By scale: the data, the settings of each row, those of all rows, and the seeds.
SCALES = {
  'digits': ('digits', DIGITS, {}, (0, 1, 2)),
  'smoke': (
    'digits',
    {row: {} for row in DIGITS},
    {
      'train.steps': '4',
      'train.steps_per_call': 2,
      'evaluation.num_samples': 20,
      'evaluation.batch_size': 20,
    },
    (0, 1),
  ),
}
METRICS = (
  'evaluations',
  'seconds_per_sample',
  'frechet',
  'precision',
  'recall',
  'high_frequency',
  'agreement',
  'bits_per_dim',
  'stable_runs',
  'parameters',
  'training_flops',
)


def rates(file: str, config: Config, factor: float) -> Config:
  """The settings of a try: the learning rates of a row, times a factor."""
  if file == 'gan':
    return {f'{group}.learning_rate': config[f'{group}.learning_rate'] * factor for group in GROUPS}
  return {'optimizer.learning_rate': config['optimizer.learning_rate'] * factor}


def get_study(scale: str = 'digits') -> Study:
  """The study at a scale, a key of SCALES."""
  raise NotImplementedError
