"""The loop where numbers are not finite: nothing is saved, shown or logged in their place."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from common.checkpoints.checkpoints import Checkpoints
from common.data.pipeline import Data
from common.data.sources import Source
from common.method import Samples
from common.reporting import writers
from common.training import loop
from common.training.meters import LogMeans, TrainingError
from common.training.parallel import make_mesh
from common.training.program import build_program
from configs.base import get_base
from tests import toy


class Toys(Source):
  """Random images of the toy data."""

  def __len__(self):
    return toy.SPEC.num_train

  def gather(self, indices):
    batch = toy.batches(1, len(self))
    return {name: value[0][indices] for name, value in batch.items()}


DATA = Data(toy.SPEC, {name: Toys() for name in ('train', 'validation', 'test')})


def train(workdir, method=None, optimizer=None, **settings):
  """Trains the toy method for 8 steps of 2 calls each."""
  config = get_base().to_dict()
  config['data']['batch_size'] = 16
  config['optimizer'] |= dict(schedule='constant', warmup='0', clip=0.0) | (optimizer or {})
  config['train'] |= dict(steps='8', steps_per_call=2, checkpoint_every='4', log_every='4')
  config['train'] |= dict(evaluate_every='0', sample_every='0') | settings
  method = method or toy.build()
  mesh = make_mesh(config['parallel'], jax.devices()[:1])
  program = build_program(config, method, toy.SPEC, mesh)
  return loop.train(config, method, DATA, program, workdir)


def steps_of(workdir):
  with Checkpoints(workdir / 'checkpoints', read_only=True) as checkpoints:
    return checkpoints.steps, checkpoints.last_good


def test_a_last_validation_loss_that_is_not_finite_fails_the_run_now_and_again(tmp_path):
  method = toy.build()

  def loss(params, memory, batch, key, context):
    value, aux = method.loss(params, memory, batch, key, context)
    late = (context.step > 4) & (not context.training)
    return jnp.where(late, jnp.nan, value), aux

  for _ in range(2):
    with pytest.raises(TrainingError, match=r'step, 8, is nan; last good checkpoint: 4\. Lower'):
      train(tmp_path, dataclasses.replace(method, loss=loss))
  assert steps_of(tmp_path) == ([4, 8], 4)


def test_parameters_that_are_not_finite_are_never_saved(tmp_path):
  method = toy.build()

  def loss(*arguments):
    value, aux = method.loss(*arguments)
    return 1e15 * value, aux  # finite, like its gradient, but not their product with the rate

  steep = dataclasses.replace(method, loss=loss)
  with pytest.raises(TrainingError, match='parameters are not finite at step 4; last good'):
    train(tmp_path, steep, dict(name='sgd', learning_rate=1e30), max_bad_steps=100)
  assert steps_of(tmp_path) == ([], None)


def test_a_run_continues_with_a_gradient_that_is_not_finite_if_told_to(tmp_path):
  method = toy.build()

  def loss(params, memory, batch, key, context):
    value, aux = method.loss(params, memory, batch, key, context)
    return value + jnp.sqrt(0.0 * params['up']['bias']).sum(), aux  # its slope is infinite

  steep = dataclasses.replace(method, loss=loss)
  with pytest.raises(TrainingError, match='not finite in 2 steps in a row'):
    train(tmp_path / 'refused', steep, max_bad_steps=2)
  assert train(tmp_path / 'taken', steep, dict(nan_to_num=10.0), max_bad_steps=2)


def test_samples_that_are_not_finite_are_a_warning_and_no_picture(tmp_path, caplog):
  def sample(params, key, request):
    finite = jnp.arange(request.num) > 0
    return Samples(jnp.zeros((request.num, *toy.SPEC.shape), jnp.uint8), 1, finite=finite)

  assert train(tmp_path, dataclasses.replace(toy.build(), sample=sample), sample_every='4')
  said = [r.getMessage() for r in caplog.records if r.levelname == 'WARNING']
  pictures = [line for line in said if 'picture' in line]
  assert [line.split(':')[0] for line in pictures] == ['step 4', 'step 8']
  assert all('no picture: 1 of 100 samples are not finite' in line for line in pictures)
  assert not list(tmp_path.rglob('*.png'))


def test_there_is_no_mean_over_no_steps():
  means = LogMeans()
  bad = {'loss': np.array([math.nan, 1.0]), 'gradient_norm': np.array([1.0, math.inf])}
  means.add(bad)
  assert means.means() == {'bad_steps': 2.0, 'seconds': 0.0}
  means.add({'loss': np.array([3.0, math.nan]), 'gradient_norm': np.array([2.0, 1.0])})
  assert {'loss': 3.0, 'gradient_norm': 2.0, 'bad_steps': 1.0}.items() <= means.means().items()


def test_a_run_says_that_it_compiles_and_for_how_long(tmp_path, caplog):
  caplog.set_level('INFO')
  # Lengths may be counted in images: 16 to a step.
  train(tmp_path, optimizer=dict(warmup='16 images'), steps='128 images', log_every='64 images')
  lines = [r.getMessage() for r in caplog.records]
  assert sum(line.startswith('compiling the training step') for line in lines) == 1
  assert sum(line.startswith('compiled in ') for line in lines) == 1
  assert [row['step'] for row in writers.read(tmp_path, 'train')] == [4, 8]
