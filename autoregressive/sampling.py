"""From a request for samples to decoding: `Method.sample` of this family."""

import dataclasses
import functools
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from autoregressive.decoding import generate
from autoregressive.model import Model
from autoregressive.networks.transformer import unroll
from autoregressive.search import beam_search
from autoregressive.transforms import Options
from common.config import ConfigError, as_tuple, suggestion
from common.data.spec import DataSpec
from common.method import Request, Samples, example_keys


def build_options(settings: Mapping, **overrides) -> Options:
  """Sampler options from a config's `sampling` section, or from those with overrides.

  Raises:
    ConfigError: for an option that is unknown or out of range.
  """
  known = {field.name for field in dataclasses.fields(Options)}
  chosen = dict(settings) | overrides
  for name in chosen:
    if name not in known:
      raise ConfigError(f'unknown sampler option {name!r};{suggestion(name, known)}')
  return Options(**{name: as_tuple(value) for name, value in chosen.items()})


def flattened(model: Model, params):
  """The model as decoding wants it, its layers not stacked, and its parameters."""
  network, network_params = unroll(model.network, params['network'])
  return model.clone(network=network), params | {'network': network_params}


def build_sampler(ordering, model: Model, options: Options, spec: DataSpec, guidable: bool):
  """`Method.sample` of a model, with `options` where a request has none.

  A request without labels draws classes uniformly; one with `past` (and a `mask` that is the
  beginning of each sequence) is completed.

  Args:
    ordering, model: as built from the config.
    options: sampler settings of the config.
    spec: of the data.
    guidable: whether the model was trained to go without its class.
  """

  @functools.partial(jax.jit, static_argnames=('greedy', 'prefix', 'chunk'))
  def draw(params, keys, given, lengths, label, numbers, guidance, stop, greedy, prefix, chunk):
    flat, params = flattened(model, params)
    made = generate(
      flat, params, keys, given, lengths, label, numbers, guidance, greedy, prefix, stop, chunk
    )
    return ordering.decode(made.emissions)

  @functools.partial(jax.jit, static_argnames=('beams', 'prefix', 'chunk'))
  def search(params, given, lengths, label, length_penalty, stop, beams, prefix, chunk):
    flat, params = flattened(model, params)
    found = beam_search(
      flat, params, given, lengths, label, beams, length_penalty, prefix, stop, chunk
    )
    return ordering.decode(found.emissions[:, 0, :, None])

  def sample(params, key, request: Request) -> Samples:
    chosen = build_options(dataclasses.asdict(options), **request.options)
    _check(chosen, model, ordering, guidable)
    label_key, key = jax.random.split(key)
    label = request.label if spec.num_classes else None
    if spec.num_classes and label is None:
      label = jax.random.randint(label_key, (request.num,), 0, spec.num_classes)
    given, lengths = given_emissions(ordering, request, chosen.length)
    prefix = int(lengths.min())
    if model.start == 'none' and not prefix:
      raise ConfigError("model.start='none' models no first emission; sampling needs a past")
    guided = chosen.guidance != 1
    common = dict(stop=chosen.stops(), prefix=prefix, chunk=chosen.prefill_chunk)
    if chosen.beams > 1:
      penalty = jnp.float32(chosen.length_penalty)
      x = search(params, given, lengths, label, penalty, beams=chosen.beams, **common)
    else:
      keys = example_keys(key, jnp.arange(request.num))
      guidance = jnp.float32(chosen.guidance) if guided else None
      numbers = chosen.transforms()
      x = draw(
        params, keys, given, lengths, label, numbers, guidance, greedy=chosen.greedy, **common
      )
    calls = given.shape[1] - prefix + bool(prefix)
    return Samples(x, calls * chosen.beams * (2 if guided else 1))

  return sample


def _check(options: Options, model: Model, ordering, guidable: bool) -> None:
  """Refuses options that this model cannot serve."""
  if options.guidance != 1 and not guidable:
    raise ConfigError('guidance needs classes and a model trained with model.class_dropout > 0')
  if not model.head.discrete and (options.transforms() or options.guidance != 1 or options.stop):
    raise ConfigError("this head has no logits; of the sampler options it takes 'greedy' alone")
  if model.values != 1 and options.stop:
    raise ConfigError('sampling.stop needs emissions of one value each')
  if options.beams > 1 and any(len(part) > 1 for part in options.stop):
    raise ConfigError('beam search stops at single tokens; sampling.stop has longer sequences')
  if options.length and not ordering.open_ended:
    raise ConfigError(f'sampling.length={options.length}: these data have a fixed length')
  longest = getattr(model.network, 'longest', None)
  if longest is not None and options.length > longest:
    raise ConfigError(
      f'sampling.length={options.length} is beyond the {longest} positions the network has learned'
    )


def given_emissions(ordering, request: Request, length: int = 0):
  """Emissions [num, length, values] that a request gives, and how many of each [num].

  Args:
    ordering: of the model.
    request: its `past` is in data space; `mask` says where it holds, everywhere by default.
    length: emissions to make, for an open-ended ordering; 0: ordering.length.

  Raises:
    ConfigError: when the mask is no beginning of the sequence in the model's order, when the past
      is longer than the sequence, or holds values outside the vocabulary.
  """
  length = length or ordering.length
  if request.past is None:
    kind = jnp.int32 if ordering.vocabulary else jnp.float32
    nothing = jnp.zeros((request.num, length, ordering.values), kind)
    return nothing, np.zeros(request.num, np.int32)
  past = jnp.asarray(request.past)
  if past.shape[0] != request.num:
    raise ConfigError(f'{request.num} samples asked for, a past given for {past.shape[0]}')
  mask = jnp.ones(past.shape, jnp.uint8)
  if request.mask is not None:
    mask = jnp.broadcast_to(jnp.asarray(request.mask), past.shape).astype(jnp.uint8)
  given = ordering.encode(past)
  held = np.asarray(ordering.encode(mask)).astype(bool)
  if given.shape[1] > length:
    raise ConfigError(f'a past of {given.shape[1]} emissions does not fit a length of {length}')
  lengths = held.all(-1).sum(-1).astype(np.int32)
  beginning = np.arange(held.shape[1])[None, :, None] < lengths[:, None, None]
  if (held != beginning).any():
    raise ConfigError(
      'what is given must be a beginning of the sequence, in the order of the model'
    )
  outside = np.asarray(given)[held]
  if (
    ordering.vocabulary
    and outside.size
    and not 0 <= outside.min() <= outside.max() < (ordering.vocabulary)
  ):
    raise ConfigError(
      f'the past has values outside [0, {ordering.vocabulary}): {outside.min()} to {outside.max()}'
    )
  return jnp.pad(given, ((0, 0), (0, length - given.shape[1]), (0, 0))), lengths
