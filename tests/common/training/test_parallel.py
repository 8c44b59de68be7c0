"""The same loss curve on one device, under data parallelism, fsdp, tensor sharding and pmap."""

import dataclasses
import functools
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec as P

from common.config import ConfigError
from common.data.spec import DataSpec
from common.method import Aux
from common.training import parallel, sharding, state
from common.training.averages import Averaging
from common.training.program import build_program
from configs.base import get_base
from experiments import families
from tests import toy
from tests.autoregressive.common import perturbed
from tests.cases import mostly_slow

STEPS, SIZE = 6, 16
EMA = Averaging(decay=0.9, warmup=True)


def run(mode='jit', devices=1, micro_batches=1, weighted=False, batches=None, **axes):
  method, optimizer = toy.build(), optax.adam(1e-2)
  settings = dict(data=-1, fsdp=1, tensor=1) | axes
  mesh = parallel.make_mesh(settings, jax.devices()[:devices])
  example = toy.SPEC.batch_struct(SIZE)
  initial = lambda: state.init_state(method, optimizer, example, seed=0)
  pure = state.TrainStep(method, optimizer, 0, EMA, micro_batches)
  step = parallel.place_step(mode, pure, jax.eval_shape(initial), mesh)
  batches = toy.batches(STEPS, SIZE, weighted=weighted) if batches is None else batches
  final, metrics = step.run(step.create_state(initial), step.put_batches(batches))
  return jax.device_get(step.logical_state(final)), jax.device_get(metrics), step


@functools.cache
def run_on_one_device(weighted):
  return run(weighted=weighted)


QUICK = [
  (dict(devices=8), True),
  (dict(devices=8, data=2, fsdp=4), False),
  (dict(devices=8, data=2, fsdp=2, tensor=2), True),
  (dict(devices=4, micro_batches=2), False),
  (dict(devices=4, micro_batches=2, mode='pmap'), True),
]
WAYS = [*(how for how, _ in QUICK), dict(devices=8, mode='pmap'), dict(micro_batches=4)]


@pytest.mark.parametrize(
  ('how', 'weighted'), mostly_slow(itertools.product(WAYS, [False, True]), QUICK), ids=str
)
def test_same_losses_and_parameters_as_one_device(how, weighted):
  one_state, one, _ = run_on_one_device(weighted)
  other_state, other, _ = run(weighted=weighted, **how)
  np.testing.assert_allclose(other['loss'], one['loss'], rtol=2e-5)
  np.testing.assert_allclose(other['mse'], one['mse'], rtol=2e-5)
  for a, b in zip(jax.tree.leaves(one_state), jax.tree.leaves(other_state), strict=True):
    # Adam divides by the root of a second moment that starts at 0, which amplifies rounding errors.
    np.testing.assert_allclose(b, a, rtol=1e-3, atol=1e-4)


DIGITS = DataSpec('digits', 'image', (8, 8, 1), 17, 10, num_train=256)
# Gradients of every other network on a mesh: test_sharding.py.
TRANSFORMER = dict(
  family='autoregressive',
  network=dict(
    name='transformer',
    width=32,
    layers=2,
    heads=4,
    kv_heads=2,
    positions='rotary',
    norm='rms',
    activation='swiglu',
    scan=True,
  ),
  head=dict(name='categorical', pad_to=2),
  model=dict(chunk=24),
)


def train_transformer(**axes):
  """(losses, parameters, step) after three steps, from parameters away from zero."""
  config = families.complete(TRANSFORMER | dict(data=dict(batch_size=8)))
  config['optimizer'] |= dict(warmup='0')
  settings = dict(data=1, fsdp=1, tensor=1) | axes
  mesh = parallel.make_mesh(settings, jax.devices()[: math.prod(settings.values())])
  program = build_program(config, families.build(config, DIGITS), DIGITS, mesh)
  initial = jax.device_get(jax.jit(program.init)())
  initial = initial._replace(params=perturbed(initial.params, 0.1))
  key = jax.random.key(0)
  x = np.asarray(jax.random.randint(key, (3, 8, *DIGITS.shape), 0, 17), np.uint8)
  batches = {'x': x, 'label': np.asarray(x[..., 0, 0, 0] % 10, np.int32)}
  step = program.step
  final, metrics = step.run(step.put_state(initial), step.put_batches(batches))
  return metrics['loss'], jax.device_get(final.params), step


def test_a_transformer_trains_alike_on_one_device_and_on_a_mesh(monkeypatch):
  """Small leaves too are split, and none may be whole on a device."""
  monkeypatch.setattr(sharding, 'FSDP_MIN_SIZE', 128)
  monkeypatch.setattr(sharding, 'LARGE', 128)
  one_loss, one, _ = train_transformer()
  loss, other, step = train_transformer(data=2, fsdp=2, tensor=2)
  specs = [s.spec for s in jax.tree.leaves(step.state_shardings.params)]
  assert sum('tensor' in str(spec) and 'fsdp' in str(spec) for spec in specs) > len(specs) / 3
  np.testing.assert_allclose(loss, one_loss, rtol=2e-5)
  for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
    np.testing.assert_allclose(b, a, rtol=1e-3, atol=1e-4)


def test_single_steps_equal_the_compiled_loop():
  together, losses, step = run_on_one_device(False)
  batches = step.put_batches(toy.batches(STEPS, SIZE))
  initial = lambda: state.init_state(
    toy.build(), optax.adam(1e-2), toy.SPEC.batch_struct(1), seed=0
  )
  unrolled = dataclasses.replace(step, unrolled=True)
  apart, metrics = unrolled.run(step.create_state(initial), batches)
  assert int(apart.step) == int(together.step) == STEPS
  np.testing.assert_allclose(metrics['loss'], losses['loss'], rtol=1e-6)
  for a, b in zip(jax.tree.leaves(apart), jax.tree.leaves(together), strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('unrolled', [False, True])
def test_the_memory_of_a_step_is_known_without_compiling_it_again(unrolled):
  _, _, step = run_on_one_device(False)
  step = dataclasses.replace(step, unrolled=unrolled)
  initial = lambda: state.init_state(
    toy.build(), optax.adam(1e-2), toy.SPEC.batch_struct(1), seed=0
  )
  batches = step.put_batches(toy.batches(STEPS, SIZE))
  after, _ = step.run(step.create_state(initial), batches)
  compiled = []
  note = lambda event, seconds, **_: compiled.append(event) if 'compile' in event else None
  jax.monitoring.register_event_duration_secs_listener(note)
  needed = step.memory(after, batches)
  again = list(compiled)
  jax.jit(lambda x: x + 1)(1.5)
  assert compiled and not again
  # Parameters, two moments and the average, in float32.
  assert needed > 4 * 4 * sum(leaf.size for leaf in jax.tree.leaves(after.params))


def test_a_loss_with_convolutions_is_unrolled_on_a_cpu():
  config = get_base().to_dict()
  config['optimizer'] |= dict(warmup='0')
  method = toy.build()

  def loss(params, memory, batch, key, context):
    value, aux = method.loss(params, memory, batch, key, context)
    return value + jnp.convolve(jnp.ones(4), jnp.ones(2)).sum(), aux

  mesh = parallel.make_mesh(config['parallel'], jax.devices()[:1])
  convolving = dataclasses.replace(method, loss=loss)
  steps = [build_program(config, each, toy.SPEC, mesh).step for each in (method, convolving)]
  assert [step.unrolled for step in steps] == [False, True]
  assert [step.length(7) for step in steps] == [7, 1]


def test_losses_depend_on_the_data():
  _, one, _ = run_on_one_device(False)
  _, other, _ = run(batches=toy.batches(STEPS, SIZE, seed=1))
  assert np.abs(one['loss'] - other['loss']).max() > 1e-3


def test_fsdp_and_tensor_split_the_kernels():
  _, _, step = run(devices=8, data=2, fsdp=2, tensor=2)
  params, moments = step.abstract_state.params, step.abstract_state.opt_state[0].mu
  assert params['up']['kernel'].sharding.spec == P(None, 'tensor')  # too small for fsdp
  assert params['middle']['kernel'].sharding.spec == P(None, 'fsdp')
  assert moments['middle']['kernel'].sharding.spec == P(None, 'fsdp')
  assert params['down']['kernel'].sharding.spec == P('tensor', None)


def failing(part):
  """The toy method, whose loss or whose gradient is not finite in step 2."""
  method = toy.build()

  def loss(params, memory, batch, key, context):
    value, aux = method.loss(params, memory, batch, key, context)
    # Infinity as a constant has no gradient. A root adds 0 here, but its slope at 0 is infinite.
    bad = lambda bias: jnp.inf if part == 'loss' else jnp.sqrt(0.0 * bias).sum()
    added = jax.lax.cond(context.step == 2, bad, lambda bias: 0.0, params['up']['bias'])
    return value + added, aux

  return dataclasses.replace(method, loss=loss)


# With `nan_to_num`, a loss that is not finite still skips its step.
@pytest.mark.parametrize(
  ('part', 'nan_to_num'), [('loss', 0.0), ('gradient_norm', 0.0), ('loss', 10.0)]
)
def test_a_step_with_a_loss_or_a_gradient_that_is_not_finite_is_skipped_and_counted(
  part, nan_to_num
):
  method, optimizer = failing(part), optax.adam(1e-2)
  step = state.TrainStep(method, optimizer, 0, EMA, nan_to_num=nan_to_num)
  start = state.init_state(method, optimizer, toy.SPEC.batch_struct(SIZE), seed=0)
  batches = toy.batches(4, SIZE)
  cut = lambda first, last: {k: v[first:last] for k, v in batches.items()}
  before, _ = jax.jit(step)(start, cut(0, 2))
  after, metrics = jax.jit(step)(before, cut(2, 3))
  jax.tree.map(np.testing.assert_array_equal, after.params, before.params)
  jax.tree.map(np.testing.assert_array_equal, after.ema, before.ema)
  jax.tree.map(np.testing.assert_array_equal, after.opt_state, before.opt_state)
  assert (int(after.step), int(after.bad_in_a_row), int(after.bad_total)) == (3, 1, 1)
  finite = {name: bool(np.isfinite(metrics[name][0])) for name in ('loss', 'gradient_norm')}
  assert not finite.pop(part) and all(finite.values())
  last, _ = jax.jit(step)(after, cut(3, 4))
  assert (int(last.bad_in_a_row), int(last.bad_total)) == (0, 1)
  assert np.abs(last.params['up']['kernel'] - after.params['up']['kernel']).max() > 0


@pytest.mark.parametrize('bad', [np.nan, np.inf, -np.inf])
def test_a_single_value_that_is_not_finite_is_found(bad):
  tree = {'a': jnp.ones(3), 'b': (jnp.zeros((2, 2)),)}
  assert state.is_finite(tree) and state.is_finite({})
  assert not state.is_finite(tree | {'a': jnp.array([1.0, bad, 1.0])})


def test_a_gradient_that_is_not_finite_is_replaced_on_request_and_its_step_is_taken():
  """NaN by 0, infinity by the number given: the parameter with that gradient moves by no more."""
  optimizer, batches = optax.sgd(1.0), toy.batches(3, SIZE)
  start = state.init_state(toy.build(), optimizer, toy.SPEC.batch_struct(SIZE), seed=0)
  steps = [
    state.TrainStep(method, optimizer, 0, EMA, nan_to_num=10.0)
    for method in (failing('gradient_norm'), toy.build())
  ]
  (after, metrics), (plain, _) = (jax.jit(step)(start, batches) for step in steps)
  assert int(after.bad_total) == 0 and np.isfinite(metrics['gradient_norm']).all()
  # sqrt(0 · b) has the slope ∞ · 0, which is NaN.
  moved = after.params['up'].pop('bias'), plain.params['up'].pop('bias')
  assert np.isfinite(moved[0]).all() and np.abs(moved[0] - moved[1]).max() > 0
  jax.tree.map(np.testing.assert_array_equal, after.params, plain.params)
  replaced = jax.tree.map(
    lambda g: np.asarray(state.finite_gradient(g, 10.0)), jnp.array([jnp.nan, jnp.inf, -jnp.inf, 3])
  )
  np.testing.assert_array_equal(replaced, [0, 10, -10, 3])


def test_averages_weigh_the_first_step_as_their_formulas_say():
  """The warm-up's decay is 0.1 at first; power-function averages forget the initial values."""
  method, optimizer = toy.build(), optax.sgd(1.0)
  averaging = EMA._replace(widths=(0.1,))
  start = state.init_state(method, optimizer, toy.SPEC.batch_struct(SIZE), 0, num_averages=1)
  step = state.TrainStep(method, optimizer, 0, averaging)
  after, _ = jax.jit(step)(start, toy.batches(1, SIZE))
  for a, b, ema, average in zip(
    *map(jax.tree.leaves, (start.params, after.params, after.ema, after.averages[0])), strict=True
  ):
    np.testing.assert_allclose(ema, 0.1 * a + 0.9 * b, atol=1e-6)
    np.testing.assert_allclose(average, b, atol=1e-6)


def test_pmap_refuses_a_method_with_memory_and_a_sharded_mesh():
  mesh = parallel.make_mesh(dict(data=-1, fsdp=1, tensor=1))
  method, optimizer = toy.build(), optax.sgd(1.0)
  remembering = dataclasses.replace(
    method, init=lambda k, b: (method.init(k, b)[0], {'history': jnp.zeros(3)})
  )
  initial = lambda: state.init_state(remembering, optimizer, toy.SPEC.batch_struct(8), seed=0)
  step = state.TrainStep(remembering, optimizer, 0, EMA)
  with pytest.raises(ConfigError, match='keeps memory between steps'):
    parallel.place_step('pmap', step, jax.eval_shape(initial), mesh)
  with pytest.raises(ConfigError, match=r'fsdp=1'):
    run('pmap', devices=8, fsdp=2)
  with pytest.raises(ConfigError, match=r"unknown parallel.mode 'pmapp'; did you mean 'pmap'"):
    run('pmapp')


@pytest.mark.parametrize(
  'axes', [dict(data=3), dict(data=-1, fsdp=-1), dict(data=0), dict(fsdp=16)]
)
def test_a_mesh_that_does_not_fit_the_devices_is_refused(axes):
  with pytest.raises(ConfigError, match='parallel'):
    parallel.make_mesh(dict(data=-1, fsdp=1, tensor=1) | axes)


def test_an_indivisible_batch_is_refused_with_the_nearest_valid_size():
  with pytest.raises(
    ConfigError, match=r'data.batch_size=100 .* multiple of 16 .* the nearest is 96'
  ):
    parallel.check_batch_size(100, 8, 2)


def test_metrics_are_means_over_the_counted_examples():
  """Micro-batches of unequal count, against the mean over all examples at once."""
  method = toy.build()

  def loss(params, memory, batch, key, context):
    weight = batch['weight']
    value = (weight * batch['label']).sum() / jnp.maximum(weight.sum(), 1)
    value = value + 0 * params['up']['bias'].sum()
    return value, Aux({'mean_label': value}, memory, weight.sum())

  batches = toy.batches(1, SIZE, weighted=True)
  weight, label = batches['weight'][0], batches['label'][0]
  expected = (weight * label).sum() / weight.sum()
  for parts in (1, 2, 8):
    step = state.TrainStep(dataclasses.replace(method, loss=loss), optax.sgd(0.1), 0, EMA, parts)
    start = state.init_state(method, optax.sgd(0.1), toy.SPEC.batch_struct(SIZE), seed=0)
    _, metrics = jax.jit(step)(start, batches)
    np.testing.assert_allclose(metrics['mean_label'][0], expected, rtol=1e-6)
