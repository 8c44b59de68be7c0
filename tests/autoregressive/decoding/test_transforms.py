"""Logit transforms and their order."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from autoregressive.decoding.settings import DecodingSettings
from autoregressive.decoding.transforms import (
  frequency_penalty,
  min_p,
  repetition_penalty,
  temperature,
  top_k,
  top_p,
  transform,
)

LOGITS = jnp.log(jnp.array([0.1, 0.4, 0.05, 0.25, 0.2]))


def kept(logits):
  return set(np.flatnonzero(np.asarray(jax.nn.softmax(logits)) > 0).tolist())


def number(value):
  return jnp.float32(value)


def test_top_k_keeps_the_most_probable():
  assert kept(top_k(LOGITS, number(2))) == {1, 3}
  assert kept(top_k(LOGITS, number(1))) == {1}


@pytest.mark.parametrize('k', [5, 50])
def test_top_k_of_the_vocabulary_changes_nothing(k):
  np.testing.assert_array_equal(top_k(LOGITS, number(k)), LOGITS)


@pytest.mark.parametrize(
  'p, values', [(1e-6, {1}), (0.39, {1}), (0.41, {1, 3}), (0.7, {1, 3, 4}), (1.0, set(range(5)))]
)
def test_top_p_keeps_the_value_that_crosses(p, values):
  assert kept(top_p(LOGITS, number(p))) == values


def test_temperature_towards_zero_is_greedy():
  for cold in (0.0, 1e-3, 1e-30):
    assert kept(temperature(LOGITS, number(cold))) == {1}
  warm = temperature(LOGITS, number(2.0))
  np.testing.assert_allclose(jax.nn.softmax(warm), jax.nn.softmax(LOGITS / 2), rtol=1e-5)


@pytest.mark.parametrize('p, values', [(0.0, set(range(5))), (0.3, {1, 3, 4}), (1.0, {1})])
def test_min_p_is_a_fraction_of_the_largest(p, values):
  """0.4 is the largest, so 0.3 keeps values with a probability of at least 0.12."""
  assert kept(min_p(LOGITS, number(p))) == values


def test_penalties_by_their_definitions():
  logits, counts = jnp.array([2.0, -2.0, 1.0]), jnp.array([1, 2, 0])
  np.testing.assert_allclose(repetition_penalty(logits, number(2.0), counts), [1.0, -4.0, 1.0])
  np.testing.assert_allclose(frequency_penalty(logits, number(0.5), counts), [1.5, -3.0, 1.0])


def test_penalties_come_before_the_temperature_and_stay_in_greedy_decoding():
  settings = DecodingSettings(greedy=True, frequency_penalty=1.0, temperature=0.5, top_k=3)
  assert list(settings.active_transforms()) == ['frequency_penalty']
  transforms = DecodingSettings(frequency_penalty=1.0, temperature=0.0).active_transforms()
  assert kept(transform(LOGITS, transforms, jnp.array([0, 1, 0, 0, 0]))) == {3}


def test_temperature_comes_before_top_p():
  """At temperature 2 the first value has mass 0.29, so a p of 0.35 needs two."""
  transforms = DecodingSettings(temperature=2.0, top_p=0.35).active_transforms()
  assert kept(transform(LOGITS, transforms)) == {1, 3}
  assert kept(top_p(LOGITS, number(0.35))) == {1}


def test_transforms_act_on_each_row():
  rows = jnp.stack([LOGITS, jnp.roll(LOGITS, 1)])
  transforms = DecodingSettings(top_k=3, top_p=0.6).active_transforms()
  together = transform(rows, transforms)
  np.testing.assert_array_equal(together[1], transform(rows[1], transforms))
  assert kept(together[0]) != kept(together[1])
