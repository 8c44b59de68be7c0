"""The interface of heads: from the outputs of a network to a distribution over one emission.

Everything is float32, whatever type the network computes in.
"""

from typing import ClassVar

from jaxtyping import Array, Float, Key, Num

Scale = Float[Array, '*#batch'] | float


class Head:
  """A distribution over one emission. A subclass is a frozen dataclass; defaults are neutral.

  Every method takes the `scale` of the sequence, which matters only to heads over numbers
  (autoregressive/heads/numbers.py).

  Attributes:
    values: number of values in an emission.
    size: outputs of the network per emission.
    rows: rows of the embedding table of a value; 0: values enter the network as numbers, through
      `network_inputs`.
    discrete: whether `logits` gives a table of logits, which decoding may transform.
    likelihood: whether `log_prob` is a log-likelihood; for quantiles it is a score.
    over_numbers: whether values are numbers; otherwise they are integers in [0, vocabulary), and
      the head has the setting `vocabulary`.
    counts: whether the head is over whole numbers from 0.
    relative: whether the head needs the level of a value, from which nothing was subtracted.
  """

  values: int
  size: int

  rows: ClassVar[int] = 0
  discrete: ClassVar[bool] = False
  likelihood: ClassVar[bool] = True
  over_numbers: ClassVar[bool] = False
  counts: ClassVar[bool] = False
  relative: ClassVar[bool] = False

  def network_inputs(
    self, emission: Num[Array, '*batch values'], scale: Scale = 1.0
  ) -> Float[Array, '*batch values']:
    """Emissions as numbers of a size that suits a network."""
    raise NotImplementedError

  def logits(
    self, outputs: Float[Array, '*batch size']
  ) -> Float[Array, '*batch values vocabulary']:
    """The logits of each value of the vocabulary."""
    raise NotImplementedError

  def log_prob(
    self,
    outputs: Float[Array, '*#batch size'],
    emission: Num[Array, '*#batch values'],
    scale: Scale = 1.0,
  ) -> Float[Array, '...']:
    """Log-probability or log-density of an emission, in nats."""
    raise NotImplementedError

  def sample(
    self, outputs: Float[Array, '*batch size'], key: Key[Array, ''], scale: Scale = 1.0
  ) -> Num[Array, '*batch values']:
    """An emission drawn from the distribution."""
    raise NotImplementedError

  def mode(
    self, outputs: Float[Array, '*batch size'], scale: Scale = 1.0
  ) -> Num[Array, '*batch values']:
    """The most probable emission, or an approximation if it has no closed form."""
    raise NotImplementedError
