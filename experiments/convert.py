"""Converts published weights (GPT-2 or Llama) to a run, and a run to published weights.

twofold convert --read=gpt2/ --workdir=runs/gpt2 --config=configs/... (its data)
twofold convert --write=published/ --workdir=runs/gpt2 --shard_mb=2000

A folder of weights has the format of a pretrained model of `transformers`: config.json and
safetensors. --read makes a run at step 0, to sample from and to evaluate. Its network, head and
model come from the weights, and everything else from the config. The data must have the same
vocabulary size as the weights, and no sequence longer than the weights' learned positions. --write
merges the low-rank updates of a run that was fine-tuned with LoRA, and needs a new or an empty
folder.
"""

import math
import pathlib

import jax
from absl import flags

from autoregressive.interop import weights
from common import finetuning
from common.checkpoints.checkpoints import Checkpoints
from common.config import Config, ConfigError, plain_dict
from common.data import pipeline
from common.files import check_writable_folder
from experiments import cli, config_flag, families, runs
from experiments.startup.workdir import config_of, locked, move_aside, reserve

CONFIG = config_flag.define('For --read: FILE.py[:variant].')
READ = cli.define('read', 'Folder of published weights to make a run from.', cli.FolderParser())
WRITE = cli.define(
  'write', 'New or empty folder to write the weights of a run into.', cli.OutFolderParser()
)
WORKDIR = cli.define('workdir', 'Folder of the run.', cli.FolderParser(), required=True)
STEP = flags.DEFINE_string('step', 'last', "For --write: checkpoint 'last', 'best' or a number.")
SHARD_MB = flags.DEFINE_integer(
  'shard_mb',
  5000,
  'For --write: largest size of a file in megabytes; larger weights are split.',
  lower_bound=1,
  upper_bound=10**6,
)
FRESH = flags.DEFINE_bool('fresh', False, 'For --read: rename an existing run in the workdir.')


def read(folder: str, config: Config, workdir: str | pathlib.Path, fresh: bool = False) -> int:
  """Makes a run from published weights; returns its number of parameters.

  Args:
    folder: the folder of the weights.
    config: a config of the autoregressive family; it gives the data.
    workdir: the folder of the run.
    fresh: whether to rename an existing run in the workdir.

  Raises:
    ConfigError: the weights cannot be read, or do not match the data.
  """
  config = plain_dict(config)
  _check_family(config, '--config')
  data = pipeline.load(config['data'])
  inputs = math.prod(data.spec.shape) - 1  # the last token is predicted, but never an input
  sections, params = weights.read_weights(folder, inputs)
  if sections['vocabulary'] != data.spec.levels:
    raise ConfigError(
      f'{folder} has a vocabulary of {sections["vocabulary"]} tokens, but {data.spec.name} has '
      f'{data.spec.levels}; choose data with the same vocabulary'
    )
  config |= {name: sections[name] for name in ('network', 'head', 'model')}
  method = families.build(config, data.spec)
  expected, _ = jax.eval_shape(method.init, jax.random.key(0), data.spec.batch_struct(1))
  if jax.tree.map(lambda x: x.shape, expected) != jax.tree.map(lambda x: x.shape, params):
    raise ConfigError(f'{folder} needs data that is a sequence of tokens, got {data.spec.name}')
  workdir = pathlib.Path(workdir)
  if fresh:
    move_aside(workdir)
  with locked(workdir):
    reserve(workdir, config, data)
    with Checkpoints(workdir / 'checkpoints') as checkpoints:
      checkpoints.save(0, {'ema': params}, config=config, position={'step': 0, 'examples': 0})
  return sum(x.size for x in jax.tree.leaves(params))


def write(run: runs.Run, folder: str | pathlib.Path, shard_bytes: int = 5 * 10**9) -> None:
  """Writes the moving average of a run's parameters as published weights; merges LoRA's updates.

  Args:
    run: a run of the autoregressive family.
    folder: the folder to write to, new or empty.
    shard_bytes: the largest size of a file, unless one tensor is larger.

  Raises:
    ConfigError: the model has neither the layout of GPT-2 nor that of Llama.
    ValueError: the folder is not empty.
  """
  config = run.config
  _check_family(config, 'the run')
  spec = run.data.spec
  context = math.prod(spec.shape) - (config['model']['start'] == 'none')
  params = finetuning.plain(run.params, config)
  weights.write_weights(folder, config, params, spec.levels, context, shard_bytes)


def _check_family(config: Config, what: str) -> None:
  if config['family'] != 'autoregressive':
    raise ConfigError(f'{what} must be of the autoregressive family, got {config["family"]}')


def main() -> None:
  if bool(READ.value) == bool(WRITE.value):
    raise ValueError('give either --read=FOLDER or --write=FOLDER')
  unused = (CONFIG.file, FRESH) if WRITE.value else (STEP, SHARD_MB)
  for flag in unused:
    if flag.present:
      door = 'write' if WRITE.value else 'read'
      raise ValueError(f'--{flag.name} has no effect with --{door}: remove the flag')
  if WRITE.value:
    folder = pathlib.Path(WRITE.value)
    check_writable_folder(folder)  # before the run is loaded
    _check_family(config_of(pathlib.Path(WORKDIR.value)), 'the run')
    run = runs.load(WORKDIR.value, runs.parse_step(STEP.value))
    write(run, folder, SHARD_MB.value * 10**6)
    print(f'wrote step {run.step} of {WORKDIR.value} to {folder}')
    return
  if not CONFIG.given:
    raise ValueError('--read needs --config, a file such as configs/autoregressive/images.py')
  size = read(READ.value, CONFIG.load(), WORKDIR.value, FRESH.value)
  print(f'read {size:,} parameters from {READ.value} into {WORKDIR.value}')


if __name__ == '__main__':
  cli.run(main)
