"""What the studies of this folder share: the settings of their scales, and claims that compare."""

import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

from common.studies.claims import Claim
from common.studies.plans import PaperTraining

IMAGES = 'configs/diffusion/images.py'
# The title of published cells next to our Fréchet distance, whose features are those of another
# network (and, at the smaller scales, of other images).
CIFAR10_FID = {'frechet': 'FID of CIFAR-10 (Inception network, 50,000 samples)'}
FEW_WRITES = {
  'train.sample_every': '0',
  'train.checkpoint_every': '50%',
  'train.evaluate_every': '25%',
}
# Of digits, a distance compares 722 samples with half of the images.
DIGITS = FEW_WRITES | {'evaluation.num_samples': 722}
# Of MNIST at half the size, a distance compares 1,000 samples with as many images.
MNIST = FEW_WRITES | {'evaluation.num_samples': 1000}
UNCLIPPED = {'sampling.threshold.name': 'none'}  # estimates of the image
SMOKE = {  # seconds, most of them for compilation
  'network.depth': 1,
  'train.steps': '4',
  'train.steps_per_call': 2,
  'train.log_every': '0',
  'train.sample_every': '0',
  'train.checkpoint_every': '0',
  'train.evaluate_every': '0',
  'evaluation.num_samples': 20,
  'evaluation.batch_size': 20,
  'evaluation.extractor': 'pixels',
}
# For a table in ten minutes on one accelerator: a narrow U-Net and a short training on CIFAR-10.
SHORT = FEW_WRITES | {
  'network.width': 64,
  'network.multipliers': (1, 2, 2),
  'network.dropout': 0.0,
  'train.steps': '6000',
  'ema.decay': 0.999,
  'ema.warmup': True,
  'optimizer.warmup': '5%',
  'evaluation.num_samples': 5000,
}
PAPER = {'evaluation.num_samples': 50_000, 'evaluation.reference': 'all'}
# What training costs, next to quality.
COMPUTE = ('training_flops', 'examples_seen', 'paper_share')
# The trainings of papers, whose data need not be here.
CIFAR10 = {'shape': (32, 32, 3), 'levels': 256, 'num_classes': 10, 'num_train': 50_000}
IMAGENET64 = {
  'shape': (64, 64, 3),
  'levels': 256,
  'num_classes': 1000,
  'num_train': 1_281_167,
}
LATENTS = {'shape': (32, 32, 4), 'levels': 0, 'num_classes': 1000, 'num_train': 1_281_167}
DDPM_TRAINING = PaperTraining('configs/papers/ddpm.py:cifar10', CIFAR10)
EDM_TRAINING = PaperTraining('configs/papers/edm.py:cond_vp', CIFAR10)
DIT_TRAINING = PaperTraining('configs/papers/dit.py:XL2', LATENTS)
SIT_TRAINING = PaperTraining('configs/papers/sit.py:B2', LATENTS)
GUIDANCE_TRAINING = PaperTraining('configs/papers/guidance.py:p10', IMAGENET64)


class Scale(NamedTuple):
  """A size of a study.

  Attributes:
    base: the config file that rows start from.
    config: settings of all rows.
    seeds: the seeds.
  """

  base: str
  config: dict[str, Any]
  seeds: tuple[int, ...] = (0,)


def lower(text: str, row: str, than: str | tuple[str, ...], metric: str = 'frechet') -> Claim:
  """The claim that a metric of one row is below that of another row, or of each of several."""
  return Claim(text, (row, metric), below=(than, metric))


def in_order(text: str, rows: Sequence[str], metric: str = 'frechet') -> list[Claim]:
  """The claims that a metric rises from each row to the next; '{}' in the text are the two rows."""
  return [
    lower(text.format(first, second), first, second, metric)
    for first, second in itertools.pairwise(rows)
  ]


def of_rows(published: dict[str, Any], rows: Sequence, metric: str = 'frechet') -> dict:
  """Published cells of a metric, by row, as a study has them: only those of its rows."""
  names = {row.name for row in rows}
  return {(row, metric): value for row, value in published.items() if row in names}
