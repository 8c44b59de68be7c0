"""Causal self-attention with an explicit cache."""

from collections.abc import Callable
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from autoregressive.networks import positions as pos
from common.attention import AttentionInputs, AttentionSettings, attend

Rotation = tuple[Array, Array]  # cosines and sines for `positions.rotate`


class KVCache(NamedTuple):
  """Keys and values of the positions seen so far, of one layer.

  A cache has room for a fixed number of positions; those not yet seen hold zeros and are masked.
  """

  key: Float[Array, '*layers batch kv_heads room dim']
  value: Float[Array, '*layers batch kv_heads room dim']

  def write(self, key: Array, value: Array, offset: Array) -> 'KVCache':
    """The cache with keys and values [batch, kv_heads, new, dim] from position `offset` on."""
    start = (0, 0, offset, 0)
    return KVCache(
      jax.lax.dynamic_update_slice(self.key, key, start),
      jax.lax.dynamic_update_slice(self.value, value, start),
    )


class Attention(nn.Module):
  """Multi-head, grouped or multi-query causal self-attention.

  Queries, keys and values come from one matrix product whose outputs are laid out key head by
  key head, [its queries, its key, its value], so that a split over `tensor` devices keeps each
  group whole.

  Attributes:
    heads: query heads.
    kv_heads: key and value heads, a divisor of `heads`. Equal to `heads`: multi-head; 1:
      multi-query (Shazeer 2019); between: grouped (Ainslie et al. 2023).
    dim: dimensions of a head.
    dense: constructor of projections.
    qkv_bias: whether queries, keys and values have a bias.
    qk_norm: constructor of the norms of queries and keys (Dehghani et al. 2023), or None.
    dropout: rate on the attention weights.
    settings: window, soft cap and implementation (common/attention.py).
    out_init: initial standard deviation of the output projection.
    train: whether dropout is on.
    scale: factor of the scores, in addition to 1/√dim.
  """

  heads: int
  kv_heads: int
  dim: int
  dense: Callable[..., nn.Module]
  qkv_bias: bool
  qk_norm: Callable[..., nn.Module] | None
  dropout: float
  settings: AttentionSettings
  out_init: float
  train: bool
  scale: float = 1.0

  @nn.compact
  def __call__(
    self,
    h: Float[Array, 'batch length width'],
    cache: KVCache | None,
    inputs: AttentionInputs,
    rotation: Rotation | None,
  ) -> tuple[Float[Array, 'batch length width'], KVCache | None]:
    """Attention of the positions of h to each other and to those in the cache.

    Args:
      h: hidden states.
      cache: the cache of this layer, or None.
      inputs: what each query sees, and where in the cache the queries begin.
      rotation: cosines and sines of the positions of h, for rotary positions.

    Returns:
      The projected mixture of values, and the cache with the keys and values of h added.
    """
    batch, length, width = h.shape
    groups = self.heads // self.kv_heads  # query heads that share a key head
    size = self.kv_heads * (groups + 2) * self.dim
    qkv = self.dense(size, use_bias=self.qkv_bias, name='qkv')(h)
    # [batch, length, kv_heads, groups + 2, dim] to [batch, kv_heads, groups + 2, length, dim]
    qkv = qkv.reshape(batch, length, self.kv_heads, groups + 2, self.dim).transpose(0, 2, 3, 1, 4)
    query, key, value = qkv[:, :, :groups], qkv[:, :, groups : groups + 1], qkv[:, :, groups + 1]
    # The norm comes before the rotation: it scales single dimensions, the rotation mixes pairs.
    if self.qk_norm is not None:
      query, key = self.qk_norm(name='query_norm')(query), self.qk_norm(name='key_norm')(key)
    if rotation is not None:  # in float32: bfloat16 cannot tell neighbouring angles apart
      query, key = (pos.rotate(x.astype(jnp.float32), *rotation) for x in (query, key))
    # Scaling queries scales the scores, in addition to the 1/√dim in `attend`.
    if self.scale != 1:
      query = query * self.scale
    key = key[:, :, 0].astype(value.dtype)
    if cache is not None:  # keys enter the cache rotated: their positions never change
      cache = cache.write(key, value, inputs.offset)
      key, value = cache
    # At rate 0 there is no dropout module, so no random key is used.
    drop = None
    if self.dropout and self.train:
      drop = nn.Dropout(self.dropout, deterministic=False)
    mixed = attend(query, key, value, inputs, self.settings, drop)
    # [batch, kv_heads, groups, length, dim] to heads in a row for each position
    mixed = mixed.transpose(0, 3, 1, 2, 4).reshape(batch, length, self.heads * self.dim)
    init = nn.initializers.normal(self.out_init)
    return self.dense(width, kernel_init=init, name='out')(mixed), cache
