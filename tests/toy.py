"""A small denoising method: its noise depends on the example, its counts on the weights."""

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from common.data.spec import DataSpec, to_unit
from common.method import Aux, Likelihood, Method, Samples, example_keys, example_weights

SPEC = DataSpec('toy', 'image', (4, 4, 1), 17, 10, tuple('0123456789'), num_train=256)


@dataclasses.dataclass(frozen=True, eq=False)
class Functions(Method):
  """A method made of four separate functions."""

  init: Any
  loss: Any
  sample: Any
  nll: Any = None
  labelled: bool = True
  init_examples: int = 0

  @property
  def has_likelihood(self) -> bool:
    return self.nll is not None


class Net(nn.Module):
  """Two layers, wide enough for its kernels to be split."""

  width: int = 64

  @nn.compact
  def __call__(self, x):
    x = nn.gelu(nn.Dense(self.width, name='up')(x))
    x = nn.gelu(nn.Dense(self.width, name='middle')(x))
    return nn.Dense(16, name='down')(x)


def build(config=None, spec=SPEC) -> Functions:
  """A denoiser of flattened images, with a loss weighted by example."""
  net = Net()

  def init(key, batch):
    return net.init(key, jnp.zeros((1, spec.num_dims)))['params'], {}

  def loss(params, memory, batch, key, context):
    clean = to_unit(batch['x'], spec.levels).reshape(-1, spec.num_dims)
    keys = example_keys(key, context.index)
    noise = jax.vmap(lambda k: jax.random.normal(k, (spec.num_dims,)))(keys)
    error = jnp.mean((net.apply({'params': params}, clean + noise) - clean) ** 2, axis=-1)
    weight = example_weights(batch)
    count = weight.sum()
    mean = (error * weight).sum() / jnp.maximum(count, 1)
    return mean, Aux({'mse': mean}, memory, count)

  def sample(params, key, request):
    x = jnp.zeros((request.num, *spec.shape), jnp.uint8)
    return Samples(x, 1)

  def nll(params, batch, key):
    nats = jnp.full(batch['x'].shape[0], spec.num_dims * jnp.log(spec.levels))
    return Likelihood(nats, jnp.zeros_like(nats))

  return Functions(init, loss, sample, nll)


def batches(steps: int, size: int, seed: int = 0, weighted: bool = False):
  """Random stacked batches, [steps, size, ...]."""
  key = jax.random.key(seed)
  x = jax.random.randint(key, (steps, size, *SPEC.shape), 0, SPEC.levels).astype(jnp.uint8)
  batch = {'x': jax.device_get(x), 'label': jax.device_get(x[..., 0, 0, 0] % 10).astype('int32')}
  if weighted:
    batch['weight'] = jax.device_get(jax.random.bernoulli(key, 0.6, (steps, size))).astype(
      'float32'
    )
  return batch
