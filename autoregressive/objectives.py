"""What is minimised beside the plain log-likelihood: training aids, all off by default.

  z_loss           adds z · (log Z)², Z the normaliser of each softmax, which keeps logits from
                   drifting (Chowdhery et al. 2022, section 5; 1e-4 there)
  label_smoothing  ε: the target is (1 − ε) of the data and ε of the uniform distribution (Szegedy
                   et al. 2016, section 7)
  documents        positions see their own document alone, where several are packed into a window
  positions        'all': every position of a sequence counts, which is what makes causal training
                   cheap; 'one': a single random position of each example does, as if it had been
                   shown one prefix: the foil

The first two and the last are in training alone; a document mask is part of the model.
"""

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from common.config import ConfigError, component
from common.data.spec import DataSpec

POSITIONS = ('all', 'one')


@dataclasses.dataclass(frozen=True)
class Objective:
  """Settings of the module's docstring.

  Raises:
    ConfigError: for a value outside its range.
  """

  z_loss: float = 0.0
  label_smoothing: float = 0.0
  documents: bool = False
  positions: str = 'all'

  def __post_init__(self):
    if self.z_loss < 0:
      raise ConfigError(f'objective.z_loss={self.z_loss} must be 0 (off) or more')
    if not 0 <= self.label_smoothing < 1:
      raise ConfigError(f'objective.label_smoothing={self.label_smoothing} must be in [0, 1)')
    if self.positions not in POSITIONS:
      raise ConfigError(
        f'unknown objective.positions {self.positions!r}; known: {", ".join(POSITIONS)}'
      )

  def aids(
    self, head, outputs: Float[Array, 'batch length size'], nats: Float[Array, 'batch length']
  ) -> Float[Array, 'batch length']:
    """What each emission adds to its nats."""
    total = jnp.zeros_like(nats)
    if not (self.z_loss or self.label_smoothing):
      return total
    logits = head.logits(outputs)
    normaliser = jax.nn.logsumexp(logits, -1)
    if self.z_loss:
      total += self.z_loss * jnp.square(normaliser).sum(-1)
    if self.label_smoothing:
      uniform = (normaliser - logits.mean(-1)).sum(-1)
      total += self.label_smoothing * (uniform - nats)
    return total

  def chosen(
    self, keys: Key[Array, 'batch'], nats: Float[Array, 'batch length']
  ) -> Float[Array, 'batch length']:
    """1 for each position that counts, else 0."""
    if self.positions == 'all':
      return jnp.ones_like(nats)
    length = nats.shape[1]
    place = jax.vmap(lambda key: jax.random.randint(key, (), 0, length))(keys)
    return jax.nn.one_hot(place, length)


def build_objective(settings: Mapping, head, spec: DataSpec) -> Objective:
  """The objective of a config's `objective` section.

  Raises:
    ConfigError: for a setting that is unknown or does not suit the head or the data.
  """
  objective = component(
    {'objective': Objective}, dict(settings) | {'name': 'objective'}, 'objective'
  )
  if (objective.z_loss or objective.label_smoothing) and not head.discrete:
    raise ConfigError('objective.z_loss and label_smoothing need a head with logits')
  if objective.documents and separator_of(spec) is None:
    raise ConfigError(f'objective.documents: {spec.name} has no token that separates documents')
  return objective


def separator_of(spec: DataSpec) -> int | None:
  """The token between documents, or None."""
  return spec.tokenizer.separator if spec.tokenizer is not None else None


def document_numbers(
  emissions: Int[Array, 'batch length 1'], separator: int, start: str
) -> Int[Array, 'batch inputs']:
  """Which document each input of a model belongs to, counted from the beginning of the window.

  A separator ends a document as a target, and begins the next one as an input.

  Args:
    emissions: windows of tokens.
    separator: the token between documents.
    start: the model's (autoregressive/model.py); a start token belongs to the first document.
  """
  inputs = (emissions[:, :-1, 0] == separator).astype(jnp.int32)
  if start != 'none':
    inputs = jnp.pad(inputs, ((0, 0), (1, 0)))
  return jnp.cumsum(inputs, 1)
