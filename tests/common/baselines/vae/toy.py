"""Small variational autoencoders: from the base config, and a linear one with a known marginal."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from common.baselines import vae
from common.baselines.vae.latents import GaussianLatents
from common.baselines.vae.method import VAE, ImportanceBound, Objective
from common.baselines.vae.model import Model
from common.baselines.vae.networks.base import Autoencoder
from common.baselines.vae.pixels import Gaussian
from common.baselines.vae.sampling import RequestSampler
from common.data.spec import DataSpec
from common.method import Context
from experiments import families

SPEC = DataSpec('toy', 'image', (4, 4, 1), 17, 3, tuple('abc'), num_train=64)
NUMBERS = DataSpec('numbers', 'image', (1, 1, 3), 0)
KEY = jax.random.key(0)
NUM = 16
TINY = dict(name='conv', width=8, multipliers=(1, 2), groups=4, attention=False)
SAMPLING = {'task': {'name': 'generate'}, 'pixels': 'mean', 'temperature': 1.0}


def batch(seed=0, num=NUM, spec=SPEC):
  x = jax.random.randint(jax.random.key(seed), (num, *spec.shape), 0, spec.levels)
  return {'x': x.astype(jnp.uint8), 'label': jnp.arange(num) % spec.num_classes}


def config(**changes):
  """The base config with a tiny network; 'a__b' changes the setting a.b."""
  made = families.defaults('vae') | {'network': dict(TINY)}
  for path, value in changes.items():
    *sections, leaf = path.split('__')
    functools.reduce(lambda node, name: node[name], sections, made)[leaf] = value
  return families.complete(made)


@functools.cache
def built(kind='gaussian', conditional=False):
  """(method, params) of a tiny VAE, shared by tests."""
  method = vae.build(config(latent=dict(name=kind), conditional=conditional), SPEC)
  return method, jax.jit(method.init)(KEY, batch())[0]


def context(params, index=None, training=True, step=0):
  index = jnp.arange(NUM) if index is None else index
  return Context(jnp.int32(step), params, training, index, NUM)


# p(z) = N(0, I), p(x|z) = N(W·z + b, s²·I): the marginal is N(b, W·Wᵀ + s²·I), and the posterior is
# normal. With one latent `Linear` has this posterior; two latents correlate, and it does not know.
W = np.array([[0.5, -0.3], [0.2, 0.8], [-0.6, 0.1]])
B, S = np.array([0.1, -0.2, 0.3]), 0.4


class Linear(Autoencoder):
  """The linear decoder, and the best posterior whose latents are independent."""

  latents: int = 2

  def grid(self, height, width):
    return height, width

  def encode(self, x, label=None, train=False):
    w = W[:, : self.latents]
    precision = np.eye(self.latents) + w.T @ w / S**2
    mean = (x - B) @ (w / S**2) @ np.linalg.inv(precision)
    log_variance = jnp.log(jnp.broadcast_to(1 / np.diag(precision), mean.shape))
    return jnp.concatenate([mean, log_variance], -1).astype(jnp.float32)

  def decode(self, z, label=None, train=False):
    return (z @ W[:, : self.latents].T + B).astype(jnp.float32)


def linear(samples=2, latents=2, objective=None, warmup_steps=0):
  """(method, params) of the linear VAE."""
  network = Linear(3, 2 * latents, latents=latents)
  model = Model(network, GaussianLatents(latents), Gaussian(), 0, NUMBERS)
  sampling = RequestSampler(model, SAMPLING)
  method = VAE(model, objective or Objective(), warmup_steps, ImportanceBound(samples), sampling)
  params = {'network': {}, 'pixels': {'scale': jnp.full(3, np.log(S), jnp.float32)}}
  return method, params
