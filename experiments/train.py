"""Trains a model, or goes on with what the workdir holds.

  python -m experiments.train --config=configs/diffusion/digits.py --workdir=runs/digits
  python -m experiments.train --config=... --config.optimizer.learning_rate=3e-4 --workdir=...
  python -m experiments.train --config=... --config.process.name=rectified_flow --workdir=...

Another name of a component (process, network, weighting, ...) takes that one's own defaults.

The workdir receives config.json, checkpoints/, metrics.jsonl, tensorboard/ and samples/. SIGTERM
and SIGINT save and exit with 75; the same command then goes on.
"""

from absl import flags, logging
from ml_collections import config_flags

from common import config_files
from common.config import differences, switched
from configs.base import get_base
from experiments import cli, families, runs

CONFIG = config_flags.DEFINE_config_file(
  'config', None, 'FILE.py[:variant]; --config.a.b=value replaces a setting.', lock_config=True
)
WORKDIR = flags.DEFINE_string('workdir', None, 'Folder of the run.', required=True)
FRESH = flags.DEFINE_bool('fresh', False, 'Move a run that is there aside, and begin anew.')


flags.mark_flag_as_required('config')


def main() -> int:
  if CONFIG.value is None:
    raise ValueError('--config is missing: a file such as configs/diffusion/images.py:digits')
  file = config_flags.get_config_filename(flags.FLAGS['config'])
  before = config_files.call(file, 'get_config').to_dict()
  config = switched(CONFIG.value.to_dict(), before, flat=get_base().keys())
  changed = differences(config, families.base(config))
  shown = (f'{k}={v}' for k, (_, v) in changed.items() if v is not None)  # None: not there
  logging.info('other than the defaults: %s', '  '.join(shown))
  with cli.stop_on_signals() as stop:
    finished = runs.train(config, WORKDIR.value, fresh=FRESH.value, stop=stop)
  return 0 if finished else cli.STOPPED


if __name__ == '__main__':
  cli.run(main)
