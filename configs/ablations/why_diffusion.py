"""Why diffusion: regression, autoregression and diffusion on the same images, at similar cost.

make demo
twofold ablate --study=configs/ablations/why_diffusion.py:demo --workdir=runs/why

Scales: demo (scikit-learn's digits, 7 minutes on two cores), smoke (seconds; nothing is learned).

Reproduces: nothing published; our own table.

To expect for demo: the table in README.md (7 minutes on a 2-core CPU machine, 2026-11-25). On this
small dataset, diffusion reaches the quality of autoregression over pixels with a third of the
evaluations, at a slightly worse likelihood (a bound).
"""

from typing import Any

from common.config import pick
from common.studies.claims import Claim
from common.studies.plans import Row, Study

DIFFUSION, PIXELS = 'diffusion, 20 evaluations', 'autoregression, pixels'
PATCHES = tuple(f'autoregression, {k}×{k} patches' for k in (2, 4))
FEW, MANY = ('diffusion, 1 evaluation', 'diffusion, 5 evaluations'), 'diffusion, 100 evaluations'
GUIDED = 'diffusion, 20 evaluations, guided'
REGRESSION = 'regression'
NOISE, IMAGE = 'diffusion, predicts the noise', 'diffusion, predicts the image'

SCALES = {
  'demo': {},
  'smoke': {
    'train.steps': '4',
    'train.steps_per_call': 2,
    'evaluation.num_samples': 20,
    'evaluation.batch_size': 20,
  },
}


SMALL = (PATCHES[1], DIFFUSION, GUIDED)  # the rows of the smoke scale
CLAIMS = (
  Claim(
    'a classifier recognises the class requested of diffusion in over 90 % of its images',
    ((DIFFUSION, MANY, GUIDED), 'agreement'),
    above=0.9,
  ),
  Claim(
    'and that of autoregression over pixels in over 90 % too',
    (PIXELS, 'agreement'),
    above=0.9,
  ),
  Claim(
    'the Fréchet distance of regression is over twice that of all others except diffusion with '
    'few evaluations',
    (REGRESSION, 'frechet'),
    above=((PIXELS, *PATCHES, DIFFUSION, MANY, GUIDED, NOISE, IMAGE), 'frechet'),
    times=2,
  ),
  Claim(
    'the Fréchet distance of diffusion with one evaluation is over twice that with 20 or 100',
    (FEW[0], 'frechet'),
    above=((DIFFUSION, MANY), 'frechet'),
    times=2,
  ),
  Claim(
    '2×2 patches, drawn at once, have a worse likelihood than pixels',
    (PATCHES[0], 'bits_per_dim'),
    above=(PIXELS, 'bits_per_dim'),
  ),
  Claim(
    '4×4 patches have a worse likelihood than 2×2 patches',
    (PATCHES[1], 'bits_per_dim'),
    above=(PATCHES[0], 'bits_per_dim'),
  ),
  Claim(
    'diffusion needs a third of the evaluations of autoregression over pixels',
    (DIFFUSION, 'evaluations'),
    below=(PIXELS, 'evaluations'),
    times=0.34,
  ),
  Claim(
    'all have the same number of parameters (±5 %)',
    (PIXELS, 'parameters'),
    near=((DIFFUSION, REGRESSION, *PATCHES), 'parameters'),
    within=0.05,
  ),
  Claim(
    'all train for the same time (±25 %)',
    (PIXELS, 'training_seconds'),
    near=((DIFFUSION, REGRESSION, *PATCHES), 'training_seconds'),
    within=0.25,
  ),
)


def steps(number: int) -> dict[str, Any]:
  """Sampler options: DDIM with this number of steps."""
  return {'sampler': {'name': 'ddim'}, 'steps': number}


def get_study(scale: str = 'demo') -> Study:
  """The study at a scale, a key of SCALES."""
  settings, smoke = pick(SCALES, scale, 'scale'), scale == 'smoke'
  autoregressive, diffusion = (
    f'configs/{f}/images.py:digits' for f in ('autoregressive', 'diffusion')
  )
  rows = (
    Row(REGRESSION, base=f'{diffusion}_regression', sampling=steps(1)),
    Row(PIXELS, base=autoregressive),
    Row(PATCHES[0], base=f'{autoregressive}_2x2'),
    Row(PATCHES[1], base=f'{autoregressive}_4x4'),
    Row(FEW[0], sampling=steps(1)),
    Row(FEW[1], sampling=steps(5)),
    Row(DIFFUSION, sampling=steps(20)),
    Row(MANY, sampling=steps(100)),
    Row(GUIDED, sampling=steps(20) | {'guidance': 1.5}),
    Row(NOISE, base=f'{diffusion}_eps', sampling=steps(20)),
    Row(IMAGE, base=f'{diffusion}_x0', sampling=steps(20)),
  )
  return Study(
    name='why_diffusion',
    title='Why diffusion?',
    about=(
      'Three answers to one question: given a class, draw an image. A regression maps noise '
      'straight to the image, and can only predict the average: easily recognised, and all alike. '
      'Autoregression draws pixel by pixel, or patch by patch with the pixels of a patch '
      'independent of each other. Diffusion takes the noise away in a few evaluations of a '
      'network that sees the whole image. All have the same number of '
      'parameters (±5 %) and the same data; a claim below checks the time to train.'
    ),
    base=diffusion,
    scale=scale,
    config=settings
    | {'train.sample_every': '0', 'train.checkpoint_every': '50%', 'train.evaluate_every': '25%'},
    rows=tuple(row for row in rows if row.name in SMALL) if smoke else rows,
    metrics=(
      'agreement',
      'frechet',
      'bits_per_dim',
      'evaluations',
      'seconds_per_sample',
      'parameters',
      'training_seconds',
    ),
    claims=() if smoke else CLAIMS,
    plots=(('evaluations', 'frechet'), ('evaluations', 'agreement')),
  )
