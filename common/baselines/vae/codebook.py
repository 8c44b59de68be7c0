"""Vector quantisation: each vector is replaced by the nearest one of a codebook.

van den Oord et al. 2017, section 3. With z the encoder's output and e the vectors of the codebook:

  k = argmin_j ‖z - e_j‖                        (equations 1 and 2)
  L = -log p(x|e_k) + ‖sg(z) - e_k‖² + β·‖z - sg(e_k)‖²    (equation 3)

sg stops gradients. Gradients reach the encoder as if quantisation were the identity
(straight-through).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

Vectors = Float[Array, 'batch rows columns channels']
Table = Float[Array, 'codes channels']
Codes = Int[Array, 'batch rows columns']


class Quantised(NamedTuple):
  """Vectors and their nearest neighbours in a codebook.

  Attributes:
    codes: index of the nearest vector at each position.
    vectors: these vectors, whose gradients belong to the codebook.
    straight: the same values for the decoder; their gradients pass to the encoder unchanged.
  """

  codes: Codes
  vectors: Vectors
  straight: Vectors


def nearest(z: Vectors, codebook: Table) -> Codes:
  """The index of the vector with the smallest distance; the first of several."""
  # Distances do not change with the origin; one amid the codebook loses no digits in the squares.
  origin = codebook.mean(axis=0)
  z, codebook = z - origin, codebook - origin
  # ‖z - e‖² = ‖z‖² - 2·z·e + ‖e‖², and ‖z‖² is the same for all codes. The product is in full
  # precision: a TPU would round its operands to bfloat16, and the nearest might be another one.
  product = jnp.einsum('bhwc,kc->bhwk', z, codebook, precision=jax.lax.Precision.HIGHEST)
  return jnp.argmin(jnp.square(codebook).sum(-1) - 2 * product, axis=-1)


def quantise(z: Vectors, codebook: Table) -> Quantised:
  """The nearest vectors, with and without the straight-through gradient (section 3.2)."""
  codes = nearest(z, codebook)
  vectors = codebook[codes]
  return Quantised(codes, vectors, z + jax.lax.stop_gradient(vectors - z))


def codebook_loss(z: Vectors, vectors: Vectors) -> Float[Array, 'batch']:
  """‖sg(z) - e‖², a mean over positions: it moves the codebook to the encoder's outputs."""
  return _square_distance(jax.lax.stop_gradient(z), vectors)


def commitment_loss(z: Vectors, vectors: Vectors, beta: float = 0.25) -> Float[Array, 'batch']:
  """β·‖z - sg(e)‖², a mean over positions: it keeps the encoder's outputs at their vectors.

  Args:
    z: the encoder's outputs.
    vectors: their nearest vectors.
    beta: its weight; 0.25 in the paper, where 0.1 to 2.0 made no difference.
  """
  return beta * _square_distance(z, jax.lax.stop_gradient(vectors))


def _square_distance(a: Vectors, b: Vectors) -> Float[Array, 'batch']:
  # The paper averages over the latents of an example (section 3.2, last paragraph).
  return jnp.square(a - b).sum(-1).mean((1, 2))


def usage(codes: Codes, num_codes: int) -> dict[str, Float[Array, '']]:
  """How much of the codebook a batch uses.

  Args:
    codes: indices of vectors.
    num_codes: number of vectors in the codebook.

  Returns:
    'codes_used': the number of vectors that occur; 'perplexity': exp of the entropy of their
    frequencies, from 1 (always the same) to `num_codes` (all equally often).
  """
  counts = jnp.bincount(codes.reshape(-1), length=num_codes)
  shares = counts / codes.size
  entropy = jax.scipy.special.entr(shares).sum()  # 0·log 0 is 0
  return {
    'codes_used': (counts > 0).sum().astype(jnp.float32),
    'perplexity': jnp.exp(entropy),
  }
