"""Decoding beyond the context: where it is full, drawing goes on from its last half.

Each emission is drawn from what the model says of it given between half of the context and all of
it, every half context at the cost of taking that half in anew. Which half that is depends on the
position alone, so that a sample does not depend on what it shares a batch with.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, Num

from autoregressive.decoding.generate import Generated, cut, first_stop


def slide(
  window: Callable[..., Generated],
  given: Num[np.ndarray, 'batch length values'],
  lengths: Int[np.ndarray, 'batch'],
  context: int,
  stop: Int[Array, 'stops longest'] | None = None,
  period: int = 1,
) -> Generated:
  """Draws the rest of sequences that are longer than the context.

  Returns arrays of that length or more.

  Args:
    window: `decoding.generate` but for given, lengths and offset.
    given: sequences of the full length; what lies beyond `lengths` is ignored.
    lengths: how many emissions of each are given.
    context: emissions that the model takes, 2 periods or more.
    stop: see `Options.stops`, or None.
    period: windows begin at multiples of it, so that a place in a window means what it meant in
      training.
  """
  batch, length, _ = given.shape
  half, known = context // (2 * period) * period, int(lengths.min())
  begin = half * -(-max(known - context + 1, 0) // half)
  room = context * (2 + (length - 1) // context)  # few shapes, whatever the length
  emissions = np.pad(given, ((0, 0), (0, room - length), (0, 0)))
  log_prob = np.zeros((batch, room), np.float32)
  while True:
    end = begin + context
    fed = np.clip(np.maximum(lengths, known) - begin, 0, context)
    made = window(given=emissions[:, begin:end], lengths=fed, offset=np.int32(begin))
    emissions[:, begin:end] = made.emissions
    log_prob[:, known:end] = made.log_prob[:, known - begin :]
    known, begin = min(end, length), begin + half
    if known == length:
      break
    if stop is not None and (_first_stop(emissions[..., 0], lengths, stop) <= known).all():
      break
  made = Generated(jnp.asarray(emissions), jnp.asarray(log_prob), jnp.full(batch, length))
  return made if stop is None else _cut(made, lengths, stop, length)


_first_stop, _cut = jax.jit(first_stop), jax.jit(cut)
