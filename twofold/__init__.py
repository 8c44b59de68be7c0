"""The command `twofold`: one door to all commands in `experiments`."""

import sys
from types import TracebackType


def _one_line_interrupt(
  kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
  """Ctrl-C while a command still imports its libraries prints one line, not a traceback."""
  if issubclass(kind, KeyboardInterrupt):
    print('interrupted', file=sys.stderr)
  else:
    sys.__excepthook__(kind, error, trace)


sys.excepthook = _one_line_interrupt
