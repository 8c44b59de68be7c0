"""Progressive distillation's table 1: what the network predicts, and how the loss is weighted.

twofold ablate --study=configs/ablations/diffusion/progressive_distillation.py:cpu \\
    --workdir=runs/targets

Scales: cpu (scikit-learn's digits, three seeds, 64 steps of sampling), mnist (MNIST at 14×14, the
same), gpu (CIFAR-10, a small network and a short training), paper (CIFAR-10,
configs/papers/progressive_distillation.py, 1024 steps, 50,000 samples), smoke (seconds; nothing is
learned).
mnist needs, once: twofold prepare_data --dataset=mnist --image_size=14
gpu and paper need, once: twofold prepare_data --dataset=cifar10

Reproduces: Salimans & Ho 2022, table 1, without its rows of the pair (x, ε), which is two outputs
of one network. The log-SNR is that of the cosine schedule from -20 to 20, at cpu to 7, where the
levels of a pixel can just be told apart. The stochastic sampler here is DDIM with η = 1. At scale
paper the training is as long as DDPM's, because we do not know the length of the paper's.

To expect for cpu: docs/results/progressive_distillation.md. mnist is not measured yet.
"""

from common.config import pick
from common.studies import grids
from common.studies.claims import Claim
from common.studies.grids import Setting
from common.studies.plans import Study
from configs.ablations.diffusion import parts

TARGETS = {'x': 'x0', 'ε': 'eps', 'v': 'v'}
WEIGHTINGS = {'SNR': 'snr', 'truncated SNR': 'truncated_snr', 'SNR+1': 'snr_plus_one'}
SAMPLERS = {'stochastic': 1.0, 'DDIM': 0.0}  # η
DIVERGES = 'diverges'
PUBLISHED = {  # FID of CIFAR-10, by target and weighting, in the order of SAMPLERS
  ('x', 'SNR'): (2.65, 2.75),
  ('x', 'truncated SNR'): (2.53, 2.51),
  ('x', 'SNR+1'): (2.56, 2.65),
  ('ε', 'SNR'): (2.59, 2.91),
  ('ε', 'truncated SNR'): (DIVERGES, DIVERGES),
  ('ε', 'SNR+1'): (2.56, 3.27),
  ('v', 'SNR'): (2.65, 3.05),
  ('v', 'truncated SNR'): (2.45, 2.75),
  ('v', 'SNR+1'): (2.49, 2.87),
}
COMMON = {
  'process': {'name': 'shifted', 'log_snr_min': -20.0, 'log_snr_max': 20.0},
  'conditional': False,
  'prediction.noise': 'log_snr',
  'prediction.variance': 'fixed_small',
  'likelihood': {'name': 'vlb'},
}
DIGITS = COMMON | {
  'process': {'name': 'shifted', 'log_snr_min': -20.0, 'log_snr_max': 7.0},
  'train.steps': '2000',
}
CIFAR10 = 'configs/papers/ddpm.py:cifar10'
SCALES = {
  'cpu': parts.Scale(f'{parts.IMAGES}:digits_eps', parts.DIGITS | DIGITS, (0, 1, 2)),
  'mnist': parts.Scale(f'{parts.IMAGES}:mnist14_eps', parts.MNIST | COMMON, (0, 1, 2)),
  'gpu': parts.Scale(CIFAR10, COMMON | parts.SHORT | {'train.steps': '1500'}),
  'paper': parts.Scale('configs/papers/progressive_distillation.py:x_truncated_snr', parts.PAPER),
  'smoke': parts.Scale(f'{parts.IMAGES}:digits_eps', DIGITS | parts.SMOKE),
}
STEPS = {'cpu': 64, 'mnist': 64, 'gpu': 64, 'paper': 1024, 'smoke': 4}


def axes(steps: int) -> list[grids.Axis]:
  """Targets, weightings and samplers; the samplers of a target and a weighting share one model."""
  weightings = {k: Setting({'objective.weighting': {'name': v}}) for k, v in WEIGHTINGS.items()}
  few = {'steps': steps, 'grid': {'name': 'uniform'}}
  samplers = {
    k: Setting(sampling={'sampler': {'name': 'ddim', 'eta': eta}} | few)
    for k, eta in SAMPLERS.items()
  }
  targets = {k: Setting({'prediction.target': v}) for k, v in TARGETS.items()}
  return [targets, weightings, samplers]


def get_study(scale: str = 'cpu') -> Study:
  """The study at a scale, a key of SCALES."""
  chosen, smoke = pick(SCALES, scale, 'scale'), scale == 'smoke'
  rows = grids.cross(*axes(STEPS[scale]))
  if smoke:
    rows = tuple(row for row in rows if row.at == ('v', 'SNR+1', 'DDIM'))
  cells = {
    grids.row_name(*names, sampler): value
    for names, values in PUBLISHED.items()
    for sampler, value in zip(SAMPLERS, values, strict=True)
  }
  return Study(
    name='progressive_distillation',
    title='Targets and weightings',
    about=(
      'A weighting is a factor of the squared error in the image: SNR is the unweighted error in '
      'the noise, SNR+1 that in v, and the truncated SNR is at least 1. Each model is sampled with '
      f'noise and without, in {STEPS[scale]} steps.'
    ),
    base=chosen.base,
    scale=scale,
    paper='Salimans & Ho 2022, table 1',
    config=chosen.config,
    rows=rows,
    axes=('target', 'weighting', 'sampler'),
    metrics=('frechet', 'evaluations', *(() if smoke else parts.COMPUTE[:2])),
    published=parts.of_rows(cells, rows),
    published_as=parts.CIFAR10_FID,
    claims=() if smoke else _claims(),
    seeds=chosen.seeds,
  )


def _claims() -> tuple[Claim, ...]:
  """What the paper says of its table, of which most differences are small."""
  claims = [
    parts.lower(
      f'with the truncated SNR, ε is worse than {target}: {sampler}',
      grids.row_name(target, 'truncated SNR', sampler),
      grids.row_name('ε', 'truncated SNR', sampler),
    )
    for sampler in SAMPLERS
    for target in ('x', 'v')
  ]
  claims += [
    parts.lower(
      f'without noise, x is better than ε: {weighting}',
      grids.row_name('x', weighting, 'DDIM'),
      grids.row_name('ε', weighting, 'DDIM'),
    )
    for weighting in ('SNR', 'SNR+1')
  ]
  claims += [
    parts.lower(
      f'the truncated SNR is better than the SNR: {target}, {sampler}',
      grids.row_name(target, 'truncated SNR', sampler),
      grids.row_name(target, 'SNR', sampler),
    )
    for target in ('x', 'v')
    for sampler in SAMPLERS
  ]
  return tuple(claims)
