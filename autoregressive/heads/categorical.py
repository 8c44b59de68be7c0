"""Heads: from the outputs of a network at one position to a distribution over one emission.

A head is a frozen dataclass with
  size: how many outputs of the network it takes per emission;
  rows: rows of a table that embeds a value; 0 where values enter the network as numbers, by
    numbers(emission) -> floats [..., values];
  discrete: whether `logits` gives a table of logits, which decoding may transform;
  likelihood: whether log_prob is one (of quantiles it is a score);
  log_prob(outputs [..., size], emission [..., values]) -> nats per emission [...];
  sample(outputs, key), mode(outputs) -> emission [..., values].
Everything is float32, whatever the network computes in. Heads over values in [0, vocabulary) take
the setting `vocabulary`; the others are over numbers (autoregressive/heads/numbers.py).
"""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, Key

from common.config import ConfigError


@dataclasses.dataclass(frozen=True)
class Categorical:
  """Each value of an emission has its own softmax over the vocabulary.

  Attributes:
    values: values in an emission.
    vocabulary: a value is an integer in [0, vocabulary).
    pad_to: the table of outputs is padded to a multiple of this (hardware likes 128); the
      padding takes no part in the softmax.
  """

  values: int
  vocabulary: int
  pad_to: int = 1

  discrete: ClassVar[bool] = True
  likelihood: ClassVar[bool] = True

  @property
  def rows(self) -> int:
    """Outputs per value: the vocabulary, padded."""
    return -(-self.vocabulary // self.pad_to) * self.pad_to

  @property
  def size(self) -> int:
    """Outputs per emission."""
    return self.values * self.rows

  def logits(self, outputs: Float[Array, '... size']) -> Float[Array, '... values vocabulary']:
    """The outputs as a table, without the padding."""
    table = outputs.astype(jnp.float32).reshape(*outputs.shape[:-1], self.values, self.rows)
    return table[..., : self.vocabulary]

  def log_prob(
    self, outputs: Float[Array, '... size'], emission: Int[Array, '... values']
  ) -> Float[Array, '...']:
    """Log-probability of an emission, in nats."""
    nats = optax.softmax_cross_entropy_with_integer_labels(self.logits(outputs), emission)
    return -nats.sum(-1)

  def sample(
    self, outputs: Float[Array, '... size'], key: Key[Array, '']
  ) -> Int[Array, '... values']:
    """An emission drawn from the distribution."""
    return jax.random.categorical(key, self.logits(outputs)).astype(jnp.int32)

  def mode(self, outputs: Float[Array, '... size']) -> Int[Array, '... values']:
    """The most probable emission."""
    return self.logits(outputs).argmax(-1).astype(jnp.int32)


@dataclasses.dataclass(frozen=True)
class Bernoulli(Categorical):
  """Each value is 0 or 1, from one output: the log-odds of 1.

  Raises:
    ConfigError: for another vocabulary than two values.
  """

  pad_to: ClassVar[int] = 1

  def __post_init__(self):
    if self.vocabulary != 2:
      raise ConfigError(
        f"head 'bernoulli' is for values 0 and 1; the data have {self.vocabulary} values"
      )

  @property
  def size(self) -> int:
    """Outputs per emission."""
    return self.values

  def logits(self, outputs: Float[Array, '... size']) -> Float[Array, '... values 2']:
    """The log-odds as a table of two logits, so that decoding may transform it."""
    odds = outputs.astype(jnp.float32)
    return jnp.stack([jnp.zeros_like(odds), odds], -1)
