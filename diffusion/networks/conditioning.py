"""The conditions of a network besides its input: noise level, class, augmentation."""

import functools
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from common.config import ConfigError, pick


def sinusoid_ddpm(noise: Float[Array, 'batch'], dim: int) -> Float[Array, 'batch dim']:
  """[sin, cos], frequencies 1 to 1/10000 inclusive (Ho et al. 2020, the authors' code)."""
  half = dim // 2
  # The divisor half - 1 makes the last frequency exactly 1/10000; ADM divides by half.
  angles = noise[:, None] * jnp.exp(-math.log(10_000) * jnp.arange(half) / (half - 1))
  return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)


def sinusoid_adm(noise: Float[Array, 'batch'], dim: int) -> Float[Array, 'batch dim']:
  """[cos, sin], frequencies 1 to 1/10000 exclusive (Dhariwal & Nichol 2021 and DiT, code)."""
  half = dim // 2
  angles = noise[:, None] * jnp.exp(-math.log(10_000) * jnp.arange(half) / half)
  return jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=-1)


def random_fourier(noise: Float[Array, 'batch'], dim: int) -> Float[Array, 'batch dim']:
  """[sin, cos] of noise/1000 at fixed random frequencies of scale 16 (Song et al. 2021, NCSN++).

  The frequencies are constants from a fixed key, not parameters: the paper does not train them
  either.
  """
  frequencies = 16.0 * jax.random.normal(jax.random.key(0), (dim // 2,))
  # From DDPM's scale, 0 to 1000, to the paper's, 0 to 1.
  angles = noise[:, None] * (2 * math.pi / 1000) * frequencies
  return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)


EMBEDDINGS = {'ddpm': sinusoid_ddpm, 'adm': sinusoid_adm, 'fourier': random_fourier}


def check_embedding_width(dim: int):
  """Raises ConfigError for a noise embedding whose number of channels is odd or too small."""
  if dim < 4 or dim % 2:
    raise ConfigError(f'the channels of a noise embedding must be even and 4 or more, got {dim}')


class Conditioning(nn.Module):
  """One vector per example from noise level, class and augmentation; or one vector for each.

  Attributes:
    width: size of a vector.
    embedding: a key of `EMBEDDINGS`.
    embedding_width: size of the noise embedding.
    num_classes: number of classes, or 0. Index `num_classes` is the null class.
    augment_dim: numbers that describe an example's augmentation; zeros mean an unchanged
      image (Karras et al. 2022, appendix F.2).
    early_label: the class is added to the noise embedding before its two layers, times √classes
      (Karras et al. 2022, the authors' code); otherwise after them.
    tokens: return [noise level and augmentation, class] instead of their sum.
    kernel_init, label_init: initialisers.
    dtype: type of the products and of the vectors.
  """

  width: int
  embedding: str
  embedding_width: int
  num_classes: int = 0
  augment_dim: int = 0
  early_label: bool = False
  tokens: bool = False
  kernel_init: nn.initializers.Initializer = nn.initializers.normal(0.02)
  label_init: nn.initializers.Initializer = nn.initializers.normal(0.02)
  dtype: str = 'float32'

  @nn.compact
  def __call__(
    self,
    noise: Float[Array, 'batch'],
    label: Int[Array, 'batch'] | None = None,
    augment: Float[Array, 'batch numbers'] | None = None,
  ) -> Float[Array, 'batch width'] | Float[Array, 'batch tokens width']:
    dense = functools.partial(nn.Dense, kernel_init=self.kernel_init, dtype=self.dtype)
    # The sinusoids are in float32: bfloat16 cannot tell neighbouring noise levels apart.
    h = pick(EMBEDDINGS, self.embedding, 'embedding')(noise, self.embedding_width)
    # No bias: for an example without augmentation (all zeros) the projection is exactly 0.
    if self.augment_dim:
      if augment is None:
        augment = jnp.zeros((noise.shape[0], self.augment_dim))
      h = h + dense(h.shape[-1], use_bias=False, name='augment_proj')(augment)
    elif augment is not None:
      raise ConfigError('a network with augment_dim=0 takes no augmentation labels')
    if label is not None and not self.num_classes:
      raise ConfigError('a network with num_classes=0 takes no labels')
    null = jnp.full(noise.shape, self.num_classes, jnp.int32)
    label = null if label is None else label
    early = self.early_label and self.num_classes > 0
    if early:
      # Zeros for the null class, √classes for any other: entries of variance near 1.
      one_hot = self.num_classes**0.5 * jax.nn.one_hot(label, self.num_classes)
      h = h + dense(h.shape[-1], name='label_proj')(one_hot)
    # Two layers with a SiLU between, as in the authors' code of DDPM, ADM and DiT.
    h = dense(self.width, name='first')(h)
    h = dense(self.width, name='second')(nn.silu(h))
    vectors = [h]
    if self.num_classes and not early:
      # One more row than there are classes: the null class, for training without the label.
      embed = nn.Embed(
        self.num_classes + 1, self.width, embedding_init=self.label_init, name='label_embed'
      )
      # Rows are looked up in float32, so that the gradients of a row add up in float32.
      vectors.append(embed(label).astype(h.dtype))
    return jnp.stack(vectors, axis=1) if self.tokens else sum(vectors[1:], start=h)
