"""The loop where numbers are not finite: nothing is saved, shown or logged in their place."""

import dataclasses
import math
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from absl import logging

from common.checkpoints.checkpoints import Checkpoints
from common.data.pipeline import Data, train_batches
from common.data.sources import Source
from common.devices.limits import OutOfMemoryError
from common.method import Aux, Samples
from common.reporting import writers
from common.reporting.rates import ONE_EXAMPLE, StepWork
from common.training import loop
from common.training.meters import Goodput, LogMeans, TrainingError
from common.training.parallel import make_mesh
from common.training.program import build_program
from common.training.state import init_state
from common.training.validation import validation_loss
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


def prepared(method=None, optimizer=None, precision='float32', **settings):
  """(config, method, program) of a training of the toy method for 8 steps, 2 in a call."""
  config = get_base().to_dict() | dict(precision=precision)
  config['data']['batch_size'] = 16
  config['optimizer'] |= dict(schedule='constant', warmup='0', clip=0.0) | (optimizer or {})
  config['train'] |= dict(steps='8', steps_per_call=2, checkpoint_every='4', log_every='4')
  config['train'] |= dict(evaluate_every='0', sample_every='0') | settings
  method = method or toy.build()
  mesh = make_mesh(config['parallel'], jax.devices()[:1])
  return config, method, build_program(config, method, toy.SPEC, mesh)


def train(workdir, method=None, optimizer=None, stop=loop.never_stop, **settings):
  """Trains it."""
  config, method, program = prepared(method, optimizer, **settings)
  return loop.train(config, method, DATA, program, workdir, stop)


def test_a_method_can_be_initialised_by_the_first_training_examples():
  config = get_base().to_dict()
  config['data']['batch_size'] = 8
  made = toy.build()
  init = lambda key, batch: (made.init(key, batch)[0], {'mean': jnp.mean(batch['x'] * 1.0)})
  method = dataclasses.replace(made, init=init, init_examples=5)
  mesh = make_mesh(config['parallel'], jax.devices()[:1])
  program = build_program(config, method, toy.SPEC, mesh)
  state = loop.initial_state(config, method, DATA, program)
  first = next(train_batches(DATA, seed=config['seed'], batch_size=8, chunks=[(0, 1)]))['x'][0]
  assert float(state.memory['mean']) == pytest.approx(first[:5].mean())


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


def test_as_many_bad_steps_in_a_row_as_allowed_end_the_run(tmp_path):
  """Two bad steps in different calls, the second of which ends with a good step."""
  method = toy.build()

  def loss(params, memory, batch, key, context):
    value, aux = method.loss(params, memory, batch, key, context)
    bad = (context.step == 1) | (context.step == 2)
    return jnp.where(bad & context.training, jnp.nan, value), aux

  shaky = dataclasses.replace(method, loss=loss)
  with pytest.raises(TrainingError, match='not finite in 2 steps in a row up to step 4') as error:
    train(tmp_path / 'two', shaky, max_bad_steps=2, log_every='8')
  assert error.value.reason.endswith('up to step 4 (train.max_bad_steps=2)')
  # The log has the last steps too, although no line was due.
  (line,) = writers.read(tmp_path / 'two', 'train')
  assert (line['step'], line['bad_steps']) == (4, 2) and math.isfinite(line['loss'])
  assert train(tmp_path / 'three', shaky, max_bad_steps=3)


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
  means = LogMeans(ONE_EXAMPLE)
  bad = {'loss': np.array([math.nan, 1.0]), 'gradient_norm': np.array([1.0, math.inf])}
  means.add(bad)
  assert means.means() == {'bad_steps': 2.0, 'seconds': 0.0}
  means.add({'loss': np.array([3.0, math.nan]), 'gradient_norm': np.array([2.0, 1.0])})
  assert {'loss': 3.0, 'gradient_norm': 2.0, 'bad_steps': 1.0}.items() <= means.means().items()


def mean_label(params, memory, batch, key, context):
  """A loss: the mean of the labels."""
  count = batch['weight'].sum()
  return (batch['weight'] * batch['label']).sum() / count, Aux({}, memory, count)


def test_the_validation_loss_is_the_mean_over_examples_also_of_a_padded_batch():
  method = dataclasses.replace(toy.build(), loss=mean_label)
  start = init_state(method, optax.sgd(0.1), toy.SPEC.batch_struct(100), seed=0)
  device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
  made = validation_loss(method, start, DATA, 100, device, seed=0)  # 100, 100 and 56
  labels = DATA.splits['validation'].gather(np.arange(256))['label']
  assert made == {'loss': pytest.approx(labels.mean())}


def test_the_validation_loss_of_some_examples_is_drawn_anew_at_each_step():
  method = dataclasses.replace(toy.build(), loss=mean_label)
  start = init_state(method, optax.sgd(0.1), toy.SPEC.batch_struct(8), seed=0)
  device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
  labels = DATA.splits['validation'].gather(np.arange(256))['label']
  losses = []
  for step in range(100):
    state = start._replace(step=jnp.asarray(step, jnp.int32))
    losses.append(validation_loss(method, state, DATA, 8, device, seed=3, number=20)['loss'])
    assert losses[-1] * 20 == pytest.approx(round(losses[-1] * 20), abs=1e-3)  # of 20 whole labels
  again = validation_loss(method, state, DATA, 8, device, seed=3, number=20)['loss']
  assert again == losses[-1]  # the same at each visit of a step
  # Independent draws of the split: their mean, and a spread of σ/√20.
  error = labels.std() / math.sqrt(20)
  assert np.mean(losses) == pytest.approx(labels.mean(), abs=4 * error / math.sqrt(100))
  assert np.std(losses) == pytest.approx(error, rel=0.3)


def test_a_run_says_that_it_compiles_and_for_how_long(tmp_path, caplog):
  caplog.set_level('INFO')
  logging.set_verbosity(logging.INFO)
  # Lengths may be counted in images: 16 to a step.
  train(tmp_path, optimizer=dict(warmup='16 images'), steps='128 images', log_every='64 images')
  lines = [r.getMessage() for r in caplog.records]
  assert sum(line.startswith('compiling the training step') for line in lines) == 1
  compiled = [line for line in lines if line.startswith('compiled in ')]
  assert len(compiled) == 1 and compiled[0].endswith(' MiB of each device')
  first, last = writers.read(tmp_path, 'train')
  assert (first['step'], last['step']) == (4, 8)
  # On a CPU neither the peak rate nor the memory is known.
  speeds = {'steps_per_second', 'images_per_second', 'model_flops_per_second', 'goodput'}
  assert speeds <= first.keys() == last.keys()
  assert not {'mfu', 'peak_memory_bytes'} & last.keys()
  assert last['images_per_second'] == pytest.approx(16 * last['steps_per_second'])
  assert 0 < last['goodput'] < 1
  # Three layers, forward and backward, for 16 images.
  products = 16 * 64 + 64 * 64 + 64 * 16
  per_step = last['model_flops_per_second'] / last['steps_per_second']
  assert per_step == pytest.approx(16 * 6 * products)


def test_a_known_peak_gives_the_utilisation():
  work = StepWork('tokens', units=480 * 1024, flops=4 * 10**14, peak=8 * 989e12)
  rates = work.rates(7.9)
  assert rates['mfu'] == pytest.approx(4e14 * 7.9 / 7912e12)
  assert work.texts(7.9) == ['7.9 steps/s', '3,883,008 tokens/s', 'MFU 39.9 %', '3.16 PFLOP/s']


def test_goodput_leaves_out_the_time_in_which_the_devices_wait(tmp_path):
  """Two calls of 0.2 s; the host prepares data for 0.6 s in between, while the first one ends."""
  goodput = Goodput()
  result = jax.ShapeDtypeStruct((), jnp.float32)

  def slow(x):
    time.sleep(0.2)
    return np.float32(x)

  call = jax.jit(lambda x: jax.pure_callback(slow, result, x)).lower(result).compile()
  for _ in range(2):
    started = time.perf_counter()
    goodput.put(call(1.0), started)
    time.sleep(0.6)
  goodput.fetch()
  goodput.fetch()
  assert 0.2 < goodput.share() < 0.5


def exhausts(key):
  """More memory than most machines have: 4 TiB, which the compiler may not optimise away."""
  x = jnp.full((2**40,), jax.random.bits(key, (), jnp.uint32))
  return jax.lax.optimization_barrier(x).sum().astype(jnp.float32)


@pytest.mark.parametrize(
  ('training', 'message'),
  [
    (
      True,
      r'while training: raise train\.micro_batches \(now 1\), .*lower data\.batch_size \(now 16',
    ),
    (False, r'while computing the validation loss: .*lower data\.batch_size \(now 16\)'),
  ],
)
def test_exhausted_memory_names_the_settings_to_change(tmp_path, training, message):
  method = toy.build()

  def loss(params, memory, batch, key, context):
    value, aux = method.loss(params, memory, batch, key, context)
    return value + exhausts(key) if context.training == training else value, aux

  with pytest.raises(OutOfMemoryError, match=message):
    train(tmp_path, dataclasses.replace(method, loss=loss))


def test_exhausted_memory_while_sampling_names_the_setting(tmp_path):
  def sample(params, key, request):
    return Samples(jnp.zeros((2**50, *toy.SPEC.shape), jnp.uint8), 1)

  with pytest.raises(OutOfMemoryError, match=r'while sampling: set train\.sample_every=0'):
    train(tmp_path, dataclasses.replace(toy.build(), sample=sample), sample_every='4')
