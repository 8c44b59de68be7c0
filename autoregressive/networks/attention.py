"""Causal self-attention with an explicit cache."""

from collections.abc import Callable
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from autoregressive.networks import positions as pos
from autoregressive.networks.dot_product import Options, Sight, choose, whole


class Cache(NamedTuple):
  """Keys and values of the positions seen so far, of one layer.

  A cache has room for a fixed number of positions; those not yet seen hold zeros and are masked.
  """

  key: Float[Array, '*layers batch kv_heads room dim']
  value: Float[Array, '*layers batch kv_heads room dim']


class Surroundings(NamedTuple):
  """What every layer's attention shares: computed once per call of the network.

  Attributes:
    index: where in the cache the queries begin, or None without a cache.
    sight: what each query sees.
    rotation: cosines and sines for `rotate`, or None.
  """

  index: Int[Array, ''] | None
  sight: Sight
  rotation: tuple[Array, Array] | None


def causal_mask(
  queries: Int[Array, 'queries'], keys: Int[Array, 'keys'], window: int = 0
) -> Bool[Array, '1 queries keys']:
  """Which keys each query may see: those not after it, and with a window the last `window`."""
  distance = queries[:, None] - keys[None, :]
  mask = distance >= 0
  if window:
    mask &= distance < window
  return mask[None]


class Attention(nn.Module):
  """Multi-head, grouped or multi-query causal self-attention.

  Queries, keys and values come from one matrix product whose outputs are laid out key head by
  key head, [its queries, its key, its value], so that a split over `tensor` devices keeps each
  group whole.

  Attributes:
    heads: query heads.
    kv_heads: key and value heads; divides heads. As many as heads: multi-head; 1: multi-query.
    dim: dimensions of a head.
    dense: constructor of projections.
    qk_norm: constructor of the norms of queries and keys (Dehghani et al. 2023), or None.
    dropout: rate on the attention weights.
    window, cap: see `dot_product.Options`.
    kind: how attention is computed without a cache: a key of `dot_product.ATTENTIONS`, or 'auto'.
    out_init: standard deviation of the last projection at the start.
    train: whether to drop.
    scale: of the scores, beside 1/√dim.
  """

  heads: int
  kv_heads: int
  dim: int
  dense: Callable[..., nn.Module]
  qk_norm: Callable[..., nn.Module] | None
  dropout: float
  window: int
  cap: float
  kind: str
  out_init: float
  train: bool
  scale: float = 1.0

  @nn.compact
  def __call__(
    self, h: Float[Array, 'batch length width'], cache: Cache | None, around: Surroundings
  ) -> tuple[Float[Array, 'batch length width'], Cache | None]:
    batch, length, width = h.shape
    groups = self.heads // self.kv_heads
    qkv = self.dense(self.kv_heads * (groups + 2) * self.dim, name='qkv')(h)
    qkv = qkv.reshape(batch, length, self.kv_heads, groups + 2, self.dim).transpose(0, 2, 3, 1, 4)
    query, key, value = qkv[:, :, :groups], qkv[:, :, groups : groups + 1], qkv[:, :, groups + 1]
    if self.qk_norm is not None:
      query, key = self.qk_norm(name='query_norm')(query), self.qk_norm(name='key_norm')(key)
    if around.rotation is not None:
      query, key = (pos.rotate(x.astype(jnp.float32), *around.rotation) for x in (query, key))
    if self.scale != 1:
      query = query * self.scale
    key = key[:, :, 0].astype(value.dtype)
    if cache is not None:
      cache = Cache(
        *(
          jax.lax.dynamic_update_slice(old, new, (0, 0, around.index, 0))
          for old, new in zip(cache, (key, value), strict=True)
        )
      )
      key, value = cache
    drop = None
    if self.dropout and self.train:
      drop = nn.Dropout(self.dropout, deterministic=False)
    options = Options(self.window, self.cap, drop)
    attend = whole
    if cache is None:
      attend = choose(self.kind, length, around.sight.bias is not None, options)
    mixed = attend(query, key, value, around.sight, options)
    mixed = mixed.transpose(0, 3, 1, 2, 4).reshape(batch, length, self.heads * self.dim)
    init = nn.initializers.normal(self.out_init)
    return self.dense(width, kernel_init=init, name='out')(mixed), cache
