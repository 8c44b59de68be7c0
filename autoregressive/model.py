"""Emissions in, outputs for a head out: embeddings and a projection around a causal network.

This is where a causal network becomes a model of sequences: inputs are the emissions shifted by
one, behind a start token that carries the class, so outputs[:, i] depends on emissions[:, < i].
"""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Num

from autoregressive.networks.base import CausalNetwork
from autoregressive.orderings import Known
from common.config import ConfigError

STARTS = ('learned', 'token', 'none')


class Model(nn.Module):
  """Embeds emissions, runs a causal network, projects to the outputs that a head takes.

  Attributes:
    network: a causal network (autoregressive/networks/__init__.py).
    head: an output distribution (autoregressive/heads/categorical.py).
    values: values in an emission.
    rows: rows in the table of each of them: the vocabulary, or more; 0: no table, a linear map of
      the values as numbers.
    num_classes: classes; the start token has a row for each, and one for 'no class'.
    tied: whether the projection is the table of embeddings, transposed.
    start: what stands before the first emission. 'learned': a token of its own, by class;
      'token': the embedding of the value `start_token`; 'none': nothing, so that the first
      emission is given, not modelled (how language models are trained on windows of a text).
    start_token: see there.
    logit_cap: outputs are soft-capped to ±logit_cap by a tanh (Gemma Team 2024); 0: not at all.
    features: numbers that are known of an emission before it is (`Known`): a linear map of them is
      added to the input that the emission is predicted from.

  Raises:
    ConfigError: for a start that cannot carry the class, or an unknown one; for tied embeddings
      or a start that is a token where there is no table.
  """

  network: CausalNetwork
  head: Any
  values: int
  rows: int
  num_classes: int = 0
  tied: bool = False
  start: str = 'learned'
  start_token: int = 0
  logit_cap: float = 0.0
  features: int = 0

  def __post_init__(self):
    super().__post_init__()
    if self.start not in STARTS:
      raise ConfigError(f'unknown model.start {self.start!r}; known: {", ".join(STARTS)}')
    if self.num_classes and self.start != 'learned':
      raise ConfigError(f"model.start={self.start!r} carries no class; use 'learned'")
    if self.start == 'none' and self.network.grid:
      raise ConfigError("model.start='none': a network over images needs a start; use 'learned'")
    if not self.rows and (self.tied or self.start == 'token'):
      raise ConfigError(
        "model.tied and model.start='token' need a table of embeddings; numbers have none"
      )

  def setup(self):
    init = nn.initializers.normal(0.02)
    width = self.network.width
    if self.rows:
      self.table = nn.Embed(self.values * self.rows, width, embedding_init=init)
    else:
      self.lift = nn.Dense(width)
    if self.features:
      self.beside = nn.Dense(width, use_bias=False)
    if self.start == 'learned':
      self.begin = nn.Embed(self.num_classes + 1, width, embedding_init=init)
    if not self.tied:
      self.out = nn.Dense(self.head.size, use_bias=False, kernel_init=init)

  def __call__(
    self,
    emissions: Num[Array, 'batch length values'],
    label: Int[Array, 'batch'] | None = None,
    train: bool = False,
    segments: Int[Array, 'batch inputs'] | None = None,
    known: Known | None = None,
  ) -> Float[Array, 'batch inputs size']:
    """Outputs for every emission (but the first, where start is 'none'), in float32.

    Args:
      emissions: whole sequences.
      label: class of each; None, or num_classes: no class.
      train: whether to drop; needs the random stream 'dropout'.
      segments: see the networks.
      known: of sequences of numbers.
    """
    scale = None if known is None else known.scale
    inputs = self.embed(emissions[:, :-1], scale)
    if self.start != 'none':
      inputs = jnp.concatenate([self.embed_start(emissions.shape[0], label), inputs], 1)
    if self.features:
      inputs += self.embed_features(known.features[:, -inputs.shape[1] :])
    hidden, _ = self.network(inputs, train=train, segments=segments)
    return self.project(hidden)

  def embed(
    self, emissions: Num[Array, 'batch length values'], scale: Float[Array, 'batch'] | None = None
  ) -> Float[Array, 'batch length width']:
    """Emissions as inputs: each place in an emission has a table of its own, and they add up;
    numbers, divided by the scale of their sequence, go through one linear map."""
    if not self.rows:
      scaled = () if scale is None else (scale[:, None],)
      return self.lift(self.head.numbers(emissions, *scaled))
    if self.values == 1:
      return self.table(emissions[..., 0])
    return self.table(emissions + self.rows * jnp.arange(self.values)).sum(-2)

  def embed_features(
    self, features: Float[Array, 'batch length features']
  ) -> Float[Array, 'batch length width']:
    """What is known of emissions, as a part of the inputs that they are predicted from."""
    return self.beside(features)

  def embed_start(
    self, batch: int, label: Int[Array, 'batch'] | None = None
  ) -> Float[Array, 'batch 1 width']:
    """The input before the first emission."""
    if self.start == 'token':
      return self.embed(jnp.full((batch, 1, self.values), self.start_token))
    if label is None:
      label = jnp.full((batch,), self.num_classes)
    return self.begin(label)[:, None]

  def project(
    self, hidden: Float[Array, 'batch length width']
  ) -> Float[Array, 'batch length size']:
    """Hidden states to outputs, in float32."""
    hidden = hidden.astype(jnp.float32)
    outputs = self.table.attend(hidden) if self.tied else self.out(hidden)
    outputs *= self.network.output_scale
    if self.logit_cap:
      outputs = self.logit_cap * jnp.tanh(outputs / self.logit_cap)
    return outputs

  def extend(self, inputs: Float[Array, 'batch length width'], cache):
    """The next part of a sequence: (hidden states, cache)."""
    return self.network(inputs, cache)
