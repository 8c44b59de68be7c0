"""A model with its parameters, as decoding calls it: embed, prefill the cache, extend by one part.

The number of emissions in the prompt and the number to decode are arguments of the compiled
program; only other array shapes compile another program. Arrays may therefore be longer than
necessary: prefill inputs are padded, and the cache is then rewound past the padding.
`bucketed_length` and `bucketed_prefix` choose the sizes.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Num

from autoregressive.decoding.sequences import Prompt
from autoregressive.model import Model
from autoregressive.orderings.base import Covariates

MIN_BUCKET = 16  # the smallest size that arrays and prefixes are rounded to
PREFILL_CHUNK = 32  # emissions that a network takes in at once if its cache cannot be rewound


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Runner:
  """A model with its parameters; as an argument of a jitted function the model is static.

  Attributes:
    model: the model; for decoding, one whose layers are not stacked (`unrolled`).
    params: its parameters.
  """

  model: Model = dataclasses.field(metadata=dict(static=True))
  params: Any

  def unrolled(self) -> 'Runner':
    """The same model with one parameter tree per layer, as decoding needs it."""
    # A scan over stacked layers would copy the whole cache at every step.
    network, network_params = self.model.network.unroll(self.params['network'])
    model = self.model.clone(network=network)
    return Runner(model, self.params | {'network': network_params})

  def _call(self, method, *args):
    return self.model.apply({'params': self.params}, *args, method=method)

  def embed(
    self, emissions: Num[Array, 'batch length values'], covariates: Covariates | None = None
  ) -> Float[Array, 'batch length width']:
    """Emissions as inputs, without their covariates."""
    if covariates is None:
      return self._call(self.model.embed, emissions)
    return self._call(self.model.embed, emissions, covariates.scale)

  def embed_at(
    self,
    emission: Num[Array, 'batch 1 values'],
    i: Int[Array, ''],
    covariates: Covariates | None = None,
  ) -> Float[Array, 'batch 1 width']:
    """The emission at position i as the input that predicts the emission at i + 1."""
    inputs = self.embed(emission, covariates)
    return inputs if covariates is None else inputs + self.embed_covariates(covariates, i + 1, 1)

  def embed_covariates(self, covariates: Covariates, start: Int[Array, ''] | int, number: int):
    """The term that covariates of `number` emissions from `start` on add to the inputs that predict
    these emissions; beyond the last emission, covariates are zero."""
    if not self.model.features:
      return 0.0
    # The last emission predicts nothing, so its input has no covariates: zeros.
    features = jnp.pad(covariates.features, ((0, 0), (0, number), (0, 0)))
    features = jax.lax.dynamic_slice_in_dim(features, start, number, 1)
    return self._call(self.model.embed_covariates, features)

  def extend(self, inputs: Float[Array, 'batch length width'], cache):
    """(outputs, cache) of the next part of a sequence."""
    hidden, cache = self._call(self.model.extend, inputs, cache)
    return self._call(self.model.project, hidden), cache

  def prefill_prompt(
    self, prompt: Prompt, known: Int[Array, ''] | int, room: int, chunk: int = 0
  ) -> tuple[Float[Array, 'batch 1 width'], Any]:
    """Fills a cache with the beginning that all prompts share: (the last input, the cache).

    The last input is not in the cache yet: the first step of decoding extends the cache by it and
    gets the outputs for the first new emission.

    Args:
      prompt: emissions up to the static prefix, padded beyond `known`.
      known: number of emissions that every prompt has.
      room: positions that the cache has room for.
      chunk: see `part_sizes`.
    """
    emissions, covariates = prompt.emissions, prompt.covariates
    # Without a start, `known` emissions give known - 1 inputs before the last; a start adds one.
    inputs, count = self.embed(emissions, covariates), known - 1
    if self.model.start != 'none':
      # The start token carries the class, and is always known.
      start = self._call(self.model.embed_start, emissions.shape[0], prompt.label)
      inputs, count = jnp.concatenate([start, inputs], 1), known
    if covariates is not None:  # those of the emission that an input predicts, not its own
      first = int(self.model.start == 'none')
      inputs += self.embed_covariates(covariates, first, inputs.shape[1])
    longest = inputs.shape[1] - 1
    # `count` is an array, so the last input is not at a fixed place.
    last = jax.lax.dynamic_slice_in_dim(inputs, count, 1, axis=1)
    # The cache needs room for the padding too, which is rewound only afterwards.
    padding = -longest % chunk if chunk else 0
    cache = self.model.network.init_cache(emissions.shape[0], max(room, longest + padding))
    if not longest:
      return last, cache
    inputs = jnp.pad(inputs[:, :-1], ((0, 0), (0, padding), (0, 0)))
    return last, self.prefill(inputs, count, cache, chunk)

  def prefill(
    self,
    inputs: Float[Array, 'batch length width'],
    count: Int[Array, ''] | int,
    cache,
    chunk: int = 0,
  ):
    """The cache after the first `count` inputs, whose outputs are not needed.

    Args:
      inputs: the next part of a sequence, padded; its length is a multiple of the chunk.
      count: number of inputs to take in.
      cache: cache of the inputs before them.
      chunk: see `part_sizes`.
    """
    network, at = self.model.network, jnp.int32(0)
    # Large parts first; if the rest cannot be padded, it is taken in one by one.
    for size in part_sizes(network, inputs.shape[1], chunk):
      # A cache that can be rewound may take in too much; any other must stop before `count`.
      end = count if network.can_rewind else count - count % size
      at, cache = jax.lax.while_loop(
        functools.partial(_before, end),
        functools.partial(self._prefill_part, inputs, size),
        (at, cache),
      )
    # `at` is the number taken in, padding included.
    return network.rewind(cache, at - count) if network.can_rewind else cache

  def _prefill_part(self, inputs, size: int, carry):
    at, cache = carry
    part = jax.lax.dynamic_slice_in_dim(inputs, at, size, axis=1)
    return at + size, self._call(self.model.extend, part, cache)[1]


def _before(end, carry):
  return carry[0] < end


def scale_of(covariates: Covariates | None) -> Float[Array, 'batch'] | float:
  """The scale of each sequence, for the head; 1 without covariates."""
  return 1.0 if covariates is None else covariates.scale


def part_sizes(network, length: int, chunk: int = 0) -> tuple[int, ...]:
  """How many inputs `Runner.prefill` takes in at once: the first size while it fits, then others.

  Args:
    network: if its cache can be rewound, the last part may be padded; otherwise the remainder is
      taken in one by one.
    length: the largest number of inputs.
    chunk: the largest number to take in at once; 0: chosen by the network.
  """
  if network.can_rewind:
    return (chunk or length,)
  if network.sequential:
    return (1,)
  return tuple(size for size in (chunk or PREFILL_CHUNK, 1) if size <= length)


def prefill_calls(network, count: int, chunk: int = 0) -> int:
  """Number of network evaluations that `Runner.prefill` makes for `count` inputs."""
  calls = 0
  for size in part_sizes(network, max(count, 1), chunk):
    parts, count = divmod(count, size)
    calls += parts
  return calls + bool(count)


def bucketed_prefix(network, shortest: int, length: int) -> int:
  """`Limits.prefix` for prompts of at least `shortest` emissions, rounded so that prompts of many
  lengths share a program.

  Args:
    network: network of the model.
    shortest: emissions of the shortest prompt.
    length: length of the sequences.
  """
  if not shortest or not network.can_rewind:
    return length if shortest else 0
  # The next power of two.
  return min(max(MIN_BUCKET, 1 << (shortest - 1).bit_length()), length)


def bucketed_length(length: int, context: int) -> int:
  """Length of arrays for `length` emissions: the context, halved or doubled some times."""
  room = context
  # Doubled while too short, then halved while half is enough, so there are few lengths.
  while room < length:
    room *= 2
  while (half := -(-room // 2)) >= max(length, MIN_BUCKET):
    room = half
  return room
