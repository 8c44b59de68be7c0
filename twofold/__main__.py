"""Runs a command: `twofold train ...` is `python -m experiments.train ...`.

The package puts `twofold` on the path of a shell, and `python -m twofold` does the same. It imports
only the command that it runs.
"""

import os
import signal
import sys

USAGE = """\
Trains, evaluates and samples diffusion and autoregressive models.

  twofold COMMAND --flag=value ...
  twofold COMMAND --help
"""


def end_at_once(number: int, frame) -> None:
  """Ctrl-C while a command imports its libraries: one line, and exit code 130.

  `KeyboardInterrupt` would be lost if it were raised within a callback of the import system.
  """
  del number, frame
  os.write(2, b'interrupted\n')
  os._exit(130)


def main() -> None:
  """Runs the command that the first argument names, with the other arguments."""
  before = signal.getsignal(signal.SIGINT)
  # Until `experiments.cli.run` takes over. A shell may have set Ctrl-C to be ignored: it stays so.
  if before is signal.default_int_handler:
    signal.signal(signal.SIGINT, end_at_once)
  try:
    _run(*(sys.argv[1:] or ['--help']))
    sys.stdout.flush()
  except BrokenPipeError:
    os._exit(141)  # the reader of a pipe has closed it; what is left to print has no reader
  finally:
    signal.signal(signal.SIGINT, before)


def _run(name: str, *arguments: str) -> None:
  import runpy

  from common.ranges import did_you_mean
  from experiments import COMMANDS, command_lines

  if name in ('--help', '-h', 'help'):
    width = max(map(len, COMMANDS))
    print(USAGE)
    print('\n'.join(f'{name:<{width}}  {line}' for name, line in command_lines().items()))
    return
  if name not in COMMANDS:
    hint = did_you_mean(name, COMMANDS)
    sys.exit(f'error: there is no command {name!r};{hint} commands: {", ".join(COMMANDS)}')
  sys.argv[1:] = arguments
  # As `python -m` runs it: flags belong to the main module, whose docstring is its --help.
  runpy.run_module(f'experiments.{name}', run_name='__main__', alter_sys=True)


if __name__ == '__main__':
  main()
