"""Draws samples from a trained model into a picture.

python -m experiments.sample --workdir=runs/digits --num=100 --out=samples.png
python -m experiments.sample --workdir=runs/digits --label=3 --options=steps=5,guidance=2.0
python -m experiments.sample --workdir=runs/pixels --options=beams=4
python -m experiments.sample --workdir=runs/pixels --draft=runs/small --options=draft_ahead=6

--draft decodes speculatively (Leviathan et al. 2023): the run given there, smaller, proposes what
the run itself then accepts or replaces. The samples are distributed as without it.
"""

import pathlib
import time

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from common import reporting
from common.method import Request
from experiments import cli, options, runs

WORKDIR = flags.DEFINE_string('workdir', None, 'Folder of the run.', required=True)
STEP = flags.DEFINE_string('step', 'last', "Checkpoint: 'last', 'best' or a number.")
NUM = flags.DEFINE_integer('num', 100, 'How many samples.', lower_bound=1)
OUT = flags.DEFINE_string('out', 'samples.png', 'The picture: a .png; or a .npy of the raw values.')
LABEL = flags.DEFINE_string('label', None, 'Class by name or number; without it, all in turn.')
SEED = flags.DEFINE_integer('seed', 0, 'Of all randomness.')
DRAFT = flags.DEFINE_string('draft', None, 'Folder of a smaller run that drafts; see above.')
COLUMNS = flags.DEFINE_integer('columns', 10, 'Samples in a row of the picture.', lower_bound=1)
SCALE = flags.DEFINE_integer('scale', 4, 'Size of a pixel in the picture.', lower_bound=1)
OPTIONS = options.define()


def labels(text: str | None, num: int, spec) -> jax.Array | None:
  """[num] classes: that of `text`, or all in turn; None where the data has none."""
  if text is None:
    return jnp.arange(num) % spec.num_classes if spec.num_classes else None
  if not spec.num_classes:
    raise ValueError(f'--label={text!r}: {spec.name} has no classes')
  names = list(spec.class_names)
  if text in names:
    return jnp.full(num, names.index(text))
  if text.isdecimal() and int(text) < spec.num_classes:
    return jnp.full(num, int(text))
  raise ValueError(f'--label={text!r} is no class of {spec.name}; known: {", ".join(names)}')


def main() -> None:
  out = pathlib.Path(OUT.value)
  if out.suffix not in ('.png', '.npy'):
    raise ValueError(f'--out={out}: the name ends in .png or .npy')
  run = runs.load(WORKDIR.value, options.step(STEP.value))
  if DRAFT.value:
    run = runs.with_draft(run, runs.load(DRAFT.value))
  request = Request(
    NUM.value,
    labels(LABEL.value, NUM.value, run.data.spec),
    options=options.parse(OPTIONS.value),
  )
  start = time.perf_counter()
  samples = run.method.sample(run.params, jax.random.key(SEED.value), request)
  x = np.asarray(samples.x)
  seconds = time.perf_counter() - start
  if out.suffix == '.npy':
    reporting.save_array(out, x)
  else:
    levels = run.data.spec.levels
    grid = reporting.image_grid(x, COLUMNS.value, scale=SCALE.value, levels=levels)
    reporting.save_png(out, grid)
  print(
    f'{len(x)} samples from step {run.step} in {out}: {samples.evaluations} network evaluations '
    f'each, {seconds:.1f} s with compilation'
  )


if __name__ == '__main__':
  cli.run(main)
