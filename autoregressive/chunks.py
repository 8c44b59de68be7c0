"""The loss over a large vocabulary, a few positions at a time.

The logits of a whole batch, [batch, length, vocabulary] in float32, would need more memory than all
the rest of a step. The positions are split into chunks; each chunk's logits, its nats and the
gradients of its loss are computed together, before the next chunk (as in Liger Kernel, Hsu et al.
2024). So nothing is computed twice, and only the gradients stay: those of the hidden states, and
one sum for the parameters of the head.
"""

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float, Num

from common.devices.mesh import batch_axes
from common.method import PyTree

MAX_OUTPUTS = 2**26  # of one chunk on one device: 256 MiB in float32


class Targets(NamedTuple):
  """What the outputs at each position are compared with.

  Attributes:
    emissions: the emissions.
    scale: the scale of their sequence, for heads over numbers.
    weights: the weight of each position in the loss.
  """

  emissions: Num[Array, 'batch length values']
  scale: Float[Array, 'batch length']
  weights: Float[Array, 'batch length']


# (parameters of the head, hidden states, emissions, scale) -> (nats, additions to them), [batch,
# length] each.
Score = Callable[..., tuple[Array, Array]]


def chunk_count(batch: int, length: int, size: int, chunk: int) -> int:
  """The number of chunks.

  Args:
    batch, length: examples, and positions of each.
    size: outputs per position.
    chunk: the most positions in a chunk; 0: as many as give each device MAX_OUTPUTS outputs, the
      number of chunks being a power of two.
  """
  if chunk:
    return -(-length // chunk)
  outputs = -(-batch // math.prod(batch_axes().values())) * length * size
  return min(1 << max(0, -(-outputs // MAX_OUTPUTS) - 1).bit_length(), length)


def weighted_loss(
  score: Score,
  params: PyTree,
  hidden: Float[Array, 'batch length width'],
  targets: Targets,
  count: int,
) -> tuple[Float[Array, ''], Float[Array, 'batch length']]:
  """(Σ weights · (nats + additions), nats). Only the sum has a gradient.

  Args:
    score: compares hidden states with emissions.
    params: the parameters of the head.
    hidden: hidden states.
    targets: what they are compared with.
    count: number of chunks.
  """
  if count == 1:
    total, nats = _chunk_loss(score, params, hidden, targets)
    return total, jax.lax.stop_gradient(nats)
  # Cast before they are gathered from their shards: the products take them in this type.
  params = jax.tree.map(lambda x: x.astype(hidden.dtype), params)
  return _chunked_loss(score, count, params, hidden, targets)


def _chunk_loss(score, params, hidden, targets):
  nats, added = score(params, hidden, targets.emissions, targets.scale)
  return (targets.weights * (nats + added)).sum(), nats


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _chunked_loss(score, count, params, hidden, targets):
  return _on_batch_shards(functools.partial(_loop, score, count), params, hidden, targets)


def _loop(score, count, params, hidden, targets):
  """The loss of each chunk in turn, without gradients."""
  chunks = _split(hidden, targets, count)
  total, nats = jax.lax.map(lambda chunk: _chunk_loss(score, params, *chunk), chunks)
  return _sum_over_shards(total.sum()), _join(nats, hidden.shape[1])


def _forward(score, count, params, hidden, targets):
  loop = functools.partial(_loop_with_gradients, score, count)
  (total, to_params), (nats, to_hidden) = _on_batch_shards(loop, params, hidden, targets)
  return (total, nats), (to_params, to_hidden)


def _loop_with_gradients(score, count, params, hidden, targets):
  """The loss of each chunk, and its gradients: ((sum, to params), (nats, to hidden))."""
  differentiate = jax.value_and_grad(
    functools.partial(_chunk_loss, score), argnums=(0, 1), has_aux=True
  )

  def step(sums, chunk):
    (total, nats), (to_params, to_hidden) = differentiate(params, *chunk)
    return jax.tree.map(jnp.add, sums, (total, to_params)), (nats, to_hidden)

  # The sums are float32 whatever the type of the parameters.
  start = jnp.zeros(()), jax.tree.map(lambda x: jnp.zeros(x.shape), params)
  sums, parts = jax.lax.scan(step, start, _split(hidden, targets, count))
  return _sum_over_shards(sums), tuple(_join(part, hidden.shape[1]) for part in parts)


def _backward(score, count, gradients, cotangents):
  del score, count
  to_params, to_hidden = gradients
  scale, _ = cotangents
  to_params = jax.tree.map(lambda x: (scale * x).astype(to_hidden.dtype), to_params)
  return to_params, (scale * to_hidden).astype(to_hidden.dtype), None


_chunked_loss.defvjp(_forward, _backward)


def _split(hidden, targets, count):
  """(hidden states, targets) as arrays [chunks, batch, positions, ...], padded at the end."""
  size = -(-hidden.shape[1] // count)
  padding = count * size - hidden.shape[1]

  def split(x, mode='edge'):
    x = jnp.pad(x, [(0, 0), (0, padding)] + [(0, 0)] * (x.ndim - 2), mode)
    return jnp.moveaxis(x.reshape(x.shape[0], count, size, *x.shape[2:]), 1, 0)

  # Padding repeats the last position, at weight 0.
  padded = jax.tree.map(split, targets)._replace(weights=split(targets.weights, 'constant'))
  return split(hidden), padded


def _join(parts, length):
  """[chunks, batch, positions, ...] to [batch, length, ...], without the padding."""
  parts = jnp.moveaxis(parts, 0, 1)
  return parts.reshape(parts.shape[0], -1, *parts.shape[3:])[:, :length]


def _sum_over_shards(x):
  axes = tuple(batch_axes())
  return jax.lax.psum(x, axes) if axes else x


def _on_batch_shards(loop, params, hidden, targets):
  """loop(params, hidden, targets), on each device for its own examples.

  Otherwise the devices would add up the gradients of the parameters after every chunk.
  """
  axes = tuple(batch_axes())
  if not axes:
    return loop(params, hidden, targets)
  whole, split = P(), P(axes)
  mapped = jax.shard_map(
    loop,
    in_specs=(whole, split, split),
    out_specs=(whole, split),
    axis_names=set(axes),
    check_vma=False,
  )
  return mapped(params, hidden, targets)
