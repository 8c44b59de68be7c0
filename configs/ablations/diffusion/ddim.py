"""DDIM's table 1: the noise of each step (η) against the number of steps, of one model.

twofold ablate --study=configs/ablations/diffusion/ddim.py:cpu --workdir=runs/ddim

Scales: cpu (scikit-learn's digits, three seeds), mnist (MNIST at 14×14, three seeds, up to 100
steps), gpu (CIFAR-10, a small network and a short training), paper (CIFAR-10, the model of
configs/papers/ddpm.py, 50,000 samples), smoke (seconds; nothing is learned).
mnist needs, once: twofold prepare_data --dataset=mnist --image_size=14
gpu and paper need, once: twofold prepare_data --dataset=cifar10

Reproduces: Song et al. 2021 (DDIM), table 1, CIFAR-10. Times are quadratic, and as in the authors'
code, rows of η do not clip the estimates of the image, while rows of σ̂, the larger variance of
DDPM's reverse step, do. 1000 steps visit all times.

To expect for cpu and mnist: docs/results/ddim.md, without the rows of 1000 steps.
"""

from common.config import pick
from common.studies import grids
from common.studies.claims import Claim
from common.studies.grids import Setting
from common.studies.plans import Study
from configs.ablations.diffusion import parts

LARGE = 'σ̂'  # the larger variance of the reverse step: that of q(x_t | x_s)
NOISES = ('η=0', 'η=0.2', 'η=0.5', 'η=1', LARGE)
STEPS = (10, 20, 50, 100, 1000)
PUBLISHED = {  # FID of CIFAR-10, by noise, in the order of STEPS
  'η=0': (13.36, 6.84, 4.67, 4.16, 4.04),
  'η=0.2': (14.04, 7.11, 4.77, 4.25, 4.09),
  'η=0.5': (16.66, 8.35, 5.25, 4.46, 4.29),
  'η=1': (41.07, 18.36, 8.01, 5.78, 4.73),
  LARGE: (367.43, 133.37, 32.72, 9.99, 3.17),
}
DDPM = {'process': {'name': 'ddpm'}, 'conditional': False}
SCALES = {
  'cpu': parts.Scale(f'{parts.IMAGES}:digits_eps', parts.DIGITS | DDPM, (0, 1, 2)),
  'mnist': parts.Scale(f'{parts.IMAGES}:mnist14_eps', parts.MNIST | DDPM, (0, 1, 2)),
  'gpu': parts.Scale('configs/papers/ddpm.py:cifar10', parts.SHORT),
  'paper': parts.Scale('configs/papers/ddpm.py:cifar10', parts.PAPER),
  'smoke': parts.Scale(f'{parts.IMAGES}:digits_eps', DDPM | parts.SMOKE),
}
# Numbers of steps, where they are not all of STEPS.
FEWER = {'mnist': STEPS[:4], 'gpu': STEPS[:4], 'smoke': STEPS[:1]}


def row_name(noise: str, steps: int) -> str:
  """The name of a row."""
  return grids.row_name(noise, f'{steps} steps')


def noise_options(noise: str) -> Setting:
  """Sampler options of a noise."""
  if noise == LARGE:
    sampler, threshold = {'name': 'ancestral', 'variance': 'fixed_large'}, 'static'
  else:
    sampler, threshold = {'name': 'ddim', 'eta': float(noise.removeprefix('η='))}, 'none'
  return Setting(sampling={'sampler': sampler, 'threshold': threshold})


def steps_options(steps: int) -> Setting:
  """Sampler options of a number of steps."""
  # Quadratic times repeat at 1000 of 1000 steps.
  grid = {'name': 'respaced'} if steps == STEPS[-1] else {'name': 'quadratic'}
  return Setting(sampling={'steps': steps, 'grid': grid})


def get_study(scale: str = 'cpu') -> Study:
  """The study at a scale, a key of SCALES."""
  chosen, steps = pick(SCALES, scale, 'scale'), FEWER.get(scale, STEPS)
  smoke = scale == 'smoke'
  noises = (NOISES[0], LARGE) if smoke else NOISES
  rows = grids.cross(
    {noise: noise_options(noise) for noise in noises},
    {f'{number} steps': steps_options(number) for number in steps},
  )
  cells = {
    row_name(noise, number): value
    for noise, values in PUBLISHED.items()
    for number, value in zip(STEPS, values, strict=True)
  }
  return Study(
    name='ddim',
    title="Noise and steps of DDIM's sampler",
    about=(
      'One trained model. η scales the noise that a step adds: 0 adds none, and 1 is the smaller '
      "variance of DDPM's reverse step. σ̂ is the larger variance, which is nearly the same at 1000 "
      'steps, but adds more noise than a step takes away where steps are few.'
    ),
    base=chosen.base,
    scale=scale,
    paper='Song et al. 2021 (DDIM), table 1',
    config=chosen.config,
    rows=rows,
    axes=('noise', 'steps'),
    metrics=('frechet', 'evaluations', *(() if smoke else parts.COMPUTE)),
    paper_training=parts.DDPM_TRAINING,
    published=parts.of_rows(cells, rows),
    published_as=parts.CIFAR10_FID,
    claims=() if smoke else _claims(steps),
    plots=() if smoke else (('evaluations', 'frechet'),),
    seeds=chosen.seeds,
  )


def _claims(steps: tuple[int, ...]) -> tuple[Claim, ...]:
  """The orders of the paper's table."""
  few = [number for number in steps if number < STEPS[-1]]
  claims = []
  for number in few:
    rows = [row_name(noise, number) for noise in ('η=0', 'η=1', LARGE)]
    claims += parts.in_order('less noise is better: {} below {}', rows)
  rows = [row_name(noise, few[0]) for noise in NOISES[:4]]
  claims += parts.in_order('and so for each η: {} below {}', rows)
  rows = [row_name('η=0', number) for number in reversed(few)]
  claims += parts.in_order('more steps are better: {} below {}', rows)
  if STEPS[-1] in steps:
    best, *others = (row_name(noise, STEPS[-1]) for noise in (LARGE, *NOISES[:4]))
    claims.append(parts.lower(f'with all steps, {LARGE} is best', best, tuple(others)))
  return tuple(claims)
