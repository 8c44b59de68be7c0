"""How long a study takes, from a short timing of each of its models.

Each kind of training runs for three compiled calls in a temporary folder, and its model is measured
with a few samples, in a few steps, and a small part of the split. What grows with the number of
steps, samples and examples is then scaled up. Seeds of a row take equally long. Pictures that
training draws now and then are not counted. Models that are too large for that on this machine, or
whose data are not here, are not trained: their time follows from their operations (operations.py).
"""

import math
import pathlib
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from absl import logging

from common.config import ConfigError, merge, to_json
from common.data.pipeline import Data
from common.data.sources import ChosenExamples
from common.evaluation.evaluate import evaluate_baseline
from common.evaluation.measures import Measure
from common.evaluation.metrics import METRICS, SAMPLES
from common.evaluation.subject import TIMED_CALLS
from common.reporting import writers
from common.reporting.writers import duration
from common.studies import studies
from common.studies.cells import CellStore
from common.studies.plans import Job, Study
from common.training.schedule import make_schedule
from experiments import families, runs
from experiments.study import costs, operations

MOST_PER_CALL = 20  # steps in a timed call: longer ones take as long per step
CALLS = 3  # of which the first compiles
SHARE = 32  # of the samples and of the examples
LEAST_SAMPLES = 32  # what every metric accepts
FEW_STEPS = 8  # of a sampler of more than twice as many: what they cost shows in two numbers
SECONDS_PER_SAMPLE = 'seconds_per_sample'


class Work(NamedTuple):
  """What is left to do for one row.

  Attributes:
    row: its name.
    trainings, cells: models to train and jobs to measure, over its seeds.
    training, measuring: the seconds of one of them; None: there is none, or it was not timed.
    problem: why it was not timed.
    of_operations: whether the time follows from the model's operations.
    left_out: what the time of measuring leaves out, and why.
  """

  row: str
  trainings: int
  cells: int
  training: float | None = None
  measuring: float | None = None
  problem: str = ''
  of_operations: bool = False
  left_out: str = ''

  @property
  def seconds(self) -> float:
    """Seconds for all of them, as far as they are known."""
    return self.trainings * (self.training or 0.0) + self.cells * (self.measuring or 0.0)


def estimate(jobs: Sequence[Job], study: Study, workdir: pathlib.Path) -> list[Work]:
  """What is left of each row of a study, with its time on this machine; writes no results."""
  with tempfile.TemporaryDirectory(prefix='twofold-') as folder:
    timer = _Timer(pathlib.Path(folder))
    rows = dict.fromkeys(job.row.name for job in jobs)
    of_rows = ([job for job in jobs if job.row.name == row] for row in rows)
    return [timer.work(of_row, study, workdir) for of_row in of_rows]


def summary(work: Sequence[Work]) -> str:
  """A line for each row, and one for all."""
  trainings, cells = (sum(one[i] for one in work) for i in (1, 2))
  whole = duration(sum(one.seconds for one in work))
  last = f'{trainings} trainings and {cells} measurements are left: about {whole} in one command'
  if untimed := sum(bool(one.problem) for one in work):
    last += f'; rows not timed: {untimed}'
  if any(one.of_operations for one in work):
    last += (
      '\n* too large to be run here, or without its data: from the operations of the network, at '
      'the speed of a gradient and of a few samples'
    )
  return '\n'.join([*map(_line, work), last])


def _line(work: Work) -> str:
  """'GAN: 3 trainings of 1:20, 3 measurements of 0:25'."""
  parts = []
  counted = (
    ('training', work.trainings, work.training),
    ('measurement', work.cells, work.measuring),
  )
  for what, number, seconds in counted:
    each = '' if seconds is None else f' of {duration(seconds)}'
    parts += [f'{number} {what}{"s" * (number > 1)}{each}'] * bool(number)
  problem = f' (not timed: {work.problem})' if work.problem else ''
  problem += f' (without {work.left_out})' if work.left_out else ''
  return f'{work.row}: {", ".join(parts) or "finished"}{problem}{" *" * work.of_operations}'


class _Timer:
  """Times each kind of training and of measurement; the short runs are in its folder."""

  def __init__(self, folder: pathlib.Path):
    self._folder = folder
    self._counted: set[pathlib.Path] = set()  # models that a row above trains
    # By the settings of the training: the folder of the short run, and the seconds of a whole one.
    self._trained: dict[tuple[str, ...], tuple[pathlib.Path, float]] = {}
    self._speeds: dict[tuple[str, str], float] = {}  # operations per second, by network

  def work(self, jobs: Sequence[Job], study: Study, workdir: pathlib.Path) -> Work:
    """What is left for the jobs of a row, one for each seed."""
    metrics = study.measured(jobs[0].row)
    stores = [CellStore(workdir / 'cells', job.keys, ()) for job in jobs]
    left = [job for job, store in zip(jobs, stores, strict=True) if store.missing(metrics)]
    models = [part for job in left for part in studies.models(job) if self._is_new(part)]
    found = Work(jobs[0].row.name, len(models), len(left))
    if not left:
      return found
    if left[0].members:
      return found._replace(problem='an ensemble takes about as long as its members')
    asked = [name for name in metrics if name in METRICS]
    try:
      if any(_is_only_counted(model) for model in studies.models(left[0])):
        return self._count(found, models, left[0], asked)
      seconds = [self._train(model)[1] for model in models]
      found = found._replace(training=sum(seconds) / len(seconds) if seconds else None)
      return found._replace(measuring=self._measure(left[0], asked))
    except Exception as error:  # any error: it costs one row, not the estimate
      logging.exception('%s', found.row)
      return found._replace(problem=' '.join(str(error).split()))

  def _is_new(self, job: Job) -> bool:
    """Whether a model is still to be trained, and no row above does it."""
    if studies.is_trained(job) or job.folder in self._counted:
      return False
    self._counted.add(job.folder)
    return True

  def _count(self, found: Work, models: Sequence[Job], job: Job, metrics: Sequence[str]) -> Work:
    """The time of a row from the operations of its models."""
    training = None
    if models:
      seconds = [operations.training_seconds(one, self._training_speed(one)) for one in models]
      training = sum(seconds) / len(seconds)
    steps, left_out = _steps(job)[1], ''
    samples = operations.draws(metrics)
    speed = self._sampling_speed(job, steps) if samples else self._training_speed(job)
    measuring = operations.sampling_seconds(job, metrics, steps, speed)
    try:
      measuring += operations.likelihood_seconds(job, metrics, speed)
    except (ConfigError, OSError) as error:
      left_out = f'the likelihood: {error}'
    timed = {'training': training, 'measuring': measuring}
    return found._replace(**timed, left_out=left_out, of_operations=True)

  def _training_speed(self, job: Job) -> float:
    """Operations per second of the training of a job's model."""
    key = operations.key_of(job), 'training'
    if key not in self._speeds:
      self._speeds[key] = operations.training_speed(job)
    return self._speeds[key]

  def _sampling_speed(self, job: Job, steps: int) -> float:
    """Operations per second of sampling from a job's model."""
    key = operations.key_of(job), 'sampling'
    if key not in self._speeds:
      self._speeds[key] = operations.sampling_speed(job, steps)
    return self._speeds[key]

  def _train(self, job: Job) -> tuple[pathlib.Path, float]:
    """The folder of a short run of a job's training, and the seconds of a whole one."""
    chain = [job]
    while chain[0].stage is not None:
      chain.insert(0, chain[0].stage)
    key = tuple(costs.settings_of(part) for part in chain)
    if key not in self._trained:
      config = _short(job.config)
      if job.stage is not None:
        config['data']['first_stage'] = str(self._train(job.stage)[0])
      folder = self._folder / str(len(self._trained))
      start = time.monotonic()
      runs.train(config, folder)
      self._trained[key] = folder, _whole(job, config, folder, time.monotonic() - start)
    return self._trained[key]

  def _measure(self, job: Job, metrics: Sequence[str]) -> float:
    """The seconds that measuring a job takes."""
    run = None if job.row.baseline else runs.load(self._train(job)[0])
    data = costs.data_of(to_json(job.config['data'])) if run is None else run.data
    length = len(data.splits[job.config['evaluation']['split']])
    few = max(length // SHARE, 1)
    first, each = _measure_part(job, run, _part(job, data, few), metrics)
    samples = 0.0
    if each is not None:
      whole = _seconds_per_sample(job, run, each)
      settings = job.config['evaluation']
      samples = max(_draws(settings) * whole - _draws(_few(settings)) * each, 0.0)
    # The first time includes compilation; what an example costs shows in two others.
    again, twice = (
      _measure_part(job, run, _part(job, data, number), metrics)[0] for number in (few, 2 * few)
    )
    return first + samples + max(twice - again, 0.0) / few * (length - few)


def _is_only_counted(job: Job) -> bool:
  """Whether a model is too large to be trained here for its time, or its data are not here."""
  try:
    costs.spec_of(job)
  except (ConfigError, OSError):
    return True
  return operations.is_large(job)


def _short(config: Mapping[str, Any]) -> dict[str, Any]:
  """The config of a short run: a few compiled calls, each followed by a validation, if any."""
  settings = config['train']
  steps = min(settings['steps_per_call'], MOST_PER_CALL)
  every = {
    'steps': str(CALLS * steps),
    'steps_per_call': steps,
    'log_every': str(steps),
    'evaluate_every': '0' if settings['evaluate_every'] == '0' else str(steps),
    'sample_every': '0',
    'checkpoint_every': '100%',
  }
  return merge(config, {'train': every})


def _whole(job: Job, config: Mapping[str, Any], folder: pathlib.Path, wall: float) -> float:
  """The seconds of a whole training, from its short run, which took `wall` seconds.

  Args:
    job: the training.
    config: that of the short run.
    folder: its folder.
    wall: its seconds, with compilation, three validations and the last checkpoint.
  """
  batch_size = job.config['data']['batch_size']
  epoch = max(costs.spec_of(job).num_train // batch_size, 1)
  whole, short = (
    make_schedule(one['train'], epoch, batch_size=batch_size) for one in (job.config, config)
  )
  # The log leaves out the first call, because it compiles.
  per_step = writers.training_seconds(folder) / (short.total - short.per_call)
  seconds = wall + per_step * (whole.total - short.total)
  if not whole.evaluate:
    return seconds
  trained, validated = (writers.read(folder, split) for split in ('train', 'validation'))
  per_validation = validated[-1]['time'] - trained[-1]['time']
  return seconds + per_validation * (math.ceil(whole.total / whole.evaluate) - CALLS)


def _part(job: Job, data: Data, number: int) -> Data:
  """The data with the first examples of the evaluated split in place of all."""
  split = job.config['evaluation']['split']
  first = ChosenExamples(data.splits[split], np.arange(number))
  return data._replace(splits={**data.splits, split: first})


def _measure_part(
  job: Job, run: runs.Run | None, data: Data, metrics: Sequence[str]
) -> tuple[float, float | None]:
  """Measures a part of the data with few samples: its seconds, and those of a sample, if any."""
  start = time.monotonic()
  if run is None:
    evaluate_baseline(job.row.baseline, data, job.config['evaluation'], metrics)
    return time.monotonic() - start, None
  settings = job.config['evaluation'] | {'sample_sets': 1}
  draws = any(METRICS[name].draws == SAMPLES for name in metrics)
  if draws:
    settings, metrics = _few(settings), dict.fromkeys([*metrics, SECONDS_PER_SAMPLE])
  found = _measured(job, run._replace(data=data), settings, metrics, _steps(job)[0])
  seconds = time.monotonic() - start
  return seconds, found[SECONDS_PER_SAMPLE].value if draws else None


def _seconds_per_sample(job: Job, run: runs.Run, each: float) -> float:
  """The seconds of a sample in all steps, from those in a few, `each`, and in twice as many."""
  few, steps = _steps(job)
  if few == steps:
    return each
  settings = _few(job.config['evaluation'])
  found = _measured(job, run, settings, [SECONDS_PER_SAMPLE], 2 * few)
  per_step = max(found[SECONDS_PER_SAMPLE].value - each, 0.0) / few
  return each + per_step * (steps - few)


def _steps(job: Job) -> tuple[int, int]:
  """(steps of a timed sample, those of the job), which are equal where they are not many; or 0."""
  options = job.config.get('sampling', {}) | job.row.sampling
  steps = options.get('steps', 0)
  # Times that are given one by one belong to one number of steps.
  fixed = options.get('grid', {}).get('name') == 'given'
  return (steps if fixed or steps <= 2 * FEW_STEPS else FEW_STEPS), steps


def _measured(
  job: Job, run: runs.Run, settings: Mapping[str, Any], metrics: Iterable[str], steps: int
) -> Mapping[str, Measure]:
  """The metrics of a model with other settings of the evaluation and a number of steps."""
  config = merge(job.config, {'evaluation': dict(settings)})
  run = run._replace(config=config, method=families.build(config, run.data.spec))
  options = job.row.sampling | ({'steps': steps} if steps else {})
  return run.evaluate(list(metrics), **options).measures


def _few(settings: Mapping[str, Any]) -> dict[str, Any]:
  """Settings of an evaluation of one set of few samples."""
  batch = max(1, min(settings['batch_size'], settings['num_samples'] // SHARE))
  number = max((1 + TIMED_CALLS) * batch, LEAST_SAMPLES)
  return dict(settings) | {'sample_sets': 1, 'batch_size': batch, 'num_samples': number}


def _draws(settings: Mapping[str, Any]) -> int:
  """Samples that an evaluation draws: whole batches, and some more for the timing of one set."""
  batch = min(settings['batch_size'], settings['num_samples'])
  calls = math.ceil(settings['num_samples'] / batch)
  return (max(calls, 1 + TIMED_CALLS) + (settings['sample_sets'] - 1) * calls) * batch
