"""The dense layer of muP."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float


class MupDense(nn.Module):
  """A dense layer of muP (Yang et al. 2022, table 8): its weights are the kernel over `ratio`.

  The kernel is initialised √ratio times as large as `kernel_init` gives, so the variance of the
  weights is initially 1/ratio of the usual one. Adam moves the kernel equally far at every width,
  and therefore the weights 1/ratio as far. These are the learning rates of muP, without parameter
  groups in the optimiser.

  Attributes:
    features, use_bias, dtype, kernel_init: as in nn.Dense.
    ratio: width over base width.
  """

  features: int
  use_bias: bool
  dtype: Any
  kernel_init: Callable[..., Array]
  ratio: float

  @nn.compact
  def __call__(self, x: Float[Array, '*batch inputs']) -> Float[Array, '*batch features']:
    # In float32 up to the division: small updates would vanish in bfloat16.
    kernel = self.param('kernel', self._init, (x.shape[-1], self.features), jnp.float32)
    y = x.astype(self.dtype) @ (kernel / self.ratio).astype(self.dtype)
    if self.use_bias:
      y += self.param('bias', nn.initializers.zeros, (self.features,), jnp.float32).astype(y.dtype)
    return y

  def _init(self, *args) -> Array:
    return self.ratio**0.5 * self.kernel_init(*args)
