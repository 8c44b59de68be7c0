"""Makes a run from published weights (GPT-2 or Llama), and published weights from a run.

python -m experiments.convert --read=gpt2/ --workdir=runs/gpt2 --config=configs/... (its data)
python -m experiments.convert --write=published/ --workdir=runs/gpt2 --shard_mb=2000

A folder of weights is what `transformers` calls a pretrained model: config.json and safetensors.
--read makes a run at step 0, to sample from and to evaluate. Its network, head and model are
those of the weights; the config gives the rest. The data must have as many tokens as the
weights, and no sequence longer than the positions that the weights have learned. --write merges the
low-rank updates of a run that was fine-tuned with LoRA.
"""

import math
import pathlib

import jax
from absl import flags

from autoregressive import finetuning
from autoregressive.interop import weights
from common.checkpoints.checkpoints import Checkpoints
from common.config import Config, ConfigError, plain_dict
from common.data import pipeline
from experiments import cli, config_flag, families, runs

CONFIG = config_flag.define('For --read: FILE.py[:variant].')
READ = flags.DEFINE_string('read', None, 'Folder of published weights to make a run from.')
WRITE = flags.DEFINE_string('write', None, 'Folder to write the weights of a run into.')
WORKDIR = flags.DEFINE_string('workdir', None, 'Folder of the run.', required=True)
STEP = flags.DEFINE_string('step', 'last', "For --write: checkpoint 'last', 'best' or a number.")
SHARD_MB = flags.DEFINE_float(
  'shard_mb', 5000.0, 'For --write: megabytes of a file; more go into several, with an index.', 0.0
)
FRESH = flags.DEFINE_bool('fresh', False, 'For --read: move a run that is there aside.')


def read(folder: str, config: Config, workdir: str | pathlib.Path, fresh: bool = False) -> int:
  """Makes a run of published weights; returns how many parameters it has.

  Args:
    folder: of the weights.
    config: what data it is for; its family is the autoregressive one.
    workdir: of the run.
    fresh: move a run that is there aside.

  Raises:
    ConfigError: for weights that cannot be read, or that do not suit the data.
  """
  config = plain_dict(config)
  if config['family'] != 'autoregressive':
    raise ConfigError(f'published weights are autoregressive; the config is {config["family"]}')
  data = pipeline.load(config['data'])
  inputs = math.prod(data.spec.shape) - 1  # nothing stands before the first
  sections, params = weights.read_weights(folder, inputs)
  if sections['vocabulary'] != data.spec.levels:
    raise ConfigError(
      f'{folder} has {sections["vocabulary"]} tokens, {data.spec.name} has {data.spec.levels}'
    )
  config |= {name: sections[name] for name in ('network', 'head', 'model')}
  method = families.build(config, data.spec)
  expected, _ = jax.eval_shape(method.init, jax.random.key(0), data.spec.batch_struct(1))
  if jax.tree.map(lambda x: x.shape, expected) != jax.tree.map(lambda x: x.shape, params):
    raise ConfigError(f'{folder} does not suit {data.spec.name}: it is no sequence of tokens')
  workdir = pathlib.Path(workdir)
  runs.lock_workdir(workdir, config, data, fresh)
  with Checkpoints(workdir / 'checkpoints') as checkpoints:
    checkpoints.save(0, {'ema': params}, config=config, position={'step': 0, 'examples': 0})
  return sum(x.size for x in jax.tree.leaves(params))


def write(run: runs.Run, folder: str, shard_bytes: int = 5 * 10**9) -> None:
  """Writes the moving average of a run's parameters as published weights, LoRA's updates merged.

  Args:
    run: of the autoregressive family.
    folder: to write into.
    shard_bytes: size of a file, where tensors allow.

  Raises:
    ConfigError: for a model that is neither GPT-2 nor Llama.
  """
  config = run.config
  if config['family'] != 'autoregressive':
    raise ConfigError(f'published weights are autoregressive; the run is {config["family"]}')
  spec = run.data.spec
  context = math.prod(spec.shape) - (config['model']['start'] == 'none')
  params = finetuning.plain(run.params, config)
  weights.write_weights(folder, config, params, spec.levels, context, shard_bytes)


def main() -> None:
  if bool(READ.value) == bool(WRITE.value):
    raise ValueError('give either --read or --write')
  if WRITE.value:
    run = runs.load(WORKDIR.value, cli.parse_step(STEP.value))
    write(run, WRITE.value, int(SHARD_MB.value * 10**6))
    print(f'step {run.step} of {WORKDIR.value} in {WRITE.value}')
    return
  if not CONFIG.given:
    raise ValueError('--read needs --config, a file such as configs/autoregressive/images.py')
  size = read(READ.value, CONFIG.load(), WORKDIR.value, FRESH.value)
  print(f'{size:,} parameters of {READ.value} in {WORKDIR.value}')


if __name__ == '__main__':
  cli.run(main)
