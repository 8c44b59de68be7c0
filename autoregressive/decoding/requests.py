"""From a request for samples to decoding: `Method.sample` of this family.

Requests are checked here, so decoding itself gets only valid prompts and settings.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int, Key, Num

from autoregressive.decoding.decoder import Decoder, Draft
from autoregressive.decoding.sequences import Prompt
from autoregressive.decoding.settings import DecodingSettings, build_settings
from autoregressive.decoding.transforms import PENALTIES, TRANSFORMS
from autoregressive.orderings.base import Covariates, Ordering
from common.config import ConfigError
from common.data.spec import DataSpec
from common.method import Program, PyTree, Request, Samples, example_keys


@dataclasses.dataclass(frozen=True, eq=False)
class RequestSampler:
  """Answers requests for samples.

  A request without labels draws classes uniformly; one with `past` (and a `mask` that is the
  beginning of each sequence) is completed.

  Attributes:
    decoder: the model, its ordering and a draft if there is one.
    settings: settings of decoding; those of a request replace them.
    spec: the description of the data.
    can_guide: whether the model was trained to predict without its class.

  Raises:
    ConfigError: for a draft that was trained on other data than the model.
  """

  decoder: Decoder
  settings: DecodingSettings
  spec: DataSpec
  can_guide: bool

  def __post_init__(self):
    if self.decoder.draft is not None:
      _check_draft(self.decoder.draft, self.decoder.ordering, self.spec)

  def sample(self, params: PyTree, key: Key[Array, ''], request: Request) -> Samples:
    """`Method.sample`; raises ConfigError for a request that this model cannot serve."""
    settings = self.requested(request)
    # Split even if labels are given: the same key then gives the same samples either way.
    label_key, key = jax.random.split(key)
    prompt = self.prompt(label_key, request, settings)
    # One key per sample, from its index: a sample does not depend on their number.
    keys = example_keys(key, jnp.arange(request.num))
    made, calls = self.decoder.decode(params, keys, prompt, settings, request.watch)
    # Beams and the two branches of guidance are evaluations of the same sample.
    calls *= settings.beams * (2 if settings.guidance != 1 else 1)
    ends = made.lengths if settings.stop or request.watch else None
    # Covariates of the request become columns of the decoded forecast.
    x = self.decoder.ordering.decode(made.emissions, prompt.covariates)
    return Samples(x, calls, made.log_prob, ends)

  def check(self, request: Request) -> None:
    """`Method.check_request`: all that `sample` does before it decodes; refuses unused options."""
    settings = self.requested(request)
    _check_effect(request.options, settings, self.decoder)
    self.prompt(jax.random.key(0), request, settings)

  def program(self, params: PyTree, request: Request) -> Program:
    """`Method.sampling_program`."""
    settings, key = self.requested(request), jax.random.key(0)
    prompt = self.prompt(key, request, settings)
    keys = example_keys(key, jnp.arange(request.num))
    return self.decoder.program(params, keys, prompt, settings)

  def requested(self, request: Request) -> DecodingSettings:
    """The settings after those of the request, with stops as tokens and length in emissions."""
    ordering = self.decoder.ordering
    settings = build_settings(dataclasses.asdict(self.settings), **request.options)
    settings = dataclasses.replace(
      settings,
      stop=stop_tokens(settings.stop, ordering, self.spec),
      # A length is in tokens or frames; a frame may be several emissions.
      length=settings.length * ordering.period,
    )
    # Whether they suit the model; `DecodingSettings` has checked the ranges.
    _check_settings(settings, self.decoder, self.can_guide)
    return settings

  def prompt(
    self, label_key: Key[Array, ''], request: Request, settings: DecodingSettings
  ) -> Prompt:
    """The given beginning of each sample; classes are drawn if the request has none."""
    model, ordering = self.decoder.model, self.decoder.ordering
    label = request.label if self.spec.num_classes else None
    if self.spec.num_classes and label is None:
      label = jax.random.randint(label_key, (request.num,), 0, self.spec.num_classes)
    emissions, lengths, covariates = prompt_emissions(ordering, request, settings.length)
    if model.start == 'none':
      _check_beginning(lengths, ordering.period)
    if ordering.needs_past:
      _check_horizon(emissions.shape[1], self.decoder)
    return Prompt(emissions, lengths, label, covariates)


def _check_beginning(lengths: Int[np.ndarray, 'num'], period: int) -> None:
  """Raises ConfigError for a prompt without the first token or frame, which is not modelled."""
  if (lengths < period).any():
    raise ConfigError(
      "a model with model.start='none' does not model the first emission: each sample needs a past "
      f'of at least {"one" if period == 1 else period}; sample {int(lengths.argmin())} has '
      f'{int(lengths.min()) or "none"}'
    )


def _check_settings(settings: DecodingSettings, decoder: Decoder, can_guide: bool) -> None:
  """Raises ConfigError for settings that this model cannot serve."""
  model, draft = decoder.model, decoder.draft
  if settings.guidance != 1 and not can_guide:
    raise ConfigError(
      f'sampling.guidance={settings.guidance} needs classes and a model trained with '
      'model.class_dropout > 0; set sampling.guidance=1'
    )
  transformed = settings.active_transforms() or settings.guidance != 1 or settings.stop
  if not model.head.discrete and transformed:
    raise ConfigError(
      "this head has no logits: of the sampler options it takes only 'greedy', no transforms, "
      'guidance or stops'
    )
  # A stop is a sequence of tokens; an emission of several values is not a token.
  if model.values != 1 and settings.stop:
    raise ConfigError(
      f'sampling.stop needs emissions of one value each; here they have {model.values}'
    )
  if settings.length and not decoder.ordering.open_ended:
    raise ConfigError(
      f'sampling.length={settings.length}: this data has a fixed length; set sampling.length=0'
    )
  if settings.slide and not decoder.ordering.open_ended:
    raise ConfigError('sampling.slide is for text and music; this data has a fixed length')
  if settings.slide and (settings.beams > 1 or draft is not None):
    raise ConfigError(
      'sampling.slide allows neither beams nor a draft, because both stay within the context: set '
      'sampling.slide=False and a shorter sampling.length'
    )
  context, period = decoder.context, decoder.ordering.period
  if settings.slide and context < 2 * period:
    raise ConfigError(
      f'sampling.slide (--slide) needs a model whose context holds 2 tokens or frames, got '
      f'{context / period:g}: set data.context to at least 2 and train again'
    )
  if draft is not None and (settings.beams > 1 or settings.guidance != 1):
    raise ConfigError(
      'speculative decoding allows neither beams nor guidance: set sampling.beams=1 and '
      'sampling.guidance=1, or sample without a draft'
    )
  _check_length(settings, decoder)


def _check_effect(options: Mapping[str, Any], settings: DecodingSettings, decoder: Decoder) -> None:
  """Raises ConfigError for an option that changes nothing."""
  if 'draft_ahead' in options and decoder.draft is None:
    raise ConfigError('option draft_ahead needs a draft: add --draft=WORKDIR')
  if 'length_penalty' in options and settings.beams == 1:
    raise ConfigError('option length_penalty ranks beams: add beams=2, or more')
  unused = options.keys() & (TRANSFORMS.keys() - PENALTIES.keys())
  if settings.greedy and unused:
    raise ConfigError(
      f'option {min(unused)} has no effect with greedy=True, which takes the most probable value'
    )


def _check_length(settings: DecodingSettings, decoder: Decoder) -> None:
  """Raises ConfigError for a length beyond the positions that a network has learned."""
  inputs = settings.length - (decoder.model.start == 'none')
  networks = {'network': decoder.model.network}
  if decoder.draft is not None:
    networks['draft'] = decoder.draft.model.network
  for name, network in networks.items():
    limit = network.max_length
    if limit is not None and inputs > limit and not settings.slide:
      raise ConfigError(
        f'sampling.length={settings.length} is beyond the {limit} positions that the {name} has '
        'learned; sampling.slide=True continues from the last half of them'
      )


def _check_horizon(length: int, decoder: Decoder) -> None:
  """Raises ConfigError for a forecast beyond the positions that the network has learned."""
  limit, given = decoder.model.network.max_length, decoder.ordering.given
  if limit is not None and length > limit:
    raise ConfigError(
      f'a horizon of {length - given} steps is beyond the {limit} positions that the network has '
      f'learned: ask for at most {limit - given}, or train with a longer data.horizon'
    )


def _check_draft(draft: Draft, ordering: Ordering, spec: DataSpec) -> None:
  """Raises ConfigError for a draft that was trained on other emissions than the model."""
  if draft.ordering.vocabulary != ordering.vocabulary:
    raise ConfigError(
      f'the draft has a vocabulary of {draft.ordering.vocabulary}, the model one of '
      f'{ordering.vocabulary}; speculative decoding needs the same'
    )
  # Names and sizes of the two data sets may differ, but not their orderings.
  differs = dataclasses.replace(draft.ordering, spec=spec) != ordering
  if differs or (draft.ordering.length != ordering.length and not ordering.open_ended):
    raise ConfigError(
      'the draft was trained on data in another shape or order than the model; speculative '
      'decoding needs the same'
    )
  meanings = {
    'tokenizer': (draft.spec.tokenizer, spec.tokenizer),
    'pitches': (draft.spec.pitches, spec.pitches),
    'palette': (draft.spec.palette, spec.palette),
  }
  for name, (found, expected) in meanings.items():
    if found != expected:
      raise ConfigError(
        f'the draft has another {name} than the model; speculative decoding needs the same'
      )


def stop_tokens(stops: tuple, ordering: Ordering, spec: DataSpec) -> tuple[tuple[int, ...], ...]:
  """Stop sequences as tokens: texts among them are encoded by the tokenizer of the data.

  Raises:
    ConfigError: for data of a fixed length, for a text if the data has no tokenizer, or for tokens
      outside the vocabulary.
  """
  if stops and not ordering.open_ended:
    raise ConfigError('sampling.stop is for text and music; this data has a fixed length')
  made = []
  for stop in stops:
    if isinstance(stop, str):
      if spec.tokenizer is None:
        raise ConfigError(
          f'sampling.stop={stop!r} is a text, but {spec.name} has no tokenizer: give tokens'
        )
      stop = tuple(int(token) for token in spec.tokenizer.encode(stop))
    for token in stop:
      if not 0 <= token < ordering.vocabulary:
        raise ConfigError(
          f'sampling.stop must hold tokens in [0, {ordering.vocabulary}), got {token}'
        )
    made.append(stop)
  return tuple(made)


def prompt_emissions(
  ordering: Ordering, request: Request, length: int = 0
) -> tuple[Num[np.ndarray, 'num length values'], Int[np.ndarray, 'num'], Covariates | None]:
  """The given emissions of a request, their number for each sample, and the covariates.

  Args:
    ordering: ordering of the model.
    request: its `past` is in data space; `mask` says which values are given, all by default.
    length: emissions to decode, for an open-ended ordering; 0: ordering.length, or for a forecast
      the length of the past, which holds its covariates.

  Raises:
    ConfigError: for an empty past; if the mask is not a beginning of the sequence in the model's
      order; if the past is longer than the sequence, or has values outside the vocabulary; for a
      forecast without covariates.
  """
  length = length or ordering.length
  if ordering.needs_past:
    _check_forecast(request)
  if request.past is None:
    kind = np.int32 if ordering.vocabulary else np.float32
    # Without a past all emissions are drawn; these values are never read.
    nothing = np.zeros((request.num, length, ordering.values), kind)
    return nothing, np.zeros(request.num, np.int32), None
  given = _given(ordering, request)
  # An emission is given only if all of its values are: half a patch is not given.
  lengths = given.all(-1).sum(-1).astype(np.int32)
  # Location and scale come only from the given values, which may be fewer than the context.
  past = jnp.asarray(request.past)
  label = None if request.label is None else jnp.asarray(request.label)
  covariates = ordering.covariates(past, jnp.asarray(lengths), label)
  emissions = np.asarray(ordering.encode(past, covariates))
  if ordering.needs_past:
    length = emissions.shape[1]
  if emissions.shape[1] > length:
    raise ConfigError(
      f'a past of {emissions.shape[1]} emissions does not fit a length of {length}; a text may be '
      'longer: set sampling.length, and sampling.slide=True beyond the context of the model'
    )
  beginning = np.arange(given.shape[1])[None, :, None] < lengths[:, None, None]
  if (given != beginning).any():
    raise ConfigError(
      'the given part must be a beginning of the sequence, in the order of the model, but the mask '
      'has given values after missing ones; for images row by row, --mask=bottom leaves a beginning'
    )
  # A value outside the vocabulary would silently read another row of the embedding table.
  values, limit = emissions[given], ordering.vocabulary
  if limit and values.size and not 0 <= values.min() <= values.max() < limit:
    raise ConfigError(f'the past has values outside [0, {limit}): {values.min()} to {values.max()}')
  if not limit:
    # Values to be forecast may be known: they must not enter the cache.
    emissions = np.where(given, emissions, 0)
  padding = ((0, 0), (0, length - emissions.shape[1]), (0, 0))
  return np.pad(emissions, padding), lengths, covariates


def _given(ordering: Ordering, request: Request) -> Bool[np.ndarray, 'num length values']:
  """Which values of the emissions of the past are given."""
  past = jnp.asarray(request.past)
  if past.shape[0] != request.num:
    raise ConfigError(f'the request is for {request.num} samples, its past has {past.shape[0]}')
  if not past.size:
    raise ConfigError('the past is empty: give at least one emission, or no past at all')
  mask = jnp.ones(past.shape, jnp.uint8)
  if request.mask is not None:
    # The ordering applied to the mask gives the mask of emissions.
    mask = jnp.broadcast_to(jnp.asarray(request.mask), past.shape).astype(jnp.uint8)
  return np.asarray(ordering.encode(mask)).astype(bool)


def _check_forecast(request: Request) -> None:
  """Raises ConfigError for a request without the past or the covariates of a forecast."""
  if request.past is None:
    raise ConfigError('a forecast needs a past: earlier values, and covariates of all steps')
  if request.mask is None:
    raise ConfigError('a forecast needs a mask that is 0 for the values to be forecast')
  if not np.broadcast_to(np.asarray(request.mask), np.shape(request.past))[..., 1:].all():
    raise ConfigError('a forecast needs its covariates: the mask may hide only values, column 0')
