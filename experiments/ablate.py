"""Runs a study: trains the models of its table, measures every cell, checks its claims.

twofold ablate --study=configs/ablations/why_diffusion.py:demo --workdir=runs/why

The workdir receives table.md, table.csv, table.json, report.html, samples.png and a folder for each
trained model. The same command resumes a study that was stopped, and repeats no finished work.
--show prints the settings of each row that differ from the defaults, and trains nothing.
With --shard=1/4, 2/4, 3/4 and 4/4, four commands at the same time train and measure a part of the
models each; the command without --shard then writes the tables.
After a change of the code, delete WORKDIR/cells to measure again and WORKDIR/models to train again.
"""

import pathlib
import sys

from absl import flags

from common import config_files
from common.config import differences
from common.evaluation.evaluate import METRICS
from common.evaluation.measures import Evaluation, Measure
from common.files import atomic_write
from common.reporting import report, writers
from common.studies import studies, tables
from experiments import cli, families, runs

STUDY = cli.define(
  'study',
  'FILE.py[:scale], a file with a function get_study([scale]).',
  cli.PathParser(),
  required=True,
)
WORKDIR = cli.define('workdir', 'Folder of the study.', cli.OutFolderParser())
SHARD = flags.DEFINE_string('shard', '1/1', 'i/n: train and measure only part i of n.')
SHOW = flags.DEFINE_bool('show', False, 'Print the settings of each row, and train nothing.')

TRAINING_SECONDS = 'training_seconds'  # a metric from the log of the run, not from an evaluation


def main() -> int:
  if not (WORKDIR.value or SHOW.value):
    raise ValueError('--workdir is missing: give the folder of the study, such as runs/why')
  workdir, (part, parts) = pathlib.Path(WORKDIR.value or ''), parse_shard(SHARD.value)
  study = config_files.call(STUDY.value, 'get_study', studies.Study)
  known = (*METRICS, TRAINING_SECONDS)
  jobs = studies.shard(studies.plan(study, families.load_config, workdir, known), part, parts)
  if SHOW.value:
    print(show_rows(jobs))
    return 0
  with cli.stop_on_signals() as stop:
    # `studies.run` turns exceptions into failed rows, but lets `SystemExit` through.
    def train(config, folder):
      if not runs.train(config, folder, stop=stop):
        sys.exit(cli.STOPPED)

    def evaluate(config, folder, metrics, options):
      if stop():
        sys.exit(cli.STOPPED)
      return measure(config, folder, metrics, options)

    # Rows that share a model share these metrics, because they do not depend on sampling.
    model_metrics = [TRAINING_SECONDS, *(name for name, m in METRICS.items() if not m.of_samples)]
    results = studies.run(jobs, study, workdir, train, evaluate, model_metrics)
  if parts == 1:
    write_results(results, workdir)
  else:
    print(f'part {SHARD.value} is finished; without --shard, the command writes the tables')
  return 1 if results.failures else 0


def show_rows(jobs: list[studies.Job]) -> str:
  """The rows of a study, each with its settings that differ from the defaults of its family."""
  lines = []
  for job in jobs:
    changed = differences(job.config, families.defaults(job.config['family']))
    lines.append(f'{job.row.name}  (family {job.config["family"]!r}, seed {job.seed})')
    lines += [f'  {key} = {new!r}' for key, (_, new) in changed.items() if new is not None]
    lines += [f'  option {key} = {value!r}' for key, value in job.row.sampling.items()]
  return '\n'.join(lines)


def parse_shard(text: str) -> tuple[int, int]:
  """(2, 4) from '2/4'. Raises ValueError unless the part is one of the parts."""
  part, _, parts = text.partition('/')
  if part.isdecimal() and parts.isdecimal() and 1 <= int(part) <= int(parts):
    return int(part), int(parts)
  raise ValueError(f'--shard={text}: write PART/PARTS, such as 1/4, 2/4, 3/4 and 4/4')


def measure(config: dict, folder: pathlib.Path, metrics: list[str], options: dict) -> Evaluation:
  """Measures the model in `folder` with the evaluation and sampling sections of `config`."""
  run = runs.load(folder)
  run = run._replace(config=config, method=families.build(config, run.data.spec))
  asked = [metric for metric in metrics if metric != TRAINING_SECONDS]
  result = run.evaluate(asked, **options)
  if TRAINING_SECONDS in metrics:
    # The first call includes compilation and does not count: a run of one call has no time.
    seconds = runs.training_seconds(folder) or None
    note = 'in training steps, without compilation'
    result.measures[TRAINING_SECONDS] = Measure(seconds, 0.0, note)
  return result


def write_results(results: studies.Results, workdir: pathlib.Path) -> None:
  """Writes the tables and the report into the workdir, and prints the table."""
  facts = report.environment()
  text = tables.markdown(results, facts)
  # Rows that share a model share its curve, which gets the name of the first row.
  first_rows = {folder: row for row, folder in reversed(results.folders.items())}
  records = {row: writers.read(folder) for folder, row in reversed(first_rows.items())}
  atomic_write(workdir / 'table.md', text)
  atomic_write(workdir / 'table.csv', tables.as_csv(results))
  atomic_write(workdir / 'table.json', tables.as_json(results, facts))
  if picture := tables.overview(results):
    atomic_write(workdir / 'samples.png', picture)
  study = results.study
  subtitle = ' · '.join(filter(None, (study.paper, study.scale and f'{study.scale} scale')))
  page = workdir / 'report.html'
  report.write_report(page, study.title, tables.sections(results, facts, records), subtitle)
  print(f'\n{text}\nreport: {page}')


if __name__ == '__main__':
  cli.run(main)
