"""Runs a study: `run` trains every model that it needs, each once, and measures every cell.

Results are kept in the work folder under a hash of everything they depend on. The same command
therefore resumes a study that was interrupted, and a row that is added later costs only its own
training.
"""

import json
import math
import pathlib
import time
import traceback
from collections.abc import Callable, Collection, Mapping
from typing import NamedTuple

from absl import logging

from common.evaluation.measures import Evaluation, Measure
from common.files import atomic_write
from common.reporting import provenance, report
from common.reporting.writers import duration
from common.studies.cells import CellStore, Origin
from common.studies.claims import judge
from common.studies.estimates import Estimate, estimate
from common.studies.plans import Config, Job, Study
from common.studies.stability import STABLE_RUNS, shares
from common.training.meters import TrainingError

TRAINED, DIVERGED = 'trained', 'diverged'  # files in the folder of a model whose training ended
# Sections on which the meaning of the loss does not depend; all others define it.
NOT_OF_THE_LOSS = (
  *('seed', 'network', 'optimizer', 'ema', 'train', 'parallel', 'finetune'),
  *('sampling', 'evaluation', 'likelihood'),
)


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
    diverged: why training diverged, by row and seed. This is a result, and no failure: it is kept.
    runs: folders of all trained models, by (row, seed).
    conditions: the different conditions of the cells and of their models
      (common/reporting/provenance.py).
  """

  study: Study
  measures: dict[tuple[str, str], dict[int, Measure]]
  pictures: dict[str, pathlib.Path]
  strips: dict[str, pathlib.Path]
  folders: dict[str, pathlib.Path]
  configs: dict[str, Config]
  failures: dict[str, str]
  diverged: dict[str, dict[int, str]]
  runs: dict[tuple[str, int], pathlib.Path]
  conditions: list[dict[str, str]]

  def estimates(self) -> dict[tuple[str, str], Estimate | None]:
    """The estimate from all seeds, by (row, metric)."""
    found = {cell: estimate(measures) for cell, measures in self.measures.items()}
    for (row, metric), one in found.items():
      if one is not None and not math.isfinite(one.value) and row in self.diverged:
        bad, all_seeds = len(self.diverged[row]), len(self.measures[row, metric])
        word = 'diverged' if bad == all_seeds else f'{bad} of {all_seeds} diverged'
        found[row, metric] = one._replace(word=word)
    return found

  def verdicts(self) -> list[report.Verdict]:
    """The verdict on each claim."""
    estimates = self.estimates()
    return [judge(claim, estimates) for claim in self.study.claims]


def unknown_origin(job: Job) -> Origin:
  """Of cells that need none."""
  del job
  return Origin({}, {})


def run(
  jobs: list[Job],
  study: Study,
  workdir: pathlib.Path,
  train: Callable[[Config, pathlib.Path], None],
  evaluate: Callable[[Job, list[str]], Evaluation],
  model_metrics: Collection[str] = (),
  say: Callable[[str], None] = print,
  origin: Callable[[Job], Origin] = unknown_origin,
) -> Results:
  """Trains and measures everything that is not finished.

  A row that fails is reported, and the others continue. `SystemExit` and `KeyboardInterrupt` end
  the run; everything finished by then is kept.

  A training that diverges (`TrainingError`) is a result: its folder keeps the log and the reason,
  its cells are measured as those of a diverged run, and it is not trained again.

  Args:
    jobs: the jobs, from `plan`.
    study: the study, as in `plan`.
    workdir: the folder, as in `plan`.
    train: (config, folder): trains or resumes a run in the folder; returns once it is finished.
    evaluate: (job, metrics) -> the measured values; of a run that diverged (`divergence`) too.
    model_metrics: metrics that do not depend on sampler options: measured once per model.
    say: called with lines of progress.
    origin: job -> what is kept beside its cells.
  """
  results = Results(study, {}, {}, {}, {}, {}, {}, {}, {}, [])
  stores = [CellStore(workdir / 'cells', job.keys, model_metrics) for job in jobs]
  wanted = [study.measured(job.row) for job in jobs]
  clock = _Clock(sum(bool(s.missing(w)) for s, w in zip(stores, wanted, strict=True)))
  # Reasons by folder: a model whose training failed is not tried again for the next row.
  failed_models: dict[pathlib.Path, str] = {}
  for number, (job, store, metrics) in enumerate(zip(jobs, stores, wanted, strict=True), 1):
    name = job.row.name
    seed = f', seed {job.seed}' if len(study.seeds) > 1 else ''
    label = f'[{number}/{len(jobs)}] {name}{seed}'
    missing = store.missing(metrics)
    try:
      if missing:
        for part in models(job):
          if part.folder in failed_models:
            raise RuntimeError(failed_models[part.folder])
          if not is_trained(part):
            say(f'{label}: training in {part.folder}')
            _train(part, train, failed_models)
          if why := divergence(part.folder):
            say(f'{label}: diverged: {why}')
            if part is not job:
              raise RuntimeError(f'{part.row.name} diverged')
        say(f'{label}: measuring {", ".join(missing)}')
        store.add(evaluate(job, missing), origin(job))
        store.failure.unlink(missing_ok=True)
      found = store.read()
      if left := store.missing(metrics):
        raise RuntimeError(f'the evaluation returned no value for {", ".join(left)}')
    except Exception as error:  # any error: it costs one row, not the study
      logging.exception('%s', label)
      atomic_write(store.failure, traceback.format_exc())
      _add_failure(results, job, _one_line(error))
      say(f'{label}: failed: {_one_line(error)} (log: {store.failure})')
    else:
      # All cells come from the files, even new ones: a resumed study reads the same values.
      _add(results, job, found, store)
      say(f'{label}: ' + ', '.join(f'{m} {_short(found[m])}' for m in metrics))
    if missing and (left := clock.after_a_job()):
      say(left)
  if study.stability:
    found = shares(study.stability, study.groups, study.seeds, results.measures)
    for row, measure in found.items():
      results.measures[row, STABLE_RUNS] = {study.seeds[0]: measure}
  return results


def models(job: Job) -> list[Job]:
  """The models that a job needs, each after its first stage: its own, or those of its members."""
  found = []
  for part in job.members or ((job,) if job.row.is_model else ()):
    chain = [part]
    while chain[0].stage is not None:
      chain.insert(0, chain[0].stage)
    found += chain
  return found


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
  name, metrics = job.row.name, results.study.measured(job.row)
  for metric in metrics:
    results.measures.setdefault((name, metric), {})[job.seed] = found[metric]
  diverged = divergence(job.folder) if job.row.is_model else ''
  if diverged:
    results.diverged.setdefault(name, {})[job.seed] = diverged
  # Of a try, and of a run that diverged, such a value is a result.
  is_result = diverged or job.row.tries_of
  broken = {m: found[m].note for m in metrics if not (is_result or found[m].is_finite)}
  for why in dict.fromkeys(broken.values()):
    metrics = ', '.join(metric for metric, note in broken.items() if note == why)
    _add_failure(results, job, f'not finite: {metrics}: {why}')
  if job.row.is_model:
    results.folders.setdefault(name, job.folder)
    results.configs.setdefault(name, job.config)
    results.runs[name, job.seed] = job.folder
  for path in (store.picture, store.texts):
    if path.exists():
      results.pictures.setdefault(name, path)
  if store.strip.exists():
    results.strips.setdefault(name, store.strip)
  starts = [one for part in models(job) for one in provenance.remembered(part.folder)]
  for one in (*store.conditions(metrics), *starts):
    if one and one not in results.conditions:
      results.conditions.append(one)


def loss_kind(config: Config) -> str:
  """Two runs whose configs have the same kind have comparable losses: one quantity on one data."""
  rest = {key: section for key, section in config.items() if key not in NOT_OF_THE_LOSS}
  rest['data'] = {k: v for k, v in config.get('data', {}).items() if k not in ('batch_size', 'dir')}
  return json.dumps(rest, sort_keys=True)


def divergence(folder: pathlib.Path) -> str:
  """Why the training in a folder diverged; '' if it did not."""
  path = folder / DIVERGED
  return path.read_text('utf-8') if path.exists() else ''


def is_trained(job: Job) -> bool:
  """Whether the training of a job's model has ended, with a model or by diverging."""
  return any((job.folder / name).exists() for name in (TRAINED, DIVERGED))


def _train(job: Job, train: Callable, failed_models: dict[pathlib.Path, str]) -> None:
  """Trains the job's model, and records the end in its folder, or failure in `failed_models`."""
  try:
    train(job.config, job.folder)
  except TrainingError as error:
    logging.warning('%s', error)
    atomic_write(job.folder / DIVERGED, error.reason)
    return
  except Exception as error:
    failed_models[job.folder] = _one_line(error)
    raise
  atomic_write(job.folder / TRAINED, '')


def _one_line(error: Exception) -> str:
  return ' '.join(str(error).split()) or type(error).__name__


def _short(measure: Measure) -> str:
  return '-' if measure.value is None else f'{measure.value:.4g}'
