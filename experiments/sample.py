"""Draws samples from a trained model: a picture, texts, music or forecasts; or edits test images.

python -m experiments.sample --workdir=runs/digits --num=100 --out=samples.png
python -m experiments.sample --workdir=runs/digits --label=3 --options=steps=5,guidance=2.0
python -m experiments.sample --workdir=runs/digits --task=inpaint --mask=left --out=inpainted.png
python -m experiments.sample --workdir=runs/pixels --options=beams=4
python -m experiments.sample --workdir=runs/pixels --draft=runs/small --options=draft_ahead=6
python -m experiments.sample --workdir=runs/shakespeare --prompt="To be, " --length=500 --num=2
python -m experiments.sample --workdir=runs/retail --num=6 --draws=200 --out=forecasts.png
python -m experiments.sample --workdir=runs/retail --out=quantiles.csv
python -m experiments.sample --workdir=runs/chorales --length=256 --out=chorale.mid
python -m experiments.sample --workdir=runs/chorales --prompt=beginning.mid --out=chorales.png

Tasks of a diffusion model: inpaint, repaint, colourise, sdedit, reconstruct, interpolate, and
trajectory, a sample's way from noise to data; of an autoregressive model: complete, from a
beginning in its own order (--mask=bottom: the upper half is given).

--draft decodes speculatively (Leviathan et al. 2023): the run given there, smaller, proposes what
the run itself then accepts or replaces. The samples are distributed as without it.
"""

import pathlib
import time

import jax
import numpy as np
from absl import flags

from common.domains import forecasts, showing
from common.domains.piano_roll import legend, piano_rolls
from common.files import atomic_write
from common.method import Request
from common.reporting import pictures
from experiments import cli, edits, options, pieces, runs, texts

WORKDIR = flags.DEFINE_string('workdir', None, 'Folder of the run.', required=True)
STEP = flags.DEFINE_string('step', 'last', "Checkpoint: 'last', 'best' or a number.")
NUM = flags.DEFINE_integer(
  'num',
  None,
  'How many: 100 images, 4 texts or pieces of music (1 of a .mid), 10 images of a task, 6 windows '
  '(all, for a .csv).',
  lower_bound=1,
)
OUT = flags.DEFINE_string(
  'out',
  None,
  'A .png, or a .npy of raw values: samples.png by default; a .txt of texts, a .mid of music, a '
  '.csv of forecasts.',
)
LABEL = flags.DEFINE_string(
  'label',
  None,
  "Class by name or number; 'none': no class. Without it all in turn, or those of a task's images.",
)
TASK = flags.DEFINE_string('task', None, 'What to do with images of the test split, e.g. inpaint.')
MASK = flags.DEFINE_string(
  'mask',
  None,
  'What a task fills in: left, right, top, bottom, centre, border or random, with :SHARE if not '
  'one half; or a .png (white) or .npy (1) of the size of an image.',
)
DRAWS = flags.DEFINE_integer(
  'draws', None, 'Results of each image of a task: 3; draws of each forecast: 100.', lower_bound=1
)
SEED = flags.DEFINE_integer('seed', 0, 'Of all randomness.')
DRAFT = flags.DEFINE_string('draft', None, 'Folder of a smaller run that drafts; see above.')
COLUMNS = flags.DEFINE_integer('columns', 10, 'Samples in a row of the picture.', lower_bound=1)
SCALE = flags.DEFINE_integer('scale', 4, 'Size of a pixel in the picture.', lower_bound=1)
WEAK = flags.DEFINE_string(
  'weak', None, 'WORKDIR[@STEP] of a weaker model of the same network, for options guidance=W.'
)
EMA = flags.DEFINE_list('ema', [], 'Width of the average to sample from; needs ema.widths.')
PROMPT = flags.DEFINE_string(
  'prompt', None, 'What the samples begin with: a text; of music a .mid, a track per voice.'
)
LENGTH = flags.DEFINE_integer(
  'length', None, 'Tokens of text to draw (500), sixteenths of music (256).', lower_bound=1
)
SLIDE = flags.DEFINE_bool('slide', False, 'Text: take the end of a prompt beyond the context.')
STOP = flags.DEFINE_string('stop', '', 'Text: end before this.')
OPTIONS = options.define()


def write_texts(run: runs.Run, settings: dict) -> None:
  """Prints texts, and writes them where the flags say so."""
  start = time.perf_counter()
  found, log_probs = texts.continued(
    run,
    PROMPT.value,
    num=NUM.value or 4,
    length=LENGTH.value or 500,
    seed=SEED.value,
    slide=SLIDE.value,
    stop=STOP.value,
    options=settings,
  )
  seconds = time.perf_counter() - start
  page = showing.page(found)
  print(page)
  if OUT.value:
    atomic_write(OUT.value, page)
  written = f' in {OUT.value}' if OUT.value else ''
  print('log-probability of what was drawn, in nats:', ', '.join(f'{x:.4g}' for x in log_probs))
  print(f'{len(found)} texts from step {run.step}{written}, {seconds:.1f} s with compilation')


def write_forecasts(run: runs.Run, settings: dict, out: pathlib.Path) -> str:
  """Forecasts windows of the test split; returns what to say of it."""
  if TASK.value is not None:
    raise ValueError(f'--task={TASK.value!r}: time series are forecast, without a task')
  spec, source = run.data.spec, run.data.splits['test']
  label = options.classes(LABEL.value, 1, spec) if LABEL.value is not None else None
  windows = np.arange(len(source))
  if label is not None:
    windows = windows[source.gather(windows)['label'] == int(label[0])]
  windows = windows[: NUM.value or (None if out.suffix == '.csv' else showing.WINDOWS)]
  found = forecasts.forecast(
    run.method,
    run.params,
    jax.random.key(SEED.value),
    spec,
    source,
    windows=windows,
    draws=DRAWS.value or showing.DRAWS,
    options=settings,
  )
  if out.suffix == '.csv':
    atomic_write(out, forecasts.table(found))
  elif out.suffix == '.npy':
    pictures.save_array(out, found.draws)
  else:
    pictures.save_png(out, forecasts.picture(found))
  number, draws, horizon = found.draws.shape
  return (
    f'{number} × {horizon} steps of the test split, {draws} draws from step {run.step}, in {out}'
  )


def write_music(run: runs.Run, settings: dict, out: pathlib.Path) -> str:
  """Draws music into MIDI files, or a picture; returns what to say of it."""
  spec = run.data.spec
  for flag in (TASK, MASK):
    if flag.value is not None:
      raise ValueError(
        f'--{flag.name}={flag.value}: {spec.name} is music, which --prompt=FILE.mid continues'
      )
  num = NUM.value or (1 if out.suffix == '.mid' else showing.ROLLS)
  start = time.perf_counter()
  x = pieces.continued(
    run,
    PROMPT.value,
    num=num,
    length=LENGTH.value or 256,
    seed=SEED.value,
    options=settings,
  )
  seconds = time.perf_counter() - start
  names = [str(out)]
  if out.suffix == '.mid':
    names = pieces.write(spec, x, out)
  elif out.suffix == '.npy':
    pictures.save_array(out, x)
  else:
    rows = [(f'{i + 1}', roll[None]) for i, roll in enumerate(piano_rolls(x, spec.pitches))]
    pictures.save_png(out, pictures.captioned_rows(legend(spec.pitches), rows, SCALE.value))
  return (
    f'{len(x)} pieces of {x.shape[1]} sixteenths from step {run.step} in {", ".join(names)}, '
    f'{seconds:.1f} s with compilation'
  )


def generate(run: runs.Run, settings: dict, out: pathlib.Path) -> str:
  """Draws samples into a picture; returns what to say of them."""
  num = NUM.value or 100
  if MASK.value is not None:
    raise ValueError(f'--mask={MASK.value!r} needs a --task that takes one')
  label = options.classes(LABEL.value, num, run.data.spec, run.method.labelled)
  request = Request(num, label, options=settings)
  start = time.perf_counter()
  samples = run.method.sample(run.params, jax.random.key(SEED.value), request)
  x = np.asarray(samples.x)
  seconds = time.perf_counter() - start
  if out.suffix == '.npy':
    pictures.save_array(out, x)
  else:
    images, levels = showing.as_images(run.data.spec, x)
    grid = pictures.image_grid(images, COLUMNS.value, scale=SCALE.value, levels=levels)
    pictures.save_png(out, grid)
  return (
    f'{len(x)} samples from step {run.step} in {out}: {samples.evaluations} network evaluations '
    f'each, {seconds:.1f} s with compilation'
  )


def do_task(run: runs.Run, settings: dict, out: pathlib.Path) -> str:
  """Does the task of the flags and writes its picture; returns what to say of it."""
  edited = edits.perform(
    run,
    TASK.value,
    num=NUM.value or 10,
    draws=DRAWS.value or 3,
    label=LABEL.value,
    mask=MASK.value,
    seed=SEED.value,
    settings=settings,
  )
  if out.suffix == '.npy':
    pictures.save_array(out, edited.results)
  else:
    pictures.save_png(out, edits.picture(TASK.value, edited, run.data.spec, SCALE.value))
  draws, num = edited.results.shape[:2]
  return f'{edited.title}; {draws} × {num} results in {out}'


def main() -> None:
  out = pathlib.Path(OUT.value or 'samples.png')
  widths = options.widths(EMA.value)
  if len(widths) > 1:
    raise ValueError('--ema: samples are of one width; experiments.evaluate compares several')
  run = runs.load(WORKDIR.value, options.step(STEP.value))
  for width in widths:
    run = runs.with_average(run, WORKDIR.value, width)
  if DRAFT.value:
    run = runs.with_draft(run, runs.load(DRAFT.value))
  settings = options.parse(OPTIONS.value)
  if WEAK.value is not None:
    settings['weak'] = runs.load_weak(run, WEAK.value)
  if run.data.spec.domain == 'text':
    write_texts(run, settings)
    return
  write = generate if TASK.value is None else do_task
  write, suffixes = {
    'music': (write_music, ('.png', '.npy', '.mid')),
    'series': (write_forecasts, ('.png', '.npy', '.csv')),
  }.get(run.data.spec.domain, (write, ('.png', '.npy')))
  if out.suffix not in suffixes:
    raise ValueError(f'--out={out}: the name ends in {", ".join(suffixes[:-1])} or {suffixes[-1]}')
  if PROMPT.value is not None and write is not write_music:
    raise ValueError(f'--prompt={PROMPT.value!r}: {run.data.spec.name} is neither text nor music')
  print(write(run, settings, out))


if __name__ == '__main__':
  cli.run(main)
