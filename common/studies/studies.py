"""A study is a table as data: rows and columns, published cells, and the claims a paper makes.

`run` trains what a study needs, each model once, and measures every cell. What is finished is kept
in the work folder under a hash of what it depends on, so that the same command goes on where it
stopped, and a row that is added later costs only itself.
"""

import dataclasses
import hashlib
import json
import pathlib
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, NamedTuple

from absl import logging

from common.config import ConfigError, flatten, pick, suggestion
from common.evaluation.measures import Evaluation, Measure
from common.files import atomic_write
from common.reporting import pictures, report
from common.studies.claims import Claim, Estimate, estimate, judge

# Sections of a config that training does not depend on.
SAMPLING, MEASURING = ('sampling.',), ('evaluation.', 'likelihood.')
PICTURE_WIDTH = 700  # pixels of a picture of samples, at least

Config = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Row:
  """A row of a study.

  Attributes:
    name: of the row.
    config: settings of the training config that differ from the study's, by dotted key. A dict as
      a value replaces a whole component.
    sampling: sampler options. Rows that differ only in these share one trained model.
    base: a config file ('FILE.py:variant') in place of the study's.
  """

  name: str
  config: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  sampling: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  base: str = ''


@dataclasses.dataclass(frozen=True)
class Study:
  """A table to be measured.

  Attributes:
    name: short, for files.
    title: for a reader.
    base: the config file that rows start from, 'FILE.py:variant'.
    rows: of the table.
    metrics: its columns, by name of metric.
    paper: whose table it is, with its number: the source of the published cells.
    scale: the size at which it is run ('demo', 'cpu', 'paper').
    about: a paragraph on what is compared with what.
    config: settings for all rows, by dotted key.
    published: by (row, metric), a number or what the paper writes ('diverges').
    published_as: by metric, what the published column is, where it is not the same quantity.
    claims: what the paper, or the study, asserts.
    plots: (metric along x, metric along y) of the pictures in the report.
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
    row, seed: which.
    config: to train, with the seed in it.
    folder: of the trained model.
    keys: names of the files that hold its cells, for metrics of the model and of its samples.
  """

  row: Row
  seed: int
  config: Config
  folder: pathlib.Path
  keys: tuple[str, str]


class Results(NamedTuple):
  """What a study found.

  Attributes:
    study: what was asked.
    measures: by (row, metric), one per seed that was measured.
    pictures: samples by row, as PNG files, or text files where the data is text.
    folders: of the trained models by row (first seed).
    failures: by row, why it has no cells.
  """

  study: Study
  measures: dict[tuple[str, str], tuple[Measure, ...]]
  pictures: dict[str, pathlib.Path]
  folders: dict[str, pathlib.Path]
  failures: dict[str, str]

  def estimates(self) -> dict[tuple[str, str], Estimate | None]:
    """What the seeds say together, by (row, metric)."""
    return {cell: estimate(measures) for cell, measures in self.measures.items()}

  def verdicts(self) -> list[report.Verdict]:
    """What the measurements say of each claim."""
    estimates = self.estimates()
    return [judge(claim, estimates) for claim in self.study.claims]


def plan(
  study: Study,
  load: Callable[[str, Mapping[str, Any]], Mapping[str, Any]],
  workdir: pathlib.Path,
  known_metrics: Iterable[str],
  free: Collection[str] = (),
) -> list[Job]:
  """Checks a study, and lists what is to be done. Nothing is trained and nothing written.

  Args:
    study: the table.
    load: (base, overrides) -> config; `experiments.families.load_config`.
    workdir: where trained models and cells are kept.
    known_metrics: names that `evaluate` knows.
    free: prefixes of settings that may differ between two runs of one model.

  Raises:
    ConfigError: for anything in the study that names what is not there, or is there twice.
  """
  _check(study, set(known_metrics))
  jobs, same = [], {}
  for row in study.rows:
    for key in row.config:
      if key.startswith(('sampling.', 'evaluation.')):
        raise ConfigError(
          f'row {row.name!r} sets {key}, which is no part of training: put sampler options into '
          'its `sampling`, and evaluation settings into the `config` of the study'
        )
    overrides = {**study.config, **row.config}
    for seed in study.seeds:
      config = load(row.base or study.base, {**overrides, 'seed': seed})
      config = config.to_dict() if hasattr(config, 'to_dict') else dict(config)
      job = _job(row, seed, config, workdir, free)
      twin = same.setdefault(job.keys[1], job)
      if twin is not job:
        raise ConfigError(f'rows {twin.row.name!r} and {row.name!r} are the same')
      jobs.append(job)
  return jobs


def run(
  jobs: list[Job],
  study: Study,
  workdir: pathlib.Path,
  train: Callable[[Config, pathlib.Path], None],
  evaluate: Callable[[Config, pathlib.Path, list[str], dict[str, Any]], Evaluation],
  of_model: Collection[str] = (),
  say: Callable[[str], None] = print,
) -> Results:
  """Trains and measures whatever is not finished.

  A row that fails is reported, and the others go on. Exceptions that are no errors (`SystemExit`,
  `KeyboardInterrupt`) end the run; what is finished by then is kept.

  Args:
    jobs: from `plan`.
    study: the same.
    workdir: the same.
    train: (config, folder): trains, or goes on with what is there, and returns when it is finished.
    evaluate: (config, folder, metrics, sampler options) -> what it measured.
    of_model: metrics that do not depend on sampler options: measured once per model.
    say: told the progress.
  """
  measures, pictures, folders, failures = {}, {}, {}, {}
  broken: dict[pathlib.Path, str] = {}  # models that failed: not tried again for the next row
  for number, job in enumerate(jobs, 1):
    name = job.row.name
    label = f'[{number}/{len(jobs)}] {name}' + (f', seed {job.seed}' if job.seed else '')
    store = _Store(workdir / 'cells', job.keys, of_model)
    missing = store.missing(study.metrics)
    try:
      if missing:
        if job.folder in broken:
          raise RuntimeError(broken[job.folder])
        _train_once(job, train, broken, lambda text, label=label: say(f'{label}: {text}'))
        say(f'{label}: measuring {", ".join(missing)}')
        store.keep(evaluate(job.config, job.folder, missing, dict(job.row.sampling)))
      found = store.read()
      if left := store.missing(study.metrics):
        raise RuntimeError(f'no value came back for {", ".join(left)}')
    except Exception as error:  # whatever it is: one row is lost, the study is not
      logging.exception('%s', label)
      failures[name] = _one_line(error)
      say(f'{label}: failed: {failures[name]}')
      continue
    for metric in study.metrics:
      measures[name, metric] = (*measures.get((name, metric), ()), found[metric])
    folders.setdefault(name, job.folder)
    for shown in (store.picture, store.texts):
      if shown.exists():
        pictures.setdefault(name, shown)
    say(f'{label}: ' + ', '.join(f'{m} {_short(found[m])}' for m in study.metrics))
  return Results(study, measures, pictures, folders, failures)


def _train_once(job: Job, train, broken: dict, say: Callable[[str], None]) -> None:
  """Trains the job's model unless that was finished before."""
  done = job.folder / 'trained'
  if done.exists():
    return
  say(f'training in {job.folder}')
  try:
    train(job.config, job.folder)
  except Exception as error:
    broken[job.folder] = _one_line(error)
    raise
  atomic_write(done, '')


class _Store:
  """The cells of one job: a file for metrics of the model, one for those of its samples."""

  def __init__(self, folder: pathlib.Path, keys: tuple[str, str], of_model: Collection[str]):
    self.model, self.samples = (folder / f'{key}.json' for key in keys)
    self.picture, self.texts = (folder / f'{keys[1]}.{suffix}' for suffix in ('png', 'txt'))
    self.of_model = of_model

  def read(self) -> dict[str, Measure]:
    """Every measure that is kept. A damaged file counts as none."""
    found = {}
    for path in (self.model, self.samples):
      try:
        found |= {k: Measure(**v) for k, v in json.loads(path.read_text('utf-8')).items()}
      except (OSError, ValueError, TypeError, AttributeError):
        continue
    return found

  def missing(self, metrics: Iterable[str]) -> list[str]:
    """Those of `metrics` that are not kept."""
    found = self.read()
    return [metric for metric in metrics if metric not in found]

  def keep(self, evaluation: Evaluation) -> None:
    """Adds what was measured, and the picture of the samples."""
    found = self.read() | evaluation.measures
    display = evaluation.display
    if len(display.images):
      scale = -(-PICTURE_WIDTH // display.picture().shape[1])
      pictures.save_png(self.picture, display.picture(scale))
    if display.text:
      atomic_write(self.texts, display.text)
    for path, of_model in ((self.model, True), (self.samples, False)):
      kept = {k: v._asdict() for k, v in found.items() if (k in self.of_model) == of_model}
      atomic_write(path, json.dumps(kept, indent=2))


def _job(row: Row, seed: int, config: Config, workdir: pathlib.Path, free) -> Job:
  flat = flatten(config)
  sampled = {k: v for k, v in flat.items() if k.startswith(SAMPLING)}
  measured = {k: v for k, v in flat.items() if k.startswith(MEASURING)}
  others = (*SAMPLING, *MEASURING, *free)
  trained = {k: v for k, v in flat.items() if not k.startswith(others)}
  # Names hang on content alone: neither a new name of a row nor a new row moves what is finished.
  folder = workdir / 'models' / f'{config.get("family") or "model"}-{_hash(trained)}'
  model = _hash([trained, measured])
  samples = _hash([trained, measured, sampled, dict(row.sampling)])
  return Job(row, seed, config, folder, (f'model-{model}', f'samples-{samples}'))


def _hash(value: Any) -> str:
  return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:12]


def _check(study: Study, known_metrics: set[str]) -> None:
  """Everything that can be wrong in a study without a look at its configs."""
  rows = [row.name for row in study.rows]
  for what, names in (('row', rows), ('metric', study.metrics), ('seed', study.seeds)):
    if not names:
      raise ConfigError(f'study {study.name!r} has no {what}s')
    for name in names:
      if list(names).count(name) > 1:
        raise ConfigError(f'study {study.name!r} has the {what} {name!r} twice')
  for metric in study.metrics:
    pick(dict.fromkeys(known_metrics), metric, 'metric')
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
