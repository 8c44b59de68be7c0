"""Logits transforms and their order, and the options that choose them."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from autoregressive.decoding.transforms import (
  Options,
  frequency_penalty,
  min_p,
  repetition_penalty,
  temperature,
  top_k,
  top_p,
  transform,
)
from common.config import ConfigError
from experiments import families

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
def test_min_p_is_a_part_of_the_greatest(p, values):
  """0.4 is the greatest, so that 0.3 keeps what has a probability of 0.12 or more."""
  assert kept(min_p(LOGITS, number(p))) == values


def test_penalties_by_their_definitions():
  logits, counts = jnp.array([2.0, -2.0, 1.0]), jnp.array([1, 2, 0])
  np.testing.assert_allclose(repetition_penalty(logits, number(2.0), counts), [1.0, -4.0, 1.0])
  np.testing.assert_allclose(frequency_penalty(logits, number(0.5), counts), [1.5, -3.0, 1.0])


def test_penalties_come_before_the_temperature_and_stay_in_greedy_decoding():
  options = Options(greedy=True, frequency_penalty=1.0, temperature=0.5, top_k=3)
  assert list(options.transforms()) == ['frequency_penalty']
  numbers = Options(frequency_penalty=1.0, temperature=0.0).transforms()
  assert kept(transform(LOGITS, numbers, jnp.array([0, 1, 0, 0, 0]))) == {3}


def test_temperature_comes_before_top_p():
  """At temperature 2 the first value has mass 0.29, so that a p of 0.35 needs two."""
  numbers = Options(temperature=2.0, top_p=0.35).transforms()
  assert kept(transform(LOGITS, numbers)) == {1, 3}
  assert kept(top_p(LOGITS, number(0.35))) == {1}


def test_transforms_act_on_each_row():
  rows = jnp.stack([LOGITS, jnp.roll(LOGITS, 1)])
  numbers = Options(top_k=3, top_p=0.6).transforms()
  together = transform(rows, numbers)
  np.testing.assert_array_equal(together[1], transform(rows[1], numbers))
  assert kept(together[0]) != kept(together[1])


@pytest.mark.parametrize(
  'settings, message',
  [
    (dict(top_p=0.0), r'sampling.top_p=0.0 must be in \(0, 1\]'),
    (dict(top_p=1.5), 'sampling.top_p=1.5'),
    (dict(temperature=-1.0), 'sampling.temperature=-1.0'),
    (dict(temperature=float('nan')), 'sampling.temperature=nan'),
    (dict(top_k=-1), 'sampling.top_k=-1'),
    (dict(min_p=1.1), 'sampling.min_p=1.1'),
    (dict(repetition_penalty=0.0), 'sampling.repetition_penalty=0.0'),
    (dict(beams=0), 'sampling.beams=0 must be 1'),
    (dict(beams=2, temperature=0.5), 'beam search ranks by the model itself'),
    (dict(stop=(3.5,)), 'a stop is a tuple of one token or more'),
    (dict(stop=('',)), 'a stop is a tuple of one token or more'),
    (dict(draft_ahead=0), 'sampling.draft_ahead=0 must be 1 or more'),
    (dict(stop=((),)), 'a stop is a tuple of one token or more'),
  ],
)
def test_options_refuse(settings, message):
  with pytest.raises(ConfigError, match=message) as error:
    Options(**settings)
  assert '\n' not in str(error.value)


def test_options_agree_with_the_config():
  defaults = {field.name: field.default for field in dataclasses.fields(Options)}
  assert families.defaults('autoregressive')['sampling'] == defaults
