"""Emissions in, outputs for a head out: embeddings and a projection around a causal network.

This is where a causal network becomes a model of sequences: inputs are the emissions shifted by
one, after a start token that carries the class, so outputs[:, i] depends on emissions[:, < i].
"""

from collections.abc import Mapping
from typing import Annotated, Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Num

from autoregressive.heads.base import Head
from autoregressive.networks.base import EMBED_STD, CausalNetwork
from autoregressive.orderings.base import Covariates
from common import precision
from common.config import ConfigError
from common.ranges import AT_LEAST_ZERO, ZERO_IS_OFF, Interval, OneOf

STARTS = ('learned', 'token', 'none')


class Model(nn.Module):
  """Embeds emissions, runs a causal network, projects to the outputs that a head takes.

  Attributes:
    network: a causal network (autoregressive/networks/base.py).
    head: an output distribution (autoregressive/heads/base.py).
    values: number of values in an emission.
    rows: rows in the embedding table of each value: the vocabulary, or more; 0: no table, but a
      linear map of the values as numbers.
    num_classes: classes; the start embedding has a row for each, and one for 'no class'.
    tied: whether the output projection is the embedding table, transposed.
    start: the input before the first emission. 'learned': a learned embedding of the class;
      'token': the embedding of the value `start_token`; 'none': no input, so the first emission
      is given, not modelled (as when language models are trained on windows of a text).
    start_token: the value for start='token'.
    output_bias: whether a learned bias is added to the outputs. Language models have none; it suits
      keys of a piano, of which most hardly ever sound.
    logit_cap: outputs are soft-capped to ±logit_cap by a tanh (Gemma Team 2024); 0: no cap.
    features: number of covariates of an emission that are numbers; a linear map of them is added
      to the input that predicts the emission.
    categories: number of codes of each covariate that is a category; their embeddings are added
      too.
    chunk: the most positions whose outputs a loss holds at once; 0: chosen by size
      (autoregressive/chunks.py).

  Raises:
    ConfigError: for a start that cannot carry the class; for tied embeddings or
      start='token' without an embedding table; for an output bias without a projection.
  """

  network: CausalNetwork
  head: Head
  values: int
  rows: int
  num_classes: int = 0
  tied: bool = False
  start: Annotated[str, OneOf(*STARTS)] = 'learned'
  start_token: Annotated[int, AT_LEAST_ZERO] = 0
  output_bias: bool = False
  logit_cap: Annotated[float, ZERO_IS_OFF] = 0.0
  features: int = 0
  categories: tuple[int, ...] = ()
  chunk: Annotated[int, Interval(0, note='0: by size')] = 0

  def __post_init__(self):
    super().__post_init__()
    if self.num_classes and self.start != 'learned':
      raise ConfigError(
        f'model.start={self.start!r} carries no class, but the data has {self.num_classes} '
        "classes; use model.start='learned'"
      )
    if self.start == 'none' and self.network.grid:
      raise ConfigError(
        "model.start='none': a network over images needs a start; use model.start='learned'"
      )
    if not self.rows and (self.tied or self.start == 'token'):
      raise ConfigError(
        "model.tied and model.start='token' need an embedding table, but this head has none: use "
        "model.tied=False and model.start='learned'"
      )
    if self.output_bias and (self.tied or self.network.direct):
      raise ConfigError(
        'model.output_bias=True needs a projection of its own, which a network that projects by '
        'itself and tied embeddings lack: use model.output_bias=False'
      )

  def setup(self):
    if self.network.direct:  # which embeds and projects by itself
      return
    init = nn.initializers.normal(EMBED_STD)
    width = self.network.width
    # Outputs of a tied table must begin small; numbers need no table.
    untied = self.rows and not self.tied
    embed_init = nn.initializers.normal(self.network.embed_std) if untied else init
    if self.rows:
      # One table for all places of an emission: `values` blocks of `rows` rows.
      self.token_embed = nn.Embed(self.values * self.rows, width, embedding_init=embed_init)
    else:
      self.input_proj = nn.Dense(width)
    if self.features:
      self.covariate_proj = nn.Dense(width, use_bias=False)
    # From zero: an unknown category, which training may never see, says nothing.
    self.category_embeds = [
      nn.Embed(size, width, embedding_init=nn.initializers.zeros) for size in self.categories
    ]
    if self.start == 'learned':
      # The last row is 'no class', for the unconditional branch of guidance.
      self.start_embed = nn.Embed(self.num_classes + 1, width, embedding_init=embed_init)
    if not self.tied:
      self.output_proj = nn.Dense(
        self.head.size,
        use_bias=self.output_bias,
        dtype=self.network.dtype,
        kernel_init=init,
        dot_general=precision.dot_general,
      )

  def __call__(
    self,
    emissions: Num[Array, 'batch length values'],
    label: Int[Array, 'batch'] | None = None,
    train: bool = False,
    segments: Int[Array, 'batch inputs'] | None = None,
    covariates: Covariates | None = None,
  ) -> Float[Array, 'batch inputs size']:
    """Outputs for every emission (except the first, if start is 'none'), in float32.

    The arguments are those of `hidden_states`.
    """
    return self.project(self.hidden_states(emissions, label, train, segments, covariates))

  def hidden_states(
    self,
    emissions: Num[Array, 'batch length values'],
    label: Int[Array, 'batch'] | None = None,
    train: bool = False,
    segments: Int[Array, 'batch inputs'] | None = None,
    covariates: Covariates | None = None,
  ) -> Float[Array, 'batch inputs width']:
    """Hidden states for every emission (except the first, if start is 'none').

    Args:
      emissions: whole sequences.
      label: class of each; None, or num_classes: no class.
      train: whether to use dropout; needs the random stream 'dropout'.
      segments: the document that each input belongs to (`objectives.document_numbers`).
      covariates: covariates and scales, for sequences of numbers.
    """
    scale = None if covariates is None else covariates.scale
    # Shifted by one: input i is emission i - 1, so the last emission is never an input.
    inputs = self.embed(emissions[:, :-1], scale)
    if self.start != 'none':
      inputs = jnp.concatenate([self.embed_start(emissions.shape[0], label), inputs], 1)
    if self.features:  # not shifted: covariates belong to the emission that is predicted
      inputs += self.embed_covariates(covariates.features[:, -inputs.shape[1] :])
    return self.network(inputs, train=train, segments=segments)[0]

  def embed(
    self, emissions: Num[Array, 'batch length values'], scale: Float[Array, 'batch'] | None = None
  ) -> Float[Array, 'batch length width']:
    """Emissions as inputs. Each place in an emission has its own embedding table, and the
    embeddings are added; numbers are divided by the scale of their sequence and mapped linearly."""
    if self.network.direct:  # the values before an emission are its covariates
      return jnp.zeros((*emissions.shape[:2], self.network.width))
    if not self.rows:
      # One scale per sequence, for all of its emissions.
      scale = 1.0 if scale is None else scale[:, None]
      return self.input_proj(self.head.network_inputs(emissions, scale))
    if self.values == 1:
      return self.token_embed(emissions[..., 0])
    # One table holds them all: place k has the rows from k · rows on.
    return self.token_embed(emissions + self.rows * jnp.arange(self.values)).sum(-2)

  def embed_covariates(
    self, features: Float[Array, 'batch length features']
  ) -> Float[Array, 'batch length width']:
    """The term that covariates of emissions add to the inputs that predict these emissions.

    Args:
      features: numbers, then codes of categories.
    """
    if self.network.direct:
      return features
    numbers, codes = jnp.split(features, [self.features], -1)
    embedded = self.covariate_proj(numbers)
    for number, embed in enumerate(self.category_embeds):
      embedded += embed(codes[..., number].astype(jnp.int32))
    return embedded

  def embed_start(
    self, batch: int, label: Int[Array, 'batch'] | None = None
  ) -> Float[Array, 'batch 1 width']:
    """The input before the first emission."""
    if self.network.direct:
      return jnp.zeros((batch, 1, self.network.width))
    if self.start == 'token':
      # The same embedding as for this token within a sequence.
      return self.embed(jnp.full((batch, 1, self.values), self.start_token))
    if label is None:
      label = jnp.full((batch,), self.num_classes)
    return self.start_embed(label)[:, None]

  def project(
    self, hidden: Float[Array, 'batch length width']
  ) -> Float[Array, 'batch length size']:
    """Hidden states to outputs, in float32: the products' sums are, whatever their operands."""
    if self.network.direct:
      return hidden.astype(jnp.float32)
    hidden *= self.network.output_scale  # muP: 1 / width ratio (Yang et al. 2022, table 8)
    if self.tied:
      table = self.token_embed.embedding.astype(self.network.dtype)
      outputs = precision.sum_in_float32(jnp.matmul, hidden, table.T)
    else:
      outputs = self.output_proj(hidden)
    if self.logit_cap:
      # c·tanh(x / c) is x near 0 and bounded by ±c.
      outputs = self.logit_cap * jnp.tanh(outputs / self.logit_cap)
    return outputs

  def head_params(self, params: Mapping[str, Any]) -> dict[str, Any]:
    """The part of the model's parameters that `project` uses."""
    if self.network.direct:
      return {}
    name = 'token_embed' if self.tied else 'output_proj'
    return {name: params[name]}

  def extend(self, inputs: Float[Array, 'batch length width'], cache):
    """The next part of a sequence: (hidden states, cache)."""
    return self.network(inputs, cache)
