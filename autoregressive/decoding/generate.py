"""Decoding: from a model of p(e_i | e_<i) to samples.

`generate` fills an explicit cache with what is given (prefill), then draws an emission per step in
one `while_loop`, which stops may end early, for any network, ordering and head. What it draws from
is the head's logits after guidance and then the transforms of
autoregressive/decoding/transforms.py. Each sample has a key of its own, folded with the position,
so what is drawn does not depend on what it shares a batch with.

Prompts of different lengths need no masks: their common part is taken in at once, and what a
longer one has beyond it is fed step by step in place of draws.

How much is given and how much is to be made are numbers that a compiled program takes; only shapes
make another program of it. So arrays are longer than need be, and what is taken in at once is
filled up with what the cache, wound back, forgets again: `room_for` and `prefix_of` say how far.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key, Num

from autoregressive.decoding.transforms import Numbers, counted, transform
from autoregressive.model import Model
from autoregressive.orderings import Known

LEAST = 16  # arrays, and what is taken in at once, are not rounded to less
PIECE = 32  # emissions that a network takes at once whose cache cannot be wound back


class Generated(NamedTuple):
  """What was drawn.

  Attributes:
    emissions: given and drawn; 0 after a stop.
    log_prob: of each emission drawn, under the model itself (no transforms, no guidance), in
      nats; 0 where it was given, and after a stop.
    lengths: emissions of each sample, the stop sequence included.
  """

  emissions: Num[Array, 'batch length values']
  log_prob: Float[Array, 'batch length']
  lengths: Int[Array, 'batch']


class Runner(NamedTuple):
  """A model with its parameters, and what is known of numbers: what decoding calls."""

  model: Model
  params: Any
  beside: Known | None = None

  def _run(self, method, *args):
    return self.model.apply({'params': self.params}, *args, method=method)

  def embed(self, emissions: Num[Array, 'batch length values'], i: Int[Array, ''] | None = None):
    """Emissions as inputs; one that is at position i is the input of what follows it."""
    if self.beside is None:
      return self._run(self.model.embed, emissions)
    inputs = self._run(self.model.embed, emissions, self.beside.scale)
    return inputs if i is None else inputs + self.embed_beside(i + 1, 1)

  def embed_beside(self, start: Int[Array, ''] | int, number: int):
    """What is known of so many emissions, as a part of the inputs that they are predicted from;
    beyond the last emission there is nothing."""
    if not self.model.features:
      return 0.0
    features = jnp.pad(self.beside.features, ((0, 0), (0, number), (0, 0)))
    features = jax.lax.dynamic_slice_in_dim(features, start, number, 1)
    return self._run(self.model.embed_features, features)

  @property
  def scaled(self) -> tuple:
    """The scale as a further argument of a head over numbers."""
    return () if self.beside is None else (self.beside.scale,)

  def extend(self, inputs: Float[Array, 'batch length width'], cache):
    """(outputs, cache) of the next part of a sequence."""
    hidden, cache = self._run(self.model.extend, inputs, cache)
    return self._run(self.model.project, hidden), cache

  def begin(
    self,
    given: Num[Array, 'batch prefix values'],
    known: Int[Array, ''] | int,
    label: Int[Array, 'batch'] | None,
    room: int,
    chunk: int = 0,
  ):
    """Takes in what is given, all but its last input: (that input, a cache with the others).

    Args:
      given: the beginning that all samples have, and what fills it up.
      known: how many emissions of it are given.
      label: class of each, or None.
      room: positions that the cache has room for.
      chunk: see `prefill`.
    """
    inputs, count = self.embed(given), known - 1
    if self.model.start != 'none':
      start = self._run(self.model.embed_start, given.shape[0], label)
      inputs, count = jnp.concatenate([start, inputs], 1), known
    if self.beside is not None:
      inputs += self.embed_beside(int(self.model.start == 'none'), inputs.shape[1])
    longest = inputs.shape[1] - 1
    last = jax.lax.dynamic_slice_in_dim(inputs, count, 1, axis=1)
    padding = -longest % chunk if chunk else 0
    cache = self.model.network.init_cache(given.shape[0], max(room, longest + padding))
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
    """Fills the cache with inputs whose outputs nobody needs.

    Args:
      inputs: the next part of a sequence; a multiple of the chunk.
      count: how many of them to take.
      cache: what came before.
      chunk: see `part_sizes`.
    """
    network, length = self.model.network, inputs.shape[1]

    def part(now, size):
      at, cache = now
      taken = jax.lax.dynamic_slice_in_dim(inputs, at, size, axis=1)
      return at + size, self._run(self.model.extend, taken, cache)[1]

    at, rewinds = jnp.int32(0), network.can_rewind
    for size in part_sizes(network, length, chunk):
      end = count if rewinds else count - count % size
      at, cache = jax.lax.while_loop(
        lambda now, end=end: now[0] < end, functools.partial(part, size=size), (at, cache)
      )
    return network.rewind(cache, at - count) if rewinds else cache


def part_sizes(network, length: int, chunk: int = 0) -> tuple[int, ...]:
  """How many inputs `Runner.prefill` takes at once, the first size as often as it goes, and so on.

  Args:
    network: a cache that can be wound back may take too many; any other takes what is there.
    length: inputs that there are at most.
    chunk: the most to take at once; 0: what suits the network.
  """
  if network.can_rewind:
    return (chunk or length,)
  if network.sequential:
    return (1,)
  return tuple(size for size in (chunk or PIECE, 1) if size <= length)


def prefill_calls(network, count: int, chunk: int = 0) -> int:
  """How many calls of the network `Runner.prefill` makes for so many inputs."""
  calls = 0
  for size in part_sizes(network, max(count, 1), chunk):
    parts, count = divmod(count, size)
    calls += parts
  return calls + bool(count)


def prefix_of(network, least: int, length: int) -> int:
  """The `prefix` that `generate` and its like should have: of prompts of any length only a few.

  Args:
    network: of the model.
    least: emissions that each sample is given.
    length: of the sequences.
  """
  if not least or not network.can_rewind:
    return length if least else 0
  return min(max(LEAST, 1 << (least - 1).bit_length()), length)


def room_for(length: int, context: int) -> int:
  """How long arrays should be for so many emissions: a context, halved or doubled some times."""
  room = context
  while room < length:
    room *= 2
  while (half := -(-room // 2)) >= max(length, LEAST):
    room = half
  return room


class Carry(NamedTuple):
  """What goes from step to step.

  Attributes:
    inputs: the input that comes next.
    cache: of the network.
    made: what was made so far.
    counts: how often each value was seen, by place in the emission, or None.
  """

  inputs: Float[Array, 'branches 1 width']
  cache: Any
  made: Generated
  counts: Int[Array, 'batch values vocabulary'] | None


def generate(
  model: Model,
  params: Any,
  keys: Key[Array, 'batch'],
  given: Num[Array, 'batch length values'],
  lengths: Int[Array, 'batch'],
  label: Int[Array, 'batch'] | None,
  numbers: Numbers,
  guidance: Float[Array, ''] | None = None,
  greedy: bool = False,
  prefix: int = 0,
  stop: Int[Array, 'stops longest'] | None = None,
  chunk: int = 0,
  offset: Int[Array, ''] | int = 0,
  end: Int[Array, ''] | int | None = None,
  beside: Known | None = None,
) -> Generated:
  """Draws the rest of sequences whose beginning is given. Pure, to be jitted by the caller.

  Args:
    model: a model whose layers are not stacked (see `CausalNetwork.unroll`).
    params: its parameters.
    keys: one per sample.
    given: sequences of the full length; what lies beyond `lengths` is ignored.
    lengths: how many emissions of each are given. Those beyond the prefix are fed step by step.
    label: class of each, or None.
    numbers: transforms that are on (`Options.transforms`).
    guidance: weight, or None for one pass without.
    greedy: the mode rather than a draw.
    prefix: the most emissions to take in at once. What of them is beyond the least of `lengths` is
      taken in and forgotten again, by a network that can. A Python value (see `prefix_of`).
    stop: sequences that end a sample where they are drawn (`Options.stops`), or None.
    chunk: see `part_sizes`. A Python value.
    offset: where `given` begins, where it is a window of something longer: keys go by position.
    end: emissions to make, `given` may be longer; None: as many as it has.
    beside: what is known of sequences of numbers, which take no guidance.
  """
  batch, length, _ = given.shape
  end = length if end is None else end
  known = jnp.minimum(lengths.min(), prefix)
  runner = Runner(model, params, beside)

  def twice(x):
    """With guidance the model runs on both branches side by side."""
    return x if guidance is None else jnp.concatenate([x, x])

  if guidance is not None:
    label = jnp.concatenate([label, jnp.full_like(label, model.num_classes)])
  inputs, cache = runner.begin(twice(given[:, :prefix]), known, label, length, chunk)

  def step(i, carry: Carry) -> Carry:
    outputs, cache = runner.extend(carry.inputs, carry.cache)
    outputs = outputs[:, 0]
    guided = _guided(outputs, guidance)
    scaled = runner.scaled
    drawn = draw(model.head, guided, keys, offset + i, numbers, greedy, carry.counts, scaled)
    fed, done = i < lengths, carry.made.lengths <= i
    emission = jnp.where(fed[:, None], given[:, i], jnp.where(done[:, None], 0, drawn))
    log_prob = jnp.where(fed | done, 0.0, model.head.log_prob(outputs[:batch], emission, *scaled))
    made = Generated(
      carry.made.emissions.at[:, i].set(emission),
      carry.made.log_prob.at[:, i].set(log_prob),
      carry.made.lengths,
    )
    counts = carry.counts
    if counts is not None:
      counts += jax.nn.one_hot(emission, counts.shape[-1], dtype=counts.dtype)
    if stop is not None:
      ended = stops_at(made.emissions[..., 0], i, lengths, stop) & ~done
      made = made._replace(lengths=jnp.where(ended, i + 1, made.lengths))
    return Carry(runner.embed(twice(emission)[:, None], i), cache, made, counts)

  made = Generated(
    jnp.where(jnp.arange(length)[None, :, None] < known, given, 0),
    jnp.zeros((batch, length)),
    jnp.full((batch,), end),
  )
  counts = None
  if counted(numbers):
    counts = count_values(given[:, :prefix], known, model.head.vocabulary)
  _, carry = jax.lax.while_loop(
    lambda now: (now[0] < end) & (now[1].made.lengths > now[0]).any(),
    lambda now: (now[0] + 1, step(*now)),
    (known, Carry(inputs, cache, made, counts)),
  )
  return carry.made


def count_values(
  emissions: Int[Array, 'batch length values'], known: Int[Array, ''], vocabulary: int
) -> Int[Array, 'batch values vocabulary']:
  """How often each value stands in the first `known` emissions, by place in the emission."""
  batch, length, values = emissions.shape
  rows, places = jnp.arange(batch)[:, None, None], jnp.arange(values)
  seen = (jnp.arange(length) < known).astype(jnp.int32)[:, None]
  return jnp.zeros((batch, values, vocabulary), jnp.int32).at[rows, places, emissions].add(seen)


def draw(
  head,
  outputs: Float[Array, 'batch size'],
  keys: Key[Array, 'batch'],
  i: Int[Array, ''],
  numbers: Numbers,
  greedy: bool,
  counts: Int[Array, 'batch values vocabulary'] | None = None,
  scaled: tuple = (),
) -> Num[Array, 'batch values']:
  """One emission of each sample, at position i; `scaled`: the scale, for a head over numbers."""
  keys = jax.vmap(jax.random.fold_in, (0, None))(keys, i)
  if not head.discrete:
    return head.mode(outputs, *scaled) if greedy else jax.vmap(head.sample)(outputs, keys, *scaled)
  logits = transform(head.logits(outputs), numbers, counts)
  if not greedy:
    logits += jax.vmap(lambda key: jax.random.gumbel(key, logits.shape[1:]))(keys)
  return logits.argmax(-1).astype(jnp.int32)


def _guided(outputs, guidance):
  """Classifier-free guidance of logits; an emission's constants cancel in the softmax."""
  if guidance is None:
    return outputs
  conditional, unconditional = jnp.split(outputs, 2)
  return unconditional + guidance * (conditional - unconditional)


def stops_at(
  tokens: Int[Array, '*batch length'],
  i: Int[Array, ''],
  lengths: Int[Array, '*batch'],
  stop: Int[Array, 'stops longest'],
) -> Bool[Array, '*batch']:
  """Whether a stop sequence ends with token i; what is given (before `lengths`) is no part of it.

  Args:
    tokens: sequences.
    i: a position in them.
    lengths: how many tokens of each are given.
    stop: see `Options.stops`.
  """
  at = i - jnp.arange(stop.shape[1])[::-1]
  recent = jnp.where(at >= lengths[..., None], tokens[..., at], -2)
  return ((recent[..., None, :] == stop) | (stop < 0)).all(-1).any(-1)


def first_stop(
  tokens: Int[Array, 'batch length'],
  lengths: Int[Array, 'batch'],
  stop: Int[Array, 'stops longest'],
) -> Int[Array, 'batch']:
  """Tokens of each sequence up to its first stop, that included; all where there is none."""
  length = tokens.shape[1]
  ends = jax.vmap(lambda i: stops_at(tokens, i, lengths, stop), out_axes=1)(jnp.arange(length))
  return jnp.where(ends.any(1), ends.argmax(1) + 1, length)


def cut(
  made: Generated,
  lengths: Int[Array, 'batch'],
  stop: Int[Array, 'stops longest'],
  end: Int[Array, ''] | int,
) -> Generated:
  """What was made as far as its first stop, or as far as `end`.

  Args:
    made: whole sequences; beyond `end` stands nothing of worth.
    lengths: how many tokens of each were given.
    stop: see `Options.stops`.
    end: tokens of each that were made.
  """
  ends = jnp.minimum(first_stop(made.emissions[..., 0], lengths, stop), end)
  kept = jnp.arange(made.log_prob.shape[1]) < ends[:, None]
  emissions = jnp.where(kept[..., None], made.emissions, 0)
  return Generated(emissions, jnp.where(kept, made.log_prob, 0.0), ends)
