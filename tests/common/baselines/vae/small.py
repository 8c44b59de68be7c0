"""Small autoencoders of every kind, and a batch for them."""

import functools

import jax
import jax.numpy as jnp

from common.baselines.vae.networks import NETWORKS
from common.config import component
from tests.diffusion.networks.small import quick_jit, random_like

NUM_CLASSES = 5
SMALL = {
  'conv': dict(name='conv', width=8, multipliers=(1, 2), groups=2),
  'transformer': dict(name='transformer', patch=2, width=16, depth=2, heads=2),
}


def build(name: str, num_classes: int = NUM_CLASSES, dtype: str = 'float32', **settings):
  """The small autoencoder of that name, for two channels out and six features."""
  given = dict(out_channels=2, features=6, num_classes=num_classes, dtype=dtype)
  return component(NETWORKS, SMALL[name] | settings, 'network', **given)


def batch(size: int = 4, height: int = 8, width: int = 8):
  """(x, z, label): images of two channels, latents of three, half as high and wide."""
  first, second = jax.random.split(jax.random.key(1))
  x = jax.random.normal(first, (size, height, width, 2))
  z = jax.random.normal(second, (size, height // 2, width // 2, 3))
  return x, z, jnp.arange(size) % NUM_CLASSES


def random_params(network, inputs=None):
  """Parameters without zeros, for inputs like those of `batch`; activations stay near one."""
  inputs = batch() if inputs is None else inputs
  return random_like(jax.eval_shape(network.init, jax.random.key(0), *inputs)['params'])


@functools.cache
def compiled(name: str, **settings):
  """(params, x, z, label) -> (features, images), compiled once for all tests."""
  network = build(name, **settings)
  return quick_jit(lambda params, *inputs: network.apply({'params': params}, *inputs))
