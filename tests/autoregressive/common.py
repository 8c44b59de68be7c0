"""Shared by the tests of this family: small data, small models."""

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict
from scipy import stats

from autoregressive.method import build_model
from common.data.spec import DataSpec
from experiments.families import defaults

DIGITS = DataSpec('digits', 'image', (8, 8, 1), 17, 10)


def small_config(**overrides):
  """The base config at a size for tests. In overrides, double underscores stand for dots, and a
  dict replaces a whole section."""
  config = ConfigDict(defaults('autoregressive'))
  config.network.update(width=32, layers=2, heads=4)
  sections = {k: v for k, v in overrides.items() if isinstance(v, dict)}
  settings = {k.replace('__', '.'): v for k, v in overrides.items() if k not in sections}
  config.update_from_flattened_dict(settings)
  return config.to_dict() | sections


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


def small_model(spec=DIGITS, scale=0.3, **overrides):
  """(ordering, model, perturbed parameters)."""
  ordering, model = build_model(small_config(**overrides), spec)
  emissions = jnp.zeros((1, ordering.length, ordering.values), jnp.int32)
  params = jax.jit(model.init)(jax.random.key(0), emissions)['params']
  return ordering, model, perturbed(params, scale)


def outputs_of(model, params, emissions, label=None):
  """Outputs for whole sequences, in one pass without a cache."""
  run = jax.jit(model.apply)
  label = None if label is None else jnp.asarray(label)
  return run({'params': params}, jnp.asarray(emissions), label)


def chi_square(counts, expected) -> float:
  """The p-value of counts against expected counts, which are scaled to the same sum in float64."""
  counts, expected = np.asarray(counts), np.asarray(expected, np.float64)
  return stats.chisquare(counts, expected * (counts.sum() / expected.sum())).pvalue
