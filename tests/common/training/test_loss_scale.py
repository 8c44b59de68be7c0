"""The scaled loss of float16, against the authors' rule, float32 and itself after a break."""

import dataclasses
import functools
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from common.checkpoints.checkpoints import Checkpoints
from common.config import ConfigError
from common.method import Aux, Context, example_weights
from common.precision import LossScaling, make_loss_scaling, scaled_gradient
from common.reporting import writers
from common.training import parallel, state
from common.training.averages import Averaging
from common.training.meters import TrainingError
from experiments import families
from tests import toy
from tests.autoregressive.common import DIGITS
from tests.autoregressive.common import images as digits
from tests.cases import mostly_slow
from tests.common.training.test_loop import prepared, train
from tests.diffusion.networks.small import quick_jit
from tests.diffusion.small import SPEC as FIVE_LEVELS
from tests.diffusion.small import batch as five_levels

SIZE = 8
DECAY = 0.9

# The slope of the loss at each step of `sloped`, in float16 next to SLOPES[step] · scale.
VALUES = np.array([1.0, -0.5, 0.37], np.float16)
SLOPES = 10.0 ** np.array([-3, -2, 1, -4, 2, -3, -3, 0, 3, -2, -5, -1], np.float32)


def sloped(params, memory, batch, key, context):
  """slope · Σ w·VALUES, with the product in float16, so that large slopes overflow."""
  w = params['w'].astype(jnp.float16)
  total = jnp.matmul(w, jnp.asarray(VALUES)).astype(jnp.float32)
  count = example_weights(batch).sum()
  return jnp.asarray(SLOPES)[context.step] * total, Aux({}, memory, count)


def authors_rule(scaling, w, rate):
  """Adam by the rule of openai/guided-diffusion (fp16_util.py), in NumPy: (scales, w, average)."""
  s, scales, average = scaling.initial, [], w.copy()
  mean, square, count = np.zeros(3), np.zeros(3), 0
  for slope in SLOPES:
    scales.append(s)
    with np.errstate(over='ignore'):
      gradient = np.float16(slope * 2**s) * VALUES
    if not np.isfinite(gradient).all():
      s -= 1
      continue
    gradient = gradient.astype(np.float64) / 2**s
    count += 1
    mean = 0.9 * mean + 0.1 * gradient
    square = 0.999 * square + 0.001 * gradient**2
    w = w - rate * (mean / (1 - 0.9**count)) / (np.sqrt(square / (1 - 0.999**count)) + 1e-8)
    average = DECAY * average + (1 - DECAY) * w
    s += scaling.growth
  return np.array([*scales, s]), w, average


@pytest.mark.parametrize(
  ('mode', 'devices', 'micro_batches'), [('jit', 1, 1), ('jit', 2, 2), ('pmap', 2, 1)]
)
def test_scales_and_parameters_are_those_of_the_authors_rule(mode, devices, micro_batches):
  scaling, optimizer = LossScaling(initial=16.0, growth=0.3), optax.adam(0.1)
  start = np.array([1.0, 2.0, -1.0], np.float32)
  init = lambda key, batch: ({'w': jnp.asarray(start)}, {})
  method = dataclasses.replace(toy.build(), init=init, loss=sloped)
  example = toy.SPEC.batch_struct(SIZE)
  initial = lambda: state.init_state(method, optimizer, example, 0, loss_scaling=scaling)
  step = state.TrainStep(
    method, optimizer, 0, Averaging(DECAY, warmup=False), micro_batches, loss_scaling=scaling
  )
  mesh = parallel.make_mesh(dict(data=-1, fsdp=1, tensor=1), jax.devices()[:devices])
  placed = parallel.place_step(mode, step, jax.eval_shape(initial), mesh)
  batches = placed.put_batches(toy.batches(len(SLOPES), SIZE))
  final, metrics = placed.run(placed.create_state(initial), batches)
  final = placed.logical_state(final)
  scales, w, average = authors_rule(scaling, start, 0.1)
  bad = np.diff(scales) < 0
  assert 2 < bad.sum() < len(SLOPES) - 2  # of both kinds
  found = [*metrics['log2_loss_scale'], final.log2_loss_scale]
  np.testing.assert_allclose(found, scales, rtol=1e-6)
  np.testing.assert_array_equal(np.isfinite(metrics['gradient_norm']), ~bad)
  np.testing.assert_allclose(final.params['w'], w, rtol=1e-3)
  np.testing.assert_allclose(final.ema['w'], average, rtol=1e-3)
  assert (int(final.bad_in_a_row), int(final.bad_total)) == (0, bad.sum())


class Half(nn.Module):
  """A layer in float16 between two in float32."""

  @nn.compact
  def __call__(self, x):
    x = nn.Dense(16, name='up')(x)
    x = nn.gelu(nn.Dense(16, dtype=jnp.float16, name='middle')(x))
    return nn.Dense(16, name='down')(x.astype(jnp.float32))


def half(factor=1.0):
  """The toy method with a layer in float16, and its loss times a factor, which is its memory."""
  net, method = Half(), toy.build()

  def init(key, batch):
    return net.init(key, jnp.zeros((1, 16)))['params'], {'factor': jnp.float32(factor)}

  def loss(params, memory, batch, key, context):
    x = batch['x'].reshape(-1, 16) / 8 - 1.0
    value = memory['factor'] * jnp.square(net.apply({'params': params}, x) - x).mean()
    return value, Aux({}, memory, example_weights(batch).sum())

  return dataclasses.replace(method, init=init, loss=loss)


def compiled(optimizer, scaling):
  """(state at first, step) of the method above, for 20 steps in a call."""
  method, example = half(), toy.SPEC.batch_struct(SIZE)
  first = state.init_state(method, optimizer, example, 0, loss_scaling=scaling)
  step = jax.jit(state.TrainStep(method, optimizer, 0, Averaging(0.9, True), loss_scaling=scaling))
  return first, lambda at: step(at, toy.batches(20, SIZE))


def test_a_gradient_below_the_least_float16_trains_only_with_the_scale():
  """The float16 layer learns nothing unscaled, and with the scale what a larger loss teaches it."""
  # Adam does not depend on the size of the loss, unless the gradient is lost.
  first, step = compiled(optax.adam(1e-2, eps=1e-20), LossScaling(growth=0.0))

  def learnt(factor, scale):
    memory, scale = {'factor': jnp.float32(factor)}, jnp.float32(scale)
    after, metrics = step(first._replace(memory=memory, log2_loss_scale=scale))
    assert np.isfinite(metrics['gradient_norm']).all()
    return np.asarray(after.params['middle']['kernel'] - first.params['middle']['kernel'])

  plain, lost, kept = learnt(1.0, 0.0), learnt(1e-9, 0.0), learnt(1e-9, 30.0)
  assert np.abs(plain).mean() > 0.05 and np.abs(lost).max() == 0
  assert np.abs(kept - plain).mean() < 0.05 * np.abs(plain).mean()


def test_a_scale_that_is_too_high_falls_by_one_a_step_and_nothing_else_changes():
  first, step = compiled(optax.adam(1e-2), LossScaling(initial=50.0))
  after, metrics = step(first)
  np.testing.assert_array_equal(metrics['log2_loss_scale'], 50.0 - np.arange(20))
  assert float(after.log2_loss_scale) == 30
  kept = lambda s: (s.params, s.ema, s.opt_state)
  jax.tree.map(np.testing.assert_array_equal, kept(after), kept(first))
  assert [int(after.step), int(after.bad_in_a_row), int(after.bad_total)] == [20, 0, 20]
  last, metrics = step(after)
  good = np.isfinite(metrics['gradient_norm'])
  assert 0 < np.argmax(good) < 15 and good[np.argmax(good) :].mean() > 0.7
  assert float(last.log2_loss_scale) == pytest.approx(30 - (~good).sum() + good.sum() * 1e-3)
  assert metrics['loss'][-1] < metrics['loss'][0]


def test_a_run_resumes_with_its_scale_bit_for_bit(tmp_path):
  scale = dict(initial=25.0, growth=0.01)
  settings = dict(precision='float16', loss_scale=scale, steps='16', max_bad_steps=2)
  method = half()
  _, _, program = prepared(method, **settings)

  def final(workdir, **more):
    finished = train(workdir, method, **settings, **more)
    with Checkpoints(workdir / 'checkpoints', read_only=True) as checkpoints:
      return finished, checkpoints.restore(program.step.abstract_state).state

  finished, whole = final(tmp_path / 'whole')
  assert finished and 2 < int(whole.bad_total) < 14
  finished, part = final(tmp_path / 'parts', stop=lambda: True)
  assert not finished and int(part.step) == 2
  finished, resumed = final(tmp_path / 'parts')
  assert finished
  jax.tree.map(np.testing.assert_array_equal, resumed, whole)
  lines = [writers.read(tmp_path / name, 'train') for name in ('whole', 'parts')]
  shown = [[(r['step'], r.get('log2_loss_scale'), r['bad_steps']) for r in rows] for rows in lines]
  assert shown[0] == shown[1]
  assert shown[0][-1][1] == pytest.approx(float(whole.log2_loss_scale), abs=0.05)


def test_a_loss_that_is_never_finite_ends_the_run_once_the_scale_has_fallen(tmp_path):
  # Those at 2^3, 2^2 and 2^1 do not count; a call has two steps.
  with pytest.raises(TrainingError) as error:
    train(
      tmp_path,
      half(math.inf),
      precision='float16',
      loss_scale=dict(initial=3.0),
      steps='16',
      max_bad_steps=4,
    )
  assert error.value.reason == (
    'the gradient was not finite in 5 steps in a row up to step 8 while the loss scale fell to '
    '2^-4 (train.max_bad_steps=4)'
  )


MODELS = {
  'unet': dict(
    family='diffusion',
    network=dict(name='unet', width=8, multipliers=(1, 2), blocks=1, attention=(2,)),
  ),
  'dit': dict(family='diffusion', network=dict(name='dit', width=16, depth=1, heads=2)),
  'transformer': dict(
    family='autoregressive',
    network=dict(name='transformer', width=16, layers=1, heads=2),
    model=dict(chunk=24),
  ),
}


@pytest.mark.parametrize('name', mostly_slow(MODELS, ['dit', 'transformer']))
def test_the_gradient_of_a_whole_model_is_near_that_of_float32(name):
  """Of a loss so small that the gradient underflows without the scale."""
  config = families.complete(MODELS[name])
  diffusion = config['family'] == 'diffusion'
  spec, batch = (FIVE_LEVELS, five_levels()) if diffusion else (DIGITS, digits(16))
  exact, rounded = (
    families.build(config | {'precision': precision}, spec) for precision in ('float32', 'float16')
  )
  shapes = jax.eval_shape(exact.init, jax.random.key(0), batch)[0]
  random = np.random.default_rng(0)
  params = jax.tree.map(lambda x: 0.2 * random.standard_normal(x.shape, np.float32), shapes)
  context = Context(jnp.int32(0), params, True, jnp.arange(16), 16)

  def loss(method, params):
    value, aux = method.loss(params, {}, batch, jax.random.key(1), context)
    return 1e-7 * value, aux

  def gradients(method, *scales):
    """The gradient at each scale, as a vector; one compiled program."""
    run = quick_jit(functools.partial(scaled_gradient, functools.partial(loss, method)))
    found = [run(jnp.float32(s), params)[1] for s in scales]
    assert all(x.dtype == jnp.float32 for x in jax.tree.leaves(found))
    return [np.concatenate([x.ravel() for x in jax.tree.leaves(g)]) for g in found]

  (plain,), (scaled, unscaled) = gradients(exact, 0.0), gradients(rounded, 25.0, 0.0)
  error = lambda g: np.linalg.norm(g - plain) / np.linalg.norm(plain)
  assert 1e-5 < error(scaled) < 0.01 and error(unscaled) > 5 * error(scaled)


def test_settings_that_would_have_no_effect_are_refused():
  config = families.defaults('diffusion')
  assert make_loss_scaling(config) is None
  assert make_loss_scaling(config | {'precision': 'float16'}) == LossScaling(20.0, 1e-3)
  config['train']['loss_scale'] = dict(initial=16.0, growth=1e-3)
  with pytest.raises(ConfigError) as error:
    make_loss_scaling(config | {'precision': 'bfloat16'})
  assert str(error.value) == (
    "train.loss_scale has no effect with precision='bfloat16': leave it out, or set "
    "precision='float16'"
  )
  config['optimizer']['nan_to_num'] = 1e5
  with pytest.raises(ConfigError, match='nan_to_num hides the overflows'):
    make_loss_scaling(config | {'precision': 'float16'})
