"""Evaluates a checkpoint and writes the result to WORKDIR/evaluations/STEP.json.

twofold evaluate --workdir=runs/digits
twofold evaluate --workdir=runs/digits --metrics=agreement,frechet --options=steps=5
twofold evaluate --workdir=runs/digits --metrics=bits_per_dim \
    --likelihood=flow,trace=exact,dequantization=variational
twofold evaluate --workdir=runs/digits --weak=runs/shorter --options=guidance=2.0
twofold evaluate --workdir=runs/digits --metrics=frechet --ema=0.02,0.05,0.1
twofold evaluate --workdir=runs/python --on=shakespeare --metrics=bits_per_dim
twofold evaluate --workdir=runs/retail --metrics=crps,normalised_crps
"""

import datetime
import json
import pathlib
from collections.abc import Sequence

from absl import flags

from common.domains import domain_of
from common.evaluation.evaluate import METRICS
from common.evaluation.measures import Evaluation, Measure
from common.files import atomic_write
from common.ranges import MAX_INT
from experiments import cli, families, runs
from experiments.startup.workdir import config_of

WORKDIR = cli.define('workdir', 'Folder of the run.', cli.FolderParser(), required=True)
STEP = flags.DEFINE_string('step', 'last', "Checkpoint: 'last', 'best' or a number.")
CHOSEN = flags.DEFINE_list('metrics', list(METRICS), 'Metrics: ' + ', '.join(METRICS) + '.')
NUM = flags.DEFINE_integer(
  'num_samples',
  None,
  "Number of samples, or of draws per forecast; default: the config's.",
  lower_bound=1,
  upper_bound=MAX_INT,
)
ON = cli.define('on', 'Name of a dataset to use instead of the training data.')
LIKELIHOOD = cli.define_items(
  'likelihood',
  "Replaces the config's likelihood: vlb or flow, then settings: flow,trace=exact,samples=4.",
)
WEAK = cli.define(
  'weak', 'WORKDIR[@STEP] of a weaker model with the same network, for --options=guidance=W.'
)
EMA = flags.DEFINE_list(
  'ema',
  [],
  'Widths in (0, 0.288): evaluate these averages of the parameters; the run needs ema.widths.',
)
OPTIONS = cli.define_items('options', families.options_help())


def evaluate(run: runs.Run, settings: dict, variant: dict) -> Evaluation:
  """Measures a run, and writes the result to a file named after the step and the settings.

  Args:
    run: a trained model.
    settings: sampler options.
    variant: other settings that differ from the run's config.
  """
  sampling = dict(settings)
  if WEAK.value is not None:
    sampling['weak'] = runs.load_weak(run, WEAK.value)
  result = runs.evaluate_run(run, CHOSEN.value, sampling)
  folder = pathlib.Path(WORKDIR.value) / 'evaluations'
  record = {
    'step': run.step,
    'date': datetime.date.today().isoformat(),
    'options': settings,
    **variant,
    'measures': {name: measure._asdict() for name, measure in result.measures.items()},
  }
  changed = sorted((settings | variant).items())
  name = '-'.join([str(run.step), *(f'{k}={v}'.replace('/', '_') for k, v in changed)])
  atomic_write(folder / f'{name}.json', json.dumps(record, indent=2))
  result.display.save(folder, name, domain_of(run.data.spec).picture_scale)
  for metric, measure in result.measures.items():
    print(f'{METRICS[metric].title}: {format_value(measure)}   {measure.note}')
    if measure.parts:
      print('  = ' + ' + '.join(format_part(*part) for part in measure.parts.items()))
  print(f'step {run.step}; written to {folder / name}.json')
  return result


def format_value(measure: Measure) -> str:
  """A value with its standard error."""
  value = '-' if measure.value is None else f'{measure.value:.5g}'
  return value + (f' ± {measure.standard_error:.2g}' if measure.standard_error else '')


def format_part(name: str, terms: Sequence[float]) -> str:
  """A part of a value, with its number of terms; the file has the terms themselves."""
  return f'{name} {sum(terms):.4g}' + (f' (sum of {len(terms)})' if len(terms) > 1 else '')


def main() -> None:
  widths, settings = cli.parse_widths(EMA.value), cli.parse_options(OPTIONS.value)
  workdir = pathlib.Path(WORKDIR.value)
  families.check_options(config_of(workdir), settings)
  cli.check_writable(workdir / 'evaluations')
  run = runs.load(WORKDIR.value, runs.parse_step(STEP.value), cli.parse_component(LIKELIHOOD.value))
  if NUM.value is not None:
    run.config['evaluation']['num_samples'] = NUM.value
  variant = {}
  if ON.value is not None:
    run = runs.with_dataset(run, ON.value)
    variant['on'] = ON.value
  if LIKELIHOOD.value:
    variant['likelihood'] = ','.join(LIKELIHOOD.value)
  if WEAK.value is not None:
    variant['weak'] = WEAK.value
  if not widths:
    evaluate(run, settings, variant)
    return
  averaged = {width: runs.with_average(run, WORKDIR.value, width) for width in widths}
  found = {w: evaluate(one, settings, variant | {'ema': w}) for w, one in averaged.items()}
  if len(found) > 1:
    print_table(found)


def print_table(found: dict[float, Evaluation]) -> None:
  """Prints one line per width of the average, and one column per metric."""
  titles = [METRICS[metric].title for metric in CHOSEN.value]
  rows = [
    [f'{width:g}', *(format_value(result.measures[metric]) for metric in CHOSEN.value)]
    for width, result in found.items()
  ]
  table = [['ema', *titles], *rows]
  lengths = [max(map(len, column)) for column in zip(*table, strict=True)]
  for row in table:
    print('  '.join(cell.rjust(length) for cell, length in zip(row, lengths, strict=True)))


if __name__ == '__main__':
  cli.run(main)
