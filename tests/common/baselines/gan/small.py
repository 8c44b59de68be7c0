"""GANs small enough for tests: their data, configs and parameters away from symmetric values."""

import jax
import jax.numpy as jnp

from common.config import merge
from common.data.spec import DataSpec
from common.method import Context
from experiments import families
from tests.autoregressive.common import perturbed

SPEC = DataSpec('toy', 'image', (8, 8, 1), 5, 3, ('a', 'b', 'c'), num_train=64)
POINTS = DataSpec('points', 'image', (1, 1, 2), 0, num_train=512)
KEY = jax.random.key(0)
NUM = 16

NETWORKS = {
  'dcgan': dict(
    generator=dict(name='dcgan', width=8, multipliers=(1, 2), latent=6),
    discriminator=dict(name='dcgan', width=8, multipliers=(1, 2)),
  ),
  'resnet': dict(
    generator=dict(name='resnet', width=8, multipliers=(1, 2), latent=6),
    discriminator=dict(name='resnet', width=8, multipliers=(1, 2), blocks=1),
  ),
  'mlp': dict(
    generator=dict(name='mlp', width=16, depth=2, latent=6),
    discriminator=dict(name='mlp', width=16, depth=2),
  ),
}


def batch(seed=0, num=NUM, spec=SPEC):
  x = jax.random.randint(jax.random.key(seed), (num, *spec.shape), 0, spec.levels)
  return {'x': x.astype(jnp.uint8), 'label': jnp.arange(num) % spec.num_classes}


def config(networks='mlp', **changes):
  """The complete config of a small GAN; changes are sections."""
  return families.complete(
    merge({'family': 'gan'}, NETWORKS[networks], changes, dict(data=dict(batch_size=NUM)))
  )


def build(networks='mlp', spec=SPEC, spectral_norm=False, **changes):
  """A small GAN; changes are sections of its config."""
  settings = config(networks, **changes)
  settings['discriminator']['spectral_norm'] = spectral_norm
  return families.build(settings, spec)


def init(method, spec=SPEC):
  """(params, memory) with biases away from 0."""
  params, memory = jax.jit(method.init)(KEY, _zeros(spec))
  return perturbed(params, 0.1), memory


def _zeros(spec):
  return {k: jnp.zeros(v.shape, v.dtype) for k, v in spec.batch_struct(1).items()}


def context(params, index=None, step=0, training=True, size=NUM):
  index = jnp.arange(size) if index is None else index
  return Context(jnp.asarray(step, jnp.int32), params, training, index, size)
