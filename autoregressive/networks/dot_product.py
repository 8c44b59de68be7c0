"""Ways to compute causal dot-product attention: the same numbers, each fast somewhere.

All take `groups` query heads per key head. A way by name in `ATTENTIONS`:
  whole: all scores at once; what decoding with a cache uses;
  blocks: block after block of queries, each against the keys that its last query sees and no
    others, which spares close to half of the work; the fastest on CPUs (docs/benchmarks.md);
  library: `jax.nn.dot_product_attention`;
  splash: JAX's Pallas kernel for TPUs, which keeps no scores in memory;
  auto: splash on TPUs and the library on GPUs where these can do what is asked, else blocks.
"""

import functools
from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Bool, Float, Int

from common.config import ConfigError

MASKED = -1e30  # a score that softmax turns into an exact zero, and finite: no NaN in a masked row
BLOCK = 64  # queries, or an eighth of the sequence where that is more
LANES = 128  # splash attention's blocks are multiples of it

Queries = Float[Array, 'batch kv_heads groups queries dim']
Keys = Float[Array, 'batch kv_heads keys dim']


class Sight(NamedTuple):
  """What each query sees, and with what bias.

  Attributes:
    mask: which keys each query may see, [batch or 1, queries, keys].
    bias: added to the scores [heads, queries, keys], or None.
    segments: number of the document of each position, or None; in the mask already.
  """

  mask: Bool[Array, 'masks queries keys']
  bias: Float[Array, 'heads queries keys'] | None = None
  segments: Int[Array, 'batch keys'] | None = None


class Options(NamedTuple):
  """Settings of attention.

  Attributes:
    window: a query sees only so many last positions, itself included (in the mask already);
      0: all.
    cap: scores are soft-capped to ±cap by a tanh (Gemma Team 2024); 0: not at all.
    drop: a function that drops attention weights, or None.
  """

  window: int = 0
  cap: float = 0.0
  drop: Callable[[Array], Array] | None = None


DEFAULTS = Options()


def whole(
  query: Queries, key: Keys, value: Keys, sight: Sight, options: Options = DEFAULTS
) -> Queries:
  """softmax(q·k/√dim + bias)·v, the softmax in float32 and normalised after the product."""
  _, kv_heads, groups, _, dim = query.shape
  query = (query * dim**-0.5).astype(key.dtype)
  scores = jnp.einsum('bkgqd,bksd->bkgqs', query, key, preferred_element_type=jnp.float32)
  if options.cap:
    scores = options.cap * jnp.tanh(scores / options.cap)
  if sight.bias is not None:
    scores += sight.bias.reshape(kv_heads, groups, *sight.bias.shape[1:])
  scores = jnp.where(sight.mask[:, None, None], scores, MASKED)
  weights = jnp.exp(scores - jax.lax.stop_gradient(scores.max(-1, keepdims=True)))
  total = weights.sum(-1, keepdims=True)
  if options.drop is not None:
    weights = options.drop(weights)
  mixed = jnp.einsum(
    'bkgqs,bksd->bkgqd', weights.astype(value.dtype), value, preferred_element_type=jnp.float32
  )
  return mixed / total


def blocks(query: Queries, key: Keys, value: Keys, sight: Sight, options: Options) -> Queries:
  """`whole`, a block of queries at a time; query i is key i."""
  length = query.shape[-2]
  size = max(BLOCK, -(-length // 8))
  parts = []
  for start in range(0, length, size):
    end = min(start + size, length)
    first = max(0, start - options.window + 1) if options.window else 0
    queries, keys = slice(start, end), slice(first, end)
    seen = Sight(
      sight.mask[:, queries, keys], None if sight.bias is None else sight.bias[:, queries, keys]
    )
    parts.append(whole(query[..., queries, :], key[:, :, keys], value[:, :, keys], seen, options))
  return jnp.concatenate(parts, axis=-2)


def library(query: Queries, key: Keys, value: Keys, sight: Sight, options: Options) -> Queries:
  """`jax.nn.dot_product_attention`, which takes positions before heads."""
  batch, kv_heads, groups, length, dim = query.shape
  query = query.astype(key.dtype).reshape(batch, kv_heads * groups, length, dim)
  mixed = jax.nn.dot_product_attention(
    *(x.swapaxes(1, 2) for x in (query, key, value)),
    bias=None if sight.bias is None else sight.bias[None].astype(key.dtype),
    mask=sight.mask[:, None],
  )
  return mixed.swapaxes(1, 2).reshape(batch, kv_heads, groups, length, dim)


@functools.lru_cache(maxsize=32)
def _splash_kernel(heads: int, length: int, window: int, cap: float):
  """The kernel for one example; it is interpreted where there is no TPU."""
  from jax.experimental.pallas.ops.tpu import splash_attention as pallas

  shape = (length, length)
  one = pallas.LocalMask(shape, (window - 1, 0), 0) if window else pallas.CausalMask(shape)
  with jax.ensure_compile_time_eval():
    return pallas.make_splash_mha(
      pallas.MultiHeadMask([one] * heads),
      head_shards=1,
      q_seq_shards=1,
      attn_logits_soft_cap=cap or None,
      interpret=jax.default_backend() != 'tpu',
    )


def splash(query: Queries, key: Keys, value: Keys, sight: Sight, options: Options) -> Queries:
  """JAX's splash attention for TPUs; on a mesh, each device runs it on its examples and heads."""
  from jax.experimental.pallas.ops.tpu import splash_attention as pallas

  def local(query, key, value, segments):
    batch, kv_heads, groups, length, dim = query.shape
    kernel = _splash_kernel(kv_heads * groups, length, options.window, options.cap)
    documents = None if segments is None else pallas.SegmentIds(segments, segments)
    flat = (query * dim**-0.5).astype(key.dtype).reshape(batch, kv_heads * groups, length, dim)
    return jax.vmap(kernel)(flat, key, value, documents).reshape(query.shape)

  mesh = jax.sharding.get_abstract_mesh()
  if mesh.empty or mesh.size == 1:
    return local(query, key, value, sight.segments)
  # The compiler cannot cut a kernel up by itself.
  heads = 'tensor' if key.shape[1] % mesh.shape['tensor'] == 0 else None
  arrays, rows = P(('data', 'fsdp'), heads), P(('data', 'fsdp'))
  cut = jax.shard_map(
    local, in_specs=(arrays, arrays, arrays, rows), out_specs=arrays, check_vma=False
  )
  return cut(query, key, value, sight.segments)


ATTENTIONS: Mapping[str, Callable[..., Array]] = {
  'whole': whole,
  'blocks': blocks,
  'library': library,
  'splash': splash,
}
BEST = {'tpu': 'splash', 'gpu': 'library'}  # by platform; elsewhere 'blocks'


def choose(name: str, length: int, biased: bool, options: Options) -> Callable[..., Array]:
  """The way to compute attention.

  Args:
    name: a key of `ATTENTIONS`, or 'auto'.
    length: of the sequence.
    biased: whether scores have a bias.
    options: the settings.

  Raises:
    ConfigError: for a way that cannot do what is asked, with what that is.
  """
  way = BEST.get(jax.default_backend(), 'blocks') if name == 'auto' else name
  alone = jax.device_count() == 1 or not jax.sharding.get_abstract_mesh().empty
  lacks = {
    'library': {'a soft cap': options.cap, 'dropout of attention weights': options.drop},
    'splash': {
      'a bias (ALiBi)': biased,
      'dropout of attention weights': options.drop,
      f'a length of {length}, no multiple of {LANES}': length % LANES,
      'several devices outside of a mesh': not alone and name == 'auto',
    },
  }.get(way, {})
  missing = [what for what, wanted in lacks.items() if wanted]
  if missing and name == 'auto':
    return blocks
  if missing:
    raise ConfigError(
      f"network.attention='{way}' cannot do {' or '.join(missing)}; 'auto' and 'blocks' can"
    )
  return ATTENTIONS[way]
