"""Where decoding starts and where it ends: the prompt of each sample, limits and stops."""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, Num

from autoregressive.orderings import Covariates, Ordering
from common.config import ConfigError
from common.data.spec import DataSpec
from common.method import Request


class Prompt(NamedTuple):
  """What is given of each sample.

  Attributes:
    emissions: sequences of the full length; values beyond `lengths` are ignored.
    lengths: number of emissions given of each.
    label: class of each, or None.
    covariates: of sequences of numbers, or None.
  """

  emissions: Num[Array, 'batch length values']
  lengths: Int[Array, 'batch']
  label: Int[Array, 'batch'] | None = None
  covariates: Covariates | None = None


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Limits:
  """How much of the prompt is taken in at once, and where decoding ends.

  `prefix` and `chunk` determine array shapes: a jitted function is compiled for each of their
  values. The others are arrays.

  Attributes:
    prefix: the most emissions of a prompt to take in at once (see `runner.bucketed_prefix`). Those
      beyond the shortest prompt are taken in and rewound again, if the network can do that.
    chunk: see `runner.part_sizes`.
    stop: sequences that end a sample when drawn (`DecodingSettings.stop_rows`), or None.
    offset: position of the first emission, if the prompt is a window of a longer sequence; keys
      depend on the position.
    end: number of emissions to decode, the prompt included; None: the length of the arrays.
  """

  prefix: int = dataclasses.field(default=0, metadata=dict(static=True))
  chunk: int = dataclasses.field(default=0, metadata=dict(static=True))
  stop: Int[Array, 'stops longest'] | None = None
  offset: Int[Array, ''] | int = 0
  end: Int[Array, ''] | int | None = None


def common_prefix(prompt: Prompt, limits: Limits) -> tuple[Prompt, Int[Array, '']]:
  """The prompt cut to the static prefix, and the number of its emissions that every sample has.

  Prompts of different lengths need no masks: their common part is taken in at once, and the rest of
  a longer prompt is fed step by step in place of drawn values.
  """
  # The number is an array: prompts of other lengths do not compile another program.
  known = jnp.minimum(prompt.lengths.min(), limits.prefix)
  return prompt._replace(emissions=prompt.emissions[:, : limits.prefix]), known


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
