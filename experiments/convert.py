"""Converts published weights to a run, and a run to published weights.

twofold convert --read=SmolLM2.gguf --workdir=runs/smollm2
twofold convert --read=gpt2/ --workdir=runs/gpt2
twofold convert --write=published/ --workdir=runs/gpt2 --shard_mb=2000
twofold convert --write=adapters/ --workdir=runs/lora --adapters

--read takes a GGUF file, or a folder in the layout of `transformers`: config.json and safetensors,
of GPT-2, Llama, Mistral, Qwen2, Qwen3 or Phi-3. It makes a run at step 0, with the tokenizer and
the chat template, to sample from, to evaluate and to fine-tune. Network, head and model come from
the weights, and everything else from the config: by default one without data. Of the flags for
network and model, those that suit the weights apply (--config.network.attention, dropout, scan,
remat); any other that differs from the weights is refused.

--write merges the low-rank updates of a run that was fine-tuned with LoRA; with --adapters it
writes them alone, in the layout of PEFT. It needs a new or an empty folder. What has not changed
since the weights were read is written as it was: tokenizer, template, config and type.
"""

import math
import pathlib
import tempfile
from collections.abc import Mapping
from typing import Any

import jax
from absl import flags

from autoregressive.interop import peft, weights
from autoregressive.interop.companions import load_companions
from common import finetuning
from common.checkpoints.checkpoints import Checkpoints
from common.config import Config, ConfigError, as_tuple, flatten, plain_dict
from common.data import pipeline
from common.data.tokenizers import same_vocabulary
from common.files import check_writable_folder
from experiments import cli, config_flag, families, runs
from experiments.startup.workdir import (
  ANOTHER,
  config_of,
  data_section,
  is_started,
  locked,
  move_aside,
  reserve,
)

DEFAULT = 'configs/autoregressive/published.py'
CONFIG = config_flag.define(f'For --read: FILE.py[:variant] (default: {DEFAULT}).')
READ = cli.define('read', 'GGUF file or folder of published weights to make a run from.')
WRITE = cli.define(
  'write', 'New or empty folder to write the weights of a run into.', cli.OutFolderParser()
)
WORKDIR = cli.define('workdir', 'Folder of the run.', cli.FolderParser(), required=True)
STEP = flags.DEFINE_string('step', 'last', "For --write: checkpoint 'last', 'best' or a number.")
DTYPE = flags.DEFINE_enum(
  'dtype',
  None,
  ['float32', 'bfloat16'],
  'For --read: round the weights to this type (default: float32). For --write: the type of the '
  'tensors (default: that of the weights that were read, or float32).',
)
SHARD_MB = flags.DEFINE_integer(
  'shard_mb',
  5000,
  'For --write: largest size of a file in megabytes; larger weights are split.',
  lower_bound=1,
  upper_bound=10**6,
)
ADAPTERS = flags.DEFINE_bool(
  'adapters', False, "For --write: the updates of LoRA alone, in PEFT's layout."
)
FRESH = flags.DEFINE_bool('fresh', False, 'For --read: rename an existing run in the workdir.')
# Settings of the network that suit any weights: they change neither parameters nor outputs.
FREE = ('dropout', 'attention', 'scan', 'remat')
SECTIONS = ('network', 'head', 'model')


def read(
  path: str,
  config: Config,
  workdir: str | pathlib.Path,
  fresh: bool = False,
  *,
  given: Mapping[str, Any] | None = None,
  dtype: str = 'float32',
) -> int:
  """Makes a run from published weights; returns its number of parameters.

  Args:
    path: the folder or the GGUF file of the weights.
    config: a config of the autoregressive family; it gives the data.
    workdir: the folder of the run.
    fresh: whether to rename an existing run in the workdir.
    given: the settings of the config that the user gave, by dotted name: they must suit the
      weights.
    dtype: the type that the weights are rounded to.

  Raises:
    ConfigError: the weights cannot be read, or do not match the data.
  """
  config, workdir = plain_dict(config), pathlib.Path(workdir)
  _check_family(config, '--config')
  published = weights.read_published(path, dtype)
  config |= _sections(published, config, given or {})
  if config['data']['name'] == pipeline.NO_DATA:
    config['data'] |= dict(context=published.network['length'], vocabulary=published.vocabulary)
  with tempfile.TemporaryDirectory() as folder:
    published.companions.save(pathlib.Path(folder))  # its tokenizer prepares the data
    data = pipeline.load(data_section(config, pathlib.Path(folder)))
  _check_data(data, published, path)
  params = _params(config, data, published)
  if fresh:
    move_aside(workdir)
  elif is_started(workdir):
    raise ConfigError(f'{workdir} holds a run already; {ANOTHER}')
  with locked(workdir):
    published.companions.save(workdir)
    reserve(workdir, config, data)
    with Checkpoints(workdir / 'checkpoints') as checkpoints:
      checkpoints.save(0, {'ema': params}, config=config, position={'step': 0, 'examples': 0})
  return sum(x.size for x in jax.tree.leaves(params))


def _sections(
  published: weights.Published, config: Mapping[str, Any], given: Mapping[str, Any]
) -> dict[str, Any]:
  """The sections that come from the weights, with the settings of the config that suit any.

  Raises:
    ConfigError: for a setting that the user gave and that differs from the weights.
  """
  found = weights.sections(published)
  found['model'] |= {'chunk': config['model']['chunk']}
  if config['network'].get('name') == 'transformer':
    found['network'] |= {name: config['network'][name] for name in FREE}
  for key, value in given.items():
    section, _, name = key.partition('.')
    if section in SECTIONS and as_tuple(found[section].get(name)) != as_tuple(value):
      raise ConfigError(
        f'--config.{key}={value!r} does not suit the weights, which have '
        f'{found[section].get(name)!r}: remove the flag'
      )
  return found


def _check_data(data: pipeline.Data, published: weights.Published, path: str) -> None:
  """Raises ConfigError for data of another vocabulary than that of the weights."""
  tokenizer = published.companions.tokenizer
  theirs = data.spec.tokenizer
  if None not in (tokenizer, theirs) and same_vocabulary(tokenizer, theirs):
    return
  if published.vocabulary != data.spec.levels:
    raise ConfigError(
      f'{path} has a vocabulary of {published.vocabulary} tokens, but {data.spec.name} has '
      f'{data.spec.levels}; choose data with the same vocabulary, or text with the tokenizer of '
      'the weights (--config.data.tokenizer=files)'
    )


def _params(config: Mapping[str, Any], data: pipeline.Data, published: weights.Published) -> Any:
  """The parameters as the network of the config has them."""
  method = families.build(config, data.spec)
  params = families.stacked(config, published.params)
  expected, _ = jax.eval_shape(method.init, jax.random.key(0), data.spec.batch_struct(1))
  if jax.tree.map(lambda x: x.shape, expected) != jax.tree.map(lambda x: x.shape, params):
    raise ConfigError(f'weights need data that is a sequence of tokens, got {data.spec.name}')
  return params


def write(
  run: runs.Run,
  workdir: str | pathlib.Path,
  folder: str | pathlib.Path,
  shard_bytes: int = 5 * 10**9,
  dtype: str | None = None,
) -> None:
  """Writes the moving average of a run's parameters as published weights; merges LoRA's updates.

  Args:
    run: a run of the autoregressive family.
    workdir: its folder, which may hold the files of the weights that it was read from.
    folder: the folder to write to, new or empty.
    shard_bytes: the largest size of a file, unless one tensor is larger.
    dtype: the type of the tensors; None: that of the weights that it was read from.

  Raises:
    ConfigError: the model has no published layout.
    ValueError: the folder is not empty.
  """
  made = published_of(run, workdir, dtype)
  weights.write_published(made, folder, shard_bytes)


def write_adapters(run: runs.Run, workdir: str | pathlib.Path, folder: str | pathlib.Path) -> None:
  """Writes the low-rank updates of a run alone, in the layout of PEFT.

  Raises:
    ConfigError: the run has no updates, or the layout does not have their matrices.
    ValueError: the folder is not empty.
  """
  finetune = finetuning.build_finetune(run.config)
  if not finetune.lora_rank:
    raise ConfigError(f'--adapters: {workdir} was not fine-tuned with LoRA: remove the flag')
  peft.write_adapters(folder, published_of(run, workdir), run.params['lora'], finetune)


def published_of(
  run: runs.Run, workdir: str | pathlib.Path, dtype: str | None = None
) -> weights.Published:
  """A run as published weights; see `write`."""
  config = run.config
  _check_family(config, 'the run')
  spec = run.data.spec
  context = math.prod(spec.shape) - (config['model']['start'] == 'none')
  params = finetuning.plain(run.params, config)
  companions = load_companions(pathlib.Path(workdir))
  if dtype is not None:
    companions = companions.with_dtype({'float32': 'F32', 'bfloat16': 'BF16'}[dtype])
  return weights.as_published(config, params, spec.levels, context, companions)


def _check_family(config: Config, what: str) -> None:
  if config['family'] != 'autoregressive':
    raise ConfigError(f'{what} must be of the autoregressive family, got {config["family"]}')


def main() -> None:
  if bool(READ.value) == bool(WRITE.value):
    raise ValueError('give either --read=PATH or --write=FOLDER')
  unused = (CONFIG.file, FRESH) if WRITE.value else (STEP, SHARD_MB, ADAPTERS)
  for flag in unused:
    if flag.present:
      door = 'write' if WRITE.value else 'read'
      raise ValueError(f'--{flag.name} has no effect with --{door}: remove the flag')
  if WRITE.value:
    folder = pathlib.Path(WRITE.value)
    check_writable_folder(folder)  # before the run is loaded
    _check_family(config_of(pathlib.Path(WORKDIR.value)), 'the run')
    run = runs.load(WORKDIR.value, runs.parse_step(STEP.value))
    if ADAPTERS.value:
      write_adapters(run, WORKDIR.value, folder)
    else:
      write(run, WORKDIR.value, folder, SHARD_MB.value * 10**6, DTYPE.value)
    print(f'wrote step {run.step} of {WORKDIR.value} to {folder}')
    return
  config = CONFIG.load(DEFAULT)
  given = {key: value for key, value in flatten(config).items() if key in CONFIG.texts}
  dtype = DTYPE.value or 'float32'
  size = read(READ.value, config, WORKDIR.value, FRESH.value, given=given, dtype=dtype)
  print(f'read {size:,} parameters from {READ.value} into {WORKDIR.value}')


if __name__ == '__main__':
  cli.run(main)
