"""Shared by the tests of beams and drafts: a model whose 81 sequences can be enumerated."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np

from autoregressive.decoding.generate import generate
from common.data.spec import DataSpec
from tests.autoregressive.common import outputs_of, small_model

FOUR = DataSpec('four', 'image', (1, 4, 1), 3, 2)  # four emissions of three values
LABEL = jnp.array([0, 1])
POWERS = [27, 9, 3, 1]  # a sequence as a number
RUN = jax.jit(generate, static_argnames=('greedy',))


@functools.cache
def four():
  """A model, and the log-probability of each emission of all 81 sequences, by class."""
  _, model, params = small_model(FOUR, 0.2)
  every = np.array(list(itertools.product(range(3), repeat=4)))
  tables = []
  for label in (0, 1):
    outputs = outputs_of(model, params, every[..., None], np.full(81, label))
    tables.append(np.asarray(model.head.log_prob(outputs, jnp.asarray(every)[..., None])))
  return model, params, every, tables
