"""Trains a model, or resumes the run in the workdir.

  python -m experiments.train --config=configs/diffusion/images.py:digits --workdir=runs/digits
  python -m experiments.train --config=... --config.optimizer.learning_rate=3e-4 --workdir=...
  python -m experiments.train --config=... --config.process.name=edm \\
    --config.process.sigma_max=10 --workdir=...
  python -m experiments.train --config=... --config.train.steps=4000 --extend --workdir=...

A flag that names another component (process, network, weighting, ...) starts from that component's
defaults; other flags then change its settings.

The workdir receives config.json, checkpoints/, metrics.jsonl, tensorboard/ and samples/. After
SIGTERM or SIGINT the run saves and exits with 75; the same command resumes it. Settings of
sampling, evaluation, likelihood, devices, logging and keeping may change when a run resumes. With
--extend, train.steps may change too: durations in % and the schedule of the learning rate then
refer to the new number of steps, so the result is not that of one long run.
"""

import pathlib

from absl import flags, logging

from experiments import cli, config_flag, runs
from experiments.startup import summary

CONFIG = config_flag.define('FILE.py[:variant]; --config.a.b=value replaces a setting.')
WORKDIR = cli.define('workdir', 'Folder of the run.', cli.FolderParser(), required=True)
FRESH = flags.DEFINE_bool(
  'fresh', False, 'Rename an existing run in the workdir, and start a new one.'
)
EXTEND = flags.DEFINE_bool(
  'extend', False, 'Continue the run in the workdir to another train.steps.'
)


def main() -> int:
  config = CONFIG.load()
  if FRESH.value and EXTEND.value:
    raise ValueError('--fresh starts a new run and --extend continues one: give only one of them')
  with cli.stop_on_signals() as stop:
    finished = runs.train(config, WORKDIR.value, fresh=FRESH.value, extend=EXTEND.value, stop=stop)
  for line in summary.closing(config, pathlib.Path(WORKDIR.value), finished):
    logging.info('%s', line)
  return 0 if finished else cli.STOPPED


if __name__ == '__main__':
  cli.run(main)
