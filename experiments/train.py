"""Trains a model, or continues the run that the workdir holds.

  python -m experiments.train --config=configs/diffusion/images.py:digits --workdir=runs/digits
  python -m experiments.train --config=... --config.optimizer.learning_rate=3e-4 --workdir=...
  python -m experiments.train --config=... --config.process.name=edm \\
    --config.process.sigma_max=10 --workdir=...

Another name of a component (process, network, weighting, ...) takes that one's own defaults, and
then the settings that other flags give it.

The workdir receives config.json, checkpoints/, metrics.jsonl, tensorboard/ and samples/. SIGTERM
and SIGINT save and exit with 75; the same command then continues.
"""

from absl import flags, logging

from common.config import differences
from experiments import cli, config_flag, families, runs

CONFIG = config_flag.define('FILE.py[:variant]; --config.a.b=value replaces a setting.')
WORKDIR = flags.DEFINE_string('workdir', None, 'Folder of the run.', required=True)
FRESH = flags.DEFINE_bool('fresh', False, 'Move a run that is there aside, and start a new one.')


def main() -> int:
  config = CONFIG.load()
  changed = differences(config, families.defaults(config['family']))
  # None: the family's default component has the setting, this one does not.
  shown = (f'{key}={new}' for key, (_, new) in changed.items() if new is not None)
  logging.info('other than the defaults: %s', '  '.join(shown))
  with cli.stop_on_signals() as stop:
    finished = runs.train(config, WORKDIR.value, fresh=FRESH.value, stop=stop)
  return 0 if finished else cli.STOPPED


if __name__ == '__main__':
  cli.run(main)
