"""DiT: a transformer over patches, conditioned by adaptive norms (Peebles & Xie 2022).

Shapes: B batch, N patches, D width, H heads.
"""

import functools
from typing import Annotated

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


class Block(nn.Module):
  """Attention and a two-layer perceptron, each modulated and gated: adaLN-Zero (section 3.2)."""

  heads: int
  mlp_ratio: float
  dropout: float
  dtype: str
  train: bool

  @nn.compact
  def __call__(self, x: Float[Array, 'B N D'], condition: Float[Array, 'B D']):
    """Returns (x, None): a carry and no output, as `nn.scan` expects it."""
    width, dtype = x.shape[-1], jnp.dtype(self.dtype)
    drop = nn.Dropout(self.dropout, deterministic=not self.train)
    # Zero at initialisation, gates included: every block starts as the identity.
    dense = functools.partial(nn.Dense, dtype=dtype)
    modulation = dense(6 * width, kernel_init=_zeros, name='modulation')(condition)
    shift1, scale1, gate1, shift2, scale2, gate2 = jnp.split(modulation, 6, axis=-1)

    h = modulate(x, shift1, scale1)
    qkv = nn.DenseGeneral(
      (3, self.heads, width // self.heads), kernel_init=_xavier, dtype=dtype, name='qkv'
    )(h)
    # [batch, patches, 3, heads, dim] to three arrays [batch, patches, heads, dim]
    h = attend_positions_first(*jnp.moveaxis(qkv, 2, 0))
    h = nn.DenseGeneral(width, (-2, -1), kernel_init=_xavier, dtype=dtype, name='out')(h)
    x = x + gate1[:, None] * drop(h)

    # The same for the perceptron: modulate, branch, gate, residual.
    h = modulate(x, shift2, scale2)
    hidden = int(self.mlp_ratio * width)
    h = nn.gelu(dense(hidden, kernel_init=_xavier, name='up')(h))
    h = dense(width, kernel_init=_xavier, name='down')(drop(h))
    return x + gate2[:, None] * drop(h), None


class DiT(DiffusionNetwork):
  """Diffusion transformer.

  The output is exactly zero at initialisation, and every block is the identity.

  Attributes:
    out_channels: channels of the output.
    num_classes: number of classes, or 0.
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
    condition = nn.silu(
      Conditioning(
        self.width,
        self.embedding,
        256,  # channels of the noise embedding for every width, as in the authors' code
        self.num_classes,
        self.augment_dim,
        dtype=self.dtype,
        name='conditioning',
      )(noise, label, augment)
    )
    embed = nn.Dense(self.width, kernel_init=_xavier, dtype=self.dtype, name='patch_embed')
    h = embed(patchify(x, self.patch))
    h = h + sincos_positions(rows, columns, self.width).astype(self.dtype)
    h = self._blocks(h, condition, train)
    # The last norm is modulated too, but has no gate: there is no residual to protect.
    shift, scale = jnp.split(
      nn.Dense(2 * self.width, kernel_init=_zeros, dtype=self.dtype, name='modulation')(condition),
      2,
      axis=-1,
    )
    # Zero at initialisation as well, and in float32: this is the network's estimate itself.
    numbers = self.patch**2 * self.out_channels
    output = nn.Dense(numbers, kernel_init=_zeros, dtype=jnp.float32, name='output_proj')
    h = output(modulate(h, shift, scale))
    return unpatchify(h, self.patch, (height, width, self.out_channels))

  def _blocks(self, h, condition, train):
    block = nn.remat(Block, prevent_cse=not self.scan) if self.remat else Block
    settings = dict(
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
