"""What the tests of this family share: small data, small models."""

import jax
import jax.numpy as jnp

from autoregressive.method import build_model
from common.data.spec import DataSpec
from configs.autoregressive.base import get_base

DIGITS = DataSpec('digits', 'image', (8, 8, 1), 17, 10)


def small_config(**overrides):
  """The base config at a size for tests; double underscores stand for dots."""
  config = get_base()
  config.network.update(width=32, layers=2, heads=4)
  config.update_from_flattened_dict({k.replace('__', '.'): v for k, v in overrides.items()})
  return config.to_dict()


def images(num, spec=DIGITS, seed=0):
  """A batch of random images with labels."""
  key = jax.random.key(seed)
  x = jax.random.randint(key, (num, *spec.shape), 0, spec.levels).astype(jnp.uint8)
  batch = {'x': x}
  if spec.num_classes:
    batch['label'] = jnp.arange(num) % spec.num_classes
  return batch


def perturbed(params, scale=0.3, seed=1):
  """Parameters away from their initial values, so that nothing is near zero or symmetric."""
  leaves, tree = jax.tree.flatten(params)
  keys = jax.random.split(jax.random.key(seed), len(leaves))
  noisy = [x + scale * jax.random.normal(k, x.shape) for x, k in zip(leaves, keys, strict=True)]
  return jax.tree.unflatten(tree, noisy)


def small_model(spec=DIGITS, **overrides):
  """(ordering, model, perturbed parameters)."""
  ordering, model = build_model(small_config(**overrides), spec)
  emissions = ordering.encode(images(1, spec)['x'])
  params = jax.jit(model.init)(jax.random.key(0), emissions)['params']
  return ordering, model, perturbed(params)
