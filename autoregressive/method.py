"""Causal autoregression as a `Method`: an ordering, a causal network and a head, put together."""

import math
from collections.abc import Mapping

import jax
import jax.numpy as jnp

from autoregressive.decoding.requests import Draft, build_options, build_sampler
from autoregressive.finetuning import build_finetune, with_lora
from autoregressive.heads import build_head
from autoregressive.model import Model
from autoregressive.networks import build_network
from autoregressive.objectives import build_objective, document_numbers, separator_of
from autoregressive.orderings import build_ordering, known_of
from common.config import ConfigError, component
from common.data.spec import DataSpec
from common.method import Aux, Functions, Likelihood, Method, example_keys, example_weights


def build_model(config: Mapping, spec: DataSpec):
  """The ordering and the model that a config describes: (ordering, Model)."""
  ordering = build_ordering(config['ordering'], spec)
  head = build_head(config['head'], ordering)
  if spec.palette is not None and not head.discrete:
    raise ConfigError(
      f'head {config["head"]["name"]!r} is over ordered values; a palette has no order: '
      "use 'categorical', or set data.palette=0"
    )
  settings = dict(config['model'])
  # Where nothing stands before the first emission, the inputs are all emissions but the last.
  inputs = ordering.length - (settings['start'] == 'none')
  settings.pop('class_dropout')
  model = component(
    {'model': Model},
    settings | {'name': 'model'},
    'model',
    network=build_network(config['network'], ordering, inputs),
    head=head,
    values=ordering.values,
    rows=head.rows,
    num_classes=spec.num_classes,
    features=getattr(ordering, 'features', 0),
  )
  return ordering, model


def build_draft(config: Mapping, spec: DataSpec, params) -> Draft:
  """A trained model as the draft of another, which `build` takes."""
  return Draft(*build_model(config, spec), params, spec)


def build(config: Mapping, spec: DataSpec, draft: Draft | None = None) -> Method:
  """Builds the method from a config with the sections of configs/autoregressive/base.py.

  Losses are nats per value of an emission; `Aux.count` is the number of values counted. Of an
  ordering with a given part, such as the context of a forecast, training counts every emission and
  evaluation those after it alone, as the likelihood does: their density, where values are numbers.
  With a draft, sampling is speculative (autoregressive/decoding/speculative.py).

  Raises:
    ConfigError: for a config that names what is not there, or that does not suit the data.
  """
  ordering, model = build_model(config, spec)
  options = build_options(config['sampling'])
  objective = build_objective(config.get('objective', {}), model.head, spec)
  separator = separator_of(spec) if objective.documents else None
  given = ordering.period if model.start == 'none' else 0  # emissions that are not modelled
  class_dropout = config['model']['class_dropout']
  modelled = ordering.length - getattr(ordering, 'given', 0)  # emissions that evaluation counts
  if not 0 <= class_dropout < 1:
    raise ConfigError(f'model.class_dropout={class_dropout} must be in [0, 1)')

  def init(key, batch):
    x = batch['x'][:1]
    variables = model.init(key, ordering.encode(x), None, known=known_of(ordering, x))
    return variables['params'], ()

  def run(params, batch, label, **extra):
    """(outputs, nats of each emission that is modelled), [batch, emissions]."""
    emissions = ordering.encode(batch['x'])
    if separator is not None:
      extra['segments'] = document_numbers(emissions, separator, model.start)
    known = known_of(ordering, batch['x'])
    scaled = () if known is None else (known.scale[:, None],)
    outputs = model.apply({'params': params}, emissions, label, known=known, **extra)
    outputs = outputs[:, given - emissions.shape[1] :]
    return outputs, -model.head.log_prob(outputs, emissions[:, given:], *scaled)

  def loss(params, memory, batch, key, context):
    label = batch.get('label') if spec.num_classes else None
    extra = {}
    if context.training:
      drop_key, class_key = jax.random.split(key)
      extra = {
        'train': True,
        'rngs': {'dropout': jax.random.fold_in(drop_key, context.index[0])},
      }
      if label is not None and class_dropout:
        keys = example_keys(class_key, context.index)
        dropped = jax.vmap(lambda k: jax.random.bernoulli(k, class_dropout))(keys)
        label = jnp.where(dropped, spec.num_classes, label)
    outputs, nats = run(params, batch, label, **extra)
    if not context.training:
      nats = nats[:, -modelled:]
    weights, added = example_weights(batch)[:, None] * jnp.ones_like(nats), 0.0
    if context.training:
      places = example_keys(jax.random.fold_in(key, 1), context.index)
      weights *= objective.chosen(places, nats)
      added = objective.aids(model.head, outputs, nats)
    count = weights.sum() * ordering.values
    mean, total = ((weights * x).sum() / jnp.maximum(count, 1) for x in (nats, nats + added))
    return total, Aux({'loss': mean, 'bits_per_dim': mean / math.log(2)}, memory, count)

  def nll(params, batch, key):
    del key  # exact
    label = batch.get('label') if spec.num_classes else None
    nats = run(params, batch, label)[1][:, -modelled:]
    dims = jnp.full(len(nats), nats.shape[1] * ordering.values, jnp.float32)
    return Likelihood(nats.sum(-1), jnp.zeros(len(nats)), dims)

  sample = build_sampler(ordering, model, options, spec, class_dropout > 0, draft)
  method = Functions(init, loss, sample, nll if model.head.likelihood else None)
  finetune = build_finetune(config)
  return with_lora(method, finetune) if finetune.lora_rank else method
