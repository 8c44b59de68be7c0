"""A diffusion method small enough for tests: its data, its config and random parameters."""

import functools

import jax
import jax.numpy as jnp

import diffusion
from common.data.spec import DataSpec
from common.method import Context
from experiments import families

SPEC = DataSpec('toy', 'image', (4, 4, 1), 5, 3)
KEY = jax.random.key(0)
NUM = 16


def batch(seed=0, num=NUM):
  x = jax.random.randint(jax.random.key(seed), (num, *SPEC.shape), 0, SPEC.levels)
  return {'x': x.astype(jnp.uint8), 'label': jnp.arange(num) % SPEC.num_classes}


def build(spec=SPEC, **changes):
  """A method from the base config with a tiny network; 'a__b' changes the setting a.b."""
  config = families.defaults('diffusion')
  config['network'] = dict(name='mlp', width=16, depth=1)
  for path, value in changes.items():
    *sections, leaf = path.split('__')
    functools.reduce(lambda node, name: node[name], sections, config)[leaf] = value
  return diffusion.build(config, spec)


def context(params, index=None, training=True, size=NUM):
  index = jnp.arange(size) if index is None else index
  return Context(jnp.zeros((), jnp.int32), params, training, index, size)


def random_init(method, seed=5):
  """(params, memory) with a random network: with the initial one, all outputs are zero."""
  params, memory = method.init(KEY, batch())
  leaves, tree = jax.tree.flatten(params['network'])
  keys = jax.random.split(jax.random.key(seed), len(leaves))
  noisy = [v + 0.2 * jax.random.normal(k, v.shape) for v, k in zip(leaves, keys, strict=True)]
  return params | {'network': jax.tree.unflatten(tree, noisy)}, memory


@functools.cache
def edm_method():
  """An EDM method and its parameters, shared by the tests that only sample."""
  method = build(process=dict(name='edm'), sampling__grid=dict(name='karras', end='clean'))
  return method, random_init(method)[0]
