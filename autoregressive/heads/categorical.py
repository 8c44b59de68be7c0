"""Heads over values of a vocabulary: a softmax for each value of an emission."""

import dataclasses
from typing import Annotated, ClassVar

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, Key

from autoregressive.heads.base import Head, Scale
from common.config import ConfigError
from common.ranges import AT_LEAST_ONE, AT_LEAST_ZERO


@dataclasses.dataclass(frozen=True)
class Categorical(Head):
  """Each value of an emission has its own softmax over the vocabulary.

  Attributes:
    values: number of values in an emission.
    vocabulary: a value is an integer in [0, vocabulary).
    pad_to: outputs per value are padded to a multiple of this (multiples of 128 suit matrix
      units); the softmax leaves the padding out.
    min_rows: outputs per value, at least; the rows of published tables, which may be padded.
  """

  values: int
  vocabulary: int
  pad_to: Annotated[int, AT_LEAST_ONE] = 1
  min_rows: Annotated[int, AT_LEAST_ZERO] = 0

  discrete: ClassVar[bool] = True

  @property
  def rows(self) -> int:
    """Outputs per value: the vocabulary, padded."""
    # -(-a // b) = ⌈a / b⌉
    return -(-max(self.vocabulary, self.min_rows) // self.pad_to) * self.pad_to

  @property
  def size(self) -> int:
    """Outputs per emission."""
    return self.values * self.rows

  def logits(self, outputs: Float[Array, '... size']) -> Float[Array, '... values vocabulary']:
    """The outputs as a table, without the padding."""
    # In float32: a softmax over a large vocabulary loses too much in bfloat16.
    table = outputs.astype(jnp.float32).reshape(*outputs.shape[:-1], self.values, self.rows)
    return table[..., : self.vocabulary]

  def log_prob(
    self,
    outputs: Float[Array, '... size'],
    emission: Int[Array, '... values'],
    scale: Scale = 1.0,
  ) -> Float[Array, '...']:
    """Log-probability of an emission, in nats: the sum over its values."""
    del scale
    # Σ over values: they are independent given the past.
    nats = optax.softmax_cross_entropy_with_integer_labels(self.logits(outputs), emission)
    return -nats.sum(-1)

  def sample(
    self, outputs: Float[Array, '... size'], key: Key[Array, ''], scale: Scale = 1.0
  ) -> Int[Array, '... values']:
    """An emission drawn from the distribution."""
    del scale
    return jax.random.categorical(key, self.logits(outputs)).astype(jnp.int32)

  def mode(self, outputs: Float[Array, '... size'], scale: Scale = 1.0) -> Int[Array, '... values']:
    """The most probable emission."""
    del scale
    return self.logits(outputs).argmax(-1).astype(jnp.int32)


@dataclasses.dataclass(frozen=True)
class Bernoulli(Categorical):
  """Each value is 0 or 1, from one output: the log-odds of 1.

  Values enter the network as numbers: a table with a row for 0 and one for 1 could say no more, and
  with many values, of which most are 0, its rows for 0 move together, as one bias with a far larger
  learning rate.

  Raises:
    ConfigError: for a vocabulary that does not have two values.
  """

  pad_to: ClassVar[int] = 1
  min_rows: ClassVar[int] = 0
  rows: ClassVar[int] = 0

  def __post_init__(self):
    if self.vocabulary != 2:
      raise ConfigError(
        f"head 'bernoulli' is for the values 0 and 1; the data has {self.vocabulary} levels: use "
        "'categorical'"
      )

  @property
  def size(self) -> int:
    """Outputs per emission."""
    return self.values

  def network_inputs(
    self, emission: Int[Array, '... values'], scale: Scale = 1.0
  ) -> Float[Array, '... values']:
    """The values as they are."""
    del scale
    return emission.astype(jnp.float32)

  def logits(self, outputs: Float[Array, '... size']) -> Float[Array, '... values 2']:
    """The log-odds as a table of two logits, which decoding may transform."""
    # The log-odds o of 1, because softmax([0, o])[1] = σ(o).
    odds = outputs.astype(jnp.float32)
    return jnp.stack([jnp.zeros_like(odds), odds], -1)
