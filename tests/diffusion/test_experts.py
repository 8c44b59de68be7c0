"""Experts in the diffusion method: copies of a network are that network; what each one learns."""

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from common.config import ConfigError
from common.data.spec import DataSpec
from common.domains.forecasts.draws import forecast_request
from common.method import Context, Request
from common.training import parallel, sharding
from common.training.averages import Averaging
from common.training.program import build_program
from common.training.state import TrainStep, init_state
from diffusion.networks.base import DiffusionNetwork
from diffusion.networks.experts import Experts, interval_edges
from experiments import families
from tests.autoregressive.common import perturbed
from tests.cases import mostly_slow
from tests.diffusion import test_windows
from tests.diffusion.small import KEY, batch, build, context, random_init

COUNT = 4
FLOW = dict(name='flow', rtol=1e-3, atol=1e-3)


def copies(params):
  """The parameters of experts that are all the same network."""
  stacked = jax.tree.map(lambda leaf: jnp.stack([leaf] * COUNT), params['network'])
  return params | {'network': {'experts': stacked}}


def sample(method, params, **options):
  request = Request(6, jnp.arange(6) % 3, options=dict(steps=5, **options))
  return np.asarray(method.sample(params, KEY, request).x)


def guided_by_itself(method, params):
  """Autoguidance by a weaker model: the parameters, halved."""
  weak = jax.tree.map(lambda leaf: 0.5 * leaf, params)
  return sample(method, params, guidance=1.5, weak=weak)


def loss(training, method, params):
  value = jax.jit(lambda p: method.loss(p, (), batch(), KEY, context(p, training=training))[0])
  return np.asarray(value(params))


def nats(method, params):
  return np.asarray(jax.jit(method.nll)(params, batch(num=3), KEY).nats)


USES = {
  'training': (functools.partial(loss, True), {}),
  'validation': (functools.partial(loss, False), {}),
  'independent times': (functools.partial(loss, True), {'objective__times': dict(name='uniform')}),
  'samples': (sample, {}),
  'guided': (functools.partial(sample, guidance=2.0), {}),
  'autoguided': (guided_by_itself, {}),
  'heun': (functools.partial(sample, sampler='heun'), {}),
  'bound': (nats, {}),
  'flow': (nats, {'likelihood': FLOW}),
  'exact flow': (nats, {'likelihood': FLOW | dict(trace='exact')}),
}


@pytest.mark.parametrize(
  'use', mostly_slow(USES, ['training', 'independent times', 'guided', 'bound', 'flow'])
)
def test_experts_that_are_copies_of_a_network_are_that_network(use):
  result, settings = USES[use]
  shared, experts = build(**settings), build(experts=COUNT, **settings)
  params, _ = random_init(shared)
  expected = result(shared, params)
  assert np.ptp(expected) > 0 or expected.ndim == 0
  np.testing.assert_allclose(result(experts, copies(params)), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_forecasts_by_copies_are_those_of_the_network():
  one, params, _ = test_windows.built()
  many, _, _ = test_windows.built(experts=COUNT)
  data = test_windows.batch()
  on_device = jax.tree.map(jnp.asarray, data)
  for training in (True, False):
    where = Context(jnp.zeros((), jnp.int32), params, training, jnp.arange(4), 4)
    expected = one.loss(params, (), on_device, KEY, where)[0]
    got = many.loss(copies(params), (), on_device, KEY, where)[0]
    np.testing.assert_allclose(got, expected, 1e-5)
  request = forecast_request(test_windows.SPEC, data)
  expected = one.sample(params, KEY, request).x
  np.testing.assert_allclose(many.sample(copies(params), KEY, request).x, expected, 1e-4, 1e-4)


DIGITS = DataSpec('digits', 'image', (8, 8, 1), 17, 10, num_train=256)
NETWORKS = {
  'dit': dict(name='dit', width=32, depth=1, heads=2),
  # One level: more take minutes to compile for several devices.
  'unet': dict(name='unet', width=16, multipliers=(1,), blocks=1, head_width=8),
}


def train(network, micro_batches=1, precision='float32', mode='jit', **axes):
  """(losses, parameters, step) after two steps, from parameters away from zero."""
  sizes = dict(data=1, fsdp=1, tensor=1) | axes
  config = families.complete(
    dict(
      family='diffusion',
      data=dict(batch_size=16),
      network=NETWORKS[network],
      experts=COUNT,
      precision=precision,
      parallel=sizes | dict(mode=mode),
      train=dict(micro_batches=micro_batches),
    )
  )
  config['optimizer'] |= dict(name='sgd', learning_rate=0.1, warmup='0')
  mesh = parallel.make_mesh(sizes, jax.devices()[: int(np.prod(list(sizes.values())))])
  program = build_program(config, families.build(config, DIGITS), DIGITS, mesh)
  initial = jax.device_get(jax.jit(program.init)())
  initial = initial._replace(params=perturbed(initial.params, 0.1))
  x = np.asarray(jax.random.randint(KEY, (2, 16, *DIGITS.shape), 0, 17), np.uint8)
  batches = {'x': x, 'label': np.asarray(x[..., 0, 0, 0] % 10, np.int32)}
  step = program.step
  final, metrics = step.run(step.put_state(initial), step.put_batches(batches))
  return np.asarray(metrics['loss']), jax.device_get(step.logical_state(final).params), step


on_one_device = functools.cache(train)
WAYS = {
  'dit on a mesh': ('dit', dict(data=2, fsdp=2, tensor=2)),
  'unet over fsdp and tensor': ('unet', dict(fsdp=2, tensor=2)),
  # Each device has the times of two experts.
  'dit under pmap': ('dit', dict(data=2, mode='pmap')),
  'dit in micro-batches': ('dit', dict(micro_batches=2)),
  # Parts of two examples cannot be shared out among four experts.
  'dit in small micro-batches': ('dit', dict(micro_batches=8)),
}


@pytest.mark.parametrize('way', mostly_slow(WAYS, ['dit in micro-batches']))
def test_experts_train_alike_however_the_batch_is_split(way, monkeypatch):
  network, how = WAYS[way]
  one_loss, one, _ = on_one_device(network)
  monkeypatch.setattr(sharding, 'FSDP_MIN_SIZE', 128)
  monkeypatch.setattr(sharding, 'LARGE', 128)
  loss, other, step = train(network, **how)
  np.testing.assert_allclose(loss, one_loss, rtol=2e-5)
  for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
    np.testing.assert_allclose(b, a, rtol=1e-3, atol=1e-4)
  if min(how.get(axis, 1) for axis in ('fsdp', 'tensor')) > 1:
    specs = [s.spec for s in jax.tree.leaves(step.state_shardings.params['network'])]
    assert not any(spec and spec[0] for spec in specs)  # no axis splits the experts themselves
    assert sum('tensor' in str(s) and 'fsdp' in str(s) for s in specs) > len(specs) / 4


def test_experts_with_convolutions_are_refused_on_three_axes():
  with pytest.raises(ConfigError, match=r'cannot be spread over parallel\.data, fsdp and tensor'):
    train('unet', data=2, fsdp=2, tensor=2)


@pytest.mark.slow
def test_experts_train_in_bfloat16():
  exact, rounded = on_one_device('dit')[0], train('dit', precision='bfloat16')[0]
  np.testing.assert_allclose(rounded, exact, rtol=0.02)
  assert (rounded != exact).all()


class Scaled(DiffusionNetwork):
  """Its input times one number, which is its only parameter."""

  @nn.compact
  def __call__(self, x, noise, label=None, train=False):
    return x * self.param('scale', nn.initializers.zeros, ())


NUMBERS = DataSpec('numbers', 'image', (1, 1, 1), 0, 0)


def test_each_expert_learns_the_best_answer_for_its_interval():
  """Gaussian data and a linear network: the best number of each interval in closed form."""
  std = 0.5  # of the data; the network's input has unit variance at every noise level
  method = build(NUMBERS, sampling__threshold=dict(name='none'))
  model, times = method.model, method.objective.times
  edges = interval_edges(COUNT, model.process, times, model.noise_conditioning)
  model = dataclasses.replace(model, network=Experts(Scaled(), edges))
  method = dataclasses.replace(method, model=model)
  data = {'x': std * jax.random.normal(KEY, (400, 256, *NUMBERS.shape))}
  optimizer = optax.sgd(0.4)
  state = init_state(method, optimizer, {'x': data['x'][0]}, 0)
  step = TrainStep(method, optimizer, 0, Averaging(decay=0.99, warmup=True))
  state, metrics = jax.jit(step)(state, data)
  # v = α·ε − σ·x0 given z = (α·x0 + σ·ε)/√(α²s² + σ²): E[v·z] = α·σ·(1 − s²)/√(α²s² + σ²).
  t = times.sample(model.process, (jnp.arange(4000) + 0.5) / 4000, ()).t
  alpha, sigma = model.process.alpha(t), model.process.sigma(t)
  best = alpha * sigma * (1 - std**2) / jnp.sqrt((alpha * std) ** 2 + sigma**2)
  by_interval = np.asarray(best).reshape(COUNT, -1).mean(1)
  assert np.ptp(by_interval) > 0.2
  got = state.ema['network']['experts']['scale']
  np.testing.assert_allclose(got, by_interval, atol=0.03)
  # And so their loss is below that of the best single number, mean(v²) − mean(best)².
  square = np.mean(np.asarray(alpha**2 + (sigma * std) ** 2))
  assert metrics['loss'][-100:].mean() < square - float(best.mean()) ** 2 - 0.01
