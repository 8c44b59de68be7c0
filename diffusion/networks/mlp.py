"""A residual multi-layer perceptron, for data of few dimensions."""

import functools
import math
from typing import Annotated

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from common.ranges import AT_LEAST_ONE, BELOW_ONE, OneOf
from diffusion.networks.base import DiffusionNetwork
from diffusion.networks.conditioning import EMBEDDINGS, Conditioning, check_embedding_width


class MLP(DiffusionNetwork):
  """Residual blocks on the flattened input; the condition is added inside each.

  Attributes:
    out_channels: channels of the output; its other axes are those of the input.
    num_classes: number of classes, or 0.
    width: hidden units.
    depth: residual blocks.
    dropout: probability.
    embedding: noise embedding, a key of `conditioning.EMBEDDINGS`.
    dtype: type of the products and of the residual stream.
  """

  out_channels: int
  num_classes: int = 0
  width: Annotated[int, AT_LEAST_ONE] = 128
  depth: Annotated[int, AT_LEAST_ONE] = 3
  dropout: Annotated[float, BELOW_ONE] = 0.0
  embedding: Annotated[str, OneOf(*EMBEDDINGS)] = 'adm'
  dtype: str = 'float32'

  def __post_init__(self):
    check_embedding_width(self.width)
    super().__post_init__()

  @nn.compact
  def __call__(
    self,
    x: Float[Array, 'batch *axes channels'],
    noise: Float[Array, 'batch'],
    label: Int[Array, 'batch'] | None = None,
    train: bool = False,
  ) -> Float[Array, 'batch *axes out_channels']:
    condition = Conditioning(
      self.width,
      self.embedding,
      self.width,
      self.num_classes,
      dtype=self.dtype,
      name='conditioning',
    )(noise, label)
    # All axes are flattened into one: few dimensions have no neighbourhood to exploit.
    dense = functools.partial(nn.Dense, self.width, dtype=self.dtype)
    norm = functools.partial(nn.LayerNorm, dtype=self.dtype)  # statistics are in float32
    h = dense()(x.reshape(x.shape[0], -1))
    for _ in range(self.depth):
      # Only the branch is normalised, so the residual stream passes through unchanged.
      inner = norm()(h) + dense()(nn.silu(condition))
      inner = nn.silu(dense()(nn.silu(inner)))
      inner = nn.Dropout(self.dropout, deterministic=not train)(inner)
      h = h + dense()(inner)
    # Zero at initialisation and in float32, like the output of the other networks.
    shape = (*x.shape[:-1], self.out_channels)
    output = nn.Dense(math.prod(shape[1:]), kernel_init=nn.initializers.zeros, dtype=jnp.float32)
    return output(norm()(h)).reshape(shape)
