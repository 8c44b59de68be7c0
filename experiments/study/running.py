"""Trains and measures the rows of a study, and writes its tables and its report."""

import math
import pathlib
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from common.config import ConfigError, differences, to_json
from common.domains import domain_of
from common.evaluation.evaluate import (
  NO_ENSEMBLE,
  NO_MODEL,
  evaluate_baseline,
  not_measured,
)
from common.evaluation.measures import Evaluation, Measure
from common.evaluation.metrics import METRICS
from common.files import atomic_write
from common.reporting import provenance, report, writers
from common.studies import plans, sections, studies, tables
from common.studies.cells import Origin
from common.studies.plans import Job, Study
from common.studies.stability import STABLE_RUNS
from experiments import families, runs
from experiments.startup import datasets, signals
from experiments.study import versions
from experiments.study.costs import cost_of, data_of, paper_cost, spec_of
from experiments.study.run_metrics import OF_THE_CONFIG, RUN_METRICS

SHARD_HELP = (
  'PART/PARTS, such as 1/4: train and measure only this part of the models, and no ensembles.'
)


# Rows that share a model share these metrics, because they do not depend on sampling.
OF_MODELS = (*RUN_METRICS, *(name for name, metric in METRICS.items() if not metric.of_samples))


def parse_shard(text: str) -> tuple[int, int]:
  """(2, 4) from '2/4'. Raises ValueError unless the part is one of the parts."""
  part, _, parts = text.partition('/')
  if part.isdecimal() and parts.isdecimal() and 1 <= int(part) <= int(parts):
    return int(part), int(parts)
  raise ValueError(f'--shard={text}: write PART/PARTS, such as 1/4, 2/4, 3/4 and 4/4')


def parse_seeds(texts: Sequence[str]) -> tuple[int, ...]:
  """(0, 1) from ['0', '1']. Raises ValueError unless they are different whole numbers from 0."""
  seeds = tuple(int(text) for text in texts if text.strip().isdecimal())
  if len(set(seeds)) < len(texts):
    raise ValueError(
      f'--seeds={",".join(texts)}: write different whole numbers from 0, such as 0,1,2'
    )
  return seeds


def is_whole(shard: str) -> bool:
  """Whether a shard is all of the study."""
  return parse_shard(shard)[1] == 1


def plan(
  study: Study,
  load: Callable[[str, Mapping[str, Any]], Mapping[str, Any]],
  workdir: pathlib.Path,
  shard: str,
) -> list[Job]:
  """The jobs of one part of a study.

  Args:
    study: the table.
    load: (base, overrides) -> the completed config of a config file.
    workdir: the folder of the study.
    shard: 'PART/PARTS'.

  Raises:
    ValueError: for a shard or a study that is not valid.
  """
  part, parts = parse_shard(shard)
  jobs = plans.plan(study, load, workdir, (*METRICS, *RUN_METRICS))
  return plans.shard(jobs, part, parts)


def check_metrics(jobs: list[Job], metrics: Sequence[str], described: bool = False) -> None:
  """Checks metrics against the data of jobs, which must be here unless they may be described.

  Raises:
    ConfigError: for a metric that no job's data have, or an ensemble without forecasts.
  """
  loaded = {to_json(job.config['data']): job for job in jobs}
  loaded = {key: spec_of(job, described) for key, job in loaded.items()}
  for job in jobs:
    spec = loaded[to_json(job.config['data'])]
    if job.members and 'crps' not in domain_of(spec).metrics:
      raise ConfigError(
        f'the ensemble {job.row.name!r} pools forecasts of time series, but {spec.name} has none: '
        'remove the row'
      )
  if 'paper_share' in metrics:
    for job in jobs:
      if job.row.paper_training is not None:
        paper_cost(job.row.paper_training)
  specs = list(loaded.values())
  known = {STABLE_RUNS, *RUN_METRICS}.union(*(domain_of(spec).metrics for spec in specs))
  for metric in metrics:
    if metric not in known:
      names = ', '.join(sorted({spec.name for spec in specs}))
      raise ConfigError(
        f'metric {metric} {METRICS[metric].scope}, not to {names}; metrics: '
        f'{", ".join(sorted(known))}'
      )


def show_rows(jobs: list[Job]) -> str:
  """The rows of a study, each with its settings that differ from the defaults of its family.

  Models have their parameters and the cost of their training too, if their data are known.
  """
  lines = []
  for job in jobs:
    if job.members:
      lines.append(f'{job.row.name}  (ensemble of {"; ".join(job.row.ensemble)}, seed {job.seed})')
      continue
    changed = differences(job.config, families.defaults(job.config['family']))
    lines.append(f'{job.row.name}  (family {job.config["family"]!r}, seed {job.seed})')
    lines += [f'  {key} = {new!r}' for key, (_, new) in changed.items() if new is not None]
    lines += [f'  option {key} = {value!r}' for key, value in job.row.sampling.items()]
    if job.row.is_model:
      lines.append(f'  {_cost_line(job)}')
  return '\n'.join(lines)


def _cost_line(job: Job) -> str:
  """The parameters of a model and the FLOPs of its training, in one line."""
  try:
    cost = cost_of(job)
  except (ValueError, OSError, ImportError) as error:  # data that are not prepared, for example
    return f'parameters and training FLOPs are not known: {error}'
  ratio = cost.flops_per_step / cost.model_flops_per_step if cost.model_flops_per_step else 1.0
  stage = '' if cost.stage is None else f'; {cost.stage.flops:.4g} of them of its first stage'
  return (
    f'{cost.all_parameters:,} parameters, {cost.flops:.4g} training FLOPs: {cost.steps:,} steps of '
    f'{cost.flops_per_step:,} ({ratio:.4g} × three forward passes){stage}'
  )


def run(
  jobs: list[Job], study: Study, workdir: pathlib.Path, other_code: str = versions.REFUSE
) -> studies.Results:
  """Trains and measures everything that is not finished; a signal stops it, and exits with 75.

  Raises:
    ConfigError: the workdir has another study, or results of other code
      (experiments/study/versions.py).
  """
  versions.reserve(workdir, study)
  versions.settle(jobs, workdir, OF_MODELS, other_code)
  with signals.stop_on_signals() as stop:
    # `studies.run` turns exceptions into failed rows, but lets `SystemExit` through.
    def train(config, folder):
      if not runs.train(config, folder, stop=stop):
        sys.exit(signals.STOPPED)

    def evaluate(job, metrics):
      if stop():
        sys.exit(signals.STOPPED)
      return measure(job, metrics)

    return studies.run(jobs, study, workdir, train, evaluate, OF_MODELS, origin=origin)


def origin(job: Job) -> Origin:
  """What is kept beside the cells of a job: its settings, its data, and the present conditions."""
  if job.row.is_model:
    data = {'data': datasets.remembered(job.folder)}
  elif job.members:
    data = {'members': {one.row.name: datasets.remembered(one.folder) for one in job.members}}
  else:
    data = {'data': datasets.identity(data_of(to_json(job.config['data'])))}
  options = {'options': dict(job.row.sampling), 'baseline': job.row.baseline}
  named = {'row': job.row.name, 'seed': job.seed, 'checkpoint': job.checkpoint}
  settings = named | {'config': job.config, **options, **data}
  return Origin(settings, provenance.conditions())


def measure(job: Job, metrics: Sequence[str]) -> Evaluation:
  """Measures a job with the evaluation and sampling sections of its config."""
  asked = [metric for metric in metrics if metric in METRICS]
  logged = [metric for metric in metrics if metric in RUN_METRICS]
  if job.row.is_model:
    if studies.divergence(job.folder):
      return measure_diverged(job, metrics)
    result = measure_model(job, asked) if asked else Evaluation({})
    found = {metric: RUN_METRICS[metric](job) for metric in logged}
    return result._replace(measures=result.measures | found)
  if job.row.baseline:
    data, settings = data_of(to_json(job.config['data'])), job.config['evaluation']
    result, why = evaluate_baseline(job.row.baseline, data, settings, asked), NO_MODEL
  else:
    result, why = measure_ensemble(job, asked), NO_ENSEMBLE
  found = {metric: Measure(None, note=why) for metric in logged}
  return result._replace(measures=result.measures | found)


def measure_model(job: Job, metrics: Sequence[str]) -> Evaluation:
  """Measures the model in the folder of a job."""
  return _load(job).evaluate(metrics, **job.row.sampling)


def measure_diverged(job: Job, metrics: Sequence[str]) -> Evaluation:
  """The metrics of a run that diverged: NaN, or what its config alone decides."""
  why = f'diverged: {studies.divergence(job.folder)}'
  data = data_of(to_json(job.config['data']))
  method, found = families.build(job.config, data.spec), {}
  for metric in metrics:
    if metric in OF_THE_CONFIG:
      found[metric] = RUN_METRICS[metric](job)
    elif metric == 'parameters':
      found[metric] = Measure(float(cost_of(job).all_parameters), 0.0)
    elif metric in METRICS and (reason := not_measured(metric, method, data)):
      found[metric] = Measure(None, note=reason)
    else:
      found[metric] = Measure(math.nan, note=why)
  return Evaluation(found)


def measure_ensemble(job: Job, metrics: Sequence[str]) -> Evaluation:
  """Measures the pooled forecasts of the models of a job's members."""
  first, *others = [_load(member) for member in job.members]
  return first.evaluate(metrics, members=others)


def _load(job: Job) -> runs.Run:
  """The model in the folder of a job, which samples as the job's config says."""
  loaded = runs.load(job.folder, job.checkpoint)
  method = families.build(job.config, loaded.data.spec)
  return loaded._replace(config=job.config, method=method)


def write_results(results: studies.Results, workdir: pathlib.Path, shard: str) -> None:
  """Writes the tables and the report into a folder, and prints the table; nothing for a shard."""
  if not is_whole(shard):
    print(f'part {shard} is finished; without --shard, the command writes the tables')
    return
  now = provenance.environment()
  facts = {'command': now.pop('command')} | (provenance.merged(results.conditions) or now)
  text = tables.markdown(results, facts)
  # Rows that share a model share its curve, which gets the name of the first row.
  study, shown = results.study, {row.name for row in results.study.shown}
  first_rows = {f: row for row, f in reversed(results.folders.items()) if row in shown}
  records = {row: writers.read(folder) for folder, row in reversed(first_rows.items())}
  of_runs = {}
  if study.stability:
    of_runs = {run: writers.read(folder) for run, folder in results.runs.items()}
  atomic_write(workdir / 'table.md', text)
  atomic_write(workdir / 'table.csv', tables.as_csv(results))
  atomic_write(workdir / 'table.json', tables.as_json(results, facts))
  pictures = {'table.png': sections.picture(results), 'samples.png': sections.overview(results)}
  for name, picture in pictures.items():
    if picture:
      atomic_write(workdir / name, picture)
  subtitle = ' · '.join(filter(None, (study.paper, study.scale and f'{study.scale} scale')))
  page = workdir / 'report.html'
  content = sections.sections(results, facts, records, of_runs)
  report.write_report(page, study.title, content, subtitle)
  print(f'\n{text}\nreport: {page}')
