"""Trains a config once for each point of a grid of settings, and compares them in a table.

twofold sweep --config=configs/diffusion/images.py:digits --workdir=runs/rates \\
    --grid=optimizer.learning_rate=1e-3,3e-3 --grid=network.width=64,128 --seeds=2
twofold sweep --config=configs/diffusion/images.py:digits --workdir=runs/steps \\
    --grid=sampling.steps=5,20 --metrics=frechet,agreement

A sweep is a study without a file: the workdir receives the same tables, report and models as that
of `ablate`, and the same command resumes it. Values are checked as those of --config.a.b=value.
Rows that differ only in settings of sampling share one trained model. Another grid in the same
workdir keeps everything that is finished; another config is refused.
--show prints the settings of each row that differ from the defaults, and trains nothing.
"""

import functools
import pathlib

from absl import flags

from common.evaluation.metrics import METRICS
from experiments import cli, config_flag
from experiments.study import running, versions
from experiments.study.run_metrics import RUN_METRICS
from experiments.sweep import grid as grids

CONFIG = config_flag.define('FILE.py[:variant]; --config.a.b=value sets it for all rows.')
WORKDIR = cli.define('workdir', 'Folder of the sweep.', cli.OutFolderParser())
GRID = flags.DEFINE_multi_string(
  'grid', [], 'SETTING=VALUE,VALUE,...; several flags give every combination of their values.'
)
SEEDS = flags.DEFINE_integer(
  'seeds', 1, 'Number of seeds for each row.', lower_bound=1, upper_bound=1000
)
CHOSEN = flags.DEFINE_list(
  'metrics',
  ['validation_loss', 'training_seconds'],
  f'Metrics, the one to choose by first: {", ".join((*RUN_METRICS, *METRICS))}.',
)
SHARD = flags.DEFINE_string('shard', '1/1', running.SHARD_HELP)
OTHER_CODE = flags.DEFINE_enum('other_code', versions.REFUSE, versions.CHOICES, versions.HELP)
SHOW = flags.DEFINE_bool('show', False, 'Print the settings of each row, and train nothing.')


def main() -> int:
  if not (WORKDIR.value or SHOW.value):
    raise ValueError('--workdir is missing: give the folder of the sweep, such as runs/rates')
  if not CONFIG.given or not GRID.value:
    raise ValueError(
      'give --config=FILE.py:variant and --grid=SETTING=VALUE,VALUE, such as '
      '--grid=optimizer.learning_rate=1e-4,3e-4'
    )
  workdir = pathlib.Path(WORKDIR.value or '')
  file, settings, grid = CONFIG.file.value, CONFIG.texts, grids.parse_grid(GRID.value)
  study = grids.build(file, settings, grid, SEEDS.value, CHOSEN.value)
  jobs = running.plan(study, functools.partial(grids.load, grid=grid), workdir, SHARD.value)
  if SHOW.value:
    print(running.show_rows(jobs))
    return 0
  running.check_metrics(jobs, study.metrics)
  grids.reserve(workdir, file, settings)
  results = running.run(jobs, study, workdir, OTHER_CODE.value)
  running.write_results(results, workdir, SHARD.value)
  if running.is_whole(SHARD.value):
    print(grids.best(results))
  return 1 if results.failures else 0


if __name__ == '__main__':
  cli.run(main)
