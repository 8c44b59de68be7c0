"""Vector quantisation against its definition, gradients included."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from common.baselines.vae import codebook

RANDOM = np.random.default_rng(0)
Z = RANDOM.normal(size=(3, 4, 5, 6)).astype(np.float32)
TABLE = RANDOM.normal(size=(17, 6)).astype(np.float32)


nearest, quantise = jax.jit(codebook.nearest), jax.jit(codebook.quantise)


def distances():
  return np.square(Z[..., None, :].astype(np.float64) - TABLE).sum(-1)


def test_the_nearest_vector_has_the_smallest_distance():
  codes = nearest(Z, TABLE)
  np.testing.assert_array_equal(codes, distances().argmin(-1))
  assert len(np.unique(codes)) > 8  # the test is not about one code


def test_the_nearest_vector_is_found_far_from_the_origin():
  far = np.float32(1024)  # a power of two, so that sums lose few digits
  table = TABLE + far
  expected = np.square((Z + far)[..., None, :].astype(np.float64) - table).sum(-1).argmin(-1)
  np.testing.assert_array_equal(nearest(Z + far, table), expected)


def test_of_equal_vectors_the_first_is_taken():
  table = np.stack([TABLE[0], TABLE[1], TABLE[1], TABLE[0]])
  assert set(np.unique(nearest(Z, table))) == {0, 1}


def test_vectors_of_the_codebook_are_quantised_to_themselves():
  z = TABLE[np.arange(16).reshape(2, 2, 4)]
  found = quantise(z, TABLE)
  np.testing.assert_array_equal(found.codes.reshape(-1), np.arange(16))
  np.testing.assert_array_equal(found.vectors, z)
  np.testing.assert_array_equal(found.straight, z)


def test_the_gradient_passes_straight_through():
  """The decoder's gradient at the quantised vectors is the gradient of the encoder's outputs."""
  weights = RANDOM.normal(size=Z.shape).astype(np.float32)
  decode = lambda vectors: jnp.sum(weights * jnp.sin(vectors))
  run = lambda z, table: decode(codebook.quantise(z, table).straight)
  value, (to_z, to_table) = jax.value_and_grad(run, (0, 1))(Z, TABLE)
  vectors = TABLE[distances().argmin(-1)]
  np.testing.assert_allclose(value, decode(vectors), rtol=1e-5)
  np.testing.assert_allclose(to_z, weights * np.cos(vectors), rtol=1e-4, atol=1e-6)
  assert not np.any(to_table)  # only its own loss moves the codebook


def test_the_codebook_loss_moves_the_codebook_alone_and_commitment_the_encoder_alone():
  codes = distances().argmin(-1)
  apart, positions = Z - TABLE[codes], 4 * 5
  squares = np.square(apart).sum(-1).mean((1, 2))

  def losses(z, table):
    vectors = codebook.quantise(z, table).vectors
    return codebook.codebook_loss(z, vectors), codebook.commitment_loss(z, vectors, 0.5)

  both, pullback = jax.vjp(jax.jit(losses), Z, TABLE)
  np.testing.assert_allclose(both[0], squares, rtol=1e-5)
  np.testing.assert_allclose(both[1], 0.5 * squares, rtol=1e-5)

  ones, zeros = jnp.ones(3), jnp.zeros(3)
  to_z, to_table = pullback((ones, zeros))
  expected = np.zeros_like(TABLE)
  np.add.at(expected, codes, -2 * apart / positions)
  np.testing.assert_allclose(to_table, expected, rtol=1e-4, atol=1e-6)
  assert not np.any(to_z)

  to_z, to_table = pullback((zeros, ones))
  np.testing.assert_allclose(to_z, 0.5 * 2 * apart / positions, rtol=1e-4, atol=1e-6)
  assert not np.any(to_table)


@pytest.mark.parametrize(
  ('counts', 'used', 'perplexity'),
  [
    ((12, 0, 0, 0), 1, 1.0),
    ((3, 3, 3, 3), 4, 4.0),
    ((6, 6, 0, 0), 2, 2.0),
    # Entropy of (1/2, 1/4, 1/4): 1.5 bits.
    ((6, 3, 3, 0), 3, 2**1.5),
  ],
)
def test_usage_in_closed_form(counts, used, perplexity):
  codes = np.repeat(np.arange(4), counts).reshape(3, 2, 2)
  found = jax.jit(codebook.usage, static_argnums=1)(codes, 4)
  assert found['codes_used'] == used
  np.testing.assert_allclose(found['perplexity'], perplexity, rtol=1e-6)
