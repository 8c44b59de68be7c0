"""Dot-product attention of both families: one formula, four implementations.

  softmax(q·k/√dim + bias)·v    (Vaswani et al. 2017, equation 1)

Self-attention or cross-attention, causal or bidirectional. The implementations:

  reference: all scores at once; also used for decoding with a cache;
  blocks: one block of queries at a time; with a causal mask each block uses only the keys up to its
    last query, which saves almost half of the work (docs/decisions.md);
  cudnn, splash: fused kernels for GPUs (cuDNN) and TPUs (JAX's Pallas kernel) that store no scores;
  auto: the kernel of the platform, if it supports the inputs and settings; otherwise, and on CPUs,
    blocks with a causal mask and the reference without one.

The axis of heads comes before the axis of positions: [batch, heads, positions, dim], or [batch,
kv_heads, groups, positions, dim] for groups of query heads that share a key head. In this layout
both products are batched row-major matrix products. On CPUs the forward pass is 1.1 to 2.6 times as
fast as `jax.nn.dot_product_attention` (2 cores, float32, 16 to 256 positions).
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
from absl import logging
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Bool, Float, Int

from common import flops
from common.config import ConfigError, pick
from common.devices.mesh import BATCH_AXES, HEADS_AXIS, batch_axes
from common.precision import einsum

MASKED = -1e30  # softmax maps it to exactly 0; finite, so that a fully masked row is not NaN
MIN_BLOCK = 64  # queries in a block; more in sequences of more than 8 · 64 positions
SPLASH_TILE = 128  # lengths of queries and keys must be multiples of the splash kernel's tile
CUDNN_MAX_DIM = 128  # largest dimension of a head that every GPU supports, forward and backward

Query = Float[Array, 'batch kv_heads *groups queries dim']
Keys = Float[Array, 'batch kv_heads keys dim']
Drop = Callable[[Array], Array]


class AttentionInputs(NamedTuple):
  """The arrays that decide what each query sees and with what bias, shared by all layers.

  An implementation that accepts them as arguments does not turn them into a mask.

  Attributes:
    offset: position of the first query among the keys, for decoding with a cache; None: 0.
    bias: added to the scores, or None.
    query_segments, key_segments: index of the document that each position belongs to; a query sees
      only keys of its own document. None: one document.
    key_lengths: the number of keys of each example; later keys are padding. None: no padding.
  """

  offset: Int[Array, ''] | int | None = None
  bias: Float[Array, 'heads queries keys'] | None = None
  query_segments: Int[Array, 'batch queries'] | None = None
  key_segments: Int[Array, 'batch keys'] | None = None
  key_lengths: Int[Array, 'batch'] | None = None


@dataclasses.dataclass(frozen=True)
class AttentionSettings:
  """The static settings of attention.

  Attributes:
    implementation: a key of `IMPLEMENTATIONS`, or 'auto'.
    causal: whether a query sees only keys at its own position and before.
    window: a query sees only the last `window` positions, its own included; 0: all. Needs causal.
    cap: scores are soft-capped to ±cap by a tanh (Gemma Team 2024); 0: no cap.

  Raises:
    ConfigError: for an unknown implementation, or a window without a causal mask.
  """

  implementation: str = 'auto'
  causal: bool = False
  window: int = 0
  cap: float = 0.0

  def __post_init__(self):
    pick(IMPLEMENTATIONS | {'auto': None}, self.implementation, 'network.attention')
    if self.window and not self.causal:
      raise ConfigError(f'attention with window={self.window} must be causal; set window=0')


def make_mask(
  queries: int, keys: int, inputs: AttentionInputs, settings: AttentionSettings
) -> Bool[Array, 'masks queries keys'] | None:
  """True where a query sees a key; one mask per example, or one for all. None: no masking."""
  masks = []
  if settings.causal:
    first = 0 if inputs.offset is None else inputs.offset
    distance = (first + jnp.arange(queries))[:, None] - jnp.arange(keys)[None, :]
    masks.append((distance >= 0)[None])
    if settings.window:
      masks.append((distance < settings.window)[None])
  if inputs.query_segments is not None:
    masks.append(inputs.query_segments[:, :, None] == inputs.key_segments[:, None, :])
  if inputs.key_lengths is not None:
    masks.append((jnp.arange(keys) < inputs.key_lengths[:, None])[:, None, :])
  return functools.reduce(jnp.logical_and, masks) if masks else None


def reference(
  query: Query,
  key: Keys,
  value: Keys,
  inputs: AttentionInputs,
  settings: AttentionSettings,
  drop: Drop | None = None,
) -> Query:
  """The formula with all scores in memory; softmax in float32, products in the type of `key`."""
  group, dim = 'g' if query.ndim == 5 else '', query.shape[-1]
  # Scale the queries and not the scores: that is `dim` products per query instead of `keys`.
  query = (query * dim**-0.5).astype(key.dtype)
  scores = einsum(f'bk{group}qd,bksd->bk{group}qs', query, key)
  # The cap comes before bias and mask: it applies to q·k only, and a masked score must stay masked.
  if settings.cap:
    scores = settings.cap * jnp.tanh(scores / settings.cap)
  if inputs.bias is not None:
    scores += inputs.bias.reshape(scores.shape[1:])
  mask = make_mask(query.shape[-2], key.shape[-2], inputs, settings)
  if mask is not None:
    scores = jnp.where(jnp.expand_dims(mask, range(1, scores.ndim - 2)), scores, MASKED)
  # Softmax does not change under a shift, so the shift by the maximum needs no gradient.
  weights = jnp.exp(scores - jax.lax.stop_gradient(scores.max(-1, keepdims=True)))
  total = weights.sum(-1, keepdims=True)
  # Dropout after the total is summed: as in dropout after softmax, the total includes dropped ones.
  if drop is not None:
    weights = drop(weights)
  mixed = einsum(f'bk{group}qs,bksd->bk{group}qd', weights.astype(value.dtype), value)
  # Divide after the product with the values: `dim` divisions per query instead of `keys`.
  return (mixed / total).astype(value.dtype)


def blocks(
  query: Query,
  key: Keys,
  value: Keys,
  inputs: AttentionInputs,
  settings: AttentionSettings,
  drop: Drop | None = None,
) -> Query:
  """`reference` for one block of queries at a time, with only the keys that the block can see."""
  length, num_keys = query.shape[-2], key.shape[-2]
  size = max(MIN_BLOCK, -(-length // 8))
  parts = []
  for start in range(0, length, size):
    end = min(start + size, length)
    # The first query of the block decides the first key, the last query decides the last key.
    first = max(0, start - settings.window + 1) if settings.window else 0
    last = min(end, num_keys) if settings.causal else num_keys
    queries, keys = slice(start, end), slice(first, last)
    arrays = query[..., queries, :], key[:, :, keys], value[:, :, keys]
    parts.append(reference(*arrays, _slice_inputs(inputs, queries, keys), settings, drop))
  return jnp.concatenate(parts, axis=-2)


def _slice_inputs(inputs: AttentionInputs, queries: slice, keys: slice) -> AttentionInputs:
  """The inputs for a slice of the queries and a slice of the keys."""
  return AttentionInputs(
    offset=queries.start - keys.start,
    bias=None if inputs.bias is None else inputs.bias[:, queries, keys],
    query_segments=None if inputs.query_segments is None else inputs.query_segments[:, queries],
    key_segments=None if inputs.key_segments is None else inputs.key_segments[:, keys],
    key_lengths=None if inputs.key_lengths is None else inputs.key_lengths - keys.start,
  )


def cudnn(
  query: Query,
  key: Keys,
  value: Keys,
  inputs: AttentionInputs,
  settings: AttentionSettings,
  implementation: str = 'cudnn',
) -> Query:
  """cuDNN's kernel by `jax.nn.dot_product_attention`, which takes positions before heads.

  Causality, window and lengths are its arguments. `implementation='xla'` needs no GPU: for tests.
  """
  shape = query.shape
  query = query.astype(key.dtype).reshape(shape[0], -1, *shape[-2:])
  # Only documents need a mask here, which cuDNN adds to the scores as a bias.
  documents = AttentionInputs(None, None, inputs.query_segments, inputs.key_segments)
  mask = make_mask(shape[-2], key.shape[-2], documents, AttentionSettings())
  lengths = inputs.key_lengths
  mixed = jax.nn.dot_product_attention(
    *(x.swapaxes(1, 2) for x in (query, key, value)),
    bias=None if inputs.bias is None else inputs.bias[None].astype(key.dtype),
    mask=None if mask is None else mask[:, None],
    is_causal=settings.causal,
    key_value_seq_lengths=None if lengths is None else lengths.astype(jnp.int32),
    # (number of keys before the query, excluding its own; number of keys after it)
    local_window_size=(settings.window - 1, 0) if settings.window else None,
    implementation=implementation,
  )
  return mixed.swapaxes(1, 2).reshape(shape)


def _splash_kernel(heads: int, queries: int, keys: int, settings: AttentionSettings, tpu: bool):
  """The kernel for one example; Pallas interprets it on platforms other than TPUs."""
  from jax.experimental.pallas.ops.tpu import splash_attention as pallas

  shape = (queries, keys)
  if settings.window:
    mask = pallas.LocalMask(shape, (settings.window - 1, 0), 0)
  else:
    mask = pallas.CausalMask(shape) if settings.causal else pallas.FullMask(shape)
  # Not cached: its tables of the mask belong to the program that is being traced.
  return pallas.make_splash_mha(
    pallas.MultiHeadMask([mask] * heads),
    head_shards=1,
    q_seq_shards=1,
    attn_logits_soft_cap=settings.cap or None,
    interpret=not tpu,
  )


def _splash_segments(query: Query, key: Keys, inputs: AttentionInputs):
  """Documents and lengths in the kernel's form: a segment index for each query and each key."""
  if inputs.query_segments is None and inputs.key_lengths is None:
    return None
  queries, keys = inputs.query_segments, inputs.key_segments
  if queries is None:
    queries = jnp.zeros((query.shape[0], query.shape[-2]), jnp.int32)
    keys = jnp.zeros((key.shape[0], key.shape[-2]), jnp.int32)
  if inputs.key_lengths is not None:  # padding gets segment -1, which no query has
    keys = jnp.where(jnp.arange(keys.shape[1]) < inputs.key_lengths[:, None], keys, -1)
  return queries, keys


def splash(
  query: Query, key: Keys, value: Keys, inputs: AttentionInputs, settings: AttentionSettings
) -> Query:
  """JAX's splash attention. On a mesh, each device runs it on its own examples and heads."""
  local = functools.partial(_splash_local, settings=settings, tpu=current_platform() == 'tpu')
  segments = _splash_segments(query, key, inputs)
  mesh = jax.sharding.get_abstract_mesh()
  if mesh.empty or mesh.size == 1:
    return local(query, key, value, segments)
  # The compiler cannot partition a kernel, so shard_map does: examples over the batch axes, and
  # heads over `tensor` if their number allows it. No device needs another's keys.
  examples = tuple(axis for axis in BATCH_AXES if axis in mesh.shape)
  split_heads = key.shape[1] % mesh.shape.get(HEADS_AXIS, 1) == 0 and HEADS_AXIS in mesh.shape
  arrays, rows = P(examples, HEADS_AXIS if split_heads else None), P(examples)
  sharded = jax.shard_map(
    local, in_specs=(arrays, arrays, arrays, rows), out_specs=arrays, check_vma=False
  )
  return sharded(query, key, value, segments)


def _splash_local(query, key, value, segments, *, settings: AttentionSettings, tpu: bool):
  """Splash attention on one device."""
  from jax.experimental.pallas.ops.tpu import splash_attention as pallas

  # The kernel does not scale; in its axis of query heads, heads that share a key head are adjacent.
  flat = (query * query.shape[-1] ** -0.5).astype(key.dtype)
  flat = flat.reshape(query.shape[0], -1, *query.shape[-2:])
  settings = dataclasses.replace(settings, implementation='splash')  # 'auto' has the same kernel
  kernel = _splash_kernel(flat.shape[1], flat.shape[2], key.shape[2], settings, tpu)
  segment_ids = None if segments is None else pallas.SegmentIds(*segments)
  return jax.vmap(kernel)(flat, key, value, segment_ids).reshape(query.shape)


IMPLEMENTATIONS: Mapping[str, Callable[..., Array]] = {
  'reference': reference,
  'blocks': blocks,
  'cudnn': cudnn,
  'splash': splash,
}
KERNELS = {'tpu': 'splash', 'gpu': 'cudnn'}  # {platform: its fused kernel}


def current_platform() -> str:
  """The platform that the function being traced is compiled for: 'cpu', 'gpu' or 'tpu'.

  A training step is traced under the mesh of its devices (common/training/parallel.py), which may
  belong to another machine. Without a mesh, `jit` compiles for the default backend.
  """
  device = jax.sharding.get_abstract_mesh().abstract_device
  return jax.default_backend() if device is None else device.platform


def _cudnn_limits(query, key, inputs: AttentionInputs, settings: AttentionSettings, drop) -> dict:
  """{what cuDNN's kernel does not support: whether these arguments need it}."""
  dim, lengths = query.shape[-1], (query.shape[-2], key.shape[-2])
  masked = inputs.bias is not None or inputs.query_segments is not None
  padded = inputs.key_lengths is not None
  odd, bad_dim = any(n % 2 for n in lengths), dim % 8 or dim > CUDNN_MAX_DIM
  half = key.dtype in (jnp.bfloat16, jnp.float16)
  return {
    f'{key.dtype} arrays (only bfloat16 and float16)': not half,
    f'heads of {dim} dimensions (only multiples of 8 up to {CUDNN_MAX_DIM})': bad_dim,
    f'a bias or documents with lengths {lengths} (only even ones)': masked and odd,
    'a window with a bias, documents or key lengths': settings.window and (masked or padded),
    'a soft cap': settings.cap,
    'dropout of attention weights': drop is not None,
  }


def _splash_limits(query, key, inputs: AttentionInputs, settings: AttentionSettings, drop) -> dict:
  """{what the splash kernel does not support: whether these arguments need it}."""
  lengths = (query.shape[-2], key.shape[-2])
  shards = math.prod(batch_axes().values())
  return {
    'float16 arrays': key.dtype == jnp.float16,  # Pallas' compiler for TPUs refuses them
    'a bias (ALiBi)': inputs.bias is not None,
    'dropout of attention weights': drop is not None,
    f'lengths {lengths} (only multiples of {SPLASH_TILE})': any(n % SPLASH_TILE for n in lengths),
    f'a batch of {query.shape[0]} over {shards} devices': query.shape[0] % shards,
  }


LIMITS = {'cudnn': _cudnn_limits, 'splash': _splash_limits}
_log_once = functools.cache(logging.info)
PLAIN_INPUTS, PLAIN_SETTINGS = AttentionInputs(), AttentionSettings()


def choose(
  query: Array | jax.ShapeDtypeStruct,
  key: Array | jax.ShapeDtypeStruct,
  inputs: AttentionInputs,
  settings: AttentionSettings,
  drop: Drop | None,
  platform: str,
) -> str:
  """Chooses the implementation for a call of `attend` on a platform: a key of `IMPLEMENTATIONS`.

  Of the arrays, only shapes and types matter.

  Raises:
    ConfigError: the settings name an implementation that does not support these arguments.
  """
  if inputs.offset is not None:  # few queries against a cache: a kernel would not be faster
    return 'reference'
  auto = settings.implementation == 'auto'
  fallback = 'blocks' if settings.causal else 'reference'
  name = KERNELS.get(platform, fallback) if auto else settings.implementation
  limits = LIMITS[name](query, key, inputs, settings, drop) if name in LIMITS else {}
  # `splash` splits its arrays along the mesh: without a mesh their sharding is unknown.
  no_mesh = auto and jax.sharding.get_abstract_mesh().empty and jax.device_count() > 1
  limits |= {
    f'the platform {platform!r} (only GPUs)': name == 'cudnn' and platform != 'gpu',
    'several devices without a mesh': name == 'splash' and no_mesh,
  }
  missing = ' or '.join(what for what, needed in limits.items() if needed)
  if missing and not auto:
    raise ConfigError(
      f"network.attention={name!r} does not support {missing}; use 'auto', 'blocks' or 'reference'"
    )
  if missing:
    _log_once(f'attention: {name!r} does not support {missing}; using {fallback!r} instead')
  return fallback if missing else name


def attend(
  query: Query,
  key: Keys,
  value: Keys,
  inputs: AttentionInputs = PLAIN_INPUTS,
  settings: AttentionSettings = PLAIN_SETTINGS,
  drop: Drop | None = None,
) -> Query:
  """softmax(q·k/√dim + bias)·v, in the type of `value`.

  Args:
    query: heads before positions; an extra axis holds groups of query heads that share a key head.
    key, value: heads before positions.
    inputs: arrays that decide what each query sees.
    settings: implementation, causality, window, soft cap.
    drop: applies dropout to attention weights, or None.

  Raises:
    ConfigError: see `choose`.
  """
  name = choose(query, key, inputs, settings, drop, current_platform())
  implementation = reference if flops.counting.value else IMPLEMENTATIONS[name]
  dropout = () if drop is None else (drop,)  # the kernels have no such argument
  with jax.named_scope(f'attention_{name}'):  # in profiles, and in compiled programs
    return implementation(query, key, value, inputs, settings, *dropout)


def attend_positions_first(
  query: Float[Array, 'batch queries heads dim'],
  key: Float[Array, 'batch keys heads dim'],
  value: Float[Array, 'batch keys heads dim'],
  inputs: AttentionInputs = PLAIN_INPUTS,
  settings: AttentionSettings = PLAIN_SETTINGS,
) -> Float[Array, 'batch queries heads dim']:
  """`attend` with a key head for each query head, for arrays that have positions before heads."""
  return attend(*(x.swapaxes(1, 2) for x in (query, key, value)), inputs, settings).swapaxes(1, 2)
