"""Small networks of every kind, and a batch for them."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from common.config import component
from diffusion.networks import NETWORKS

NUM_CLASSES = 5
SMALL = {
  'dit': dict(name='dit', width=32, depth=3, heads=2),
  'ddpm': dict(name='unet', width=16, multipliers=(1, 2), blocks=1, attention=(4,)),
  'adm': dict(
    name='unet',
    width=16,
    multipliers=(1, 2),
    blocks=1,
    attention=(8, 4),
    head_width=8,
    embedding='adm',
    scale_shift=True,
    resample_in_block=True,
  ),
  'ncsn++': dict(
    name='unet',
    width=16,
    multipliers=(1, 2),
    blocks=1,
    attention=(4,),
    up_attention='last',
    embedding='fourier',
    embedding_width=32,
    resample_in_block=True,
    resample_projection=True,
    fir=True,
    skip_rescale=True,
    progressive_input=True,
  ),
  'mlp': dict(name='mlp', width=32, depth=2),
}


def build(name: str, num_classes: int = NUM_CLASSES, **settings):
  """The small network of that name for one channel in and two out."""
  settings = SMALL[name] | settings
  return component(NETWORKS, settings, 'network', out_channels=2, num_classes=num_classes)


def batch(size: int = 4):
  """(x, noise, label)."""
  x = jax.random.normal(jax.random.key(1), (size, 8, 8, 1))
  return x, jnp.linspace(10.0, 900.0, size), jnp.arange(size) % NUM_CLASSES


def random_params(network, seed: int = 0):
  """Parameters without zeros, scaled so that activations stay near one."""
  return random_like(jax.eval_shape(network.init, jax.random.key(0), *batch())['params'], seed)


def random_like(struct, seed: int = 0):
  """Random parameters of the given shapes; see `random_params`."""
  random = np.random.default_rng(seed)

  def draw(path, leaf):
    noise = random.standard_normal(leaf.shape, np.float32)
    if path[-1].key == 'scale':
      return 1 + 0.1 * noise
    fan_in = leaf.size // leaf.shape[-1] if path[-1].key == 'kernel' else 4
    return noise / max(1, fan_in) ** 0.5

  return jax.tree.map_with_path(draw, struct)


@functools.cache
def compiled(name: str, train: bool = False, **settings):
  """(params, x, noise, label) -> y, compiled once for all tests: quickly, not to run quickly."""
  network = build(name, **settings)

  def apply(params, x, noise, label, seed=0):
    rngs = {'dropout': jax.random.key(seed)}
    return network.apply({'params': params}, x, noise, label, train=train, rngs=rngs)

  return quick_jit(apply)


quick_jit = functools.partial(jax.jit, compiler_options={'xla_backend_optimization_level': 0})
