"""Evaluates a checkpoint and adds the result to WORKDIR/evaluations/STEP.json.

Each step has one file for each choice of options: a metric that is measured again replaces its
earlier value there, and the other metrics stay. In what is printed, ± is half of a 95 % interval of
the measurement; the file holds standard errors.

twofold evaluate --workdir=runs/digits
twofold evaluate --workdir=runs/digits --metrics=agreement,frechet --options=steps=5
twofold evaluate --workdir=runs/digits --metrics=bits_per_dim \\
    --likelihood=flow,trace=exact,dequantization=variational
twofold evaluate --workdir=runs/digits --weak=runs/shorter --options=guidance=2.0
twofold evaluate --workdir=runs/digits --classifier_from=runs/classifier --options=classifier=2.0
twofold evaluate --workdir=runs/digits --metrics=frechet --ema=0.02,0.05,0.1
twofold evaluate --workdir=runs/python --on=shakespeare --metrics=bits_per_dim
twofold evaluate --workdir=runs/python --on=MY.txt --metrics=perplexity,bits_per_byte
twofold evaluate --workdir=runs/retail --metrics=crps,normalised_crps
twofold evaluate --workdir=runs/m3 --metrics=smape,mase --baselines=naive2,theta
twofold evaluate --workdir=runs/m3 --metrics=smape,mase --members=runs/m3-longer,runs/m3-mase
"""

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
from absl import flags

from common.config import pick
from common.data.builders import BUILDERS
from common.domains import domain_of
from common.evaluation.evaluate import (
  check_forecasts,
  check_request,
  evaluate_baseline,
  without_draws,
)
from common.evaluation.forecasts import baselines
from common.evaluation.measures import Evaluation, Measure
from common.evaluation.metrics import FORECASTS, METRICS
from common.evaluation.results import ResultFile, file_name
from common.files import Path, check_writable, to_path
from common.studies.estimates import estimate, format_estimate, scaled, unit
from configs import base
from experiments import cli, families, runs
from experiments.startup import guides, processes
from experiments.startup.workdir import config_of

WORKDIR = cli.define(
  'workdir', 'Folder of the run, or gs://BUCKET/FOLDER.', cli.RunParser(), required=True
)
STEP = flags.DEFINE_string('step', 'last', "Checkpoint: 'last', 'best' or a number.")
CHOSEN = flags.DEFINE_list(
  'metrics',
  list(METRICS),
  'Metrics (default: all; with --on=FILE those without samples): ' + ', '.join(METRICS) + '.',
)
NUM = flags.DEFINE_integer(
  'num_samples',
  None,
  "Number of samples, or of draws per forecast; default: the config's.",
  lower_bound=1,
  upper_bound=base.SETTINGS['evaluation']['num_samples'].range.high,
)
ON = cli.define('on', 'Name of a dataset, or for text a file, to use instead of the training data.')
SETS = flags.DEFINE_integer(
  'sample_sets',
  None,
  "Sets of samples, of which the least Fréchet distance counts; default: the config's.",
  lower_bound=1,
  upper_bound=base.SETTINGS['evaluation']['sample_sets'].range.high,
)
REFERENCE = flags.DEFINE_enum(
  'reference',
  None,
  base.SETTINGS['evaluation']['reference'].range.names,
  "Training images that a Fréchet distance compares samples with; default: the config's.",
)
STRIDE = flags.DEFINE_integer(
  'stride',
  None,
  'With --on=FILE: tokens from one window to the next (half a window); fewer give each token more '
  'context.',
  lower_bound=1,
)
OF_FILES = ['perplexity', 'bits_per_byte', 'bits_per_character']
LIKELIHOOD = cli.define_items(
  'likelihood',
  "Replaces the config's likelihood: vlb or flow, then settings: flow,trace=exact,samples=4.",
)
WEAK = cli.define(
  'weak', 'WORKDIR[@STEP] of a weaker model with the same network, for --options=guidance=W.'
)
CLASSIFIER = cli.define('classifier_from', guides.HELP)
EMA = flags.DEFINE_list(
  'ema',
  [],
  'Widths in (0, 0.288): evaluate these averages of the parameters; the run needs ema.widths.',
)
BASELINES = flags.DEFINE_list(
  'baselines',
  [],
  'Time series: classical forecasts to measure too, on the same windows: '
  + ', '.join(baselines.BASELINES)
  + '.',
)
MEMBERS = flags.DEFINE_list(
  'members',
  [],
  'Time series: WORKDIR[@STEP] of other runs, whose forecasts are pooled with those of --workdir.',
)
OPTIONS = cli.define_items('options', families.options_help())
DISTRIBUTED, TIMEOUT = processes.define()


def chosen() -> list[str]:
  """The metrics to measure."""
  return OF_FILES if is_file(ON.value) and not CHOSEN.present else CHOSEN.value


def is_file(on: str | None) -> bool:
  """Whether --on names a file and no dataset."""
  return on is not None and on not in BUILDERS


class MemberRun(NamedTuple):
  """A run of --members.

  Attributes:
    run: the run, at first without parameters.
    workdir: its folder.
    step: its checkpoint.
  """

  run: runs.Run
  workdir: Path
  step: str | int

  def __str__(self) -> str:
    return f'{self.workdir}@{self.step}'

  def loaded(self) -> 'MemberRun':
    """The member with its parameters and the number of its step."""
    run = runs.with_params(self.run, self.workdir, self.step)
    return self._replace(run=run, step=run.step)


def open_members(options: Mapping[str, Any], settings: Mapping[str, Any]) -> list[MemberRun]:
  """The runs of --members without parameters.

  Args:
    options: sampler options, which all of them must know.
    settings: the `evaluation` section of the first run.

  Raises:
    ValueError: for one that is no run on time series, or that the options do not suit.
  """
  found = []
  for text in MEMBERS.value:
    folder, _, step = text.partition('@')
    try:
      run = runs.open_run(folder)
      families.check_options(run.config, options)
      check_forecasts('an ensemble', run.data, settings, chosen())
      with families.naming_options(options):
        check_request(run.method, run.data, settings, None, options)
    except ValueError as error:
      raise ValueError(f'--members={text}: {error}') from error
    found.append(MemberRun(run, to_path(folder), runs.parse_step(step or 'last', '--members')))
  return found


def evaluate(
  run: runs.Run,
  settings: dict,
  variant: dict,
  members: Sequence[MemberRun] = (),
  guide: guides.Guide | None = None,
) -> Evaluation:
  """Measures a run, and adds the result to the file of this step and these settings.

  Args:
    run: a trained model.
    settings: sampler options.
    variant: other settings that differ from the run's config.
    members: other runs, with parameters, whose forecasts are pooled with those of the run.
    guide: a classifier that can guide the samples, or None.
  """
  sampling = dict(settings)
  if WEAK.value is not None:
    sampling['weak'] = runs.load_weak(run, WEAK.value)
  if guide is not None:
    run = guides.guided(run, guide)
  folder = to_path(WORKDIR.value) / 'evaluations'
  name = file_name(run.step, settings | variant)
  sections = {part: run.config.get(part) for part in ('sampling', 'likelihood', 'evaluation')}
  conditions = {'step': run.step, 'options': settings, **variant, 'config': sections}
  # Opened before the work: a file that cannot be read must not cost the result.
  file = ResultFile(folder / f'{name}.json', conditions)
  result = run.evaluate(chosen(), members=[member.run for member in members], **sampling)
  if jax.process_index():
    return result  # process 0 writes
  file.add(result.measures)
  result.display.save(folder, name, domain_of(run.data.spec).picture_scale)
  for metric, measure in result.measures.items():
    print(f'{": ".join(column(metric, [measure]))}   {measure.note}')
    if measure.parts:
      print('  = ' + ' + '.join(format_part(*part) for part in measure.parts.items()))
  about = '; with '.join([run.about, *map(str, members)])
  print(f'{about}; ± is half of a 95 % interval; written to {folder / name}.json')
  return result


def compare(run: runs.Run, variant: dict, model: Evaluation) -> list[Evaluation]:
  """Measures the baselines, each into a file of its own, and prints a table with the model."""
  metrics = [name for name in chosen() if METRICS[name].draws == FORECASTS]
  settings = run.config['evaluation']
  found = {'ensemble' if 'members' in variant else 'model': model}
  of_data = {key: value for key, value in variant.items() if key != 'members'}
  for name in BASELINES.value:
    changed = of_data | {'baseline': name}
    path = to_path(WORKDIR.value) / 'evaluations' / f'{file_name(run.step, changed)}.json'
    sections = {'evaluation': settings}
    file = ResultFile(path, {'step': run.step, 'options': {}, **changed, 'config': sections})
    found[name] = evaluate_baseline(name, run.data, settings, metrics)
    file.add(found[name].measures)
  print_table('', found, metrics)
  return list(found.values())[1:]


def column(metric: str, measures: Sequence[Measure]) -> list[str]:
  """A metric's name with its unit, and the value of each measure: '0.957 ± 0.013' or '-'."""
  name, factor = unit(metric, [m.value for m in measures if m.value is not None])
  found = [estimate({0: measure}) for measure in measures]
  return [name, *('-' if e is None else format_estimate(scaled(e, factor)) for e in found)]


def format_part(name: str, terms: Sequence[float]) -> str:
  """A part of a value, with its number of terms; the file has the terms themselves."""
  return f'{name} {sum(terms):.4g}' + (f' (sum of {len(terms)})' if len(terms) > 1 else '')


def main() -> int:
  with processes.joined(DISTRIBUTED.value, TIMEOUT.value):
    return measure()


def measure() -> int:
  """Evaluates the run as the flags say; returns the exit code."""
  workdir, options = to_path(WORKDIR.value), cli.parse_options(OPTIONS.value)
  config, step = config_of(workdir), runs.parse_step(STEP.value)
  widths = cli.parse_widths(EMA.value, config['ema']['widths'])
  check_flags(config, options)
  check_writable(workdir / 'evaluations')
  run, variant, guide = open_run(options)
  members = open_members(options, run.config['evaluation'])
  run = runs.with_params(run, workdir, step)
  members = [member.loaded() for member in members]
  if members:
    variant['members'] = ','.join(map(str, members))
  if not widths:
    found = [evaluate(run, options, variant, members, guide)]
    if BASELINES.value and not jax.process_index():
      found += compare(run, variant, found[0])
    return exit_code(found)
  averaged = {width: runs.with_average(run, WORKDIR.value, width) for width in widths}
  found = {
    w: evaluate(one, options, variant | {'ema': w}, guide=guide) for w, one in averaged.items()
  }
  if len(found) > 1:
    print_table('ema', {f'{width:g}': one for width, one in found.items()}, chosen())
  return exit_code(found.values())


def check_flags(config: Mapping, options: Mapping[str, Any]) -> None:
  """Checks the flags that need no data. Raises ValueError, also for a flag without an effect."""
  families.check_options(config, options)
  if WEAK.value is not None:
    runs.check_weak(config, WEAK.value)
  if CLASSIFIER.value is not None:
    guides.check(config, CLASSIFIER.value, options)
  metrics = chosen()
  if len(set(metrics)) < len(metrics):
    raise ValueError(f'--metrics={",".join(metrics)}: a metric is given twice; write it once')
  for metric in metrics:
    pick(METRICS, metric, 'metric')
  if STRIDE.value is not None and ON.value is None:
    raise ValueError('--stride is for the windows of --on=FILE; remove the flag')
  for flag in (SETS, REFERENCE):
    if flag.value and 'frechet' not in metrics:
      raise ValueError(
        f'--{flag.name} changes only frechet: add it to --metrics, or remove the flag'
      )
  if LIKELIHOOD.value and 'bits_per_dim' not in metrics:
    raise ValueError('--likelihood changes only bits_per_dim: add it to --metrics')
  for name in BASELINES.value:
    pick(baselines.BASELINES, name, '--baselines')
    baselines.check_installed(name)
  if BASELINES.value and EMA.value:
    raise ValueError('--baselines do not depend on --ema: give one of the two')
  if MEMBERS.value and (EMA.value or ON.value):
    raise ValueError('--members are evaluated as they were trained: remove --ema and --on')
  if MEMBERS.value and not any(METRICS[metric].draws == FORECASTS for metric in metrics):
    raise ValueError(f'--members are for metrics of forecasts, not for {", ".join(metrics)}')
  drawn = {'options': options, 'num_samples': NUM.value, 'weak': WEAK.value}
  drawn |= {'classifier_from': CLASSIFIER.value, 'baselines': BASELINES.value}
  for name, value in drawn.items():
    if value and without_draws(metrics):
      raise ValueError(
        f'--{name} has no effect: {", ".join(metrics)} need no samples; remove the flag'
      )


def open_run(
  options: Mapping[str, Any],
) -> tuple[runs.Run, dict[str, Any], guides.Guide | None]:
  """The run without parameters, on the data of --on; its settings that the flags change; a guide.

  Raises:
    ValueError: for settings or metrics that do not suit the model and the data.
  """
  run, variant = runs.open_run(WORKDIR.value, cli.parse_component(LIKELIHOOD.value)), {}
  for flag in (NUM, SETS, REFERENCE):
    if flag.value not in (None, run.config['evaluation'][flag.name]):
      run.config['evaluation'][flag.name] = variant[flag.name] = flag.value
  guide = None
  if CLASSIFIER.value is not None:
    guide = guides.load(run, CLASSIFIER.value, options)
    variant['classifier_from'] = guide.name
  if ON.value is not None:
    run = other_data(run, ON.value, STRIDE.value)
    variant['on'] = ON.value
  if STRIDE.value is not None:
    variant['stride'] = STRIDE.value
  if LIKELIHOOD.value:
    variant['likelihood'] = ','.join(LIKELIHOOD.value)
  if WEAK.value is not None:
    variant['weak'] = WEAK.value
  # Everything is checked before the model's parameters are read.
  given = dict(options) | ({} if WEAK.value is None else {'weak': WEAK.value})
  asked = chosen() if CHOSEN.present or is_file(ON.value) else None
  asking = run if guide is None else guides.guided(run, guide)
  with families.naming_options(options):
    check_request(asking.method, run.data, run.config['evaluation'], asked, given)
  return run, variant, guide


def other_data(run: runs.Run, on: str, stride: int | None) -> runs.Run:
  """The run on the data of --on: a dataset by name, or a text file."""
  if not is_file(on):
    if stride is not None:
      raise ValueError(f'--stride is for files, and --on={on} is a dataset: remove one of them')
    return runs.with_dataset(run, on)
  if not os.path.exists(on):
    known = ', '.join(sorted(BUILDERS))
    raise ValueError(f'--on={on}: there is no such file, and no such dataset; known: {known}')
  return runs.with_text(run, on, stride)


def exit_code(found: Iterable[Evaluation]) -> int:
  """1 if a measured value is not finite, otherwise 0."""
  return int(not all(measure.is_finite for one in found for measure in one.measures.values()))


def print_table(what: str, found: Mapping[str, Evaluation], metrics: Sequence[str]) -> None:
  """Prints one line for each evaluation, and one column per metric."""
  columns = [[what, *found]]
  for metric in metrics:
    columns.append(column(metric, [result.measures[metric] for result in found.values()]))
  lengths = [max(map(len, cells)) for cells in columns]
  for row in zip(*columns, strict=True):
    print('  '.join(cell.rjust(length) for cell, length in zip(row, lengths, strict=True)))


if __name__ == '__main__':
  cli.run(main)
