"""Shared by the tests on text: a tiny vocabulary, models over windows of it."""

import jax
import jax.numpy as jnp

from common.data.spec import DataSpec
from common.data.tokenizers import Characters
from tests.autoregressive.common import small_config

LETTERS = Characters('\0abcdefg\n')
WINDOWS = DataSpec('letters', 'text', (13,), 9, num_train=64, tokenizer=LETTERS)
TOKENS = dict(name='tokens')


def text_config(**overrides):
  """A small transformer over windows, its first token given."""
  settings = dict(model__start='none', network__width=16, network__heads=2) | overrides
  config = small_config(**settings)
  return config | {'ordering': TOKENS}


def windows(num, seed=0, spec=WINDOWS):
  """A batch of random windows without separators."""
  x = jax.random.randint(jax.random.key(seed), (num, *spec.shape), 1, spec.levels)
  return {'x': x.astype(jnp.uint8)}
