"""DiT: a transformer over patches, conditioned by adaptive norms (Peebles & Xie 2022).

Shapes: B batch, N patches, D width, H heads.
"""

import functools
from typing import Annotated, Any

import flax.linen as nn
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from common.attention import attend_positions_first
from common.config import ConfigError
from common.patches import patchify, sincos_positions, unpatchify
from common.ranges import ABOVE_ZERO, AT_LEAST_ONE, AT_LEAST_ZERO, BELOW_ONE, OneOf
from diffusion.networks.base import DiffusionNetwork
from diffusion.networks.conditioning import (
  EMBEDDINGS,
  Conditioning,
  check_embedding_width,
)

_xavier = nn.initializers.xavier_uniform()
_zeros = nn.initializers.zeros


def modulate(
  x: Float[Array, 'batch patches dim'],
  shift: Float[Array, 'batch dim'],
  scale: Float[Array, 'batch dim'],
) -> Float[Array, 'batch patches dim']:
  """Layer norm, with statistics in float32, whose scale and shift come from the condition."""
  # The norm has no parameters; it multiplies by 1 + scale, so that zeros change nothing.
  dtype, x = x.dtype, x.astype(jnp.float32)
  x = x - x.mean(axis=-1, keepdims=True)
  x = x * lax.rsqrt(jnp.square(x).mean(axis=-1, keepdims=True) + 1e-6)
  return x.astype(dtype) * (1 + scale[:, None]) + shift[:, None]


def self_attention(h: Float[Array, 'B N D'], heads: int, dtype: jnp.dtype) -> Float[Array, 'B N D']:
  """Attention over all tokens, as layers of the module that calls it."""
  width = h.shape[-1]
  qkv = nn.DenseGeneral((3, heads, width // heads), kernel_init=_xavier, dtype=dtype, name='qkv')(h)
  # [batch, patches, 3, heads, dim] to three arrays [batch, patches, heads, dim]
  h = attend_positions_first(*jnp.moveaxis(qkv, 2, 0))
  return nn.DenseGeneral(width, (-2, -1), kernel_init=_xavier, dtype=dtype, name='out')(h)


def perceptron(h: Float[Array, 'B N D'], drop: nn.Dropout, hidden: int) -> Float[Array, 'B N D']:
  """Two layers, as layers of the module that calls it."""
  dense = functools.partial(nn.Dense, kernel_init=_xavier, dtype=h.dtype)
  width = h.shape[-1]
  return dense(width, name='down')(drop(nn.gelu(dense(hidden, name='up')(h))))


class AdaptiveBlock(nn.Module):
  """Attention and a two-layer perceptron, whose norms are modulated: adaLN and adaLN-Zero.

  Section 3.2. With gates (adaLN-Zero), a factor from the condition is in front of every residual
  connection, and every block starts as the identity. All modulation starts at zero, also without
  gates, which the paper leaves open.
  """

  heads: int
  mlp_ratio: float
  dropout: float
  dtype: str
  train: bool
  gated: bool

  @nn.compact
  def __call__(self, x: Float[Array, 'B N D'], condition: Float[Array, 'B D']):
    """Returns (x, None): a carry and no output, as `nn.scan` expects it."""
    width, dtype = x.shape[-1], jnp.dtype(self.dtype)
    drop = nn.Dropout(self.dropout, deterministic=not self.train)
    # Shift, scale and gate of each branch, zero at initialisation.
    numbers = 6 if self.gated else 4
    modulation = nn.Dense(numbers * width, kernel_init=_zeros, dtype=dtype, name='modulation')
    parts = jnp.split(modulation(condition), numbers, axis=-1)
    (shift1, scale1, *gate1), (shift2, scale2, *gate2) = (
      parts[: numbers // 2],
      parts[numbers // 2 :],
    )
    h = drop(self_attention(modulate(x, shift1, scale1), self.heads, dtype))
    x = x + (gate1[0][:, None] * h if self.gated else h)
    # The same for the perceptron: modulate, branch, gate, residual.
    h = drop(perceptron(modulate(x, shift2, scale2), drop, int(self.mlp_ratio * width)))
    return x + (gate2[0][:, None] * h if self.gated else h), None


class CrossAttention(nn.Module):
  """Attention of all tokens to the tokens of the condition."""

  heads: int
  dtype: str

  @nn.compact
  def __call__(
    self, h: Float[Array, 'B N D'], condition: Float[Array, 'B C D']
  ) -> Float[Array, 'B N D']:
    width, dim = h.shape[-1], h.shape[-1] // self.heads
    dense = functools.partial(nn.DenseGeneral, kernel_init=_xavier, dtype=jnp.dtype(self.dtype))
    query = dense((self.heads, dim), name='q')(h)
    keys_and_values = dense((2, self.heads, dim), name='kv')(condition)
    h = attend_positions_first(query, *jnp.moveaxis(keys_and_values, 2, 0))
    return dense(width, (-2, -1), name='out')(h)


class PlainBlock(nn.Module):
  """A block of a vision transformer, whose norms have learned scales and shifts (section 3.2).

  The tokens of the condition are among its own (in-context), or it attends to them after its
  self-attention (cross-attention).
  """

  heads: int
  mlp_ratio: float
  dropout: float
  dtype: str
  train: bool
  cross: bool

  @nn.compact
  def __call__(self, x: Float[Array, 'B N D'], condition: Float[Array, 'B C D']):
    """Returns (x, None), as `AdaptiveBlock` does."""
    width, dtype = x.shape[-1], jnp.dtype(self.dtype)
    drop = nn.Dropout(self.dropout, deterministic=not self.train)
    x = x + drop(self_attention(layer_norm(dtype, 'norm1')(x), self.heads, dtype))
    if self.cross:
      attend = CrossAttention(self.heads, self.dtype, name='cross')
      x = x + drop(attend(layer_norm(dtype, 'norm_cross')(x), condition))
    h = layer_norm(dtype, 'norm2')(x)
    return x + drop(perceptron(h, drop, int(self.mlp_ratio * width))), None


def layer_norm(dtype: jnp.dtype, name: str) -> nn.LayerNorm:
  """A layer norm with a learned scale and shift, and statistics in float32."""
  return nn.LayerNorm(epsilon=1e-6, dtype=dtype, name=name)


# Blocks by name: the class, and its settings.
BLOCKS: dict[str, tuple[type[nn.Module], dict[str, Any]]] = {
  'adaln_zero': (AdaptiveBlock, dict(gated=True)),
  'adaln': (AdaptiveBlock, dict(gated=False)),
  'cross_attention': (PlainBlock, dict(cross=True)),
  'in_context': (PlainBlock, dict(cross=False)),
}


class DiT(DiffusionNetwork):
  """Diffusion transformer.

  The output is exactly zero at initialisation, and every block of adaLN-Zero is the identity.

  Attributes:
    out_channels: channels of the output.
    num_classes: number of classes, or 0.
    block: how the blocks are told the condition: 'adaln_zero', 'adaln', 'cross_attention' or
      'in_context' (section 3.2 of the paper).
    patch: side of a patch in pixels.
    width: channels of a token; the paper's sizes are in `configs/papers/dit.py`.
    depth: blocks.
    heads: attention heads.
    mlp_ratio: hidden units of a block's perceptron over `width`.
    dropout: probability; the paper uses none.
    embedding: noise embedding, a key of `conditioning.EMBEDDINGS`.
    augment_dim: numbers in an augmentation label, or 0.
    dtype: type of the products and of the residual stream.
    scan: compile one block and loop over it; the parameters of the blocks are stacked.
    remat: recompute a block's activations in the backward pass instead of keeping them.
  """

  out_channels: int
  num_classes: int = 0
  block: Annotated[str, OneOf(*BLOCKS)] = 'adaln_zero'
  patch: Annotated[int, AT_LEAST_ONE] = 2
  width: Annotated[int, AT_LEAST_ONE] = 384
  depth: Annotated[int, AT_LEAST_ONE] = 12
  heads: Annotated[int, AT_LEAST_ONE] = 6
  mlp_ratio: Annotated[float, ABOVE_ZERO] = 4.0
  dropout: Annotated[float, BELOW_ONE] = 0.0
  embedding: Annotated[str, OneOf(*EMBEDDINGS)] = 'adm'
  augment_dim: Annotated[int, AT_LEAST_ZERO] = 0
  dtype: str = 'float32'
  scan: bool = True
  remat: bool = False

  def __post_init__(self):
    check_embedding_width(self.width)
    if self.width % 4 or self.width % self.heads:
      raise ConfigError(
        f'network.width={self.width} must be a multiple of 4 and of network.heads={self.heads}'
      )
    super().__post_init__()

  @nn.compact
  def __call__(
    self,
    x: Float[Array, 'batch height width channels'],
    noise: Float[Array, 'batch'],
    label: Int[Array, 'batch'] | None = None,
    train: bool = False,
    augment: Float[Array, 'batch numbers'] | None = None,
  ) -> Float[Array, 'batch height width out_channels']:
    height, width = x.shape[1:3]
    if height % self.patch or width % self.patch:
      raise ConfigError(f'dit.patch={self.patch} does not divide images of {height}x{width}')
    rows, columns = height // self.patch, width // self.patch
    adaptive = BLOCKS[self.block][0] is AdaptiveBlock
    condition = Conditioning(
      self.width,
      self.embedding,
      256,  # channels of the noise embedding for every width, as in the authors' code
      self.num_classes,
      self.augment_dim,
      tokens=not adaptive,
      dtype=self.dtype,
      name='conditioning',
    )(noise, label, augment)
    condition = nn.silu(condition) if adaptive else condition
    embed = nn.Dense(self.width, kernel_init=_xavier, dtype=self.dtype, name='patch_embed')
    h = embed(patchify(x, self.patch))
    h = h + sincos_positions(rows, columns, self.width).astype(self.dtype)
    if self.block == 'in_context':  # further tokens, which are left out again after the blocks
      h = jnp.concatenate([h, condition], axis=1)
    h = self._blocks(h, condition, train)[:, : rows * columns]
    if adaptive:
      # The last norm is modulated too, but has no gate: there is no residual to protect.
      modulation = nn.Dense(2 * self.width, kernel_init=_zeros, dtype=self.dtype, name='modulation')
      h = modulate(h, *jnp.split(modulation(condition), 2, axis=-1))
    else:
      h = layer_norm(jnp.dtype(self.dtype), 'norm')(h)
    # Zero at initialisation as well, and in float32: this is the network's estimate itself.
    numbers = self.patch**2 * self.out_channels
    output = nn.Dense(numbers, kernel_init=_zeros, dtype=jnp.float32, name='output_proj')
    return unpatchify(output(h), self.patch, (height, width, self.out_channels))

  def _blocks(self, h, condition, train):
    block, own = BLOCKS[self.block]
    block = nn.remat(block, prevent_cse=not self.scan) if self.remat else block
    settings = own | dict(
      heads=self.heads,
      mlp_ratio=self.mlp_ratio,
      dropout=self.dropout,
      dtype=self.dtype,
      train=train,
    )
    if self.scan:
      stack = nn.scan(
        block,
        variable_axes={'params': 0},
        split_rngs={'params': True, 'dropout': True},
        in_axes=nn.broadcast,
        length=self.depth,
      )
      return stack(**settings, name='blocks')(h, condition)[0]
    for i in range(self.depth):
      h, _ = block(**settings, name=f'block_{i}')(h, condition)
    return h
