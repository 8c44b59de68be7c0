"""Checks of everything that a run needs after its first step: a run that starts can finish.

Nothing here computes with parameters: programs are traced for their shapes and not compiled.
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from common.config import ConfigError, pick
from common.data.pipeline import Data
from common.domains import domain_of
from common.evaluation.evaluate import check_settings
from common.method import Method
from common.training.program import TrainProgram
from common.training.state import TrainState
from common.training.validation import evaluation_step
from experiments.startup.contexts import at_context


def check(config: Mapping, method: Method, data: Data, program: TrainProgram) -> None:
  """Checks the parts of a config that the first training step does not use.

  Args:
    config: a complete config.
    method: the method to train.
    data: the data to train it on.
    program: the training program.

  Raises:
    ConfigError: for a split, metric, sampler, task, picture, likelihood or extractor with which the
      run could not finish, or could not be sampled and evaluated afterwards.
  """
  shapes = program.step.shapes
  _check_splits(data)
  _check_best_metric(config, method, data, shapes)
  _check_samples(method, data, shapes, shown=program.schedule.sample > 0)
  _check_evaluation(config, *at_context(config, method, data, shapes.params), shapes)


def _check_splits(data: Data) -> None:
  for name, source in data.splits.items():
    if not len(source):
      raise ConfigError(
        f'the {name} split of {data.spec.name} is empty, and a run needs at least one example in '
        'each split; add data'
      )


def _batch(config: Mapping, data: Data, size: int) -> dict[str, jax.ShapeDtypeStruct]:
  """Shapes of a batch of an evaluation (`pipeline.evaluation_batches`)."""
  weight = jax.ShapeDtypeStruct((size,), jnp.float32)
  return data.spec.batch_struct(size) | {'weight': weight}


def _check_best_metric(config: Mapping, method: Method, data: Data, shapes: TrainState) -> None:
  settings = config['train']
  batch = _batch(config, data, config['data']['batch_size'])
  trace = jax.eval_shape(
    lambda *arrays: evaluation_step(method, *arrays),
    *(shapes.ema, shapes.memory, batch, jax.random.key(0), shapes.step),
  )
  # Exactly the names that a validation writes.
  pick(trace[0], settings['best_metric'], 'train.best_metric')


def _check_samples(method: Method, data: Data, shapes: TrainState, shown: bool) -> None:
  """Checks the request that training shows, and its picture if `shown`."""
  if method.noise_levels:
    if shown:
      raise ConfigError('a classifier draws no samples to show: set train.sample_every=0')
    return
  spec, domain = data.spec, domain_of(data.spec)
  request = domain.preview_request(spec, method.labelled, data.splits['validation'])
  try:
    method.check_request(shapes.ema, request)
    if shown:
      zeros = np.zeros((request.num, *spec.shape), spec.dtype)
      domain.preview_display(data, zeros, request).picture(domain.picture_scale)
  except ValueError as error:
    raise ConfigError(f'this config cannot draw or show its samples: {error}') from error


def _check_evaluation(config: Mapping, method: Method, data: Data, shapes: TrainState) -> None:
  settings = config['evaluation']
  check_settings(settings, data)
  if method.has_likelihood:
    batch = _batch(config, data, settings['batch_size'])
    try:
      jax.eval_shape(method.nll, shapes.ema, batch, jax.random.key(0))
    except ValueError as error:
      raise ConfigError(f'this config cannot measure its likelihood: {error}') from error
