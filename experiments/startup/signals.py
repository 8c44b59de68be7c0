"""Signals: Ctrl-C ends a command, and a run stops once it has saved; a second one ends at once."""

import contextlib
import signal
import sys
from collections.abc import Iterator

from absl import logging

STOPPED = 75  # exit code: the same command goes on


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
    for each in (signal.SIGTERM, signal.SIGINT):
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


@contextlib.contextmanager
def stop_on_signals() -> Iterator[Stop]:
  """Yields a `Stop`. A second signal of either kind ends the process at once."""
  stop = Stop()
  kinds = (signal.SIGTERM, signal.SIGINT)
  previous = {number: signal.signal(number, stop.handle) for number in kinds}
  try:
    yield stop
  finally:
    # Restored, so that signals after the command has finished are not swallowed.
    for number, handler in previous.items():
      signal.signal(number, handler)
