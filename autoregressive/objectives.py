"""Additions to the negative log-likelihood in training, all off by default."""

import dataclasses
from collections.abc import Mapping
from typing import Annotated

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from autoregressive.heads.base import Head
from common.config import ConfigError, component
from common.data.spec import DataSpec
from common.ranges import BELOW_ONE, ZERO_IS_OFF, OneOf

POSITIONS = ('all', 'one')


@dataclasses.dataclass(frozen=True)
class Objective:
  """Additions to the negative log-likelihood in training, all off by default.

  All but `documents` act only in training.

  Attributes:
    z_loss: z: adds z · (log Z)², Z the normaliser of each softmax, which keeps logits from drifting
      (Chowdhery et al. 2022, section 5, with z = 1e-4).
    label_smoothing: ε: the target is (1 − ε)·data + ε·uniform distribution (Szegedy et al. 2016,
      section 7).
    documents: whether a position sees only its own document, if a window packs several.
    positions: 'all': every position of a sequence counts, which makes causal training cheap; 'one':
      only one random position of each example counts, as if each example were a single prefix (a
      baseline for comparison).
  """

  z_loss: Annotated[float, ZERO_IS_OFF] = 0.0
  label_smoothing: Annotated[float, BELOW_ONE] = 0.0
  documents: bool = False
  positions: Annotated[str, OneOf(*POSITIONS)] = 'all'

  def regularizers(
    self, head: Head, outputs: Float[Array, 'batch length size'], nats: Float[Array, 'batch length']
  ) -> Float[Array, 'batch length']:
    """z-loss and label smoothing of each emission, to be added to its nats."""
    total = jnp.zeros_like(nats)
    if not (self.z_loss or self.label_smoothing):
      return total
    logits = head.logits(outputs)
    log_normalizer = jax.nn.logsumexp(logits, -1)  # log Z
    if self.z_loss:
      # z·log² Z, summed over the values of an emission.
      total += self.z_loss * jnp.square(log_normalizer).sum(-1)
    if self.label_smoothing:
      # (1 − ε)·nats + ε·uniform = nats + ε·(uniform − nats): the cross-entropy with the uniform
      # distribution is log Z − mean logit.
      uniform = (log_normalizer - logits.mean(-1)).sum(-1)
      total += self.label_smoothing * (uniform - nats)
    return total

  def position_weights(
    self, keys: Key[Array, 'batch'], length: int
  ) -> Float[Array, 'batch length']:
    """1 for each position that counts, otherwise 0."""
    if self.positions == 'all':
      return jnp.ones((len(keys), length))
    position = jax.vmap(lambda key: jax.random.randint(key, (), 0, length))(keys)
    return jax.nn.one_hot(position, length)


def build_objective(settings: Mapping, head: Head, spec: DataSpec) -> Objective:
  """The objective of a config's `objective` section.

  Raises:
    ConfigError: for a setting that is unknown or does not suit the head or the data.
  """
  objective = component(
    {'objective': Objective}, dict(settings) | {'name': 'objective'}, 'objective'
  )
  if (objective.z_loss or objective.label_smoothing) and not head.discrete:
    raise ConfigError(
      "objective.z_loss and label_smoothing need a head with logits, such as 'categorical': set "
      'both to 0'
    )
  if objective.documents and separator_of(spec) is None:
    raise ConfigError(
      f'objective.documents=True needs a separator, but {spec.name} has no token that separates '
      'documents: set objective.documents=False'
    )
  return objective


def separator_of(spec: DataSpec) -> int | None:
  """The token between documents, or None."""
  return spec.tokenizer.separator if spec.tokenizer is not None else None


def document_numbers(
  emissions: Int[Array, 'batch length 1'], separator: int, start: str
) -> Int[Array, 'batch inputs']:
  """The document that each input of a model belongs to, counted from the beginning of the window.

  As a target a separator ends a document; as an input it begins the next one.

  Args:
    emissions: windows of tokens.
    separator: the token between documents.
    start: `Model.start`; a start token belongs to the first document.
  """
  # Inputs are emissions shifted by one: a separator is the first input of the next document.
  inputs = (emissions[:, :-1, 0] == separator).astype(jnp.int32)
  if start != 'none':
    inputs = jnp.pad(inputs, ((0, 0), (1, 0)))
  # The number of separators up to and including the input.
  return jnp.cumsum(inputs, 1)
