"""From a request for samples to decoding: `Method.sample` of this family."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, Key, Num

from autoregressive.decoding.decoder import Decoder, Draft
from autoregressive.decoding.sequences import Prompt
from autoregressive.decoding.settings import DecodingSettings, build_settings
from autoregressive.orderings import Ordering
from common.config import ConfigError
from common.data.spec import DataSpec
from common.method import PyTree, Request, Samples, example_keys


@dataclasses.dataclass(frozen=True, eq=False)
class Sampler:
  """Answers requests for samples.

  A request without labels draws classes uniformly; one with `past` (and a `mask` that is the
  beginning of each sequence) is completed.

  Attributes:
    decoder: the model, its ordering and a draft if there is one.
    settings: of decoding, where a request has none of its own.
    spec: of the data.
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
    # The split comes first, with labels given or not: so samples of the same key agree.
    label_key, key = jax.random.split(key)
    prompt = self.prompt(label_key, request, settings)
    # One key per sample, from its index: a sample does not depend on their number.
    keys = example_keys(key, jnp.arange(request.num))
    made, calls = self.decoder.decode(params, keys, prompt, settings)
    # Beams and the two branches of guidance are evaluations of the same sample.
    calls *= settings.beams * (2 if settings.guidance != 1 else 1)
    ends = made.lengths if settings.stop else None
    # Covariates of the request become columns of the forecast again.
    x = self.decoder.ordering.decode(made.emissions, prompt.covariates)
    return Samples(x, calls, made.log_prob, ends)

  def requested(self, request: Request) -> DecodingSettings:
    """The settings with those of the request, stops as tokens and the length in emissions."""
    ordering = self.decoder.ordering
    settings = build_settings(dataclasses.asdict(self.settings), **request.options)
    settings = dataclasses.replace(
      settings,
      stop=stop_tokens(settings.stop, ordering, self.spec),
      # A length is in tokens or frames; a frame may be several emissions.
      length=settings.length * ordering.period,
    )
    # On the request's own settings, with the model in view: ranges were checked before.
    _check_settings(settings, self.decoder, self.can_guide)
    return settings

  def prompt(
    self, label_key: Key[Array, ''], request: Request, settings: DecodingSettings
  ) -> Prompt:
    """What the request gives of each sample; classes are drawn if it has none."""
    model, ordering = self.decoder.model, self.decoder.ordering
    label = request.label if self.spec.num_classes else None
    if self.spec.num_classes and label is None:
      label = jax.random.randint(label_key, (request.num,), 0, self.spec.num_classes)
    emissions, lengths = prompt_emissions(ordering, request, settings.length)
    if model.start == 'none':
      _check_beginning(lengths, ordering.period)
    covariates = None
    if request.past is not None:
      # The scale comes from the given values only, of which there may be fewer than the context.
      covariates = ordering.covariates(jnp.asarray(request.past), jnp.asarray(lengths))
    return Prompt(emissions, lengths, label, covariates)


def _check_beginning(lengths: Int[np.ndarray, 'num'], period: int) -> None:
  """Raises ConfigError for a prompt that lacks the part which is not modelled."""
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
  # A stop is a sequence of tokens, and an emission of several values is no token.
  if model.values != 1 and settings.stop:
    raise ConfigError(
      f'sampling.stop needs emissions of one value each; here they have {model.values}'
    )
  if settings.length and not decoder.ordering.open_ended:
    raise ConfigError(
      f'sampling.length={settings.length}: this data has a fixed length; set sampling.length=0'
    )
  if settings.slide and (settings.beams > 1 or draft is not None):
    raise ConfigError(
      'sampling.slide allows neither beams nor a draft, which stay within the context: set '
      'sampling.slide=False and a shorter sampling.length'
    )
  if draft is not None and (settings.beams > 1 or settings.guidance != 1):
    raise ConfigError(
      'speculative decoding allows neither beams nor guidance: set sampling.beams=1 and '
      'sampling.guidance=1, or sample without a draft'
    )
  _check_length(settings, decoder)


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


def _check_draft(draft: Draft, ordering: Ordering, spec: DataSpec) -> None:
  """Raises ConfigError for a draft that was trained on other emissions than the model."""
  mine, its = ordering.vocabulary, draft.ordering.vocabulary
  if mine != its:
    raise ConfigError(
      f'the draft has a vocabulary of {its}, the model one of {mine}; speculative decoding needs '
      'the same'
    )
  # Of two data sets only what the ordering does with them must agree, not their names or sizes.
  differs = dataclasses.replace(draft.ordering, spec=spec) != ordering
  if differs or (draft.ordering.length != ordering.length and not ordering.open_ended):
    raise ConfigError('the draft was trained on data in another shape or order than the model')
  meanings = {
    'tokenizer': (draft.spec.tokenizer, spec.tokenizer),
    'pitches': (draft.spec.pitches, spec.pitches),
    'palette': (draft.spec.palette, spec.palette),
  }
  for name, (its_own, expected) in meanings.items():
    if its_own != expected:
      raise ConfigError(f'the draft has another {name} than the model')


def stop_tokens(stops: tuple, ordering: Ordering, spec: DataSpec) -> tuple[tuple[int, ...], ...]:
  """Stop sequences as tokens: texts among them are encoded by the tokenizer of the data.

  Raises:
    ConfigError: for a text if the data has no tokenizer, or for tokens outside the vocabulary.
  """
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
) -> tuple[Num[np.ndarray, 'num length values'], Int[np.ndarray, 'num']]:
  """The emissions that a request gives, and how many it gives of each sample.

  Args:
    ordering: of the model.
    request: its `past` is in data space; `mask` says which values are given, all by default.
    length: emissions to decode, for an open-ended ordering; 0: ordering.length.

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
    # With no past the emissions are all to be drawn; their values are never read.
    nothing = np.zeros((request.num, length, ordering.values), kind)
    return nothing, np.zeros(request.num, np.int32)
  emissions, given = _encoded_past(ordering, request)
  if emissions.shape[1] > length:
    raise ConfigError(
      f'a past of {emissions.shape[1]} emissions does not fit a length of {length}; a text may be '
      'longer: set sampling.length, and sampling.slide=True beyond the context of the model'
    )
  # An emission is given if all its values are: half a patch is not.
  lengths = given.all(-1).sum(-1).astype(np.int32)
  beginning = np.arange(given.shape[1])[None, :, None] < lengths[:, None, None]
  if (given != beginning).any():
    raise ConfigError(
      'the given part must be a beginning of the sequence, in the order of the model; the mask has '
      'given values after missing ones'
    )
  # A value outside the vocabulary would silently read another row of the embedding table.
  values, limit = emissions[given], ordering.vocabulary
  if limit and values.size and not 0 <= values.min() <= values.max() < limit:
    raise ConfigError(f'the past has values outside [0, {limit}): {values.min()} to {values.max()}')
  if not limit:
    # Numbers to be forecast may be NaN. They enter the cache before they are overwritten, and
    # NaN times the zero weight of a masked position is still NaN.
    emissions = np.where(given, emissions, 0)
  return np.pad(emissions, ((0, 0), (0, length - emissions.shape[1]), (0, 0))), lengths


def _encoded_past(ordering: Ordering, request: Request) -> tuple[np.ndarray, np.ndarray]:
  """The past as emissions, and which of their values are given."""
  past = jnp.asarray(request.past)
  if past.shape[0] != request.num:
    raise ConfigError(f'the request is for {request.num} samples, its past has {past.shape[0]}')
  if not past.size:
    raise ConfigError('the past is empty: give at least one emission, or no past at all')
  mask = jnp.ones(past.shape, jnp.uint8)
  if request.mask is not None:
    # The mask goes through the same ordering as the data, so it says which emissions are given.
    mask = jnp.broadcast_to(jnp.asarray(request.mask), past.shape).astype(jnp.uint8)
  return np.asarray(ordering.encode(past)), np.asarray(ordering.encode(mask)).astype(bool)


def _check_forecast(request: Request) -> None:
  """Raises ConfigError for a request that lacks the past or the covariates of a forecast."""
  if request.past is None:
    raise ConfigError('a forecast needs a past: earlier values, and covariates of all steps')
  if request.mask is None:
    raise ConfigError('a forecast needs a mask that is 0 for the values to be forecast')
  if not np.broadcast_to(np.asarray(request.mask), np.shape(request.past))[..., 1:].all():
    raise ConfigError('a forecast needs its covariates: the mask may hide values only')
