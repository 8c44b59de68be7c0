import jax.numpy as jnp
import numpy as np

from common.patches import patchify, sincos_positions, unpatchify


def test_patches_are_cut_row_by_row_and_put_back():
  x = jnp.arange(2 * 4 * 6 * 3.0).reshape(2, 4, 6, 3)
  tokens = patchify(x, 2)
  np.testing.assert_array_equal(tokens[1, 4], x[1, 2:4, 2:4].reshape(-1))
  np.testing.assert_array_equal(unpatchify(tokens, 2, (4, 6, 3)), x)


def test_positions_depend_on_row_and_column_by_halves():
  table = sincos_positions(2, 3, 8).reshape(2, 3, 8)
  np.testing.assert_allclose(table[1, 2, :4], [np.sin(2), np.sin(0.02), np.cos(2), np.cos(0.02)])
  np.testing.assert_allclose(table[1, 2, 4:], [np.sin(1), np.sin(0.01), np.cos(1), np.cos(0.01)])
