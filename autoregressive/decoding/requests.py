"""From a request for samples to decoding: `Method.sample` of this family."""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from autoregressive.decoding.generate import Generated, generate, prefill_calls, prefix_of, room_for
from autoregressive.decoding.prompts import given_emissions, stop_tokens
from autoregressive.decoding.search import beam_search
from autoregressive.decoding.sliding import slide
from autoregressive.decoding.speculative import speculate
from autoregressive.decoding.transforms import Options
from autoregressive.model import Model
from autoregressive.orderings import Known, known_of
from common.config import ConfigError, as_tuple, suggestion
from common.data.spec import DataSpec
from common.method import Request, Samples, example_keys


class Draft(NamedTuple):
  """A smaller model that drafts what the large one checks.

  Attributes:
    ordering, model: as built from its config.
    params: its parameters.
    spec: of the data it was trained on.
  """

  ordering: Any
  model: Model
  params: Any
  spec: DataSpec


def build_options(settings: Mapping, **overrides) -> Options:
  """Sampler options from a config's `sampling` section, or from those with overrides.

  A single stop may stand for a tuple of them, and a single token for a sequence of one.

  Raises:
    ConfigError: for an option that is unknown or out of range.
  """
  known = {field.name for field in dataclasses.fields(Options)}
  chosen = dict(settings) | overrides
  for name in chosen:
    if name not in known:
      raise ConfigError(f'unknown sampler option {name!r};{suggestion(name, known)}')
  stops = as_tuple(chosen.get('stop', ()))
  stops = (stops,) if isinstance(stops, (str, int)) else stops
  chosen['stop'] = tuple((part,) if isinstance(part, int) else part for part in stops)
  return Options(**{name: as_tuple(value) for name, value in chosen.items()})


def flattened(model: Model, params):
  """The model as decoding wants it, its layers not stacked, and its parameters."""
  network, network_params = model.network.unroll(params['network'])
  return model.clone(network=network), params | {'network': network_params}


def build_sampler(
  ordering,
  model: Model,
  options: Options,
  spec: DataSpec,
  guidable: bool,
  draft: Draft | None = None,
):
  """`Method.sample` of a model, with `options` where a request has none.

  A request without labels draws classes uniformly; one with `past` (and a `mask` that is the
  beginning of each sequence) is completed.

  Args:
    ordering, model: as built from the config.
    options: sampler settings of the config.
    spec: of the data.
    guidable: whether the model was trained to go without its class.
    draft: a smaller model, for speculative decoding.

  Raises:
    ConfigError: for a draft that sees other data than the model.
  """
  decode = build_decoder(model, ordering, draft)
  if draft is not None:
    _check_draft(draft, ordering, spec)

  def sample(params, key, request: Request) -> Samples:
    chosen = build_options(dataclasses.asdict(options), **request.options)
    chosen = dataclasses.replace(
      chosen,
      stop=stop_tokens(chosen.stop, ordering, spec),
      length=chosen.length * ordering.period,
    )
    _check(chosen, model, ordering, guidable, draft)
    label_key, key = jax.random.split(key)
    label = request.label if spec.num_classes else None
    if spec.num_classes and label is None:
      label = jax.random.randint(label_key, (request.num,), 0, spec.num_classes)
    given, lengths = given_emissions(ordering, request, chosen.length)
    if model.start == 'none' and (lengths < ordering.period).any():
      raise ConfigError(
        "model.start='none' models no first emission: each sample needs a past of "
        f'{"one" if ordering.period == 1 else ordering.period} or more; sample '
        f'{int(lengths.argmin())} has {int(lengths.min()) or "none"}'
      )
    beside = None
    if request.past is not None:
      beside = known_of(ordering, jnp.asarray(request.past), jnp.asarray(lengths))
    keys = example_keys(key, jnp.arange(request.num))
    made, calls = decode(params, keys, given, lengths, label, chosen, beside)
    calls *= chosen.beams * (2 if chosen.guidance != 1 else 1)
    ends = made.lengths if chosen.stop else None
    known = () if beside is None else (beside,)
    return Samples(ordering.decode(made.emissions, *known), calls, made.log_prob, ends)

  return sample


def build_decoder(model: Model, ordering, draft: Draft | None = None):
  """The decoding that options ask for: speculative, by beams, or one draw after the other.

  Args:
    model, ordering: as built from the config; the ordering's length is what it was trained on.
    draft: a smaller model, for speculative decoding.

  Returns:
    (params, keys, given, lengths, label, options, beside) -> (Generated, sequential calls of the
    model). What of the options is a number is an argument of the compiled programs, and so are the
    lengths of sequences and of prompts, but for the rounding of `room_for` and `prefix_of`.
  """

  @functools.partial(jax.jit, static_argnames=('greedy', 'prefix', 'chunk'))
  def draw(params, *args, **settings):
    return generate(*flattened(model, params), *args, **settings)

  @functools.partial(jax.jit, static_argnames=('beams', 'prefix', 'chunk'))
  def search(params, *args, **settings):
    found = beam_search(*flattened(model, params), *args, **settings)
    return Generated(found.emissions[:, 0, :, None], found.log_prob[:, 0], found.lengths[:, 0])

  @functools.partial(jax.jit, static_argnames=('greedy', 'prefix', 'chunk', 'ahead'))
  def leap(params, draft_params, *args, **settings):
    small = flattened(draft.model, draft_params)
    return speculate(*flattened(model, params), *small, *args, **settings)

  def decode(
    params, keys, given, lengths, label, options: Options, beside: Known | None = None
  ) -> tuple[Generated, int]:
    network, length, stop = model.network, given.shape[1], options.stops()
    context = ordering.length
    slides = options.slide and length > context
    room = context if slides else room_for(length, context)
    drawn = dict(numbers=options.numbers(), greedy=options.greedy)
    guidance = jnp.float32(options.guidance) if options.guidance != 1 else None
    calls = 0

    def begun(lengths):
      """Settings for taking in what is given; counts the calls that it needs."""
      nonlocal calls
      least, chunk = int(lengths.min()), options.prefill_chunk
      calls += prefill_calls(network, max(least - (model.start == 'none'), 0), chunk)
      return dict(lengths=lengths, prefix=prefix_of(network, least, room), chunk=chunk)

    def window(lengths, **settings):
      settings |= begun(lengths) | drawn | dict(label=label, guidance=guidance, beside=beside)
      return draw(params, keys, **settings)

    if slides:
      made = slide(window, np.asarray(given), lengths, context, stop, ordering.period)
    else:
      padded = np.pad(given, ((0, 0), (0, room - length), (0, 0)))
      fixed = dict(given=padded, stop=stop, end=np.int32(length))
      if draft is not None:
        settings = fixed | begun(lengths) | drawn | dict(label=label, ahead=options.draft_ahead)
        made, rounds = leap(params, draft.params, keys, **settings)
      elif options.beams > 1:
        settings = fixed | begun(lengths) | dict(label=label, beams=options.beams)
        made = search(params, **settings, length_penalty=jnp.float32(options.length_penalty))
      else:
        made = window(lengths, **fixed)
    if draft is None:
      rounds = (length if stop is None else int(made.lengths.max())) - int(lengths.min())
    made = Generated(made.emissions[:, :length], made.log_prob[:, :length], made.lengths)
    return made, calls + int(rounds)

  return decode


def _check(options: Options, model: Model, ordering, guidable: bool, draft) -> None:
  """Refuses options that this model cannot serve."""
  if options.guidance != 1 and not guidable:
    raise ConfigError('guidance needs classes and a model trained with model.class_dropout > 0')
  if not model.head.discrete and (options.transforms() or options.guidance != 1 or options.stop):
    raise ConfigError("this head has no logits; of the sampler options it takes 'greedy' alone")
  if model.values != 1 and options.stop:
    raise ConfigError('sampling.stop needs emissions of one value each')
  if options.length and not ordering.open_ended:
    raise ConfigError(f'sampling.length={options.length}: these data have a fixed length')
  if options.slide and (options.beams > 1 or draft is not None):
    raise ConfigError(
      'sampling.slide goes with neither beams nor a draft, which stay within the context: ask for a'
      ' shorter length'
    )
  if draft is not None and (options.beams > 1 or options.guidance != 1):
    raise ConfigError('speculative decoding goes with neither beams nor guidance')
  inputs = options.length - (model.start == 'none')
  for one in [model] if draft is None else [model, draft.model]:
    longest = one.network.max_length
    if longest is not None and inputs > longest and not options.slide:
      raise ConfigError(
        f'sampling.length={options.length} is beyond the {longest} positions that '
        f'{"the network" if one is model else "the draft"} has learned; '
        'sampling.slide=True goes on from the last half of them'
      )


def _check_draft(draft: Draft, ordering, spec: DataSpec) -> None:
  """Refuses a draft that sees other emissions than the model."""
  mine, its = ordering.vocabulary, draft.ordering.vocabulary
  if mine != its:
    raise ConfigError(
      f'the draft has a vocabulary of {its}, the model one of {mine}; speculative decoding needs '
      'the same'
    )
  unlike = dataclasses.replace(draft.ordering, spec=spec) != ordering
  if unlike or (draft.ordering.length != ordering.length and not ordering.open_ended):
    raise ConfigError('the draft was trained on data in another shape or order than the model')
  for meaning in ('tokenizer', 'pitches', 'palette'):
    if getattr(draft.spec, meaning) != getattr(spec, meaning):
      raise ConfigError(f'the draft has another {meaning} than the model')
