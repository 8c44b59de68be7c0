"""The categorical head: a softmax per value, padding."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from autoregressive.heads.categorical import Categorical


def test_categorical_is_a_softmax_per_value():
  head = Categorical(values=2, vocabulary=5)
  outputs = jax.random.normal(jax.random.key(0), (3, head.size))
  table = np.asarray(jax.nn.log_softmax(outputs.reshape(3, 2, 5)))
  emission = jnp.array([[0, 4], [3, 3], [1, 0]])
  expected = [table[i, 0, a] + table[i, 1, b] for i, (a, b) in enumerate(emission.tolist())]
  np.testing.assert_allclose(head.log_prob(outputs, emission), expected, rtol=1e-5)
  np.testing.assert_array_equal(head.mode(outputs), table.argmax(-1))


def test_padding_of_the_vocabulary_takes_no_part():
  plain, padded = Categorical(2, 5), Categorical(2, 5, pad_to=8)
  assert padded.size == 16
  outputs = jax.random.normal(jax.random.key(0), (3, plain.size))
  wide = jnp.pad(outputs.reshape(3, 2, 5), ((0, 0), (0, 0), (0, 3)), constant_values=50.0)
  wide = wide.reshape(3, 16)
  emission = jnp.array([[0, 4], [3, 3], [1, 0]])
  np.testing.assert_array_equal(padded.log_prob(wide, emission), plain.log_prob(outputs, emission))
  np.testing.assert_array_equal(padded.mode(wide), plain.mode(outputs))
  key = jax.random.key(1)
  np.testing.assert_array_equal(padded.sample(wide, key), plain.sample(outputs, key))


def test_guessing_at_copy_memory_costs_what_recurrent_networks_reach():
  """Bai et al. 2018, table 1 and section 4: 0.0204 at T = 1000, over all T + 20 positions.

  All but the last ten symbols are known; those are one of eight.
  """
  head = Categorical(1, 10)
  known = jnp.zeros((1010, 10)).at[:, 0].set(50.0)
  guess = jnp.full((10, 10), -50.0).at[:, 1:9].set(0.0)
  symbols = jnp.concatenate([jnp.zeros(1010, jnp.int32), 1 + jnp.arange(10) % 8])[:, None]
  loss = -head.log_prob(jnp.concatenate([known, guess]), symbols).mean()
  assert float(loss) == pytest.approx(0.0204, abs=5e-5)
