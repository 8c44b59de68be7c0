"""Causal autoregression as a `Method`: an ordering, a causal network and a head."""

import dataclasses
import functools
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from autoregressive.chunks import Score, Targets, chunk_count, weighted_loss
from autoregressive.decoding.decoder import Decoder, Draft
from autoregressive.decoding.requests import RequestSampler
from autoregressive.decoding.settings import build_settings
from autoregressive.heads import HEADS, build_head
from autoregressive.heads.base import Head
from autoregressive.model import Model
from autoregressive.networks import build_network
from autoregressive.networks.transformer import Transformer
from autoregressive.objectives import Objective, build_objective, document_numbers, separator_of
from autoregressive.orderings import Ordering, build_ordering
from common.config import ConfigError, as_tuple, component
from common.data.spec import DataSpec
from common.finetuning import LoRA, build_finetune
from common.method import (
  Aux,
  Batch,
  Context,
  Hits,
  Likelihood,
  Method,
  Program,
  PyTree,
  Request,
  Samples,
  example_keys,
  example_weights,
)


@dataclasses.dataclass(frozen=True, eq=False)
class Autoregression(Method):
  """p(x) = ∏ p(e_i | e_<i), trained by maximum likelihood.

  Losses are in nats per value of the raw data; `Aux.count` is the number of values that the loss is
  a mean over. If an ordering has a given part, such as the context of a forecast, training counts
  every emission, but evaluation and likelihood count only the emissions after that part.

  Attributes:
    ordering: data as a sequence of emissions.
    model: the causal network with its embeddings and head.
    sampler: answers requests for samples.
    objective: additions to the log-likelihood in training.
    spec: the description of the data.
    class_dropout: probability that training hides the class of an example.
  """

  ordering: Ordering
  model: Model
  sampler: RequestSampler
  objective: Objective
  spec: DataSpec
  class_dropout: float

  @property
  def has_likelihood(self) -> bool:
    """Whether the head has a likelihood and not only a score."""
    return self.model.head.likelihood

  @property
  def predicts(self) -> bool:
    """Whether the head has a most probable value."""
    return self.model.head.discrete

  @property
  def context(self) -> int:
    """The longest sequence of tokens or frames that the model was made for."""
    return self.sampler.decoder.context // self.ordering.period

  @property
  def init_examples(self) -> int:
    """Training examples that the network's initial parameters are fitted to."""
    return self.model.network.init_examples

  @property
  def parts(self) -> int:
    """The emissions of an example."""
    return self.ordering.length

  def init(self, key: Key[Array, ''], batch: Batch) -> tuple[PyTree, PyTree]:
    """The parameters of the model; there is no memory."""
    # Unless the network is fitted to examples, only shapes matter: one is enough.
    first = {name: values[: max(self.init_examples, 1)] for name, values in batch.items()}
    x = first['x']
    covariates = self.ordering.covariates(x, label=jnp.zeros(len(x), jnp.int32))
    emissions = self.ordering.encode(x, covariates)
    if self.init_examples:
      # With dropout, as in training (Salimans et al. 2017, the code).
      rngs = {'params': key, 'dropout': jax.random.fold_in(key, 1)}
      variables = self.model.init(rngs, emissions, self._label(first), True)
    else:
      variables = self.model.init(key, emissions, None, covariates=covariates)
    return variables['params'], ()

  def loss(
    self, params: PyTree, memory: PyTree, batch: Batch, key: Key[Array, ''], context: Context
  ) -> tuple[Float[Array, ''], Aux]:
    """Mean nats per value, plus the regularizers of the objective in training."""
    if context.training:
      total, nats, weights = self._training_loss(params, batch, key, context)
    else:
      # No dropout, no hidden classes, no regularizers: comparable across settings of training.
      nats, weights = self._evaluated_nats(params, batch)
      total = (weights * nats).sum()
    # Per value, not per emission, so that losses of different patch sizes are comparable.
    count = weights.sum() * self.ordering.values
    mean = (weights * nats).sum() / jnp.maximum(count, 1)
    metrics = {'loss': mean, 'bits_per_dim': mean / math.log(2)}
    return total / jnp.maximum(count, 1), Aux(metrics, memory, count)

  def sample(self, params: PyTree, key: Key[Array, ''], request: Request) -> Samples:
    """Draws samples; speculatively if the method was built with a draft."""
    return self.sampler.sample(params, key, request)

  def check_request(self, params: PyTree | None, request: Request) -> None:
    """The checks of `sample`, which do not need the parameters."""
    self.sampler.check(request)

  def sampling_program(self, params: PyTree, request: Request) -> Program:
    """The program of decoding; of samples in windows, that of one window."""
    return self.sampler.program(params, request)

  def nll(self, params: PyTree, batch: Batch, key: Key[Array, '']) -> Likelihood:
    """The exact negative log-likelihood of each example."""
    del key
    nats, weights = self._evaluated_nats(params, batch)
    dims = weights.sum(-1) * self.ordering.values
    return Likelihood((weights * nats).sum(-1), jnp.zeros(len(nats)), dims)

  def hits(self, params: PyTree, batch: Batch) -> Hits:
    """How many of the emissions that count are the most probable ones, given those before."""
    right, weights = self._evaluated(functools.partial(_right_emissions, self.model), params, batch)
    return Hits((weights * right).sum(-1), weights.sum(-1))

  def _label(self, batch: Batch) -> Int[Array, 'batch'] | None:
    return batch.get('label') if self.spec.num_classes else None

  def _training_loss(self, params: PyTree, batch: Batch, key: Key[Array, ''], context: Context):
    """(Σ weights · (nats + regularizers), nats, weights), with dropout and some classes hidden."""
    drop_key, class_key = jax.random.split(key)
    label = self._label(batch)
    if label is not None and self.class_dropout:
      # One key per example, so that the split of the batch over devices does not matter.
      keys = example_keys(class_key, context.index)
      dropped = jax.vmap(lambda k: jax.random.bernoulli(k, self.class_dropout))(keys)
      label = jnp.where(dropped, self.spec.num_classes, label)
    # One dropout key per (micro-)batch. The index of its first example makes it differ between
    # the micro-batches of a step.
    rngs = {'dropout': jax.random.fold_in(drop_key, context.index[0])}
    hidden, targets = self._hidden_states(params, batch, label, train=True, rngs=rngs)
    # A separate key (fold 1), so that choosing positions does not change the dropout masks.
    position_keys = example_keys(jax.random.fold_in(key, 1), context.index)
    counted = self.objective.position_weights(position_keys, hidden.shape[1])
    targets = targets._replace(weights=targets.weights * counted)
    score = functools.partial(_score_emissions, self.model, self.objective)
    total, nats = self._compare(score, params, hidden, targets)
    units = self._log_units(batch)
    return total + (targets.weights * units).sum(), nats + units, targets.weights

  def _evaluated_nats(
    self, params: PyTree, batch: Batch
  ) -> tuple[Float[Array, 'batch evaluated'], Float[Array, 'batch evaluated']]:
    """The nats of emissions after the given part of the ordering, and their weights."""
    score = functools.partial(_score_emissions, self.model, Objective())
    nats, weights = self._evaluated(score, params, batch)
    return nats + self._log_units(batch), weights

  def _evaluated(
    self, score: Score, params: PyTree, batch: Batch
  ) -> tuple[Float[Array, 'batch evaluated'], Float[Array, 'batch evaluated']]:
    """The score of emissions after the given part of the ordering, and their weights."""
    hidden, targets = self._hidden_states(params, batch, self._label(batch))
    found = self._compare(score, params, hidden, targets)[1]
    evaluated = slice(self.ordering.given - self.ordering.length, None)
    return found[:, evaluated], targets.weights[:, evaluated]

  def _compare(
    self,
    score: Score,
    params: PyTree,
    hidden: Float[Array, 'batch modelled width'],
    targets: Targets,
  ) -> tuple[Float[Array, ''], Float[Array, 'batch modelled']]:
    """(Σ weights · (first + second), first) of the two values that `score` gives an emission."""
    count = chunk_count(*hidden.shape[:2], self.model.head.size, self.model.chunk)
    return weighted_loss(score, self.model.head_params(params), hidden, targets, count)

  def _hidden_states(
    self, params: PyTree, batch: Batch, label: Int[Array, 'batch'] | None, **settings: Any
  ) -> tuple[Float[Array, 'batch modelled width'], Targets]:
    """The hidden states for each modelled emission, and the emissions."""
    covariates = self.ordering.covariates(batch['x'], label=batch.get('label'))
    emissions = self.ordering.encode(batch['x'], covariates)
    if self.objective.documents:
      separator = separator_of(self.spec)
      settings['segments'] = document_numbers(emissions, separator, self.model.start)
    hidden = self.model.apply(
      {'params': params},
      emissions,
      label,
      covariates=covariates,
      method='hidden_states',
      **settings,
    )
    # Without a start, the first token or frame is given, not modelled. A frame may be several
    # emissions: the model has hidden states for all but the first of them, which do not count.
    given = self.ordering.period if self.model.start == 'none' else 0
    hidden, modelled = hidden[:, given - emissions.shape[1] :], emissions[:, given:]
    ones = jnp.ones(modelled.shape[:2])
    scale = ones if covariates is None else covariates.scale[:, None] * ones
    weights = example_weights(batch)[:, None] * ones
    if (observed := self.ordering.observed(batch['x'])) is not None:
      weights *= observed[:, given:]
    if 'counted' in batch:  # the answers of dialogues, for example
      # Of each token or frame, which may be several emissions.
      weights *= jnp.repeat(batch['counted'], self.ordering.period, 1)[:, given:]
    return hidden, Targets(modelled, scale, weights)

  def _log_units(self, batch: Batch) -> Float[Array, 'batch 1'] | float:
    """The nats that the unit of the data adds to those of each emission."""
    if not self.has_likelihood or 'label' not in batch:
      return 0.0
    # p(raw value) = p(stored value) / unit, for each value. A score, which is no density, stays.
    return self.ordering.values * self.ordering.log_units(batch['label'])[:, None]


def _score_emissions(model, objective, params, hidden, emissions, scale):
  """(nats, regularizers) of each emission, from the hidden states and the head's parameters."""
  outputs = model.apply({'params': params}, hidden, method='project')
  nats = -model.head.log_prob(outputs, emissions, scale)
  return nats, objective.regularizers(model.head, outputs, nats)


def _right_emissions(model, params, hidden, emissions, scale):
  """(1 where an emission is the most probable one, 0), in the form of a score."""
  outputs = model.apply({'params': params}, hidden, method='project')
  right = (model.head.mode(outputs, scale) == emissions).all(-1).astype(jnp.float32)
  return right, jnp.zeros_like(right)


def build_model(config: Mapping, spec: DataSpec) -> tuple[Ordering, Model]:
  """The ordering and the model that a config describes."""
  # Whether values are centred depends on the head, which takes its sizes from the ordering.
  kind = HEADS.get(config['head'].get('name'), Head)
  ordering = build_ordering(config['ordering'], spec, not kind.counts, kind.relative)
  head = build_head(config['head'], ordering)
  if spec.indices and not head.discrete:
    raise ConfigError(
      f'head {config["head"]["name"]!r} is over ordered values; a palette has no order, nor have '
      "codes: use 'categorical', or set data.palette=0 and data.first_stage=''"
    )
  settings = dict(config['model'])
  # Without a start the inputs are all emissions except the last; a start adds one.
  inputs = ordering.length - (settings['start'] == 'none')
  # A setting of training, which `Model` does not take.
  settings.pop('class_dropout')
  model = component(
    {'model': Model},
    settings | {'name': 'model'},
    'model',
    network=build_network(config['network'], ordering, head, inputs, config['precision']),
    head=head,
    values=ordering.values,
    rows=head.rows,
    num_classes=spec.num_classes,
    features=ordering.features,
    categories=ordering.categories,
  )
  return ordering, model


def build_draft(config: Mapping, spec: DataSpec, params: PyTree) -> Draft:
  """A trained model as a draft: the argument `draft` of `build` for another model."""
  return Draft(*build_model(config, spec), params, spec)


def arrange(config: Mapping, params: PyTree) -> PyTree:
  """Parameters of a model, with layers stacked or apart as the network of the config has them."""
  if config['network']['name'] != 'transformer':
    return params
  settings = {k: as_tuple(v) for k, v in config['network'].items() if k != 'name'}
  network = Transformer(**settings | {'length': 1})
  arranged = network.arrange(params['network'])
  return params if arranged is params['network'] else params | {'network': arranged}


def build(config: Mapping, spec: DataSpec, draft: Draft | None = None) -> Autoregression | LoRA:
  """Builds the method from a config with the sections of configs/autoregressive/base.py.

  With a draft, sampling is speculative (autoregressive/decoding/speculative.py). With
  finetune.lora_rank, only low-rank updates are trained (common/finetuning).

  Raises:
    ConfigError: for a config that names an unknown component, or does not suit the data.
  """
  ordering, model = build_model(config, spec)
  settings = build_settings(config['sampling'])
  objective = build_objective(config.get('objective', {}), model.head, spec)
  class_dropout = config['model']['class_dropout']
  # Guidance needs a model that was trained both with and without its class.
  can_guide = class_dropout > 0 and spec.num_classes > 0
  sampler = RequestSampler(Decoder(model, ordering, draft), settings, spec, can_guide)
  method = Autoregression(ordering, model, sampler, objective, spec, class_dropout)
  finetune = build_finetune(config)
  return LoRA(method, finetune) if finetune.lora_rank else method
