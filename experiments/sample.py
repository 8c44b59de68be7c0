"""Draws samples from a trained model: a picture, or texts.

python -m experiments.sample --workdir=runs/digits --num=100 --out=samples.png
python -m experiments.sample --workdir=runs/digits --label=3 --options=steps=5,guidance=2.0
python -m experiments.sample --workdir=runs/shakespeare --prompt="To be, " --length=500 --num=2
"""

import pathlib
import time

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from common import reporting, showing
from common.files import atomic_write
from common.method import Request
from experiments import cli, options, runs, texts

WORKDIR = flags.DEFINE_string('workdir', None, 'Folder of the run.', required=True)
STEP = flags.DEFINE_string('step', 'last', "Checkpoint: 'last', 'best' or a number.")
NUM = flags.DEFINE_integer('num', None, 'How many: 100 images, or 4 texts.', lower_bound=1)
OUT = flags.DEFINE_string(
  'out', None, 'A .png, or a .npy of the raw values: samples.png by default; a .txt of texts.'
)
LABEL = flags.DEFINE_string('label', None, 'Class by name or number; without it, all in turn.')
SEED = flags.DEFINE_integer('seed', 0, 'Of all randomness.')
COLUMNS = flags.DEFINE_integer('columns', 10, 'Samples in a row of the picture.', lower_bound=1)
SCALE = flags.DEFINE_integer('scale', 4, 'Size of a pixel in the picture.', lower_bound=1)
PROMPT = flags.DEFINE_string('prompt', None, 'Text: what the samples begin with.')
LENGTH = flags.DEFINE_integer('length', 500, 'Text: tokens to draw.', lower_bound=1)
SLIDE = flags.DEFINE_bool('slide', False, 'Text: take the end of a prompt beyond the context.')
STOP = flags.DEFINE_string('stop', '', 'Text: end before this.')
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


def write_texts(run: runs.Run) -> None:
  """Prints texts, and writes them where the flags say so."""
  start = time.perf_counter()
  found = texts.continued(
    run,
    PROMPT.value,
    num=NUM.value or 4,
    length=LENGTH.value,
    seed=SEED.value,
    slide=SLIDE.value,
    stop=STOP.value,
    options=options.parse(OPTIONS.value),
  )
  seconds = time.perf_counter() - start
  page = showing.page(found)
  print(page)
  if OUT.value:
    atomic_write(OUT.value, page)
  written = f' in {OUT.value}' if OUT.value else ''
  print(f'{len(found)} texts from step {run.step}{written}, {seconds:.1f} s with compilation')


def main() -> None:
  run = runs.load(WORKDIR.value, options.step(STEP.value))
  if run.data.spec.domain == 'text':
    write_texts(run)
    return
  if PROMPT.value is not None:
    raise ValueError(f'--prompt={PROMPT.value!r}: {run.data.spec.name} is no text')
  out = pathlib.Path(OUT.value or 'samples.png')
  if out.suffix not in ('.png', '.npy'):
    raise ValueError(f'--out={out}: the name ends in .png or .npy')
  num = NUM.value or 100
  request = Request(
    num, labels(LABEL.value, num, run.data.spec), options=options.parse(OPTIONS.value)
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
