"""Evaluates a checkpoint and adds the result to WORKDIR/evaluations/STEP.json.

Each step has one file for each choice of options: a metric that is measured again replaces its
earlier value there, and the other metrics stay. In what is printed, ± is half of a 95 % interval of
the measurement; the file holds standard errors.

twofold evaluate --workdir=runs/digits
twofold evaluate --workdir=runs/digits --metrics=agreement,frechet --options=steps=5
twofold evaluate --workdir=runs/digits --metrics=bits_per_dim \\
    --likelihood=flow,trace=exact,dequantization=variational
twofold evaluate --workdir=runs/digits --weak=runs/shorter --options=guidance=2.0
twofold evaluate --workdir=runs/digits --metrics=frechet --ema=0.02,0.05,0.1
twofold evaluate --workdir=runs/python --on=shakespeare --metrics=bits_per_dim
twofold evaluate --workdir=runs/retail --metrics=crps,normalised_crps
"""

import pathlib
from collections.abc import Iterable, Sequence

from absl import flags

from common.domains import domain_of
from common.evaluation.evaluate import METRICS
from common.evaluation.measures import Evaluation, Measure
from common.evaluation.results import ResultFile, file_name
from common.ranges import MAX_INT
from common.studies.estimates import estimate, format_estimate, scaled, unit
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
  """Measures a run, and adds the result to the file of this step and these settings.

  Args:
    run: a trained model.
    settings: sampler options.
    variant: other settings that differ from the run's config.
  """
  sampling = dict(settings)
  if WEAK.value is not None:
    sampling['weak'] = runs.load_weak(run, WEAK.value)
  folder = pathlib.Path(WORKDIR.value) / 'evaluations'
  name = file_name(run.step, settings | variant)
  sections = {part: run.config.get(part) for part in ('sampling', 'likelihood', 'evaluation')}
  conditions = {'step': run.step, 'options': settings, **variant, 'config': sections}
  # Opened before the work: a file that cannot be read must not cost the result.
  file = ResultFile(folder / f'{name}.json', conditions)
  result = run.evaluate(CHOSEN.value, **sampling)
  file.add(result.measures)
  result.display.save(folder, name, domain_of(run.data.spec).picture_scale)
  for metric, measure in result.measures.items():
    print(f'{": ".join(column(metric, [measure]))}   {measure.note}')
    if measure.parts:
      print('  = ' + ' + '.join(format_part(*part) for part in measure.parts.items()))
  print(f'{run.about}; ± is half of a 95 % interval; written to {folder / name}.json')
  return result


def column(metric: str, measures: Sequence[Measure]) -> list[str]:
  """A metric's name with its unit, and the value of each measure: '0.957 ± 0.013' or '-'."""
  name, factor = unit(metric, [m.value for m in measures if m.value is not None])
  found = [estimate({0: measure}) for measure in measures]
  return [name, *('-' if e is None else format_estimate(scaled(e, factor)) for e in found)]


def format_part(name: str, terms: Sequence[float]) -> str:
  """A part of a value, with its number of terms; the file has the terms themselves."""
  return f'{name} {sum(terms):.4g}' + (f' (sum of {len(terms)})' if len(terms) > 1 else '')


def main() -> int:
  widths, settings = cli.parse_widths(EMA.value), cli.parse_options(OPTIONS.value)
  workdir = pathlib.Path(WORKDIR.value)
  families.check_options(config_of(workdir), settings)
  cli.check_writable(workdir / 'evaluations')
  run = runs.load(WORKDIR.value, runs.parse_step(STEP.value), cli.parse_component(LIKELIHOOD.value))
  variant = {}
  if NUM.value not in (None, run.config['evaluation']['num_samples']):
    run.config['evaluation']['num_samples'] = variant['num_samples'] = NUM.value
  if ON.value is not None:
    run = runs.with_dataset(run, ON.value)
    variant['on'] = ON.value
  if LIKELIHOOD.value:
    variant['likelihood'] = ','.join(LIKELIHOOD.value)
  if WEAK.value is not None:
    variant['weak'] = WEAK.value
  if not widths:
    return exit_code([evaluate(run, settings, variant)])
  averaged = {width: runs.with_average(run, WORKDIR.value, width) for width in widths}
  found = {w: evaluate(one, settings, variant | {'ema': w}) for w, one in averaged.items()}
  if len(found) > 1:
    print_table(found)
  return exit_code(found.values())


def exit_code(found: Iterable[Evaluation]) -> int:
  """1 if a measured value is not finite, otherwise 0."""
  return int(not all(measure.is_finite for one in found for measure in one.measures.values()))


def print_table(found: dict[float, Evaluation]) -> None:
  """Prints one line per width of the average, and one column per metric."""
  columns = [['ema', *(f'{width:g}' for width in found)]]
  for metric in CHOSEN.value:
    columns.append(column(metric, [result.measures[metric] for result in found.values()]))
  lengths = [max(map(len, cells)) for cells in columns]
  for row in zip(*columns, strict=True):
    print('  '.join(cell.rjust(length) for cell, length in zip(row, lengths, strict=True)))


if __name__ == '__main__':
  cli.run(main)
