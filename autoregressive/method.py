"""Causal autoregression as a `Method`: an ordering, a causal network and a head, put together."""

import dataclasses
import functools
import math
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from autoregressive import decoding
from autoregressive.heads import build_head
from autoregressive.model import Model
from autoregressive.networks import build_network
from autoregressive.networks.transformer import unroll
from autoregressive.orderings import build_ordering
from common.config import ConfigError, component, suggestion
from common.data.spec import DataSpec
from common.method import (
  Aux,
  Likelihood,
  Method,
  Request,
  Samples,
  example_keys,
  example_weights,
)


def build_model(config: Mapping, spec: DataSpec):
  """The ordering and the model that a config describes: (ordering, Model)."""
  ordering = build_ordering(config['ordering'], spec)
  head = build_head(config['head'], ordering)
  settings = dict(config['model'])
  settings.pop('class_dropout')
  model = component(
    {'model': Model},
    settings | {'name': 'model'},
    'model',
    network=build_network(config['network'], ordering),
    head=head,
    values=ordering.values,
    rows=head.rows,
    num_classes=spec.num_classes,
  )
  return ordering, model


def build(config: Mapping, spec: DataSpec) -> Method:
  """Builds the method from a config with the sections of configs/autoregressive/base.py.

  Losses are nats per value of an emission; `Aux.count` is the number of values counted.

  Raises:
    ConfigError: for a config that names what is not there, or that does not suit the data.
  """
  ordering, model = build_model(config, spec)
  options = build_options(config['sampling'])
  class_dropout = config['model']['class_dropout']
  if not 0 <= class_dropout < 1:
    raise ConfigError(f'model.class_dropout={class_dropout} must be in [0, 1)')

  def init(key, batch):
    variables = model.init(key, ordering.encode(batch['x'][:1]), None)
    return variables['params'], ()

  def log_prob(params, batch, label, **extra):
    """Of each emission that is modelled, [batch, emissions]."""
    emissions = ordering.encode(batch['x'])
    outputs = model.apply({'params': params}, emissions, label, **extra)
    return model.head.log_prob(outputs, emissions[:, -outputs.shape[1] :])

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
    nats = -log_prob(params, batch, label, **extra)
    weights = example_weights(batch)
    count = weights.sum() * nats.shape[1] * ordering.values
    mean = (weights[:, None] * nats).sum() / jnp.maximum(count, 1)
    return mean, Aux({'loss': mean, 'bits_per_dim': mean / math.log(2)}, memory, count)

  def nll(params, batch, key):
    del key  # exact
    label = batch.get('label') if spec.num_classes else None
    nats = -log_prob(params, batch, label).sum(-1)
    return Likelihood(nats, jnp.zeros_like(nats))

  sample = build_sampler(ordering, model, options, spec, class_dropout > 0)
  return Method(init=init, loss=loss, sample=sample, nll=nll)


def build_options(settings: Mapping, **overrides) -> decoding.Options:
  """Sampler options from a config's `sampling` section, or from those with overrides."""
  known = {field.name for field in dataclasses.fields(decoding.Options)}
  for name in (*settings, *overrides):
    if name not in known:
      raise ConfigError(f'unknown sampler option {name!r};{suggestion(name, known)}')
  return decoding.Options(**(dict(settings) | overrides))


def build_sampler(ordering, model, options: decoding.Options, spec: DataSpec, guidable: bool):
  """`Method.sample` of a model, with `options` where a request has none."""

  @functools.partial(jax.jit, static_argnames=('greedy', 'prefix'))
  def run(params, keys, given, lengths, label, numbers, guidance, greedy, prefix):
    network, network_params = unroll(model.network, params['network'])
    flat = model.clone(network=network)
    params = params | {'network': network_params}
    made = decoding.generate(
      flat, params, keys, given, lengths, label, numbers, guidance, greedy, prefix
    )
    return ordering.decode(made.emissions)

  def sample(params, key, request: Request) -> Samples:
    chosen = build_options(dataclasses.asdict(options), **request.options)
    guided = chosen.guidance != 1.0
    if guided and not guidable:
      raise ConfigError('guidance needs classes and a model trained with model.class_dropout > 0')
    label_key, key = jax.random.split(key)
    label = request.label if spec.num_classes else None
    if spec.num_classes and label is None:
      label = jax.random.randint(label_key, (request.num,), 0, spec.num_classes)
    given, lengths = given_emissions(ordering, request)
    prefix = int(lengths.min())
    if model.start == 'none' and not prefix:
      raise ConfigError("model.start='none' models no first emission; sampling needs a past")
    keys = example_keys(key, jnp.arange(request.num))
    x = run(
      params,
      keys,
      given,
      lengths,
      label,
      chosen.transforms(),
      jnp.float32(chosen.guidance) if guided else None,
      greedy=chosen.greedy,
      prefix=prefix,
    )
    calls = ordering.length - prefix + bool(prefix)
    return Samples(x, calls * (2 if guided else 1))

  return sample


def given_emissions(ordering, request: Request):
  """Emissions [num, length, values] that a request gives, and how many of each [num].

  Raises:
    ConfigError: when the mask is no beginning of the sequence in the model's order.
  """
  if request.past is None:
    empty = jnp.zeros((request.num, ordering.length, ordering.values), jnp.int32)
    return empty, np.zeros(request.num, np.int32)
  past = jnp.asarray(request.past)
  mask = jnp.ones(past.shape, jnp.uint8)
  if request.mask is not None:
    mask = jnp.broadcast_to(jnp.asarray(request.mask), past.shape).astype(jnp.uint8)
  held = np.asarray(ordering.encode(mask)).astype(bool)
  lengths = held.all(-1).sum(-1).astype(np.int32)
  beginning = np.arange(ordering.length)[None, :, None] < lengths[:, None, None]
  if (held != beginning).any():
    raise ConfigError(
      'what is given must be a beginning of the sequence, in the order of the model'
    )
  return ordering.encode(past), lengths
