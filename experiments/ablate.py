"""Runs a study: trains the models of its table, measures every cell, checks its claims.

twofold ablate --study=configs/ablations/why_diffusion.py:demo --workdir=runs/why

The workdir receives table.md, table.csv, table.json, report.html, samples.png and a folder for each
trained model. The same command resumes a study that was stopped, and repeats no finished work.
--show prints the settings of each row that differ from the defaults, and trains nothing.
With --shard=1/4, 2/4, 3/4 and 4/4, four commands at the same time train and measure a part of the
models each; the command without --shard then writes the tables.
--only='GAN|VAE' takes the rows whose names match, and what they need; --seeds=0,1,2,3 other seeds.
What is finished is shared with the whole study in the same workdir.
After a change of the code, delete WORKDIR/cells to measure again and WORKDIR/models to train again.
"""

import pathlib

from absl import flags

from common import config_files
from common.studies.plans import Study
from common.studies.selection import select
from experiments import cli, families
from experiments.study import running

STUDY = cli.define(
  'study',
  'FILE.py[:scale], a file with a function get_study([scale]).',
  cli.PathParser(),
  required=True,
)
WORKDIR = cli.define('workdir', 'Folder of the study.', cli.OutFolderParser())
SHARD = flags.DEFINE_string('shard', '1/1', running.SHARD_HELP)
ONLY = flags.DEFINE_string('only', '', 'Only rows whose names match this regular expression.')
SEEDS = flags.DEFINE_list('seeds', [], "Seeds in the place of the study's, such as 0,1,2.")
SHOW = flags.DEFINE_bool('show', False, 'Print the settings of each row, and train nothing.')


def main() -> int:
  if not (WORKDIR.value or SHOW.value):
    raise ValueError('--workdir is missing: give the folder of the study, such as runs/why')
  workdir = pathlib.Path(WORKDIR.value or '')
  study = config_files.call(STUDY.value, 'get_study', Study)
  study = select(study, ONLY.value, running.parse_seeds(SEEDS.value))
  jobs = running.plan(study, families.load_config, workdir, SHARD.value)
  if SHOW.value:
    print(running.show_rows(jobs))
    return 0
  running.check_metrics(jobs, study.metrics)
  results = running.run(jobs, study, workdir)
  running.write_results(results, workdir, SHARD.value)
  return 1 if results.failures else 0


if __name__ == '__main__':
  cli.run(main)
