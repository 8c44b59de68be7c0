"""Orderings of texts and music."""

import dataclasses
from typing import Annotated, ClassVar

import jax.numpy as jnp
from jaxtyping import Array, Int, Integer

from autoregressive.orderings.base import Covariates, Ordering
from common.data.spec import DataSpec
from common.ranges import OneOf


@dataclasses.dataclass(frozen=True)
class Tokens(Ordering):
  """Tokens of a text (word pieces, characters or bytes), one after the other.

  Attributes:
    spec: DataSpec of domain 'text', with shape (context,) and one level per token.
  """

  spec: DataSpec

  domains: ClassVar[tuple[str, ...]] = ('text',)
  values: ClassVar[int] = 1
  open_ended: ClassVar[bool] = True

  @property
  def length(self) -> int:
    """Tokens in one example."""
    return self.spec.shape[0]

  @property
  def vocabulary(self) -> int:
    """Number of different tokens."""
    return self.spec.levels

  def encode(
    self, x: Integer[Array, 'batch length'], covariates: Covariates | None = None
  ) -> Int[Array, 'batch length 1']:
    """Texts to emissions."""
    del covariates
    return x[..., None].astype(jnp.int32)

  def decode(
    self, emissions: Int[Array, 'batch length 1'], covariates: Covariates | None = None
  ) -> Int[Array, 'batch length']:
    """Emissions to texts: the inverse of `encode`."""
    del covariates
    return emissions[..., 0]


@dataclasses.dataclass(frozen=True)
class Frames(Ordering):
  """Frames of several voices, or of the keys of a piano roll, one after the other.

  Attributes:
    spec: DataSpec of domain 'music' or 'rolls', with shape (frames, voices).
    voices: 'together': an emission is a frame, its voices independent given the past; 'apart': each
      voice of a frame is its own emission, which sees the earlier voices of the frame.
  """

  spec: DataSpec
  voices: Annotated[str, OneOf('together', 'apart')] = 'together'

  domains: ClassVar[tuple[str, ...]] = ('music', 'rolls')
  open_ended: ClassVar[bool] = True

  @property
  def period(self) -> int:
    """Emissions in one frame."""
    return self.spec.shape[1] if self.voices == 'apart' else 1

  @property
  def values(self) -> int:
    """Values in one emission."""
    # 'apart': 1; 'together': all voices.
    return self.spec.shape[1] // self.period

  @property
  def length(self) -> int:
    """Emissions in one example."""
    return self.spec.shape[0] * self.period

  @property
  def vocabulary(self) -> int:
    """Number of values that a voice can have."""
    return self.spec.levels

  def encode(
    self, x: Integer[Array, 'batch frames voices'], covariates: Covariates | None = None
  ) -> Int[Array, 'batch length values']:
    """Frames to emissions."""
    del covariates
    # Voices are the last axis: 'apart' splits frames into emissions of one value each.
    return x.reshape(x.shape[0], -1, self.values).astype(jnp.int32)

  def decode(
    self, emissions: Int[Array, 'batch length values'], covariates: Covariates | None = None
  ) -> Int[Array, 'batch frames voices']:
    """Emissions to frames: the inverse of `encode`."""
    del covariates
    # Any number of frames: a piece may be shorter or longer than in training.
    return emissions.reshape(emissions.shape[0], -1, self.spec.shape[1])
