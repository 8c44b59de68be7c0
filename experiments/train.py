"""Trains a model, or resumes the run in the workdir.

  twofold train --config=configs/diffusion/images.py:digits --workdir=runs/digits
  twofold train --config=... --config.optimizer.learning_rate=3e-4 --workdir=...
  twofold train --config=... --config.process.name=edm \\
    --config.process.sigma_max=10 --workdir=...
  twofold train --config=... --config.train.steps=4000 --extend --workdir=...
  twofold train --config=... --workdir=... --distributed=auto

A flag that names another component (process, network, weighting, ...) starts from that component's
defaults; other flags then change its settings.

--show prints every setting with its meaning, and trains nothing.

The workdir receives config.json, checkpoints/, metrics.jsonl, tensorboard/ and samples/. After
SIGTERM or SIGINT the run saves and exits with 75; the same command resumes it. Settings of
sampling, evaluation, likelihood, devices, logging and keeping may change when a run resumes. With
--extend, train.steps may change too: durations in % and the schedule of the learning rate then
refer to the new number of steps, so the result is not that of one long run.

With --distributed, several processes train one run, on the devices of all. They stop together if
any of them gets a signal.
"""

from absl import flags, logging

from common.files import to_path
from experiments import cli, config_flag, runs
from experiments.list import show
from experiments.startup import processes, signals, summary

CONFIG = config_flag.define(
  'FILE.py[:variant], see `twofold list variants`; --config.a.b=value replaces a setting.'
)
WORKDIR = cli.define('workdir', 'Folder of the run, or gs://BUCKET/FOLDER.', cli.RunParser())
SHOW = flags.DEFINE_bool(
  'show', False, 'Print every setting of the config with its meaning, and train nothing.'
)
FRESH = flags.DEFINE_bool(
  'fresh', False, 'Rename an existing run in the workdir, and start a new one.'
)
EXTEND = flags.DEFINE_bool(
  'extend', False, 'Continue the run in the workdir to another train.steps.'
)
DISTRIBUTED, TIMEOUT = processes.define()


def main() -> int:
  if not (WORKDIR.value or SHOW.value):
    raise ValueError('--workdir is missing: give the folder of the run, such as runs/digits')
  config = CONFIG.load()
  if SHOW.value:
    print(show.show(config))
    return 0
  if FRESH.value and EXTEND.value:
    raise ValueError('--fresh starts a new run and --extend continues one: give only one of them')
  with processes.joined(DISTRIBUTED.value, TIMEOUT.value, stops=True):
    with signals.stop_on_signals() as stop:
      finished = runs.train(
        config, WORKDIR.value, fresh=FRESH.value, extend=EXTEND.value, stop=stop
      )
    for line in summary.closing(config, to_path(WORKDIR.value), finished):
      logging.info('%s', line)
  return 0 if finished else signals.STOPPED


if __name__ == '__main__':
  cli.run(main)
