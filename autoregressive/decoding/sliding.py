"""Decoding beyond the context: when it is full, decoding continues from its last half.

Each emission is drawn given at least half a context of earlier ones and at most a whole one; every
half context, the last half is processed again. Which half that is depends only on the position, so
a sample does not depend on the batch that it is drawn in.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, Num

from autoregressive.decoding.sequences import Generated, cut_at_stop, first_stop


class Window(NamedTuple):
  """A window of longer sequences.

  Attributes:
    emissions: the sequences as far as they are drawn.
    begin: where the window begins in them.
    lengths: number of emissions within the window that are given or drawn.
  """

  emissions: Num[np.ndarray, 'batch length values']
  begin: int
  lengths: Int[np.ndarray, 'batch']


# A window -> the same, drawn to its end, and whether all samples have ended in it
DrawWindow = Callable[[Window], tuple[Generated, bool]]


class Slid(NamedTuple):
  """The drawn sequences, and the number of given emissions at the beginning of each window."""

  made: Generated
  given: list[int]


def slide(
  draw_window: DrawWindow,
  emissions: Num[np.ndarray, 'batch length values'],
  lengths: Int[np.ndarray, 'batch'],
  context: int,
  stop: Int[Array, 'stops longest'] | None = None,
  period: int = 1,
) -> Slid:
  """Draws the rest of sequences that are longer than the context.

  The returned arrays are at least as long as the given ones.

  Args:
    draw_window: draws a window of the context's length from its beginning.
    emissions: sequences of the full length; values beyond `lengths` are ignored.
    lengths: number of emissions of each prompt.
    context: emissions that the model takes, at least 2 periods.
    stop: see `DecodingSettings.stop_rows`, or None.
    period: emissions in a token or frame; windows begin at multiples of it, so that a place in a
      window holds the same voice of a frame as in training.
  """
  batch, length, _ = emissions.shape
  half, known = context // (2 * period) * period, int(lengths.min())
  # The first window is the earliest, in steps of half a context, that has room for a new emission.
  begin = half * -(-max(known - context + 1, 0) // half)
  room = context * (2 + (length - 1) // context)  # few shapes, whatever the length
  emissions = np.pad(emissions, ((0, 0), (0, room - length), (0, 0)))
  log_prob, given = np.zeros((batch, room), np.float32), []
  while True:
    end = begin + context
    # Emissions that earlier windows have drawn are given to this one.
    fed = np.clip(np.maximum(lengths, known) - begin, 0, context)
    given.append(int(fed.min()))
    made, ended = draw_window(Window(emissions, begin, fed))
    emissions[:, begin:end] = made.emissions
    # Emissions that an earlier window has drawn keep the log-probability from there.
    log_prob[:, known:end] = made.log_prob[:, known - begin :]
    known, begin = min(begin + int(made.lengths.max()), length), begin + half
    if known == length or ended:
      break
    # A stop may span two windows, so it is looked for in the whole sequence.
    if stop is not None and (_first_stop(emissions[..., 0], lengths, stop) <= known).all():
      break
  made = Generated(jnp.asarray(emissions), jnp.asarray(log_prob), jnp.full(batch, known))
  return Slid(made if stop is None else _cut_at_stop(made, lengths, stop, known), given)


_first_stop, _cut_at_stop = jax.jit(first_stop), jax.jit(cut_at_stop)
