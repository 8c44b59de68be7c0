"""Copies from memory: what counts, and the cost of a guess."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from autoregressive.method import build
from common.data import pipeline
from common.data.builders.sequences.copy_memory import counts, sequences
from common.evaluation.evaluate import evaluate
from common.method import Likelihood, Method
from tests.autoregressive.texts import text_config
from tests.cases import evaluation_settings

SETTINGS = evaluation_settings(batch_size=250, num_samples=4)


@dataclasses.dataclass(frozen=True, eq=False)
class Guess(Method):
  """Knows every token except the copies, which it takes for any of the eight symbols."""

  def nll(self, params, batch, key):
    counted = batch['counted'].astype(jnp.float32)
    copies = jnp.arange(batch['x'].shape[1]) >= batch['x'].shape[1] - 10
    nats = (counted * jnp.where(copies, math.log(8), 0)).sum(-1)
    return Likelihood(nats, jnp.zeros(len(nats)), counted.sum(-1))


def test_a_guess_costs_what_the_paper_says(tmp_path):
  blanks = 30
  data = pipeline.load({'name': 'copy_memory', 'blanks': blanks, 'dir': str(tmp_path)})
  assert {name: len(split) for name, split in data.splits.items()} == {
    'train': 10_000,
    'validation': 1000,
    'test': 1000,
  }
  assert (data.spec.levels, data.spec.shape, data.spec.counted) == (10, (blanks + 32,), True)
  found = evaluate(Guess(), {}, data, SETTINGS, jax.random.key(0), ['nats_per_position'])
  value = found.measures['nats_per_position'].value
  assert value == pytest.approx(10 * math.log(8) / (blanks + 20), rel=1e-6)
  # A model counts the same positions.
  made = build(text_config(), data.spec)
  batch = data.splits['test'].gather(np.arange(2))
  params, _ = jax.jit(made.init)(jax.random.key(0), batch)
  dims = jax.jit(made.nll)(params, batch, jax.random.key(0)).dims
  np.testing.assert_array_equal(dims, blanks + 20)


def test_symbols_are_copied_after_the_marker():
  x = sequences(500, 7, np.random.default_rng(3))
  symbols, copies = x[:, 11:21], x[:, -10:]
  np.testing.assert_array_equal(symbols, copies)
  assert set(np.unique(symbols)) == set(range(1, 9))
  assert (x[:, -11] == 9).all() and not x[:, :11].any() and not x[:, 21:28].any()
  assert not (symbols[:, :-1] == symbols[:, 1:]).all()
  counted = counts(7)
  assert (
    counted.tolist() == [False] + [True] * 10 + [False] * 10 + [True] * 7 + [False] + [True] * 10
  )
