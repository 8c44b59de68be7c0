"""An autoencoder of two transformers over patches, one latent for each patch.

Patches, their positions and the sizes are those of DiT (Peebles & Xie 2022); the blocks are
pre-norm, as in a vision transformer (Dosovitskiy et al. 2021). The class is added to each token.

Shapes: B batch, N tokens, D width.
"""

from typing import Annotated

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from common.attention import attend_positions_first
from common.baselines.vae.networks.base import (
  Autoencoder,
  Features,
  Images,
  Labels,
  Latents,
  Outputs,
  embed_label,
)
from common.config import ConfigError
from common.patches import patchify, sincos_positions, unpatchify
from common.ranges import ABOVE_ZERO, AT_LEAST_ONE

_init = nn.initializers.xavier_uniform()


class Block(nn.Module):
  """Attention and a two-layer perceptron, each after a norm."""

  heads: int
  mlp_ratio: float
  dtype: str

  @nn.compact
  def __call__(self, x: Float[Array, 'B N D'], _: None = None):
    """Returns (x, None): a carry and no output, as `nn.scan` expects it."""
    width, settings = x.shape[-1], dict(dtype=self.dtype, kernel_init=_init)
    h = nn.LayerNorm(1e-6, self.dtype, name='attention_norm')(x)
    # [batch, tokens, 3, heads, dim] to three arrays [batch, tokens, heads, dim]
    qkv = nn.DenseGeneral((3, self.heads, width // self.heads), name='qkv', **settings)(h)
    h = attend_positions_first(*jnp.moveaxis(qkv, 2, 0))
    x = x + nn.DenseGeneral(width, (-2, -1), name='out', **settings)(h)
    h = nn.LayerNorm(1e-6, self.dtype, name='mlp_norm')(x)
    h = nn.gelu(nn.Dense(int(self.mlp_ratio * width), name='up', **settings)(h))
    h = nn.Dense(width, name='down', **settings)(h)
    return x + h, None


class GridTransformer(nn.Module):
  """A transformer over the cells of a grid: encoder and decoder differ in the numbers of a cell.

  Attributes:
    numbers: numbers of a cell in the output.
    num_classes, dtype: see `Autoencoder`.
    width, depth, heads, mlp_ratio: see `TransformerAutoencoder`.
  """

  numbers: int
  num_classes: int
  width: int
  depth: int
  heads: int
  mlp_ratio: float
  dtype: str

  @nn.compact
  def __call__(
    self,
    cells: Float[Array, 'batch cells _'],
    grid: tuple[int, int],
    label: Labels,
  ) -> Float[Array, 'batch cells numbers']:
    h = nn.Dense(self.width, kernel_init=_init, dtype=self.dtype, name='input')(cells)
    h = h + sincos_positions(*grid, self.width).astype(self.dtype)
    embedded = embed_label(label, self.num_classes, self.width)
    if embedded is not None:
      h = h + embedded[:, None].astype(self.dtype)
    # One block is compiled, and the parameters of all blocks are stacked.
    blocks = nn.scan(
      Block,
      variable_axes={'params': 0},
      split_rngs={'params': True},
      length=self.depth,
    )
    h, _ = blocks(self.heads, self.mlp_ratio, self.dtype, name='blocks')(h, None)
    h = nn.LayerNorm(1e-6, self.dtype, name='norm')(h)
    # In float32: a loss is given these numbers.
    return nn.Dense(self.numbers, kernel_init=_init, dtype='float32', name='output')(h)


class TransformerAutoencoder(Autoencoder):
  """A transformer from patches to latents, and another one back.

  Attributes:
    out_channels, features, num_classes, dtype: see `Autoencoder`.
    patch: side of a patch in pixels.
    width: channels of a token.
    depth: blocks of the encoder, and of the decoder.
    heads: attention heads.
    mlp_ratio: hidden units of a block's perceptron over `width`.
  """

  patch: Annotated[int, AT_LEAST_ONE] = 4
  width: Annotated[int, AT_LEAST_ONE] = 128
  depth: Annotated[int, AT_LEAST_ONE] = 4
  heads: Annotated[int, AT_LEAST_ONE] = 4
  mlp_ratio: Annotated[float, ABOVE_ZERO] = 4.0

  def __post_init__(self):
    if self.width % 4 or self.width % self.heads:
      raise ConfigError(
        f'network.width={self.width} must be a multiple of 4 and of network.heads={self.heads}'
      )
    super().__post_init__()

  def setup(self):
    self.encoder = self._transformer(self.features)
    self.decoder = self._transformer(self.patch**2 * self.out_channels)

  def _transformer(self, numbers: int) -> GridTransformer:
    return GridTransformer(
      numbers,
      self.num_classes,
      self.width,
      self.depth,
      self.heads,
      self.mlp_ratio,
      self.dtype,
    )

  @property
  def factor(self) -> int:
    return self.patch

  @property
  def factor_setting(self) -> str:
    return f'network.patch={self.patch}'

  def encode(self, x: Images, label: Labels = None, train: bool = False) -> Features:
    rows, columns = grid = self.grid(*x.shape[1:3])
    tokens = self.encoder(patchify(x, self.patch), grid, label)
    return tokens.reshape(-1, rows, columns, self.features)

  def decode(self, z: Latents, label: Labels = None, train: bool = False) -> Outputs:
    rows, columns = grid = z.shape[1:3]
    cells = z.reshape(z.shape[0], rows * columns, -1)
    tokens = self.decoder(cells, grid, label)
    shape = (rows * self.patch, columns * self.patch, self.out_channels)
    return unpatchify(tokens, self.patch, shape)
