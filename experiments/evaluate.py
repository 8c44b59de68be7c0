"""Evaluates a checkpoint and writes the result to WORKDIR/evaluations/STEP.json.

python -m experiments.evaluate --workdir=runs/digits
python -m experiments.evaluate --workdir=runs/digits --metrics=agreement,frechet --options=steps=5
python -m experiments.evaluate --workdir=runs/python --on=shakespeare --metrics=bits_per_dim
"""

import datetime
import json
import pathlib

import numpy as np
from absl import flags

from common import reporting, showing
from common.evaluation.evaluate import METRICS
from common.files import atomic_write
from experiments import cli, options, runs

WORKDIR = flags.DEFINE_string('workdir', None, 'Folder of the run.', required=True)
STEP = flags.DEFINE_string('step', 'last', "Checkpoint: 'last', 'best' or a number.")
CHOSEN = flags.DEFINE_list('metrics', list(METRICS), 'What to measure: ' + ', '.join(METRICS) + '.')
NUM = flags.DEFINE_integer('num_samples', None, "Samples to draw, instead of the config's number.")
ON = flags.DEFINE_string('on', None, 'Another dataset than it was trained on, by name.')
OPTIONS = options.define()


def main() -> None:
  run = runs.load(WORKDIR.value, options.step(STEP.value))
  if NUM.value is not None:
    run.config['evaluation']['num_samples'] = NUM.value
  if ON.value is not None:
    run = runs.on(run, ON.value)
  settings = options.parse(OPTIONS.value)
  result = runs.evaluate_run(run, CHOSEN.value, settings)
  folder = pathlib.Path(WORKDIR.value) / 'evaluations'
  record = {
    'step': run.step,
    'date': datetime.date.today().isoformat(),
    'options': settings,
    'measures': {name: measure._asdict() for name, measure in result.measures.items()},
  }
  name = '-'.join(
    [str(run.step), *filter(None, [ON.value]), *(f'{k}={v}' for k, v in sorted(settings.items()))]
  )
  atomic_write(folder / f'{name}.json', json.dumps(record, indent=2))
  if len(result.samples):
    grid = reporting.image_grid(
      np.asarray(result.samples), result.columns, scale=3, levels=run.data.spec.levels
    )
    reporting.save_png(folder / f'{name}.png', grid)
  if result.texts:
    atomic_write(folder / f'{name}.txt', showing.page(result.texts))
  for metric, measure in result.measures.items():
    value = '-' if measure.value is None else f'{measure.value:.5g}'
    error = f' ± {measure.standard_error:.2g}' if measure.standard_error else ''
    print(f'{METRICS[metric].title}: {value}{error}   {measure.note}')
  print(f'step {run.step}; written to {folder / name}.json')


if __name__ == '__main__':
  cli.run(main)
