"""Runs a study: trains the models of its table, measures every cell, checks its claims.

twofold ablate --study=configs/ablations/why_diffusion.py:demo --workdir=runs/why

The workdir receives table.md, table.csv, table.json, table.png, report.html, samples.png and a
folder for each trained model. The same command resumes a study that was stopped, and repeats no
finished work.
--list prints the studies that there are. --show prints the settings of each row that differ from
the defaults, and trains nothing. --dry_run times a little of each training and measurement, and
prints what is left of the study and how long it takes here; it writes nothing to the workdir.
With --shard=1/4, 2/4, 3/4 and 4/4, four commands at the same time train and measure a part of the
models each; the command without --shard then writes the tables.
--only='^GAN|^VAE' takes the rows whose names match, and those that they need; --seeds=0,1,2,3
takes these seeds. Models and cells are shared with the whole study in the workdir; the tables of
such a part are written to WORKDIR/parts.
Every cell is kept with its config, data, seed, versions and code. Results of other code are refused
unless --other_code=again (they go to WORKDIR/before) or --other_code=keep is given.
"""

import pathlib

from absl import flags

from common import config_files
from common.studies.plans import Study
from common.studies.selection import folder_of, select
from experiments import cli, families
from experiments.list import pages
from experiments.study import running, timing, versions

STUDY = cli.define(
  'study',
  'FILE.py[:scale], a file with a function get_study([scale]).',
  cli.PathParser(),
)
WORKDIR = cli.define('workdir', 'Folder of the study.', cli.OutFolderParser())
SHARD = flags.DEFINE_string('shard', '1/1', running.SHARD_HELP)
ONLY = flags.DEFINE_string(
  'only', '', 'A row, or a regular expression that the names of rows match.'
)
SEEDS = flags.DEFINE_list('seeds', [], "The seeds, in the place of the study's, such as 0,1,2.")
OTHER_CODE = flags.DEFINE_enum('other_code', versions.REFUSE, versions.CHOICES, versions.HELP)
DRY_RUN = flags.DEFINE_bool(
  'dry_run', False, 'Time a little of each row, and print what is left and how long it takes.'
)
LIST = flags.DEFINE_bool('list', False, 'Print the studies that there are.')
SHOW = flags.DEFINE_bool('show', False, 'Print the settings of each row, and train nothing.')


def main() -> int:
  if LIST.value:
    print(pages.listing('studies'))
    return 0
  if not STUDY.value:
    raise ValueError('--study is missing: name one, such as those of twofold ablate --list')
  if not (WORKDIR.value or SHOW.value or DRY_RUN.value):
    raise ValueError('--workdir is missing: give the folder of the study, such as runs/why')
  workdir = pathlib.Path(WORKDIR.value or '')
  study = config_files.call(STUDY.value, 'get_study', Study)
  seeds = running.parse_seeds(SEEDS.value)
  study = select(study, ONLY.value, seeds)
  jobs = running.plan(study, families.load_config, workdir, SHARD.value)
  if SHOW.value:
    print(running.show_rows(jobs))
    return 0
  running.check_metrics(jobs, study.metrics, described=DRY_RUN.value)
  if DRY_RUN.value:
    versions.settle(jobs, workdir, running.OF_MODELS, versions.of_a_dry_run(OTHER_CODE.value))
    print(timing.summary(timing.estimate(jobs, study, workdir)))
    return 0
  results = running.run(jobs, study, workdir, OTHER_CODE.value)
  running.write_results(results, folder_of(workdir, ONLY.value, seeds), SHARD.value)
  return 1 if results.failures else 0


if __name__ == '__main__':
  cli.run(main)
