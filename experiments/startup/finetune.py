"""The state before the first step of a run that is fine-tuned."""

from collections.abc import Mapping

import jax
from absl import logging

from common.data import pipeline
from common.files import Path
from common.method import Method
from common.reporting import writers
from common.training import loop
from common.training.program import TrainProgram
from common.training.state import TrainState
from common.training.validation import validation_loss
from experiments import families


def initial_state(config: Mapping, data: pipeline.Data, program: TrainProgram) -> TrainState:
  """The state before the first step, with the weights of `finetune.source`."""
  where = jax.tree.map(lambda x: x.sharding, program.step.abstract_state)
  state = jax.jit(program.init, out_shardings=where)()
  params = families.initial_params(config, data.spec, state.params)
  averages = tuple(params for _ in state.averages)
  # The optimiser's state does not depend on the values of the parameters.
  return state._replace(params=params, ema=params, averages=averages)


def save_initial_state(
  config: Mapping,
  method: Method,
  data: pipeline.Data,
  program: TrainProgram,
  state: TrainState,
  workdir: Path,
) -> None:
  """Saves the state as checkpoint 0, with its validation loss: the baseline of fine-tuning."""
  size, seed = config['data']['batch_size'], config['seed']
  found = validation_loss(method, state, data, size, program.step.evaluation_sharding, seed)
  logging.info('before fine-tuning: validation loss %.4f', found['loss'])
  with writers.Writer(workdir, step=0) as writer:
    writer.scalars(0, found, 'validation')
  with loop.open_checkpoints(config, workdir) as checkpoints:
    position = {'step': 0, 'examples': 0}
    checkpoints.save(0, state, config=config, position=position, metrics=found)
