"""Decoding: from a model of p(e_i | e_<i) to samples.

`generate` fills an explicit cache with what is given (prefill), then draws an emission per step in
one `lax.scan` (a `while_loop` where stop tokens may end it early), for any network, ordering and
head. What it draws from is the head's logits after guidance and then the transforms of
autoregressive/transforms.py. Each sample has a key of its own, folded with the position, so what
is drawn does not depend on what it shares a batch with.

Prompts of different lengths need no masks: their common part is taken in at once, and what a
longer one has beyond it is fed step by step in place of draws.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key, Num

from autoregressive.model import Model
from autoregressive.transforms import Numbers, counted, transform


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
  """A model with its parameters: what decoding calls."""

  model: Model
  params: Any

  def _run(self, method, *args):
    return self.model.apply({'params': self.params}, *args, method=method)

  def embed(self, emissions: Num[Array, 'batch length values']):
    """Emissions as inputs."""
    return self._run(self.model.embed, emissions)

  def extend(self, inputs: Float[Array, 'batch length width'], cache):
    """(outputs, cache) of the next part of a sequence."""
    hidden, cache = self._run(self.model.extend, inputs, cache)
    return self._run(self.model.project, hidden), cache

  def begin(
    self,
    given: Num[Array, 'batch prefix values'],
    label: Int[Array, 'batch'] | None,
    room: int,
    chunk: int = 0,
  ):
    """Takes in what is given, all but its last input: (that input, a cache with the others).

    Args:
      given: the beginning that all samples have.
      label: class of each, or None.
      room: positions that the cache has room for.
      chunk: see `prefill`.
    """
    inputs = self.embed(given)
    if self.model.start != 'none':
      start = self._run(self.model.embed_start, given.shape[0], label)
      inputs = jnp.concatenate([start, inputs], 1)
    cache = self.model.network.init_cache(given.shape[0], room)
    return inputs[:, -1:], self.prefill(inputs[:, :-1], cache, chunk)

  def prefill(self, inputs: Float[Array, 'batch length width'], cache, chunk: int = 0):
    """Fills the cache with inputs whose outputs nobody needs.

    Args:
      inputs: the next part of a sequence, of any length.
      cache: what came before.
      chunk: inputs taken in at once, one part after the other; 0: all.
    """

    def fill(cache, part):
      return self._run(self.model.extend, part, cache)[1], None

    batch, length, width = inputs.shape
    parts = length // chunk if chunk else 0
    if parts:
      cut = inputs[:, : parts * chunk].reshape(batch, parts, chunk, width)
      cache, _ = jax.lax.scan(fill, cache, cut.swapaxes(0, 1))
    rest = inputs[:, parts * chunk :]
    return fill(cache, rest)[0] if rest.shape[1] else cache


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
) -> Generated:
  """Draws the rest of sequences whose beginning is given. Pure, to be jitted by the caller.

  Args:
    model: a model whose layers are not stacked (see `transformer.unroll`).
    params: its parameters.
    keys: one per sample.
    given: sequences of the full length; what lies beyond `lengths` is ignored.
    lengths: how many emissions of each are given. Those beyond the prefix are fed step by step.
    label: class of each, or None.
    numbers: transforms that are on (`Options.transforms`).
    guidance: weight, or None for one pass without.
    greedy: the mode rather than a draw.
    prefix: emissions to take in at once: at most the least of `lengths`. A Python value.
    stop: sequences that end a sample where they are drawn (`Options.stops`), or None.
    chunk: emissions of the prefix taken in at once; 0: all.
    offset: where `given` begins, where it is a window of something longer: keys go by position.
  """
  batch, length, _ = given.shape
  runner = Runner(model, params)

  def twice(x):
    """With guidance the model runs on both branches side by side."""
    return x if guidance is None else jnp.concatenate([x, x])

  if guidance is not None:
    label = jnp.concatenate([label, jnp.full_like(label, model.num_classes)])
  inputs, cache = runner.begin(twice(given[:, :prefix]), label, length, chunk)

  def step(i, carry: Carry) -> Carry:
    outputs, cache = runner.extend(carry.inputs, carry.cache)
    outputs = outputs[:, 0]
    guided = _guided(outputs, guidance)
    drawn = draw(model.head, guided, keys, offset + i, numbers, greedy, carry.counts)
    fed, done = i < lengths, carry.made.lengths <= i
    emission = jnp.where(fed[:, None], given[:, i], jnp.where(done[:, None], 0, drawn))
    log_prob = jnp.where(fed | done, 0.0, model.head.log_prob(outputs[:batch], emission))
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
    return Carry(runner.embed(twice(emission)[:, None]), cache, made, counts)

  made = Generated(
    jnp.where(jnp.arange(length)[None, :, None] < prefix, given, 0),
    jnp.zeros((batch, length)),
    jnp.full((batch,), length),
  )
  counts = None
  if counted(numbers):
    counts = jax.nn.one_hot(given[:, :prefix], model.head.vocabulary, dtype=jnp.int32).sum(1)
  carry = Carry(inputs, cache, made, counts)
  if stop is None:
    steps = jnp.arange(prefix, length)
    return jax.lax.scan(lambda carry, i: (step(i, carry), None), carry, steps)[0].made
  _, carry = jax.lax.while_loop(
    lambda now: (now[0] < length) & (now[1].made.lengths > now[0]).any(),
    lambda now: (now[0] + 1, step(*now)),
    (jnp.int32(prefix), carry),
  )
  return carry.made


def draw(
  head,
  outputs: Float[Array, 'batch size'],
  keys: Key[Array, 'batch'],
  i: Int[Array, ''],
  numbers: Numbers,
  greedy: bool,
  counts: Int[Array, 'batch values vocabulary'] | None = None,
) -> Num[Array, 'batch values']:
  """One emission of each sample, at position i."""
  keys = jax.vmap(jax.random.fold_in, (0, None))(keys, i)
  if not head.discrete:
    return head.mode(outputs) if greedy else jax.vmap(head.sample)(outputs, keys)
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


def cut(made: Generated, lengths: Int[Array, 'batch'], stop: Int[Array, 'stops longest']):
  """What was made as far as its first stop; `lengths` tokens of each sequence were given."""
  ends = first_stop(made.emissions[..., 0], lengths, stop)
  kept = jnp.arange(made.log_prob.shape[1]) < ends[:, None]
  emissions = jnp.where(kept[..., None], made.emissions, 0)
  return Generated(emissions, jnp.where(kept, made.log_prob, 0.0), ends)
