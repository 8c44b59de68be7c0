"""A learned uncertainty that balances the noise levels (Karras et al. 2024, "EDM2")."""

import math
from collections.abc import Mapping

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def uncertainty_init(width: int = 128) -> Mapping[str, Array]:
  """Parameters of the learned uncertainty; it starts at u = 0."""
  return {'kernel': jnp.zeros((width,), jnp.float32)}


def uncertainty(
  params: Mapping[str, Array], log_snr: Float[Array, 'batch']
) -> Float[Array, 'batch']:
  """u(λ), the logarithm of the expected loss at each noise level (EDM2, eq. 21).

  A loss ℓ becomes ℓ/exp(u) + u, whose minimum is at u = log E[ℓ]: every noise level then counts
  equally. u is linear in fixed random Fourier features of log(σ/α)/4.
  """
  width = params['kernel'].shape[0]
  # The key is a constant: the features are part of the model, not of its parameters.
  first, second = jax.random.split(jax.random.key(0))
  frequencies = 2 * math.pi * jax.random.normal(first, (width,))
  phases = 2 * math.pi * jax.random.uniform(second, (width,))
  # log(σ/α)/4 = −λ/8.
  features = jnp.cos(-0.125 * log_snr[:, None] * frequencies + phases)
  return features @ params['kernel'] * math.sqrt(2 / width)  # features of unit variance
