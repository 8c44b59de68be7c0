"""Signals: Ctrl-C ends a command, and a run stops once it has saved; a second one ends at once."""

import contextlib
import signal
import sys
from collections.abc import Iterator

import jax
from absl import logging
from jax.experimental import multihost_utils

STOPPED = 75  # exit code: the same command goes on
KINDS = (signal.SIGTERM, signal.SIGINT)


def interrupt(number: int, frame) -> None:
  """The first Ctrl-C is a KeyboardInterrupt; a second one ends the process at once."""
  del frame
  signal.signal(number, signal.SIG_DFL)
  raise KeyboardInterrupt


class Stop:
  """Tells whether SIGTERM or SIGINT was received; a training loop asks after every call.

  Before the loop asks for the first time there is nothing to save, and a signal stops at once.
  """

  def __init__(self):
    self._received = self._asked = False

  def __call__(self) -> bool:
    self._asked = True
    return self._received

  def handle(self, number: int, frame) -> None:
    """The handler of both signals. Raises SystemExit or KeyboardInterrupt before the first step."""
    del frame
    self._received = True
    for each in KINDS:
      signal.signal(each, signal.SIG_DFL)
    name = signal.Signals(number).name
    if self._asked:
      # Only recorded: the loop saves between two calls, when the state is complete.
      logging.info('%s: saving, then stopping; a second signal ends at once', name)
      return
    if number == signal.SIGINT:
      raise KeyboardInterrupt
    logging.info('%s: stopping before the first step, with nothing to save', name)
    sys.exit(STOPPED)


class StopTogether:
  """A `Stop` for several processes: all stop after the same call, whichever got the signal.

  JAX's runtime catches SIGTERM and tells the other processes. They agree on the first call that
  none has passed, without waiting for each other at any other call. A SIGTERM before the first step
  counts after the first calls: the other processes could not know that one has left.
  """

  def __init__(self):
    self._calls = 0

  def __call__(self) -> bool:
    self._calls += 1
    # By the number of the call: the agreed one is one later than the last that any has asked for.
    stopping = multihost_utils.reached_preemption_sync_point(self._calls)
    if stopping:
      logging.info('SIGTERM to a process of this run: saving, then stopping')
      for each in KINDS:
        signal.signal(each, signal.SIG_DFL)
    return stopping

  def handle(self, number: int, frame) -> None:
    """The handler of SIGINT, which from the first call on is like SIGTERM."""
    del frame
    signal.signal(number, signal.SIG_DFL)
    if not self._calls:
      raise KeyboardInterrupt
    signal.raise_signal(signal.SIGTERM)


@contextlib.contextmanager
def stop_on_signals() -> Iterator[Stop | StopTogether]:
  """Yields what tells a loop to stop. A second signal of either kind ends the process at once.

  With several processes this holds for SIGINT, and for SIGTERM once they have agreed where to stop.
  """
  together = jax.distributed.is_initialized()
  stop = StopTogether() if together else Stop()
  # The handler that JAX has installed for SIGTERM must stay, and Python could not put it back.
  kinds = KINDS[1:] if together else KINDS
  previous = {number: signal.signal(number, stop.handle) for number in kinds}
  try:
    yield stop
  finally:
    # Restored, so that signals after the command has finished are not swallowed.
    for number, handler in previous.items():
      signal.signal(number, handler)
