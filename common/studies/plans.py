"""A study is a table as data: rows and columns, published cells, and the claims of a paper."""

import dataclasses
import hashlib
import json
import pathlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from common.checkpoints.resume import MEASURING, OF_A_ROW, SAMPLING, is_changeable
from common.config import ConfigError, flatten, pick, plain_dict, suggestion
from common.evaluation.evaluate import BASELINES_OF_ROWS
from common.studies.claims import Claim
from common.studies.stability import STABLE_RUNS, Stability

Config = dict[str, Any]
CHECKPOINTS = ('last', 'best')
# Settings of the data in which the members of an ensemble may differ.
OF_A_MEMBER = ('context', 'min_context', 'stride', 'train_to', 'batch_size', 'dir')


class PaperTraining(NamedTuple):
  """The training that a paper published, for the metric 'paper_share' and for dry runs.

  Attributes:
    config: its config, 'FILE.py:variant'.
    spec: what its data are, if not here: shape, levels, num_classes, num_train, as in `DataSpec`.
    settings: settings that differ from those of its config, by dotted key.
  """

  config: str
  spec: Mapping[str, Any] = {}
  settings: Mapping[str, Any] = {}


@dataclasses.dataclass(frozen=True)
class Row:
  """A row of a study.

  Attributes:
    name: the row's name in the table.
    config: settings of the training config that differ from the study's, by dotted key. A value
      that is a dict replaces a whole component.
    sampling: sampler options. Rows that differ only in these share one trained model.
    base: a config file ('FILE.py:variant') in place of the study's.
    baseline: a classical forecast of the data of the config, or 'real' texts, in place of a model:
      nothing is trained (common/evaluation/evaluate.py: evaluate_baseline).
    ensemble: names of rows above with models, whose forecasts this row pools; it trains nothing and
      has no config.
    tries_of: the name of a row of which this one is another setting, such as another learning rate:
      it starts from that row's base, config, sampling and first stage. It is measured by the
      distance of the study's `stability` alone, and stands in the table of runs.
    first_stage: a row above, an autoencoder, whose latents, of the same seed, this row models.
    paper_training: the training of the paper, in place of the study's.
    at: its value on each of the study's axes, or nothing.
  """

  name: str
  config: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  sampling: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  base: str = ''
  baseline: str = ''
  ensemble: tuple[str, ...] = ()
  tries_of: str = ''
  first_stage: str = ''
  paper_training: PaperTraining | None = None
  at: tuple[str, ...] = ()

  @property
  def is_model(self) -> bool:
    """Whether the row is one trained model."""
    return not (self.baseline or self.ensemble)


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
    axes: the titles of the axes on which rows have a place (`Row.at`); see common/studies/grids.py.
    plots: (metric along x, metric along y) of each scatter plot in the report.
    seeds: one run per row and seed.
    stability: which runs are stable, for the metric 'stable_runs'; see `common.studies.stability`.
    paper_training: the training of the paper, of which those of the rows are a share.
    checkpoint: what is measured of a run: its 'last' checkpoint, or the 'best' on the validation
      split.
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
  axes: tuple[str, ...] = ()
  plots: tuple[tuple[str, str], ...] = ()
  seeds: tuple[int, ...] = (0,)
  stability: Stability | None = None
  paper_training: PaperTraining | None = None
  checkpoint: str = 'last'

  @property
  def shown(self) -> tuple[Row, ...]:
    """The rows of the table; tries have a table of their own."""
    return tuple(row for row in self.rows if not row.tries_of)

  @property
  def groups(self) -> dict[str, list[str]]:
    """The rows whose runs belong together, a row of the table with its tries, by that row."""
    found = {row.name: [row.name] for row in self.shown if row.is_model}
    for row in self.rows:
      if row.tries_of:
        found[row.tries_of].append(row.name)
    return found

  def measured(self, row: Row) -> tuple[str, ...]:
    """The metrics that are measured of a row; the share of stable runs follows from them."""
    if row.tries_of:
      return (self.stability.metric,)
    return tuple(metric for metric in self.metrics if metric != STABLE_RUNS)


class Job(NamedTuple):
  """One row with one seed.

  Attributes:
    row, seed: the row and the seed.
    config: the config to train, with the seed.
    folder: the folder of the trained model.
    keys: names of the files of its cells: for metrics of the model, and of its samples.
    members: the jobs of an ensemble, with the same seed; config and folder are those of the first.
    stage: the job of the first stage, if the model is one of its latents.
    checkpoint: that of the study.
  """

  row: Row
  seed: int
  config: Config
  folder: pathlib.Path
  keys: tuple[str, str]
  members: tuple['Job', ...] = ()
  stage: 'Job | None' = None
  checkpoint: str = 'last'


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
  named = {row.name: row for row in study.rows}
  for row in study.rows:
    if row.tries_of:
      row = _as_a_try(row, named[row.tries_of])
    row = dataclasses.replace(row, paper_training=row.paper_training or study.paper_training)
    for key in row.config:
      if key.startswith(('sampling.', 'evaluation.')) and key not in OF_A_ROW:
        raise ConfigError(
          f'row {row.name!r} sets {key}, which training does not depend on: put sampler options '
          'into its `sampling`, and evaluation settings into the `config` of the study'
        )
    if row.baseline:
      pick(BASELINES_OF_ROWS, row.baseline, f'baseline of row {row.name!r}')
    if row.ensemble:
      for job in _ensembles(row, study.seeds, jobs):
        jobs.append(_unlike_others(job, same))
      continue
    overrides = {**study.config, **row.config}
    # A baseline has no random numbers.
    for seed in study.seeds[:1] if row.baseline else study.seeds:
      stage = _stage(row, seed, jobs) if row.first_stage else None
      found = {} if stage is None else {'data.first_stage': str(stage.folder)}
      config = plain_dict(load(row.base or study.base, {**overrides, 'seed': seed, **found}))
      job = _job(row, seed, config, workdir, stage)
      if study.checkpoint != 'last' and row.is_model:
        keys = tuple(f'{key}-{study.checkpoint}' for key in job.keys)
        job = job._replace(keys=keys, checkpoint=study.checkpoint)
      jobs.append(_unlike_others(job, same))
  return jobs


def _as_a_try(row: Row, of: Row) -> Row:
  """The row with everything that it takes over from the row of which it is another setting."""
  config, sampling = {**of.config, **row.config}, {**of.sampling, **row.sampling}
  taken = dict(base=row.base or of.base, first_stage=row.first_stage or of.first_stage)
  return dataclasses.replace(row, config=config, sampling=sampling, **taken)


def _stage(row: Row, seed: int, jobs: Sequence[Job]) -> Job:
  """The job of a row's first stage. Raises ConfigError for a row that is none above."""
  models = {job.row.name: job for job in jobs if job.row.is_model and job.seed == seed}
  return pick(models, row.first_stage, f'row above as the first stage of {row.name!r}:')


def _unlike_others(job: Job, same: dict[str, Job]) -> Job:
  """The job, which is added to `same`. Raises ConfigError if an equal one is there."""
  # The key of its samples covers everything that a row depends on.
  twin = same.setdefault(job.keys[1], job)
  if twin is not job:
    raise ConfigError(
      f'rows {twin.row.name!r} and {job.row.name!r} have the same settings; remove one of them'
    )
  return job


def shard(jobs: Sequence[Job], index: int, count: int) -> list[Job]:
  """Part `index` (from 1) of `count` parts of the jobs: those of every `count`-th model.

  Jobs of one model stay together, and with those of its first stage, so parts can run at the same
  time in one folder. Several parts hold no ensembles, because the models of one may be in different
  parts.
  """
  if count > 1:
    jobs = [job for job in jobs if not job.members]
  models = list(dict.fromkeys(_first_folder(job) for job in jobs))
  return [job for job in jobs if models.index(_first_folder(job)) % count == index - 1]


def _first_folder(job: Job) -> pathlib.Path:
  return job.folder if job.stage is None else _first_folder(job.stage)


def _job(
  row: Row, seed: int, config: Config, workdir: pathlib.Path, stage: Job | None = None
) -> Job:
  # A model depends on the settings that training reads, its metrics also on evaluation settings,
  # and metrics of its samples also on sampler options.
  flat = flatten(config)
  sampled = {k: v for k, v in flat.items() if k.startswith(SAMPLING)}
  measured = {k: v for k, v in flat.items() if k.startswith(MEASURING)}
  trained = {k: v for k, v in flat.items() if not is_changeable(k)}
  # A run may find its first stage elsewhere when it resumes, but another one makes another model.
  # That of a row has a name of its own, wherever the workdir is.
  if given := flat.get('data.first_stage'):
    trained['data.first_stage'] = stage.folder.name if stage is not None else given
  # Names depend only on content: renaming, adding or moving a row keeps everything finished.
  folder = workdir / 'models' / f'{config.get("family") or "model"}-{_hash(trained)}'
  if row.baseline:  # which depends on the data alone
    data = {k: v for k, v in trained.items() if k.startswith('data.')}
    forecast = _hash([data, measured, row.baseline])
    return Job(row, seed, config, folder, (f'no-model-{forecast}', f'baseline-{forecast}'))
  model = _hash([trained, measured])
  samples = _hash([trained, measured, sampled, dict(row.sampling)])
  keys = (f'model-{model}', f'samples-{samples}')
  return Job(row, seed, config, folder, keys, stage=stage)


def _ensembles(row: Row, seeds: Sequence[int], jobs: Sequence[Job]) -> list[Job]:
  """The jobs of an ensemble, one for each seed, from those of the rows above."""
  if row.config or row.sampling or row.base or row.baseline:
    raise ConfigError(
      f'row {row.name!r} has an ensemble and settings of its own: remove its config, sampling, '
      'base and baseline'
    )
  if len(set(row.ensemble)) < max(2, len(row.ensemble)):
    raise ConfigError(
      f'the ensemble {row.name!r} must name two rows or more, each once, got {row.ensemble!r}'
    )
  models = {(job.row.name, job.seed): job for job in jobs if job.row.is_model}
  for name in row.ensemble:
    if (name, seeds[0]) not in models:
      known = [known for known, seed in models if seed == seeds[0]]
      raise ConfigError(
        f'the ensemble {row.name!r} names {name!r}, which is no model in a row above;'
        f'{suggestion(name, known)}'
      )
    job = models[name, seeds[0]]
    if job.row.sampling:
      raise ConfigError(f'the ensemble {row.name!r} names {name!r}, which has sampler options')
    first = models[row.ensemble[0], seeds[0]]
    if _windows_of(job) != _windows_of(first):
      raise ConfigError(
        f'the ensemble {row.name!r} names {first.row.name!r} and {name!r}, whose data differ: the '
        'members of an ensemble must forecast the same windows'
      )
  made = []
  for seed in seeds:
    members = tuple(models[name, seed] for name in row.ensemble)
    pool = _hash(sorted(job.keys[1] for job in members))
    keys = (f'no-model-{pool}', f'ensemble-{pool}')
    made.append(Job(row, seed, members[0].config, members[0].folder, keys, members))
  return made


def _windows_of(job: Job) -> dict[str, Any]:
  """The settings of the data that decide which windows are forecast."""
  return {k: v for k, v in job.config['data'].items() if k not in OF_A_MEMBER}


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
    pick(dict.fromkeys({*known_metrics, STABLE_RUNS}), metric, 'metric')
  if study.published and not study.paper:
    raise ConfigError(
      f'study {study.name!r} has published cells, so `paper` must name their source'
    )
  pick(dict.fromkeys(CHECKPOINTS), study.checkpoint, f'checkpoint of study {study.name!r}')
  _check_tries(study)
  _check_places(study)
  # Claims, published values and plots name cells, which must exist.
  cells = [(f'claim {claim.text!r}', *cell) for claim in study.claims for cell in claim.cells()]
  cells += [('a published cell', *cell) for cell in study.published]
  cells += [('a plot', rows[0], metric) for plot in study.plots for metric in plot]
  tries = {row.name for row in study.rows if row.tries_of}
  for where, row, metric in cells:
    for what, name, known in (('row', row, rows), ('metric', metric, study.metrics)):
      if name not in known:
        raise ConfigError(f'{where} names the {what} {name!r};{suggestion(name, known)}')
    if row in tries and metric != study.stability.metric:
      raise ConfigError(
        f'{where} names {metric!r} of {row!r}, of which only {study.stability.metric!r} is measured'
      )


def _check_places(study: Study) -> None:
  """Checks the places of rows on the study's axes."""
  places: dict[tuple[str, ...], str] = {}
  for row in study.rows:
    if row.at and len(row.at) != len(study.axes):
      raise ConfigError(
        f'row {row.name!r} has the place {", ".join(row.at)}, which must have a value for each of '
        f'the axes of study {study.name!r}: {", ".join(study.axes) or "none"}'
      )
    if row.at and places.setdefault(row.at, row.name) != row.name:
      raise ConfigError(
        f'rows {places[row.at]!r} and {row.name!r} have the same place on the axes: '
        f'{", ".join(row.at)}'
      )


def _check_tries(study: Study) -> None:
  """Checks what a study says of stability."""
  if (study.stability is None) != (STABLE_RUNS not in study.metrics):
    raise ConfigError(
      f'study {study.name!r}: the metric {STABLE_RUNS!r} and a `stability` need each other'
    )
  if study.stability and study.stability.metric not in study.metrics:
    raise ConfigError(
      f'study {study.name!r}: the metric of its stability, {study.stability.metric!r}, must be one '
      f'of its metrics, {", ".join(study.metrics)}'
    )
  models = [row.name for row in study.rows if row.is_model and not row.tries_of]
  for row in study.rows:
    if not row.tries_of:
      continue
    if study.stability is None:
      raise ConfigError(
        f'row {row.name!r} is a try of {row.tries_of!r}, but the study has no `stability`'
      )
    if not row.is_model:
      raise ConfigError(f'row {row.name!r} is a try: remove its baseline or ensemble')
    if row.tries_of not in models:
      raise ConfigError(
        f'row {row.name!r} is a try of {row.tries_of!r}, which is no row with a model of its own;'
        f'{suggestion(row.tries_of, models)}'
      )
