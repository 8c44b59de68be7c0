"""A study is a table as data: rows and columns, published cells, and the claims of a paper.

`run` trains every model that a study needs, each once, and measures every cell. Results are kept in
the work folder under a hash of everything they depend on. The same command therefore resumes a
study that was interrupted, and a row that is added later costs only its own training.
"""

import dataclasses
import hashlib
import json
import pathlib
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from absl import logging

from common.checkpoints.resume import MEASURING, SAMPLING, is_changeable
from common.config import ConfigError, flatten, pick, plain_dict, suggestion
from common.evaluation.forecasts.baselines import BASELINES
from common.evaluation.measures import Evaluation, Measure
from common.files import atomic_write
from common.reporting import report
from common.reporting.writers import duration
from common.studies.cells import CellStore
from common.studies.claims import Claim, judge
from common.studies.estimates import Estimate, estimate

# Sections on which the meaning of the loss does not depend; all others define it.
NOT_OF_THE_LOSS = (
  *('seed', 'network', 'optimizer', 'ema', 'train', 'parallel', 'finetune'),
  *('sampling', 'evaluation', 'likelihood'),
)

Config = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Row:
  """A row of a study.

  Attributes:
    name: the row's name in the table.
    config: settings of the training config that differ from the study's, by dotted key. A value
      that is a dict replaces a whole component.
    sampling: sampler options. Rows that differ only in these share one trained model.
    base: a config file ('FILE.py:variant') in place of the study's.
    baseline: a classical forecast of the data of the config, in place of a model: nothing is
      trained (common/evaluation/forecasts/baselines.py).
  """

  name: str
  config: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  sampling: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  base: str = ''
  baseline: str = ''


@dataclasses.dataclass(frozen=True)
class Study:
  """A table to measure.

  Attributes:
    name: a short name, for files.
    title: a title, for readers.
    base: the config file that rows start from, 'FILE.py:variant'.
    rows: the rows of the table.
    metrics: the columns of the table, by name of metric.
    paper: the paper and the number of its table: the source of the published cells.
    scale: the size at which the study is run ('demo', 'cpu', 'paper').
    about: a paragraph on what the study compares.
    config: settings for all rows, by dotted key.
    published: by (row, metric), a number or the paper's word ('diverges').
    published_as: by metric, the title of the published column if it is a different quantity.
    claims: the assertions of the paper, or of the study.
    plots: (metric along x, metric along y) of each scatter plot in the report.
    seeds: one run per row and seed.
  """

  name: str
  title: str
  base: str
  rows: tuple[Row, ...]
  metrics: tuple[str, ...]
  paper: str = ''
  scale: str = ''
  about: str = ''
  config: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  published: Mapping[tuple[str, str], int | float | str] = dataclasses.field(default_factory=dict)
  published_as: Mapping[str, str] = dataclasses.field(default_factory=dict)
  claims: tuple[Claim, ...] = ()
  plots: tuple[tuple[str, str], ...] = ()
  seeds: tuple[int, ...] = (0,)


class Job(NamedTuple):
  """One row with one seed.

  Attributes:
    row, seed: the row and the seed.
    config: the config to train, with the seed.
    folder: the folder of the trained model.
    keys: names of the files of its cells: for metrics of the model, and of its samples.
  """

  row: Row
  seed: int
  config: Config
  folder: pathlib.Path
  keys: tuple[str, str]


class Results(NamedTuple):
  """The results of a study.

  Attributes:
    study: the study.
    measures: by (row, metric), and by seed.
    pictures: samples by row, as PNG files, or as text files if the data is text.
    strips: one row of samples for each row of the table, as PNG files.
    folders: folders of the trained models, by row (first seed).
    configs: the configs of these models, by row.
    failures: the reason why cells of a row are missing or not finite, by row.
  """

  study: Study
  measures: dict[tuple[str, str], dict[int, Measure]]
  pictures: dict[str, pathlib.Path]
  strips: dict[str, pathlib.Path]
  folders: dict[str, pathlib.Path]
  configs: dict[str, Config]
  failures: dict[str, str]

  def estimates(self) -> dict[tuple[str, str], Estimate | None]:
    """The estimate from all seeds, by (row, metric)."""
    return {cell: estimate(measures) for cell, measures in self.measures.items()}

  def verdicts(self) -> list[report.Verdict]:
    """The verdict on each claim."""
    estimates = self.estimates()
    return [judge(claim, estimates) for claim in self.study.claims]


def plan(
  study: Study,
  load: Callable[[str, Mapping[str, Any]], Mapping[str, Any]],
  workdir: pathlib.Path,
  known_metrics: Iterable[str],
) -> list[Job]:
  """Checks a study, and lists its jobs. Trains nothing and writes nothing.

  Args:
    study: the table.
    load: (base, overrides) -> the completed config of a config file.
    workdir: the folder for trained models and cells.
    known_metrics: names that `evaluate` knows.

  Raises:
    ConfigError: for unknown names, and for names or rows that occur twice.
  """
  _check(study, set(known_metrics))
  jobs, same = [], {}
  for row in study.rows:
    for key in row.config:
      if key.startswith(('sampling.', 'evaluation.')):
        raise ConfigError(
          f'row {row.name!r} sets {key}, which training does not depend on: put sampler options '
          'into its `sampling`, and evaluation settings into the `config` of the study'
        )
    if row.baseline:
      pick(BASELINES, row.baseline, f'baseline of row {row.name!r}')
    overrides = {**study.config, **row.config}
    # A baseline has no random numbers.
    for seed in study.seeds[:1] if row.baseline else study.seeds:
      config = plain_dict(load(row.base or study.base, {**overrides, 'seed': seed}))
      job = _job(row, seed, config, workdir)
      # The key of its samples covers everything that a row depends on.
      twin = same.setdefault(job.keys[1], job)
      if twin is not job:
        raise ConfigError(
          f'rows {twin.row.name!r} and {row.name!r} have the same settings; remove one of them'
        )
      jobs.append(job)
  return jobs


def run(
  jobs: list[Job],
  study: Study,
  workdir: pathlib.Path,
  train: Callable[[Config, pathlib.Path], None],
  evaluate: Callable[[Config, pathlib.Path, list[str], dict[str, Any]], Evaluation],
  model_metrics: Collection[str] = (),
  say: Callable[[str], None] = print,
  evaluate_baseline: Callable[[Config, str, list[str]], Evaluation] | None = None,
) -> Results:
  """Trains and measures everything that is not finished.

  A row that fails is reported, and the others continue. `SystemExit` and `KeyboardInterrupt` end
  the run; everything finished by then is kept.

  Args:
    jobs: the jobs, from `plan`.
    study: the study, as in `plan`.
    workdir: the folder, as in `plan`.
    train: (config, folder): trains or resumes a run in the folder; returns once it is finished.
    evaluate: (config, folder, metrics, sampler options) -> the measured values.
    model_metrics: metrics that do not depend on sampler options: measured once per model.
    say: called with lines of progress.
    evaluate_baseline: (config, baseline, metrics) -> the measured values, for rows of baselines.
  """
  results = Results(study, {}, {}, {}, {}, {}, {})
  stores = [CellStore(workdir / 'cells', job.keys, model_metrics) for job in jobs]
  clock = _Clock(sum(bool(store.missing(study.metrics)) for store in stores))
  # Reasons by folder: a model whose training failed is not tried again for the next row.
  failed_models: dict[pathlib.Path, str] = {}
  for number, (job, store) in enumerate(zip(jobs, stores, strict=True), 1):
    name = job.row.name
    seed = f', seed {job.seed}' if len(study.seeds) > 1 else ''
    label = f'[{number}/{len(jobs)}] {name}{seed}'
    missing = store.missing(study.metrics)
    try:
      if missing:
        if job.folder in failed_models:
          raise RuntimeError(failed_models[job.folder])
        if not _is_trained(job) and not job.row.baseline:
          say(f'{label}: training in {job.folder}')
          _train(job, train, failed_models)
        say(f'{label}: measuring {", ".join(missing)}')
        if job.row.baseline:
          store.add(evaluate_baseline(job.config, job.row.baseline, missing))
        else:
          store.add(evaluate(job.config, job.folder, missing, dict(job.row.sampling)))
      found = store.read()
      if left := store.missing(study.metrics):
        raise RuntimeError(f'the evaluation returned no value for {", ".join(left)}')
    except Exception as error:  # any error: it costs one row, not the study
      logging.exception('%s', label)
      _add_failure(results, job, _one_line(error))
      say(f'{label}: failed: {_one_line(error)}')
    else:
      # All cells come from the files, even new ones: a resumed study reads the same values.
      _add(results, job, found, store)
      say(f'{label}: ' + ', '.join(f'{m} {_short(found[m])}' for m in study.metrics))
    if missing and (left := clock.after_a_job()):
      say(left)
  return results


class _Clock:
  """Estimates the time that a study still needs, from the jobs that it has worked on."""

  def __init__(self, unfinished: int):
    self._unfinished, self._start, self._done = unfinished, time.monotonic(), 0

  def after_a_job(self) -> str:
    """'about 12:30 left'; '' after the last job."""
    self._done += 1
    if self._done >= self._unfinished:
      return ''
    each = (time.monotonic() - self._start) / self._done
    left = duration(each * (self._unfinished - self._done))
    return f'about {left} left, if jobs take equally long'


def _add_failure(results: Results, job: Job, why: str) -> None:
  """Adds a reason; with several seeds, each reason names its seed."""
  if len(results.study.seeds) > 1:
    why = f'seed {job.seed}: {why}'
  name = job.row.name
  results.failures[name] = '; '.join(filter(None, (results.failures.get(name), why)))


def _add(results: Results, job: Job, found: Mapping[str, Measure], store: CellStore) -> None:
  """Adds the cells of a job; the picture and folder of a row come from its first seed."""
  name = job.row.name
  for metric in results.study.metrics:
    results.measures.setdefault((name, metric), {})[job.seed] = found[metric]
  broken = {m: found[m].note for m in results.study.metrics if not found[m].is_finite}
  for why in dict.fromkeys(broken.values()):
    metrics = ', '.join(metric for metric, note in broken.items() if note == why)
    _add_failure(results, job, f'not finite: {metrics}: {why}')
  if not job.row.baseline:  # which has no run
    results.folders.setdefault(name, job.folder)
    results.configs.setdefault(name, job.config)
  for path in (store.picture, store.texts):
    if path.exists():
      results.pictures.setdefault(name, path)
  if store.strip.exists():
    results.strips.setdefault(name, store.strip)


def loss_kind(config: Config) -> str:
  """Two runs whose configs have the same kind have comparable losses: one quantity on one data."""
  rest = {key: section for key, section in config.items() if key not in NOT_OF_THE_LOSS}
  rest['data'] = {k: v for k, v in config.get('data', {}).items() if k not in ('batch_size', 'dir')}
  return json.dumps(rest, sort_keys=True)


def shard(jobs: Sequence[Job], index: int, count: int) -> list[Job]:
  """Part `index` (from 1) of `count` parts of the jobs: those of every `count`-th model.

  Jobs of one model stay together, so parts can run at the same time in one folder.
  """
  models = list(dict.fromkeys(job.folder for job in jobs))
  return [job for job in jobs if models.index(job.folder) % count == index - 1]


def _is_trained(job: Job) -> bool:
  return (job.folder / 'trained').exists()


def _train(job: Job, train: Callable, failed_models: dict[pathlib.Path, str]) -> None:
  """Trains the job's model, and records success in its folder, or failure in `failed_models`."""
  try:
    train(job.config, job.folder)
  except Exception as error:
    failed_models[job.folder] = _one_line(error)
    raise
  atomic_write(job.folder / 'trained', '')


def _job(row: Row, seed: int, config: Config, workdir: pathlib.Path) -> Job:
  # A model depends on the settings that training reads, its metrics also on evaluation settings,
  # and metrics of its samples also on sampler options.
  flat = flatten(config)
  sampled = {k: v for k, v in flat.items() if k.startswith(SAMPLING)}
  measured = {k: v for k, v in flat.items() if k.startswith(MEASURING)}
  trained = {k: v for k, v in flat.items() if not is_changeable(k)}
  # Names depend only on content: renaming, adding or moving a row keeps everything finished.
  folder = workdir / 'models' / f'{config.get("family") or "model"}-{_hash(trained)}'
  if row.baseline:  # which depends on the data alone
    data = {k: v for k, v in trained.items() if k.startswith('data.')}
    forecast = _hash([data, measured, row.baseline])
    return Job(row, seed, config, folder, (f'no-model-{forecast}', f'baseline-{forecast}'))
  model = _hash([trained, measured])
  samples = _hash([trained, measured, sampled, dict(row.sampling)])
  return Job(row, seed, config, folder, (f'model-{model}', f'samples-{samples}'))


def _hash(value: Any) -> str:
  return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:12]


def _check(study: Study, known_metrics: set[str]) -> None:
  """Checks everything in a study that does not need its configs."""
  rows = [row.name for row in study.rows]
  for what, names in (('row', rows), ('metric', study.metrics), ('seed', study.seeds)):
    if not names:
      raise ConfigError(f'study {study.name!r} has no {what}s')
    for name in names:
      if list(names).count(name) > 1:
        raise ConfigError(f'study {study.name!r} has the {what} {name!r} twice; remove one')
  for metric in study.metrics:
    pick(dict.fromkeys(known_metrics), metric, 'metric')
  # Claims, published values and plots name cells, which must exist.
  cells = [(f'claim {claim.text!r}', *cell) for claim in study.claims for cell in claim.cells()]
  cells += [('a published cell', *cell) for cell in study.published]
  cells += [('a plot', rows[0], metric) for plot in study.plots for metric in plot]
  for where, row, metric in cells:
    for what, name, known in (('row', row, rows), ('metric', metric, study.metrics)):
      if name not in known:
        raise ConfigError(f'{where} names the {what} {name!r};{suggestion(name, known)}')


def _one_line(error: Exception) -> str:
  return ' '.join(str(error).split()) or type(error).__name__


def _short(measure: Measure) -> str:
  return '-' if measure.value is None else f'{measure.value:.4g}'
