"""A causal transformer: GPT-2, Llama and what lies between are settings of this one network.

GPT-2 (Radford et al. 2019): positions 'learned', norm 'layer', activation 'gelu_tanh', bias.
Llama (Touvron et al. 2023): positions 'rotary', norm 'rms', activation 'swiglu', no bias,
  kv_heads below heads from the second generation on.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from autoregressive.networks import positions as pos
from autoregressive.networks.attention import Attention, KVCache, Rotation
from autoregressive.networks.base import CausalNetwork
from common.attention import IMPLEMENTATIONS, AttentionInputs, AttentionSettings
from common.config import ConfigError, pick

NORMS = {'layer': nn.LayerNorm, 'rms': nn.RMSNorm}

ACTIVATIONS = {
  'gelu': lambda x: nn.gelu(x, approximate=False),
  'gelu_tanh': nn.gelu,
  'relu': nn.relu,
  'relu2': lambda x: jnp.square(nn.relu(x)),  # So et al. 2021
  'swiglu': nn.silu,  # Shazeer 2020: gated
  'geglu': nn.gelu,
}
GATED = ('swiglu', 'geglu')

REMAT = {  # what is kept of the forward pass of a block; '' keeps all
  'nothing': jax.checkpoint_policies.nothing_saveable,
  'products': jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
}


class TransformerCache(NamedTuple):
  """The cache of a transformer: positions seen, and each layer's keys and values."""

  index: Int[Array, '']
  layers: Any


class MupDense(nn.Module):
  """A dense layer whose weights, as they act, are the kernel over `ratio`.

  The kernel begins √ratio times as large as `kernel_init` says. So the weights begin with a
  variance that falls with the width, and an update of Adam, which moves the kernel as far at any
  width, moves them by 1/ratio as far: the learning rates of muP, with no group of the optimiser.

  Attributes:
    features, use_bias, dtype, kernel_init: as those of nn.Dense.
    ratio: width over base width.
  """

  features: int
  use_bias: bool
  dtype: Any
  kernel_init: Callable[..., Array]
  ratio: float

  @nn.compact
  def __call__(self, x: Float[Array, '*batch inputs']) -> Float[Array, '*batch features']:
    begin = lambda *args: self.ratio**0.5 * self.kernel_init(*args)
    kernel = self.param('kernel', begin, (x.shape[-1], self.features), jnp.float32)
    y = x.astype(self.dtype) @ (kernel / self.ratio).astype(self.dtype)
    if self.use_bias:
      y += self.param('bias', nn.initializers.zeros, (self.features,), jnp.float32).astype(y.dtype)
    return y


class Block(nn.Module):
  """Attention and a feed-forward network, each with a norm and a residual connection.

  Attributes:
    attention, norm, dense: constructors of the parts.
    hidden: units of the feed-forward network.
    activation: a key of ACTIVATIONS.
    post: whether norms stand after the residual connections.
    dropout: rate on both branches.
    out_init: standard deviation of the last projection at the start.
    train: whether to drop.
  """

  attention: Callable[..., nn.Module]
  norm: Callable[..., nn.Module]
  dense: Callable[..., nn.Module]
  hidden: int
  activation: str
  post: bool
  dropout: float
  out_init: float
  train: bool

  @nn.compact
  def __call__(
    self,
    h: Float[Array, 'batch length width'],
    cache: KVCache | None,
    inputs: AttentionInputs,
    rotation: Rotation | None,
  ) -> tuple[Float[Array, 'batch length width'], KVCache | None]:
    drop = nn.Dropout(self.dropout, deterministic=not self.train)
    attention_norm, mlp_norm = self.norm(name='attention_norm'), self.norm(name='mlp_norm')
    attend = self.attention(name='attention', train=self.train)
    if self.post:
      mixed, cache = attend(h, cache, inputs, rotation)
      h = attention_norm(h + drop(mixed))
      return mlp_norm(h + drop(self.feed_forward(h))), cache
    mixed, cache = attend(attention_norm(h), cache, inputs, rotation)
    h = h + drop(mixed)
    return h + drop(self.feed_forward(mlp_norm(h))), cache

  def feed_forward(
    self, h: Float[Array, 'batch length width']
  ) -> Float[Array, 'batch length width']:
    activate, gated = ACTIVATIONS[self.activation], self.activation in GATED
    up = self.dense(self.hidden * (2 if gated else 1), name='up')(h)
    if gated:
      gate, up = jnp.split(up, 2, -1)
      up = activate(gate) * up
    else:
      up = activate(up)
    init = nn.initializers.normal(self.out_init)
    return self.dense(h.shape[-1], kernel_init=init, name='down')(up)


class Transformer(CausalNetwork):
  """A stack of blocks: embedded sequence in, hidden states out; position i sees inputs <= i.

  Attributes:
    length: the longest sequence, which learned positions have a table for.
    width, layers, heads: the usual.
    kv_heads: key and value heads; 0: as many as heads, 1: multi-query.
    head_dim: dimensions of a head; 0: width / heads.
    mlp_width: hidden units of the feed-forward network; 0: 4·width.
    activation: a key of ACTIVATIONS; 'swiglu' and 'geglu' gate with as many units again.
    norm: 'layer' or 'rms'; norm_position: 'pre' or 'post'; norm_eps: their epsilon.
    positions: a name of positions.POSITIONS; rotary_base and rotary_scaling: see
      positions.rotary_frequencies.
    bias: whether projections and norms have a bias.
    qk_norm: RMSNorm of queries and keys.
    dropout: rate at the input, on attention weights and on residual branches.
    attention_cap: soft cap of the attention scores; 0: none.
    window: a position sees only so many last positions, itself included; 0: all.
    attention: how it is computed without a cache, a key of attention.IMPLEMENTATIONS, or 'auto'.
    base_width: 0: the standard parametrisation; else muP for Adam (Yang et al. 2022, table 8):
      what is learned at this width, learning rates above all, holds at any. Matrices of layers
      are MupDense, scores fall with the dimension of a head and not its root, and `output_scale`
      is for the last projection. At `base_width` itself both are one.
    scan: whether layers are one `scan` over stacked parameters: compiles in the time of one
      layer, and runs somewhat slower on CPU.
    remat: a key of REMAT: recompute activations in the backward pass; '': keep them.
    dtype: of the matrix products; parameters, norms, softmax and residuals stay float32.

  Raises:
    ConfigError: for settings that do not go together.
  """

  length: int
  width: int = 256
  layers: int = 6
  heads: int = 4
  kv_heads: int = 0
  head_dim: int = 0
  mlp_width: int = 0
  activation: str = 'gelu_tanh'
  norm: str = 'layer'
  norm_position: str = 'pre'
  norm_eps: float = 1e-5
  positions: str = 'learned'
  rotary_base: float = 10_000.0
  rotary_scaling: tuple = ()
  bias: bool = True
  qk_norm: bool = False
  dropout: float = 0.0
  attention_cap: float = 0.0
  window: int = 0
  attention: str = 'auto'
  base_width: int = 0
  scan: bool = False
  remat: str = ''
  dtype: str = 'float32'

  can_rewind = True

  def __post_init__(self):
    super().__post_init__()
    pick(NORMS, self.norm, 'network.norm')
    pick(ACTIVATIONS, self.activation, 'network.activation')
    pick(dict.fromkeys(pos.POSITIONS), self.positions, 'network.positions')
    pick(dict.fromkeys(('pre', 'post')), self.norm_position, 'network.norm_position')
    pick(IMPLEMENTATIONS | {'auto': None}, self.attention, 'network.attention')
    pick(REMAT | {'': None}, self.remat, 'network.remat')
    if not self.head_dim and self.width % self.heads:
      raise ConfigError(f'network.heads={self.heads} does not divide network.width={self.width}')
    if self.heads % self.key_heads:
      raise ConfigError(
        f'network.kv_heads={self.kv_heads} does not divide network.heads={self.heads}'
      )

  @property
  def key_heads(self) -> int:
    return self.kv_heads or self.heads

  @property
  def dim(self) -> int:
    """Dimensions of a head."""
    return self.head_dim or self.width // self.heads

  @property
  def ratio(self) -> float:
    """How many times wider than the base of muP; 1 without it."""
    return self.width / self.base_width if self.base_width else 1.0

  @property
  def output_scale(self) -> float:
    """What outputs made from the hidden states are multiplied by."""
    return 1 / self.ratio

  def init_cache(self, batch: int, length: int) -> TransformerCache:
    """An empty cache with room for `length` positions."""
    shape = (batch, self.key_heads, length, self.dim)

    def layer(*stack: int) -> KVCache:
      return KVCache(*(jnp.zeros((*stack, *shape), self.dtype) for _ in range(2)))

    layers = layer(self.layers) if self.scan else tuple(layer() for _ in range(self.layers))
    return TransformerCache(jnp.zeros((), jnp.int32), layers)

  def rewind(self, cache: TransformerCache, back: Int[Array, '']) -> TransformerCache:
    """The cache without the last `back` positions, which the next call will overwrite."""
    return cache._replace(index=cache.index - back)

  @property
  def max_length(self) -> int | None:
    """The longest sequence this network can take; None: any."""
    return self.length if self.positions == 'learned' else None

  def unroll(self, params: Any) -> tuple[CausalNetwork, Any]:
    """The same network with a parameter tree per layer in place of stacked ones."""
    if not self.scan:
      return self, params
    params = dict(params)
    stacked = params.pop('blocks')
    for i in range(self.layers):
      params[f'block_{i}'] = jax.tree.map(lambda x, i=i: x[i], stacked)
    return self.clone(scan=False), params

  @nn.compact
  def __call__(
    self,
    h: Float[Array, 'batch length width'],
    cache: TransformerCache | None = None,
    train: bool = False,
    segments: Int[Array, 'batch length'] | None = None,
  ) -> tuple[Float[Array, 'batch length width'], TransformerCache | None]:
    """Runs the network on a whole sequence, or on the next part of one.

    Args:
      h: embedded inputs.
      cache: what came before, from `init_cache` or an earlier call; None: nothing did.
      train: whether to drop; needs the random stream 'dropout'.
      segments: number of the document each position belongs to, where several are packed into
        a sequence; positions see and count their own document alone. Not with a cache.

    Returns:
      Hidden states, and the cache with this part added (None without).
    """
    index = jnp.zeros((), jnp.int32) if cache is None else cache.index
    steps = index + jnp.arange(h.shape[1])
    places = steps[None] if segments is None else _places(segments)
    if self.positions == 'learned':
      table = nn.Embed(
        self.length, self.width, embedding_init=nn.initializers.normal(0.02), name='position'
      )
      h = h + table(jnp.minimum(places, self.length - 1))  # beyond lie what masks hide: no NaN
    elif self.positions == 'sinusoidal':
      h = h + pos.sinusoidal(places, self.width)
    h = nn.Dropout(self.dropout, deterministic=not train)(h)
    inputs = self._attention_inputs(steps, cache, segments)
    layers = None if cache is None else cache.layers
    h, layers = self._stack(h, layers, inputs, self._rotation(places), train)
    if self.norm_position == 'pre':
      h = self._norm()(name='final_norm')(h)
    return h, None if cache is None else TransformerCache(index + steps.shape[0], layers)

  def _attention_inputs(self, steps, cache, segments) -> AttentionInputs:
    """What each query sees, the same for every layer."""
    offset, keys = None, steps
    if cache is not None:
      offset, keys = cache.index, jnp.arange(jax.tree.leaves(cache.layers)[0].shape[-2])
    bias = None
    if self.positions == 'alibi':
      # Press et al. 2022: minus slope times distance; keys after the query are masked anyway.
      slopes = pos.alibi_slopes(self.heads)[:, None, None]
      bias = slopes * (keys[None, :] - steps[:, None]).astype(jnp.float32)
    return AttentionInputs(offset, bias, segments, segments)

  def _rotation(self, places: Int[Array, 'rows length']) -> Rotation | None:
    """Cosines and sines of rotary positions, with an axis each for key heads and their queries."""
    if self.positions != 'rotary':
      return None
    frequencies = pos.rotary_frequencies(self.dim, self.rotary_base, self.rotary_scaling)
    cos, sin = pos.rotation(places, frequencies)
    return cos[:, None, None], sin[:, None, None]

  def _norm(self):
    """Constructor of norms, which compute in float32."""
    extra = {'use_bias': self.bias} if self.norm == 'layer' else {}
    return functools.partial(NORMS[self.norm], epsilon=self.norm_eps, dtype=jnp.float32, **extra)

  def _parts(self) -> dict[str, Any]:
    """What a block is made of."""
    init = nn.initializers.normal
    out_init = 0.02 * (2 * self.layers) ** -0.5  # Radford et al. 2019, section 2.3
    kind = functools.partial(MupDense, ratio=self.ratio) if self.base_width else nn.Dense
    dense = functools.partial(kind, use_bias=self.bias, dtype=self.dtype, kernel_init=init(0.02))
    attend = functools.partial(
      Attention,
      heads=self.heads,
      kv_heads=self.key_heads,
      dim=self.dim,
      dense=dense,
      qk_norm=functools.partial(nn.RMSNorm, self.norm_eps, jnp.float32) if self.qk_norm else None,
      dropout=self.dropout,
      settings=AttentionSettings(self.attention, True, self.window, self.attention_cap),
      out_init=out_init,
      scale=1.0 if self.head_dim else self.ratio**-0.5,  # the heads grow with the width
    )
    return dict(
      attention=attend,
      norm=self._norm(),
      dense=dense,
      hidden=self.mlp_width or 4 * self.width,
      activation=self.activation,
      post=self.norm_position == 'post',
      dropout=self.dropout,
      out_init=out_init,
    )

  def _stack(self, h, caches, inputs, rotation, train):
    """All blocks, one after the other."""
    block = Block
    if self.remat:
      block = nn.remat(Block, policy=REMAT[self.remat], prevent_cse=not self.scan)
    parts = self._parts() | {'train': train}
    if self.scan:
      scanned = nn.scan(
        block,
        variable_axes={'params': 0},
        split_rngs={'params': True, 'dropout': True},
        in_axes=(0, nn.broadcast, nn.broadcast),
        length=self.layers,
      )
      return scanned(**parts, name='blocks')(h, caches, inputs, rotation)
    layers = []
    for i in range(self.layers):
      h, layer = block(**parts, name=f'block_{i}')(h, caches and caches[i], inputs, rotation)
      layers.append(layer)
    return h, tuple(layers)


def _places(segments: Int[Array, 'batch length']) -> Int[Array, 'batch length']:
  """Position within the document, for each position of packed sequences."""
  steps = jnp.arange(segments.shape[1])[None]
  first = jnp.pad(segments[:, 1:] != segments[:, :-1], ((0, 0), (1, 0)))
  return steps - jax.lax.cummax(jnp.where(first, steps, 0), axis=1)
