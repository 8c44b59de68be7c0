"""A causal transformer: GPT-2, Llama and everything between are settings of this one network.

GPT-2 (Radford et al. 2019): positions 'learned', norm 'layer', activation 'gelu_tanh', bias.
Llama (Touvron et al. 2023): positions 'rotary', norm 'rms', activation 'swiglu', no bias,
  kv_heads below heads from the second generation on.
"""

import functools
from collections.abc import Callable
from typing import Annotated, Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from autoregressive.networks import positions as pos
from autoregressive.networks.attention import Attention, KVCache, Rotation
from autoregressive.networks.base import EMBED_STD, CausalNetwork, cast_kernels
from autoregressive.networks.mup import MupDense
from common.attention import IMPLEMENTATIONS, AttentionInputs, AttentionSettings
from common.config import ConfigError
from common.ranges import ABOVE_ZERO, AT_LEAST_ONE, BELOW_ONE, ZERO_IS_OFF, Interval, OneOf

NORMS = {'layer': nn.LayerNorm, 'rms': nn.RMSNorm}


def relu_squared(x: Float[Array, '*any']) -> Float[Array, '*any']:
  """max(x, 0)² (So et al. 2021)."""
  return jnp.square(nn.relu(x))


ACTIVATIONS = {
  'gelu': functools.partial(nn.gelu, approximate=False),
  'gelu_tanh': nn.gelu,
  'relu': nn.relu,
  'relu2': relu_squared,
  'swiglu': nn.silu,  # gated (Shazeer 2020)
  'geglu': nn.gelu,
}
GATED = ('swiglu', 'geglu')

REMAT = {  # the activations of a block that the forward pass keeps; '' keeps all
  'nothing': jax.checkpoint_policies.nothing_saveable,
  'products': jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
}


class TransformerCache(NamedTuple):
  """The cache of a transformer: positions seen, and each layer's keys and values."""

  index: Int[Array, '']
  layers: Any


class Block(nn.Module):
  """Attention and a feed-forward network, each with a norm and a residual connection.

  Attributes:
    attention, norm, dense: constructors of the parts.
    hidden: units of the feed-forward network.
    activation: a key of ACTIVATIONS.
    post: whether norms come after the residual connections.
    dropout: rate on both branches.
    out_init: initial standard deviation of the feed-forward network's last projection.
    train: whether dropout is on.
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
    if self.post:  # Vaswani et al. 2017, section 3.1: norm(x + branch(x))
      mixed, cache = attend(h, cache, inputs, rotation)
      h = attention_norm(h + drop(mixed))
      return mlp_norm(h + drop(self.feed_forward(h))), cache
    # Norms inside the branches leave the residual stream itself untouched (Xiong et al. 2020).
    mixed, cache = attend(attention_norm(h), cache, inputs, rotation)
    h = h + drop(mixed)
    return h + drop(self.feed_forward(mlp_norm(h))), cache

  def feed_forward(
    self, h: Float[Array, 'batch length width']
  ) -> Float[Array, 'batch length width']:
    activate = ACTIVATIONS[self.activation]
    up = self.dense(self.hidden, name='up')(h)
    if self.activation in GATED:
      # Two products: halves of one would lie on different devices under tensor parallelism.
      up = activate(self.dense(self.hidden, name='gate')(h)) * up
    else:
      up = activate(up)
    init = nn.initializers.normal(self.out_init)
    return self.dense(h.shape[-1], kernel_init=init, name='down')(up)


class Transformer(CausalNetwork):
  """A stack of blocks: embedded sequence in, hidden states out; position i sees inputs <= i.

  Attributes:
    length: the number of inputs of an example of the data.
    width: width of the residual stream; layers: number of blocks; heads: query heads of a layer.
    kv_heads: key and value heads; 0: equal to heads, 1: multi-query.
    head_dim: dimensions of a head; 0: width / heads.
    mlp_width: hidden units of the feed-forward network; 0: 4·width.
    activation: a key of ACTIVATIONS; 'swiglu' and 'geglu' add a gate for each hidden unit.
    norm: 'layer' or 'rms'; norm_position: 'pre' or 'post'; norm_eps: the epsilon of norms.
    positions: a name of positions.POSITIONS.
    context: the longest sequence, and the size of the table of learned positions; 0: `length`.
    rotary_base, rotary_scaling: see positions.rotary_frequencies.
    rotary_fraction: the share of a head's dimensions that rotary positions rotate.
    bias: whether projections and norms have a bias.
    qkv_bias: whether queries, keys and values have one although `bias` is off, as in Qwen2.
    qk_norm: RMSNorm of queries and keys.
    dropout: rate at the input, on attention weights and on residual branches.
    attention_cap: soft cap of the attention scores; 0: none.
    window: a position sees only the last `window` positions, itself included; 0: all.
    attention: implementation used without a cache: a key of attention.IMPLEMENTATIONS, or 'auto'.
    base_width: 0: the standard parametrisation; otherwise muP for Adam (Yang et al. 2022, table
      8): hyperparameters tuned at this width, above all learning rates, suit every other width.
      The matrices of the layers are MupDense, scores are divided by the dimension of a head
      instead of its root, and `output_scale` scales the last projection. At `base_width` itself
      both parametrisations are the same.
    scan: whether layers are one `scan` over stacked parameters, which compiles in the time of one
      layer and runs somewhat slower on CPUs.
    remat: a key of REMAT: recompute activations in the backward pass; '': keep them.
    input_std: the deviation of inputs at first, and the amplitude of sinusoidal positions: larger
      ones would drown them. Vaswani et al. 2017 multiply embeddings by √width (section 3.4).
    dtype: type of the products and of the residual stream.

  Raises:
    ConfigError: for settings that do not go together.
  """

  length: int
  width: Annotated[int, AT_LEAST_ONE] = 256
  layers: Annotated[int, AT_LEAST_ONE] = 6
  heads: Annotated[int, AT_LEAST_ONE] = 4
  kv_heads: Annotated[int, Interval(0, note='0: heads')] = 0
  head_dim: Annotated[int, Interval(0, note='0: width / heads')] = 0
  mlp_width: Annotated[int, Interval(0, note='0: 4 · width')] = 0
  activation: Annotated[str, OneOf(*ACTIVATIONS)] = 'gelu_tanh'
  norm: Annotated[str, OneOf(*NORMS)] = 'layer'
  norm_position: Annotated[str, OneOf('pre', 'post')] = 'pre'
  norm_eps: Annotated[float, ABOVE_ZERO] = 1e-5
  positions: Annotated[str, OneOf(*pos.POSITIONS)] = 'learned'
  context: Annotated[int, Interval(0, note='0: that of the data')] = 0
  rotary_base: Annotated[float, ABOVE_ZERO] = 10_000.0
  rotary_scaling: tuple = ()
  rotary_fraction: Annotated[float, Interval(0, 1, above=True)] = 1.0
  bias: bool = True
  qkv_bias: bool = False
  qk_norm: bool = False
  dropout: Annotated[float, BELOW_ONE] = 0.0
  attention_cap: Annotated[float, ZERO_IS_OFF] = 0.0
  window: Annotated[int, ZERO_IS_OFF] = 0
  attention: Annotated[str, OneOf('auto', *IMPLEMENTATIONS)] = 'auto'
  base_width: Annotated[int, ZERO_IS_OFF] = 0
  scan: bool = False
  remat: Annotated[str, OneOf('', *REMAT)] = ''
  input_std: float = EMBED_STD
  dtype: str = 'float32'

  can_rewind = True

  def __post_init__(self):
    super().__post_init__()
    if not self.head_dim and self.width % self.heads:
      raise ConfigError(f'network.heads={self.heads} does not divide network.width={self.width}')
    if self.heads % self.key_heads:
      raise ConfigError(
        f'network.kv_heads={self.kv_heads} does not divide network.heads={self.heads}'
      )
    if self.context and self.length > self.context:
      raise ConfigError(
        f'the data has sequences of {self.length} inputs, but the network takes at most '
        f'network.context={self.context}; lower data.context'
      )

  @property
  def longest(self) -> int:
    """The longest sequence that the network was made for."""
    return self.context or self.length

  @property
  def key_heads(self) -> int:
    return self.kv_heads or self.heads

  @property
  def dim(self) -> int:
    """Dimensions of a head."""
    return self.head_dim or self.width // self.heads

  @property
  def ratio(self) -> float:
    """Width over the base width of muP; 1 without muP."""
    return self.width / self.base_width if self.base_width else 1.0

  @property
  def output_scale(self) -> float:
    """Factor of the projection from hidden states to outputs (muP)."""
    return 1 / self.ratio  # table 8: the multiplier of the output weights

  def init_cache(self, batch: int, length: int) -> TransformerCache:
    """An empty cache with room for `length` positions."""
    # Key heads only: grouped queries divide the cache by the size of the groups.
    shape = (batch, self.key_heads, length, self.dim)

    def layer(*stack: int) -> KVCache:
      return KVCache(*(jnp.zeros((*stack, *shape), self.dtype) for _ in range(2)))

    layers = layer(self.layers) if self.scan else tuple(layer() for _ in range(self.layers))
    return TransformerCache(jnp.zeros((), jnp.int32), layers)

  def rewind(self, cache: TransformerCache, back: Int[Array, '']) -> TransformerCache:
    """The cache without its last `back` positions, which the next call overwrites.

    Their keys stay where they are: the causal mask hides all beyond the index.
    """
    return cache._replace(index=cache.index - back)

  @property
  def max_length(self) -> int | None:
    """The longest sequence this network can take; None: any."""
    return self.longest if self.positions == 'learned' else None

  def unroll(self, params: Any) -> tuple[CausalNetwork, Any]:
    """The same network with one parameter tree per layer instead of stacked parameters."""
    if not self.scan:
      return self, params
    params = dict(params)
    stacked = params.pop('blocks')
    for i in range(self.layers):
      params[f'block_{i}'] = jax.tree.map(lambda x, i=i: x[i], stacked)
    return self.clone(scan=False), params

  def arrange(self, params: Any) -> Any:
    """Parameters of this network, stacked or not, as its setting `scan` has them."""
    if ('blocks' in params) == self.scan:
      return params
    if not self.scan:
      return self.clone(scan=True).unroll(params)[1]
    rest = {k: v for k, v in params.items() if not k.startswith('block_')}
    layers = (params[f'block_{i}'] for i in range(self.layers))
    return rest | {'blocks': jax.tree.map(lambda *x: jnp.stack(x), *layers)}

  def cast(self, params: Any) -> Any:
    # muP divides kernels in float32 before they are cast.
    return params if self.base_width else cast_kernels(params, self.dtype)

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
      cache: state after the previous parts, from `init_cache` or an earlier call; None: h is a
        whole sequence.
      train: whether dropout is on; it needs the random stream 'dropout'.
      segments: number of the document that each position belongs to, if several are packed into
        a sequence; a position sees only its own document, and is counted from its start. Not
        with a cache.

    Returns:
      Hidden states, and the cache with this part added (None without).
    """
    # Caches and masks count steps in the sequence, embeddings count positions in the document; the
    # two differ only in packed sequences.
    h = h.astype(self.dtype)
    index = jnp.zeros((), jnp.int32) if cache is None else cache.index
    steps = index + jnp.arange(h.shape[1])
    positions = steps[None] if segments is None else _positions_in_documents(segments)
    if self.positions == 'learned':
      init = nn.initializers.normal(EMBED_STD)
      embed = nn.Embed(self.longest, self.width, embedding_init=init, name='position_embed')
      # Padding may reach beyond the table; masks hide it, and the last row keeps it free of NaN.
      h = h + embed(jnp.minimum(positions, self.longest - 1)).astype(h.dtype)
    elif self.positions == 'sinusoidal':
      h = h + (self.input_std * pos.sinusoidal(positions, self.width)).astype(h.dtype)
    h = nn.Dropout(self.dropout, deterministic=not train)(h)
    inputs = self._attention_inputs(steps, cache, segments)
    layers = None if cache is None else cache.layers
    h, layers = self._stack(h, layers, inputs, self._rotation(positions), train)
    if self.norm_position == 'pre':  # otherwise the last block already ends in a norm
      h = self._norm()(name='final_norm')(h)
    return h, None if cache is None else TransformerCache(index + steps.shape[0], layers)

  def _attention_inputs(self, steps, cache, segments) -> AttentionInputs:
    """The masks and the bias of attention, which all layers share."""
    offset, keys = None, steps
    if cache is not None:
      offset, keys = cache.index, jnp.arange(jax.tree.leaves(cache.layers)[0].shape[-2])
    bias = None
    if self.positions == 'alibi':
      # Press et al. 2022: minus slope times distance; keys after the query are masked anyway.
      slopes = pos.alibi_slopes(self.heads)[:, None, None]
      bias = slopes * (keys[None, :] - steps[:, None]).astype(jnp.float32)
    return AttentionInputs(offset, bias, segments, segments)

  def _rotation(self, positions: Int[Array, 'rows length']) -> Rotation | None:
    """Cosines and sines of rotary positions, with an axis each for key heads and their queries."""
    if self.positions != 'rotary':
      return None
    dim = int(self.dim * self.rotary_fraction)
    frequencies = pos.rotary_frequencies(dim, self.rotary_base, self.rotary_scaling)
    cos, sin = pos.rotation(positions, frequencies, pos.rotary_magnitude(self.rotary_scaling))
    return cos[:, None, None], sin[:, None, None]

  def _norm(self):
    """The constructor of norms; flax computes their statistics in float32 in either precision."""
    extra = {'use_bias': self.bias} if self.norm == 'layer' else {}
    return functools.partial(NORMS[self.norm], epsilon=self.norm_eps, dtype=self.dtype, **extra)

  def _parts(self) -> dict[str, Any]:
    """The settings of a block."""
    init = nn.initializers.normal
    # Radford et al. 2019, section 2.3: 2·layers branches are added to the residual stream; with
    # this factor the sum of their variances is that of a single branch.
    out_init = 0.02 * (2 * self.layers) ** -0.5
    layer = functools.partial(MupDense, ratio=self.ratio) if self.base_width else nn.Dense
    dense = functools.partial(layer, use_bias=self.bias, dtype=self.dtype, kernel_init=init(0.02))
    attend = functools.partial(
      Attention,
      heads=self.heads,
      kv_heads=self.key_heads,
      dim=self.dim,
      dense=dense,
      qkv_bias=self.bias or self.qkv_bias,
      qk_norm=functools.partial(nn.RMSNorm, self.norm_eps, jnp.float32) if self.qk_norm else None,
      dropout=self.dropout,
      settings=AttentionSettings(self.attention, True, self.window, self.attention_cap),
      out_init=out_init,
      # muP: scores are divided by dim, not √dim (equal at the base width). A fixed head_dim does
      # not grow with the width.
      scale=1.0 if self.head_dim else self.ratio**-0.5,
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
      # Caches are stacked along axis 0 like the parameters; masks and rotations are shared.
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


def _positions_in_documents(segments: Int[Array, 'batch length']) -> Int[Array, 'batch length']:
  """Position of each token within its document, in packed sequences."""
  steps = jnp.arange(segments.shape[1])[None]
  first = jnp.pad(segments[:, 1:] != segments[:, :-1], ((0, 0), (1, 0)))
  # The running maximum of the starts is where the token's own document starts.
  return steps - jax.lax.cummax(jnp.where(first, steps, 0), axis=1)
