"""Trains a model, or resumes the run in the workdir.

  twofold train --config=configs/diffusion/images.py:digits --workdir=runs/digits
  twofold train --config=... --config.optimizer.learning_rate=3e-4 --workdir=...
  twofold train --config=... --config.process.name=edm \\
    --config.process.sigma_max=10 --workdir=...

A flag that names another component (process, network, weighting, ...) starts from that component's
defaults; other flags then change its settings.

--show prints every setting with its meaning, and trains nothing.

The workdir receives config.json, checkpoints/, metrics.jsonl, tensorboard/ and samples/. After
SIGTERM or SIGINT the run saves and exits with 75; the same command resumes it.
"""

from absl import flags, logging

from common.config import differences
from experiments import cli, config_flag, families, runs
from experiments.list import show

CONFIG = config_flag.define(
  'FILE.py[:variant], see `twofold list variants`; --config.a.b=value replaces a setting.'
)
WORKDIR = flags.DEFINE_string('workdir', None, 'Folder of the run.')
SHOW = flags.DEFINE_bool(
  'show', False, 'Print every setting of the config with its meaning, and train nothing.'
)
FRESH = flags.DEFINE_bool(
  'fresh', False, 'Rename an existing run in the workdir, and start a new one.'
)


def main() -> int:
  config = CONFIG.load()
  if SHOW.value:
    print(show.show(config))
    return 0
  if not WORKDIR.value:
    raise ValueError('--workdir is missing; give the folder of the run, such as runs/digits')
  changed = differences(config, families.defaults(config['family']))
  # None: only the family's default component has the setting.
  shown = (f'{key}={new}' for key, (_, new) in changed.items() if new is not None)
  logging.info('settings that differ from the defaults: %s', '  '.join(shown))
  with cli.stop_on_signals() as stop:
    finished = runs.train(config, WORKDIR.value, fresh=FRESH.value, stop=stop)
  return 0 if finished else cli.STOPPED


if __name__ == '__main__':
  cli.run(main)
