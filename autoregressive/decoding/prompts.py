"""What a request gives decoding to begin with and to end at: emissions and stops."""

import jax.numpy as jnp
import numpy as np

from common.config import ConfigError
from common.data.spec import DataSpec
from common.method import Request


def stop_tokens(stops: tuple, ordering, spec: DataSpec) -> tuple[tuple[int, ...], ...]:
  """Stops as sequences of tokens: texts among them by the tokenizer of the data.

  Raises:
    ConfigError: for a text where the data has no tokenizer, or tokens outside the vocabulary.
  """
  tokenizer = getattr(spec, 'tokenizer', None)
  made = []
  for stop in stops:
    if isinstance(stop, str):
      if tokenizer is None:
        raise ConfigError(f'sampling.stop={stop!r} is a text; {spec.name} has no tokenizer')
      stop = tuple(int(token) for token in tokenizer.encode(stop))
    for token in stop:
      if not 0 <= token < ordering.vocabulary:
        raise ConfigError(f'sampling.stop has {token}, outside [0, {ordering.vocabulary})')
    made.append(stop)
  return tuple(made)


def given_emissions(ordering, request: Request, length: int = 0):
  """Emissions [num, length, values] that a request gives, and how many of each [num].

  Args:
    ordering: of the model.
    request: its `past` is in data space; `mask` says where it holds, everywhere by default.
    length: emissions to make, for an open-ended ordering; 0: ordering.length.

  Raises:
    ConfigError: for an empty past; where the mask is no beginning of the sequence in the model's
      order; when the past is longer than the sequence, or holds values outside the vocabulary;
      for a forecast without covariates.
  """
  length = length or ordering.length
  check_known(ordering, request)
  if request.past is None:
    kind = jnp.int32 if ordering.vocabulary else jnp.float32
    nothing = jnp.zeros((request.num, length, ordering.values), kind)
    return nothing, np.zeros(request.num, np.int32)
  past = jnp.asarray(request.past)
  if past.shape[0] != request.num:
    raise ConfigError(f'{request.num} samples asked for, a past given for {past.shape[0]}')
  if not past.size:
    raise ConfigError('the past is empty: give one emission or more, or none at all')
  mask = jnp.ones(past.shape, jnp.uint8)
  if request.mask is not None:
    mask = jnp.broadcast_to(jnp.asarray(request.mask), past.shape).astype(jnp.uint8)
  given = ordering.encode(past)
  held = np.asarray(ordering.encode(mask)).astype(bool)
  if given.shape[1] > length:
    raise ConfigError(
      f'a past of {given.shape[1]} emissions does not fit a length of {length}; a text may be '
      'longer: sampling.length, with sampling.slide=True beyond what the model was trained on'
    )
  lengths = held.all(-1).sum(-1).astype(np.int32)
  beginning = np.arange(held.shape[1])[None, :, None] < lengths[:, None, None]
  if (held != beginning).any():
    raise ConfigError(
      'what is given must be a beginning of the sequence, in the order of the model'
    )
  outside = np.asarray(given)[held]
  limit = ordering.vocabulary
  if limit and outside.size and not 0 <= outside.min() <= outside.max() < limit:
    raise ConfigError(
      f'the past has values outside [0, {limit}): {outside.min()} to {outside.max()}'
    )
  if not limit:  # numbers may be unknown, and stand in a cache until they are overwritten
    given = np.where(held, given, 0)
  return np.pad(given, ((0, 0), (0, length - given.shape[1]), (0, 0))), lengths


def check_known(ordering, request: Request) -> None:
  """Refuses a request that lacks what an ordering knows beside the emissions."""
  if not hasattr(ordering, 'known'):
    return
  if request.past is None:
    raise ConfigError('a forecast needs a past: values before it, and covariates everywhere')
  if request.mask is None:
    raise ConfigError('a forecast needs a mask that is 0 for the values to be forecast')
  if not np.broadcast_to(np.asarray(request.mask), np.shape(request.past))[..., 1:].all():
    raise ConfigError('a forecast needs its covariates: the mask hides values alone')
