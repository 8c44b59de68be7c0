"""Decoding in steps of a few emissions, between which the host looks at what was drawn.

A `while_loop` on a device cannot ask whether a text has reached its stop, nor print it. Here the
state of `generate` stays on the device between calls, and each call draws some more. The draws are
those of one call, because keys depend on the position alone.
"""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, Key, Num

from autoregressive.decoding.generate import Carry, Generation, count_values
from autoregressive.decoding.runner import MIN_BUCKET, Runner, bucketed_length, bucketed_prefix
from autoregressive.decoding.sequences import Generated, Limits, Prompt
from autoregressive.decoding.settings import DecodingSettings
from autoregressive.model import Model
from common.config import ConfigError
from common.data.tokenizers.base import Tokens
from common.devices.mesh import split_batch, whole
from common.method import PyTree, Watch

LEAST_ROOM = 512  # positions of the first arrays of a session: attention reads all of them
LARGEST_PIECE = 512  # tokens that a session takes in at once


class Step(NamedTuple):
  """What the host reads after a step: small arrays, because the others stay on the device.

  Attributes:
    i: position of the next emission.
    new: the emissions from the position before the step on; beyond `i` they mean nothing.
    running: whether a sample has not met a stop of tokens.
  """

  i: Int[Array, '']
  new: Num[Array, 'batch number values']
  running: Array


def prepare(runner: Runner) -> Runner:
  """The model for programs that are called again and again: one parameter tree per layer, and
  matrices in the type of the products."""
  made = jax.eval_shape(_prepared, runner)
  if jax.tree.map(_type, made.params) == jax.tree.map(_type, runner.params):
    return Runner(made.model, runner.params)  # nothing to change: a program would copy it all
  return _prepare_program(runner)


def _prepared(runner: Runner) -> Runner:
  return runner.unrolled().cast()


_prepare_program = jax.jit(_prepared)


def _type(x: Array | jax.ShapeDtypeStruct) -> tuple:
  return x.shape, x.dtype


@jax.jit
def start_program(generation: Generation) -> Carry:
  """The state after the prefill."""
  keys, prompt = split_batch((generation.keys, generation.prompt))
  return whole(Generation(**vars(generation) | {'keys': keys, 'prompt': prompt}).start())


# The state is overwritten: without donation, each call would copy the whole cache.
@functools.partial(jax.jit, static_argnames=('number',), donate_argnames=('carry',))
def advance_program(generation: Generation, carry: Carry, number: int) -> tuple[Carry, Step]:
  """Draws up to `number` more emissions of each sample."""
  before = carry.i
  carry = generation.advance(carry, jnp.minimum(before + number, generation.end))
  # The slice begins at `before`, also at the end of the arrays.
  padded = jnp.pad(carry.made.emissions, ((0, 0), (0, number), (0, 0)))
  new = jax.lax.dynamic_slice_in_dim(padded, before, number, 1)
  return carry, Step(carry.i, new, (carry.made.lengths > carry.i).any())


@functools.partial(jax.jit, donate_argnames=('carry',))
def append_program(
  runner: Runner, carry: Carry, emissions: Num[Array, 'batch padded values'], number: Int[Array, '']
) -> Carry:
  """Adds given emissions to the sequences: the first `number` of a padded array."""
  # The last input is not in the cache yet: it goes first, and the last new one stays behind.
  inputs = jnp.concatenate([carry.inputs, runner.embed(emissions)], 1)
  cache = runner.prefill(inputs[:, :-1], number, carry.cache)
  last = jax.lax.dynamic_slice_in_dim(inputs, number, 1, axis=1)
  made = jax.lax.dynamic_update_slice_in_dim(carry.made.emissions, emissions, carry.i, 1)
  counts = carry.counts
  if counts is not None:
    counts += count_values(emissions, number, counts.shape[-1])
  return Carry(carry.i + number, last, cache, carry.made._replace(emissions=made), counts)


@functools.partial(jax.jit, donate_argnames=('carry',))
def rewind_program(runner: Runner, carry: Carry, number: Int[Array, '']) -> Carry:
  """Keeps the first `number` emissions, at least one, and forgets the others."""
  cache = runner.model.network.rewind(carry.cache, carry.i - number)
  last = jax.lax.dynamic_slice_in_dim(carry.made.emissions, number - 1, 1, axis=1)
  counts = carry.counts
  if counts is not None:
    counts = count_values(carry.made.emissions, number, counts.shape[-1])
  return Carry(number, runner.embed(last), cache, carry.made, counts)


def watched(
  generation: Generation, watch: Watch, before: Num[np.ndarray, 'batch earlier values']
) -> tuple[Generated, bool]:
  """The sequences of `generate`, drawn until the watcher ends them all.

  Args:
    generation: the arguments of `generate`, with an unrolled runner.
    watch: is asked after each of its steps.
    before: the emissions of earlier windows of the same sequences, if there are any.

  Returns:
    The sequences, and whether the watcher has ended them all.
  """
  carry = start_program(generation)
  end = int(generation.end)
  emissions = np.concatenate([before, np.asarray(carry.made.emissions[:, : int(carry.i)])], 1)
  running, ended = True, False
  while running and not ended and emissions.shape[1] - before.shape[1] < end:
    first = emissions.shape[1] - before.shape[1]
    carry, step = advance_program(generation, carry, watch.every)
    emissions = np.concatenate([emissions, np.asarray(step.new)[:, : int(step.i) - first]], 1)
    running, ended = bool(step.running), bool(np.all(watch.ended(emissions[..., 0])))
  lengths = jnp.minimum(carry.made.lengths, emissions.shape[1] - before.shape[1])
  return carry.made._replace(lengths=lengths), ended


@functools.partial(jax.jit, static_argnames=('room',))
def grow_program(runner: Runner, carry: Carry, room: int) -> Carry:
  """The same state in arrays for more positions."""
  batch, length, _ = carry.made.emissions.shape
  larger = runner.model.network.init_cache(batch, room)
  more = [(0, 0), (0, room - length)]
  made = carry.made._replace(
    emissions=jnp.pad(carry.made.emissions, [*more, (0, 0)]),
    log_prob=jnp.pad(carry.made.log_prob, more),
  )
  return carry._replace(cache=jax.tree.map(_padded_like, carry.cache, larger), made=made)


def _padded_like(x: Array, larger: Array) -> Array:
  if x.shape == larger.shape:
    return x
  return jnp.pad(x, [(0, b - a) for a, b in zip(x.shape, larger.shape, strict=True)])


class Session:
  """One sequence that grows by given and by drawn tokens; what it has seen stays in the cache.

  Attributes:
    tokens: the sequence so far.
    prefilled: number of tokens that `append` has taken in.
    room: positions that the arrays have room for; they grow with the sequence.
    context: the most tokens of a sequence.
    keys: the key of the sequence, [1]; token i is drawn with its fold i.
  """

  def __init__(
    self,
    model: Model,
    context: int,
    params: PyTree,
    settings: DecodingSettings,
    key: Key[Array, ''],
    least_room: int = LEAST_ROOM,
  ):
    """An empty sequence.

    Args:
      model, params: the model.
      context: the most tokens that it takes.
      settings: temperature and the like; of a request, they are checked there.
      key: determines the draws.
      least_room: positions of the first arrays.
    """
    self.context, self.keys = context, key[None]
    self.tokens: list[int] = []
    self.prefilled = self.room = 0
    self._runner = prepare(Runner(model, params))
    self._settings = settings
    self._least_room = min(least_room, context)
    self._carry: Carry | None = None

  @property
  def left(self) -> int:
    """The number of tokens that still fit."""
    return self.context - len(self.tokens)

  def append(self, tokens: Tokens) -> None:
    """Adds tokens to the sequence. Raises ConfigError if they do not fit."""
    rest = [int(token) for token in tokens]
    if len(rest) > self.left:
      raise ConfigError(
        f'the model takes {self.context} tokens; the text has {len(self.tokens)} and '
        f'{len(rest)} more'
      )
    self.prefilled += len(rest)
    if not self.tokens and rest:
      self._resize(len(rest))
      # A piece, because arrays are padded to the size of one.
      first, rest = rest[:LARGEST_PIECE], rest[LARGEST_PIECE:]
      self._carry = start_program(self._generation(first))
      self.tokens += first
    while rest:
      self._resize(len(rest))
      size = max(MIN_BUCKET, 1 << (min(len(rest), LARGEST_PIECE) - 1).bit_length())
      while len(self.tokens) + size > self.room:
        size //= 2  # near the end of the arrays, without padding
      piece, rest = rest[:size], rest[size:]
      padded = np.pad(np.array(piece, np.int32), (0, size - len(piece)))[None, :, None]
      self._carry = append_program(self._runner, self._carry, padded, jnp.int32(len(piece)))
      self.tokens += piece

  def draw(self, number: int) -> list[int]:
    """Up to `number` new tokens, fewer only at the end of the context; they join the sequence."""
    if not self.left:
      return []
    self._resize(min(number, self.left))
    before = len(self.tokens)
    self._carry, step = advance_program(self._generation(), self._carry, number)
    new = np.asarray(step.new)[0, : int(step.i) - before, 0].tolist()
    self.tokens += new
    return new

  def keep(self, number: int) -> None:
    """Keeps the first tokens of the sequence, at least one, and forgets the others."""
    if number == len(self.tokens):
      return
    kept = self.tokens[:number]
    if self._runner.model.network.can_rewind:
      self._carry = rewind_program(self._runner, self._carry, jnp.int32(number))
      self.tokens = kept
    else:
      self.clear()
      self.append(kept)

  def clear(self) -> None:
    """Forgets the sequence."""
    self.tokens, self._carry = [], None

  def _resize(self, more: int) -> None:
    """Makes room for more tokens."""
    needed = len(self.tokens) + more
    if needed <= self.room:
      return
    self.room = min(bucketed_length(max(needed, self._least_room), self.context), self.context)
    if self._carry is not None:
      self._carry = grow_program(self._runner, self._carry, self.room)

  def _generation(self, given: Sequence[int] = ()) -> Generation:
    """The arguments of `generate` for a sequence that begins with given tokens."""
    emissions = np.zeros((1, self.room, 1), np.int32)
    emissions[0, : len(given), 0] = given
    prompt = Prompt(emissions, np.array([len(given)], np.int32))
    prefix = bucketed_prefix(self._runner.model.network, len(given), self.room)
    limits = Limits(prefix, end=jnp.int32(self.context))
    transforms = self._settings.program_transforms()
    return Generation(
      self._runner, self.keys, prompt, transforms, None, self._settings.greedy, limits
    )
