"""One network per interval of noise: each example passes through its own, at the cost of one."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from common import flops
from common.config import ConfigError
from diffusion.model import NOISE_CONDITIONINGS
from diffusion.networks import experts
from diffusion.networks.base import DiffusionNetwork
from diffusion.networks.experts import Experts, assign, expert_params, interval_edges
from diffusion.objectives import TIME_DISTRIBUTIONS
from diffusion.objectives.times import uniforms
from diffusion.processes import PROCESSES
from tests.cases import mostly_slow
from tests.diffusion.networks import small

EDGES, COUNT, BATCH = (300.0, 600.0), 3, 6
# Noise levels by the program that they need, in an order that is not that of the experts.
NOISE = {
  'grouped': [700.0, 10.0, 300.0, 250.0, 990.0, 599.0],
  'single': [310.0, 599.0, 450.0, 300.0, 301.0, 500.0],
  'blocks': [700.0, 10.0, 800.0, 900.0, 610.0, 640.0],
}


def build(name, **settings):
  """(the experts, their parameters, the network of one)."""
  network = small.build(name, **settings)
  each = [small.random_params(network, seed) for seed in range(COUNT)]
  return Experts(network, EDGES), jax.tree.map(lambda *leaves: jnp.stack(leaves), *each), network


def examples(noise, augmented=False):
  x, _, label = small.batch(BATCH)
  augment = jax.random.normal(jax.random.key(4), (BATCH, 3)) if augmented else None
  return experts.Examples(x, jnp.asarray(NOISE[noise]), label, augment)


def alone(network, params, given):
  """The definition: the expert of an example's noise, applied to this example alone."""
  own = jnp.asarray([sum(edge <= level for edge in EDGES) for level in given.noise.tolist()])
  one = experts.OneExpert(network, train=False)

  def apply(params, example):
    return one(params, jax.tree.map(lambda a: a[None], example), None)[0]

  return jax.vmap(apply)(jax.tree.map(lambda leaf: leaf[own], params), given)


def gradients(function, params, given):
  """The value of a sum over the output, and its gradients by parameters and by x."""
  loss = lambda params, x: jnp.sum(jnp.sin(function(params, given._replace(x=x))))
  return small.quick_jit(jax.value_and_grad(loss, (0, 1)))(params, given.x)


SETTINGS = {
  'dit': dict(augment_dim=3),
  'ddpm': dict(multipliers=(1,), attention=()),  # more levels take a minute to compile
}
CASES = [
  ('mlp', 'grouped', True),
  ('mlp', 'blocks', True),
  ('mlp', 'single', False),
  ('mlp', 'blocks', False),
  ('dit', 'grouped', True),
  ('dit', 'blocks', True),
  ('dit', 'single', False),
  ('ddpm', 'blocks', True),
]


@pytest.mark.parametrize(('name', 'noise', 'train'), mostly_slow(CASES, [*CASES[:2], CASES[6]]))
def test_each_example_passes_through_its_expert_as_if_alone(name, noise, train):
  """Outputs and gradients by parameters and inputs, with labels; with augmentation for DiT."""
  augmented = name == 'dit'
  model, params, network = build(name, **SETTINGS.get(name, {}))
  given = examples(noise, augmented)

  def together(params, given):
    x, level, label, augment = given
    extra = {'augment': augment} if augmented else {}
    return model.apply({'params': {'experts': params}}, x, level, label, train=train, **extra)

  got = gradients(together, params, given)
  expected = gradients(functools.partial(alone, network), params, given)
  for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4)


class Scaled(DiffusionNetwork):
  """x times a number, the network's only parameter."""

  @nn.compact
  def __call__(self, x, noise, label=None, train=False):
    return x * self.param('scale', nn.initializers.ones, ())


@pytest.mark.parametrize('batch', [1, 2, 3, 5, 6, 7, 12])
def test_blocks_hold_every_batch(batch):
  """All ways to share out a batch among three experts, of which each multiplies by its number."""
  params, one = {'scale': jnp.arange(1.0, 4.0)}, experts.OneExpert(Scaled(), False)

  @jax.jit
  def run(given):
    assignment = assign(given.noise, jnp.asarray(EDGES))
    return experts.apply_blocks(one, params, given, assignment, None)

  rng = np.random.default_rng(batch)
  for low in range(batch + 1):
    for high in range(batch - low + 1):
      noise = rng.permutation(np.repeat([1.0, 400.0, 900.0], [low, high, batch - low - high]))
      x = np.arange(1.0, batch + 1)[:, None]
      y = run(experts.Examples(jnp.asarray(x), jnp.asarray(noise), None, None))
      np.testing.assert_array_equal(y[:, 0], x[:, 0] * (1 + (noise >= 300) + (noise >= 600)))


@pytest.mark.parametrize('noise', ['grouped', 'blocks'])
def test_dropout_masks_differ_between_examples_and_between_keys(noise):
  model, params, _ = build('mlp', dropout=0.5)
  params = {'experts': jax.tree.map(lambda leaf: jnp.stack([leaf[0]] * COUNT), params)}
  x, level = jnp.ones((BATCH, 8, 8, 1)), jnp.asarray(NOISE[noise])

  @small.quick_jit
  def apply(key):
    return model.apply({'params': params}, x, level, train=True, rngs={'dropout': key})

  first, other = apply(jax.random.key(0)), apply(jax.random.key(2))
  np.testing.assert_array_equal(first, apply(jax.random.key(0)))
  assert (np.abs(first - other).max(axis=(1, 2, 3)) > 1e-3).all()
  shared = model.apply({'params': params}, x, level)
  assert (np.abs(first - shared).max(axis=(1, 2, 3)) > 1e-3).all()


def test_experts_start_differently_each_like_the_network_alone():
  network, (x, noise, label) = small.build('mlp'), small.batch()
  model = Experts(network, EDGES)
  y, variables = small.quick_jit(model.init_with_output)(jax.random.key(0), x, noise, label)
  assert not np.any(y)
  shapes = jax.eval_shape(network.init, jax.random.key(0), x, noise, label)['params']
  stacked = variables['params']['experts']
  assert jax.tree.map(jnp.shape, stacked) == jax.tree.map(lambda s: (COUNT, *s.shape), shapes)
  kernels = np.asarray(stacked['Dense_0']['kernel'])
  assert np.abs(np.diff(kernels, axis=0)).max(axis=(1, 2)).min() > 0.01
  np.testing.assert_allclose(kernels.std(axis=(1, 2)), 1 / 8, rtol=0.1)  # 1/√64 of LeCun's


def operations(function, *arguments):
  return flops.count(flops.trace(function, *arguments))


@pytest.mark.parametrize('name', ['dit', 'ddpm', 'mlp'])
def test_an_example_costs_one_network(name):
  model, params, network = build(name)
  given = examples('grouped')
  alike = given.x, given.noise, given.label
  shared = operations(network.apply, {'params': expert_params(params, 0)}, *alike)
  variables = {'params': {'experts': params}}
  for train in (False, True):
    run = functools.partial(model.apply, train=train)
    assert operations(run, variables, *alike) == shared
  # The programs themselves, as they run.
  assignment = assign(given.noise, jnp.asarray(EDGES))
  one = experts.OneExpert(network, train=True)
  for program, most in (
    (experts.apply_grouped, shared),
    (experts.apply_single, shared),
    (experts.apply_blocks, (2 * COUNT - 1) * shared // COUNT),
  ):
    assert operations(functools.partial(program, one), params, given, assignment, None) <= most


TIMES = {
  'cosine': (PROCESSES['cosine'](), dict(name='low_discrepancy'), 'log_snr'),
  'edm': (PROCESSES['edm'](), dict(name='log_normal', stratified=True), 'edm'),
  'flow': (PROCESSES['rectified_flow'](), dict(name='logit_normal', stratified=True), 'time'),
  've': (PROCESSES['ve'](), dict(name='low_discrepancy'), 'c_noise'),
  'ddpm': (PROCESSES['ddpm'](steps=1000), dict(name='low_discrepancy'), 'time'),
}


def distribution(settings):
  settings = dict(settings)
  return TIME_DISTRIBUTIONS[settings.pop('name')](**settings)


@pytest.mark.parametrize('case', TIMES)
@pytest.mark.parametrize('count', [2, 4, 8])
def test_stratified_times_are_hit_equally_often(case, count):
  """So that training always takes the program for even batches, also for strided parts."""
  process, settings, noise = TIMES[case]
  times, conditioning = distribution(settings), NOISE_CONDITIONINGS[noise]
  edges = jnp.asarray(interval_edges(count, process, times, conditioning))

  @jax.jit
  @functools.partial(jax.vmap, in_axes=(0, None))
  def even(key, index):
    u = uniforms(jax.random.split(key, 16), key, index, 32, times.stratified)
    return assign(conditioning(process, times.sample(process, u, ()).t), edges).even

  keys = jax.random.split(jax.random.key(0), 200)
  for index in (jnp.arange(0, 32, 2), jnp.arange(1, 32, 2)):
    # An example on an edge, up to rounding, may fall on either side.
    assert even(keys, index).sum() >= 198


def test_the_edges_of_a_table_lie_between_its_steps():
  process, times = (
    PROCESSES['ddpm'](schedule='cosine', steps=10),
    distribution(dict(name='uniform')),
  )
  edges = interval_edges(4, process, times, NOISE_CONDITIONINGS['time'])
  # Steps 1 to 3, 4 to 5, 6 to 8 and 9 to 10, given as (k − 1)·100.
  np.testing.assert_allclose(edges, [250, 450, 750], rtol=1e-5)


@pytest.mark.parametrize(
  ('process', 'times', 'message'),
  [
    (
      'cosine',
      'loss_second_moment',
      'experts=4 needs intervals .* objective.times LossSecondMoment does',
    ),
    ('cosine', 'terminal', 'experts=4 needs intervals of noise .* objective.times Terminal does'),
    ('learned', 'low_discrepancy', "experts=4 needs intervals .* process 'learned' does not give"),
  ],
)
def test_intervals_that_move_are_refused(process, times, message):
  arguments = PROCESSES[process](), distribution(dict(name=times)), NOISE_CONDITIONINGS['log_snr']
  with pytest.raises(ConfigError, match=message):
    interval_edges(4, *arguments)


def test_intervals_without_times_are_refused():
  times = distribution(dict(name='uniform'))
  with pytest.raises(ConfigError, match='some of the intervals of noise are empty'):
    interval_edges(
      8, PROCESSES['ddpm'](schedule='cosine', steps=4), times, NOISE_CONDITIONINGS['time']
    )
