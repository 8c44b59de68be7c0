"""The state before the first step of a run that is fine-tuned."""

from collections.abc import Mapping
from typing import NamedTuple

import jax
from absl import logging

from common.data import pipeline
from common.files import Path
from common.finetuning import open_checkpoints, refer_to_base
from common.method import Method
from common.reporting import writers
from common.training.program import TrainProgram
from common.training.state import TrainState
from common.training.validation import validation_loss
from experiments import families


class Initial(NamedTuple):
  """The state before the first step, and the checkpoint of the source with its weights, if any."""

  state: TrainState
  step: int | None


def initial_state(config: Mapping, data: pipeline.Data, program: TrainProgram) -> Initial:
  """The state before the first step, with the weights of `finetune.source`."""
  where = jax.tree.map(lambda x: x.sharding, program.step.abstract_state)
  state = jax.jit(program.init, out_shardings=where)()
  source = families.read_source(config)
  params = families.initial_params(config, data.spec, state.params, source)
  averages = tuple(params for _ in state.averages)
  # The optimiser's state does not depend on the values of the parameters.
  state = state._replace(params=params, ema=params, averages=averages)
  # Where some parameters start anew, or layers are stacked, no checkpoint has the same ones.
  arranged = families.stacked(config, source.params)
  same = arranged is source.params and not config['finetune']['fresh']
  return Initial(state, source.step if same else None)


def save_initial_state(
  config: Mapping,
  method: Method,
  data: pipeline.Data,
  program: TrainProgram,
  initial: Initial,
  workdir: Path,
) -> None:
  """Saves the state as checkpoint 0, with its validation loss: the baseline of fine-tuning.

  With LoRA, the checkpoints of the run hold the updates alone.
  """
  state = initial.state
  families.keep_files(config, workdir)
  if config['finetune'].get('lora_rank'):
    refer_to_base(workdir, config, state.params['base'], initial.step)
  size, seed = config['data']['batch_size'], config['seed']
  sharding, number = program.step.evaluation_sharding, config['train']['evaluate_examples']
  found = validation_loss(method, state, data, size, sharding, seed, number)
  logging.info('before fine-tuning: validation loss %.4f', found['loss'])
  with writers.Writer(workdir, step=0) as writer:
    writer.scalars(0, found, 'validation')
  with open_checkpoints(config, workdir) as checkpoints:
    position = {'step': 0, 'examples': 0}
    checkpoints.save(0, state, config=config, position=position, metrics=found)
