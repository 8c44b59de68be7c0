"""The interface of orderings, and what they know about sequences of numbers."""

from typing import ClassVar, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Num

from common.data.spec import DataSpec


class Covariates(NamedTuple):
  """Data about sequences of numbers that is known before their values are predicted.

  Attributes:
    features: covariates of each emission: numbers, then codes of categories.
    location: the number that is subtracted from the values of each sequence.
    scale: the scale ν of each sequence (autoregressive/heads/numbers.py).
    columns: the data next to the values, which samples repeat.
  """

  features: Float[Array, 'batch length features']
  location: Float[Array, 'batch']
  scale: Float[Array, 'batch']
  columns: Float[Array, 'batch length columns']


class Ordering:
  """The interface of orderings. A subclass is a frozen dataclass; the defaults here are neutral.

  Attributes:
    spec: the description of the data.
    length: number of emissions in one example.
    values: number of values in one emission.
    vocabulary: a value is an integer in [0, vocabulary); 0: values are numbers.
    domains: the kinds of data that the ordering is for, as in `DataSpec.domain`.
    open_ended: whether a sequence may be shorter or longer than `length`.
    period: emissions in one token or frame. Users count lengths in tokens or frames, and must give
      at least one of them if the model has no start.
    grid: rows and columns of images; None for other data.
    features: number of covariates of each emission that are numbers.
    categories: number of codes of each covariate that is a category.
    given: number of first emissions that evaluation takes as given; the likelihood covers only the
      emissions after them.
    counts: whether all values are whole numbers from 0.
    needs_past: whether a sample needs covariates and a given beginning.
    context: number of given values that are the covariates of an emission; 0: they are emissions.
    relative: whether emissions are raw values up to a factor, as percentage errors need them.
  """

  spec: DataSpec
  length: int
  values: int
  vocabulary: int

  domains: ClassVar[tuple[str, ...]]
  open_ended: ClassVar[bool] = False
  period: ClassVar[int] = 1
  grid: ClassVar[tuple[int, int] | None] = None
  features: ClassVar[int] = 0
  categories: ClassVar[tuple[int, ...]] = ()
  given: ClassVar[int] = 0
  counts: ClassVar[bool] = False
  needs_past: ClassVar[bool] = False
  context: ClassVar[int] = 0
  relative: ClassVar[bool] = False

  def encode(
    self, x: Num[Array, 'batch *shape'], covariates: Covariates | None = None
  ) -> Num[Array, 'batch length values']:
    """Data, with the covariates of its sequences if there are any, to emissions."""
    raise NotImplementedError

  def decode(
    self, emissions: Num[Array, 'batch length values'], covariates: Covariates | None = None
  ) -> Num[Array, 'batch *shape']:
    """Emissions, with their covariates if there are any, to data: the inverse of `encode`."""
    raise NotImplementedError

  def covariates(
    self,
    x: Num[Array, 'batch *shape'],
    lengths: Int[Array, 'batch'] | None = None,
    label: Int[Array, 'batch'] | None = None,
  ) -> Covariates | None:
    """The covariates of data whose first `lengths` emissions are given; None if it has none.

    `label` is the class of each example.
    """
    del x, lengths, label
    return None

  def observed(self, x: Num[Array, 'batch *shape']) -> Num[Array, 'batch length'] | None:
    """The share of each emission that is known, and so counts in a loss; None: all of it."""
    del x
    return None

  def log_units(self, label: Int[Array, 'batch']) -> Float[Array, 'batch']:
    """ln of the unit in which examples of a class are stored, in the unit of the raw data.

    A density of a stored value, divided by this unit, is a density of the raw value.
    """
    return jnp.zeros(label.shape, jnp.float32)
