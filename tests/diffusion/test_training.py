"""Training end to end on data whose entropy is known: the bound falls to it, and not below."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import diffusion
from common.data.spec import DataSpec
from common.method import Request
from common.training.averages import Averaging
from common.training.state import TrainStep, init_state
from experiments import families

SPEC = DataSpec('flat', 'image', (2, 2, 1), 5, 0)  # every pixel of an image is the same level
ENTROPY = np.log(5)  # nats; a model of independent pixels pays 4 times as much

RECIPES = {
  'learned': {
    'process': dict(name='learned', width=32),
    'prediction.target': 'eps',
    'objective.weighting': dict(name='vlb'),
  },
  'rectified_flow': {
    'process': dict(name='rectified_flow', t_min=0.05),
    'prediction.target': 'velocity',
  },
  'edm': {
    'process': dict(name='edm', sigma_min=0.05),
    'prediction.target': 'edm',
    'objective.weighting': dict(name='edm'),
    'objective.times': dict(name='log_normal'),
    'objective.uncertainty': True,
  },
  'improved ddpm': {
    'process': dict(name='ddpm', schedule='cosine', steps=100),
    'prediction.target': 'eps',
    'prediction.variance': 'learned',
    'objective.times': dict(name='loss_second_moment'),
    'likelihood': dict(name='vlb', terms=99),
  },
}


def build(recipe):
  config = families.defaults('diffusion')
  config['network'] = dict(name='mlp', width=64)
  config['likelihood'] = dict(name='vlb', terms=64)
  for path, value in RECIPES[recipe].items():
    *sections, leaf = path.split('.')
    functools.reduce(lambda node, name: node[name], sections, config)[leaf] = value
  return diffusion.build(config, SPEC)


def images(key, *shape):
  level = jax.random.randint(key, (*shape, 1, 1, 1), 0, SPEC.levels)
  return {'x': jnp.broadcast_to(level, (*shape, *SPEC.shape)).astype(jnp.uint8)}


@pytest.mark.slow
@pytest.mark.parametrize('recipe', RECIPES)
def test_bound_comes_down_to_the_entropy(recipe):
  method, optimizer = build(recipe), optax.adam(2e-3)
  data = images(jax.random.key(1), 400, 128)
  state = init_state(method, optimizer, jax.tree.map(lambda v: v[0], data), 0)
  step = jax.jit(TrainStep(method, optimizer, 0, Averaging(decay=0.995, warmup=True)))
  held_out = images(jax.random.key(2), 256)
  nll = jax.jit(method.nll)
  before = nll(state.params, held_out, jax.random.key(3)).nats.mean()
  for _ in range(5):
    state, _ = step(state, data)
  got = nll(state.ema, held_out, jax.random.key(3))
  error = np.sqrt(np.sum(np.asarray(got.standard_error) ** 2)) / 256
  assert ENTROPY - 3 * error < got.nats.mean() < 3 * ENTROPY < before
  x = np.asarray(method.sample(state.ema, jax.random.key(4), Request(256)).x).reshape(256, 4)
  assert np.mean(np.ptp(x, axis=1) == 0) > 0.8
