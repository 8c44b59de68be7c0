"""Dot-product attention of both families: one formula, four implementations.

  softmax(q·k/√dim + bias)·v    (Vaswani et al. 2017, equation 1)

It is causal or not, among the positions of one sequence or across to those of another:

  reference: all scores at once; also used while decoding with a cache;
  blocks: a block of queries at a time; under a causal mask each block meets only the keys up to
    its last query, which saves almost half of the work (docs/decisions.md);
  cudnn, splash: kernels for GPUs (cuDNN's) and TPUs (JAX's Pallas kernel) that keep no scores;
  auto: the kernel of the platform if it can do what is asked; otherwise, and on CPUs, blocks
    under a causal mask and the reference without one.

Heads stand before positions: [batch, heads, positions, dim], or [batch, kv_heads, groups,
positions, dim] for groups of query heads that share a key head. So both products are batched
row-major matrix products: on CPUs 1.1 to 2.6 times as fast forward as
`jax.nn.dot_product_attention` (2 cores, float32, 16 to 256 positions).
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

from common.config import ConfigError, pick

MASKED = -1e30  # softmax makes an exact zero of it; finite, so that a fully masked row has no NaN
MIN_BLOCK = 64  # queries in a block; an eighth of the sequence if that is more
SPLASH_TILE = 128  # the splash kernel cuts queries and keys into tiles of a multiple of this
CUDNN_MAX_DIM = 128  # of a head, on every architecture forward and backward
BATCH_AXES = ('data', 'fsdp')  # axes of the mesh that share out the batch
HEADS_AXIS = 'tensor'

Query = Float[Array, 'batch kv_heads *groups queries dim']
Keys = Float[Array, 'batch kv_heads keys dim']
Drop = Callable[[Array], Array]


class AttentionInputs(NamedTuple):
  """The arrays that decide what each query sees and with what bias, shared by all layers.

  An implementation that can express them builds no mask from them.

  Attributes:
    offset: position of the first query among the keys, while decoding with a cache; None: 0.
    bias: added to the scores, or None.
    query_segments, key_segments: number of the document that each position belongs to; a query
      sees only keys of its own document. None: all.
    key_lengths: number of keys that each example has; those behind are padding. None: all.
  """

  offset: Int[Array, ''] | int | None = None
  bias: Float[Array, 'heads queries keys'] | None = None
  query_segments: Int[Array, 'batch queries'] | None = None
  key_segments: Int[Array, 'batch keys'] | None = None
  key_lengths: Int[Array, 'batch'] | None = None


@dataclasses.dataclass(frozen=True)
class AttentionSettings:
  """The settings of attention, known before any array is.

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
      raise ConfigError(f'attention with window={self.window} must be causal')


def visible(
  queries: int, keys: int, inputs: AttentionInputs, settings: AttentionSettings
) -> Bool[Array, 'masks queries keys'] | None:
  """Which keys each query sees, for each example or once for all; None: every query sees all."""
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
  """The formula with all scores in memory: softmax in float32, products in the type of `key`."""
  group, dim = 'g' if query.ndim == 5 else '', query.shape[-1]
  einsum = functools.partial(jnp.einsum, preferred_element_type=jnp.float32)
  # Scaling the queries rather than the scores touches dim numbers per query, not keys numbers.
  query = (query * dim**-0.5).astype(key.dtype)
  scores = einsum(f'bk{group}qd,bksd->bk{group}qs', query, key)
  # The cap comes before bias and mask: it bounds q·k alone, and a masked score must stay masked.
  if settings.cap:
    scores = settings.cap * jnp.tanh(scores / settings.cap)
  if inputs.bias is not None:
    scores += inputs.bias.reshape(scores.shape[1:])
  mask = visible(query.shape[-2], key.shape[-2], inputs, settings)
  if mask is not None:
    scores = jnp.where(jnp.expand_dims(mask, range(1, scores.ndim - 2)), scores, MASKED)
  # Softmax is the same after any shift, so the shift by the maximum needs no gradient.
  weights = jnp.exp(scores - jax.lax.stop_gradient(scores.max(-1, keepdims=True)))
  total = weights.sum(-1, keepdims=True)
  # Dropout acts on weights that still lack their normalisation: the total counts the dropped too.
  if drop is not None:
    weights = drop(weights)
  mixed = einsum(f'bk{group}qs,bksd->bk{group}qd', weights.astype(value.dtype), value)
  # Dividing after the product with the values again touches dim numbers per query, not keys.
  return (mixed / total).astype(value.dtype)


def blocks(
  query: Query,
  key: Keys,
  value: Keys,
  inputs: AttentionInputs,
  settings: AttentionSettings,
  drop: Drop | None = None,
) -> Query:
  """`reference`, a block of queries at a time, each against the keys that its queries can see."""
  length, num_keys = query.shape[-2], key.shape[-2]
  size = max(MIN_BLOCK, -(-length // 8))
  parts = []
  for start in range(0, length, size):
    end = min(start + size, length)
    # The block's first query sees the farthest back, its last query the farthest on.
    first = max(0, start - settings.window + 1) if settings.window else 0
    last = min(end, num_keys) if settings.causal else num_keys
    near, seen = slice(start, end), slice(first, last)
    arrays = query[..., near, :], key[:, :, seen], value[:, :, seen]
    parts.append(reference(*arrays, _part(inputs, near, seen), settings, drop))
  return jnp.concatenate(parts, axis=-2)


def _part(inputs: AttentionInputs, queries: slice, keys: slice) -> AttentionInputs:
  """The inputs of some queries and keys."""
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

  Causality, window and lengths are arguments of the kernel.
  `implementation='xla'` runs the same call without a GPU, in the tests.
  """
  shape = query.shape
  query = query.astype(key.dtype).reshape(shape[0], -1, *shape[-2:])
  # cuDNN adds a mask to the scores as a bias, the only way it has for documents.
  documents = AttentionInputs(None, None, inputs.query_segments, inputs.key_segments)
  mask = visible(shape[-2], key.shape[-2], documents, AttentionSettings())
  lengths = inputs.key_lengths
  mixed = jax.nn.dot_product_attention(
    *(x.swapaxes(1, 2) for x in (query, key, value)),
    bias=None if inputs.bias is None else inputs.bias[None].astype(key.dtype),
    mask=None if mask is None else mask[:, None],
    is_causal=settings.causal,
    key_value_seq_lengths=None if lengths is None else lengths.astype(jnp.int32),
    # Keys before the query, without itself; and none after it.
    local_window_size=(settings.window - 1, 0) if settings.window else None,
    implementation=implementation,
  )
  return mixed.swapaxes(1, 2).reshape(shape)


@functools.lru_cache(maxsize=32)
def _splash_kernel(heads: int, queries: int, keys: int, settings: AttentionSettings, tpu: bool):
  """The kernel for one example; Pallas interprets it on platforms other than TPUs."""
  from jax.experimental.pallas.ops.tpu import splash_attention as pallas

  shape = (queries, keys)
  if settings.window:
    mask = pallas.LocalMask(shape, (settings.window - 1, 0), 0)
  else:
    mask = pallas.CausalMask(shape) if settings.causal else pallas.FullMask(shape)
  with jax.ensure_compile_time_eval():
    return pallas.make_splash_mha(
      pallas.MultiHeadMask([mask] * heads),
      head_shards=1,
      q_seq_shards=1,
      attn_logits_soft_cap=settings.cap or None,
      interpret=not tpu,
    )


def _splash_segments(query: Query, key: Keys, inputs: AttentionInputs):
  """Documents and lengths as the kernel takes them: a number for each query and for each key."""
  if inputs.query_segments is None and inputs.key_lengths is None:
    return None
  queries, keys = inputs.query_segments, inputs.key_segments
  if queries is None:
    queries = jnp.zeros((query.shape[0], query.shape[-2]), jnp.int32)
    keys = jnp.zeros((key.shape[0], key.shape[-2]), jnp.int32)
  if inputs.key_lengths is not None:  # no query has the number -1
    keys = jnp.where(jnp.arange(keys.shape[1]) < inputs.key_lengths[:, None], keys, -1)
  return queries, keys


def splash(
  query: Query, key: Keys, value: Keys, inputs: AttentionInputs, settings: AttentionSettings
) -> Query:
  """JAX's splash attention; on a mesh, each device runs it on its examples and heads."""
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

  # The kernel does not scale; it takes all query heads in a row, those of a key head together.
  flat = (query * query.shape[-1] ** -0.5).astype(key.dtype)
  flat = flat.reshape(query.shape[0], -1, *query.shape[-2:])
  plain = dataclasses.replace(settings, implementation='splash')  # one kernel for all names
  kernel = _splash_kernel(flat.shape[1], flat.shape[2], key.shape[2], plain, tpu)
  numbers = None if segments is None else pallas.SegmentIds(*segments)
  return jax.vmap(kernel)(flat, key, value, numbers).reshape(query.shape)


IMPLEMENTATIONS: Mapping[str, Callable[..., Array]] = {
  'reference': reference,
  'blocks': blocks,
  'cudnn': cudnn,
  'splash': splash,
}
KERNELS = {'tpu': 'splash', 'gpu': 'cudnn'}  # the fused kernel of a platform


def current_platform() -> str:
  """'cpu', 'gpu' or 'tpu': of the mesh that the function being traced is built for.

  A training step is traced under the mesh of its devices (common/training/parallel.py), which need
  not be devices of this machine. Without a mesh, `jit` compiles for the default backend.
  """
  device = jax.sharding.get_abstract_mesh().abstract_device
  return jax.default_backend() if device is None else device.platform


def _cudnn_limits(query, key, inputs: AttentionInputs, settings: AttentionSettings, drop) -> dict:
  """What cuDNN's kernel cannot do, each with whether it is asked for."""
  dim, lengths = query.shape[-1], (query.shape[-2], key.shape[-2])
  masked = inputs.bias is not None or inputs.query_segments is not None
  padded = inputs.key_lengths is not None
  odd, wide = any(n % 2 for n in lengths), dim % 8 or dim > CUDNN_MAX_DIM
  halves = key.dtype in (jnp.bfloat16, jnp.float16)
  return {
    f'{key.dtype} arrays (only bfloat16 and float16)': not halves,
    f'heads of {dim} dimensions (only multiples of 8 up to {CUDNN_MAX_DIM})': wide,
    f'a bias or documents with lengths {lengths} (only even ones)': masked and odd,
    'a window with a bias, documents or key lengths': settings.window and (masked or padded),
    'a soft cap': settings.cap,
    'dropout of attention weights': drop is not None,
  }


def _splash_limits(query, key, inputs: AttentionInputs, settings: AttentionSettings, drop) -> dict:
  """What the splash kernel cannot do, each with whether it is asked for."""
  mesh, lengths = jax.sharding.get_abstract_mesh(), (query.shape[-2], key.shape[-2])
  shares = math.prod(mesh.shape.get(axis, 1) for axis in BATCH_AXES)
  return {
    'a bias (ALiBi)': inputs.bias is not None,
    'dropout of attention weights': drop is not None,
    f'lengths {lengths} (only multiples of {SPLASH_TILE})': any(n % SPLASH_TILE for n in lengths),
    f'a batch of {query.shape[0]} over {shares} devices': query.shape[0] % shares,
  }


LIMITS = {'cudnn': _cudnn_limits, 'splash': _splash_limits}
_log_once = functools.cache(logging.info)


def choose(
  query: Array | jax.ShapeDtypeStruct,
  key: Array | jax.ShapeDtypeStruct,
  inputs: AttentionInputs,
  settings: AttentionSettings,
  drop: Drop | None,
  platform: str,
) -> str:
  """Which implementation computes this attention: a key of `IMPLEMENTATIONS`.

  The arguments are those of `attend`, whose shapes and types matter, and the platform.

  Raises:
    ConfigError: if the settings name an implementation that cannot do what is asked.
  """
  if inputs.offset is not None:  # few queries against a cache: nothing to gain from a kernel
    return 'reference'
  auto = settings.implementation == 'auto'
  plain = 'blocks' if settings.causal else 'reference'
  name = KERNELS.get(platform, plain) if auto else settings.implementation
  limits = LIMITS[name](query, key, inputs, settings, drop) if name in LIMITS else {}
  # A kernel's partitioning follows the mesh: without one, nobody says how arrays are laid out.
  adrift = auto and jax.sharding.get_abstract_mesh().empty and jax.device_count() > 1
  limits |= {
    f'the platform {platform!r} (only GPUs)': name == 'cudnn' and platform != 'gpu',
    'several devices without a mesh': name == 'splash' and adrift,
  }
  missing = ' or '.join(what for what, asked in limits.items() if asked)
  if missing and not auto:
    raise ConfigError(
      f"network.attention={name!r} cannot do {missing}; use 'auto', 'blocks' or 'reference'"
    )
  if missing:
    _log_once(f'attention: {name!r} cannot do {missing}; {plain!r} takes its place')
  return plain if missing else name


PLAIN_INPUTS, PLAIN_SETTINGS = AttentionInputs(), AttentionSettings()


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
    query: heads before positions; with an axis more, groups of query heads that share a key head.
    key, value: heads before positions.
    inputs: arrays that decide what each query sees.
    settings: implementation, causality, window, soft cap.
    drop: applies dropout to attention weights, or None.

  Raises:
    ConfigError: see `choose`.
  """
  name = choose(query, key, inputs, settings, drop, current_platform())
  dropout = () if drop is None else (drop,)  # the kernels have no such argument
  return IMPLEMENTATIONS[name](query, key, value, inputs, settings, *dropout)


def attend_positions_first(
  query: Float[Array, 'batch queries heads dim'],
  key: Float[Array, 'batch keys heads dim'],
  value: Float[Array, 'batch keys heads dim'],
  inputs: AttentionInputs = PLAIN_INPUTS,
  settings: AttentionSettings = PLAIN_SETTINGS,
) -> Float[Array, 'batch queries heads dim']:
  """`attend` with a key head for each query head, for arrays that have positions before heads."""
  query, key, value = (x.swapaxes(1, 2) for x in (query, key, value))
  return attend(query, key, value, inputs, settings).swapaxes(1, 2)
