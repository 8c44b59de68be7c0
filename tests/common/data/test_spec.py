"""The description of data."""

import jax.numpy as jnp
import numpy as np
import pytest

from common.data.spec import from_unit, to_unit, token_dtype


@pytest.mark.parametrize('levels', [2, 17, 256, 257, 1000, 65_536])
def test_every_value_comes_back(levels):
  x = jnp.arange(levels).astype(token_dtype(levels))
  unit = to_unit(x, levels)
  assert float(unit[0]) == -1 and float(unit[-1]) == pytest.approx(1)
  back = from_unit(unit, levels)
  assert back.dtype == x.dtype
  np.testing.assert_array_equal(back, x)
  np.testing.assert_array_equal(from_unit(jnp.asarray([-3.0, 3.0]), levels), [0, levels - 1])
