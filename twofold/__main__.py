"""Runs a command: `twofold train ...` is `python -m experiments.train ...`.

The package puts `twofold` on the path of a shell, and `python -m twofold` does the same. It imports
only the command that it runs.
"""

import runpy
import sys

from common.ranges import did_you_mean
from experiments import COMMANDS, command_lines

USAGE = """\
Trains, evaluates and samples diffusion and autoregressive models.

  twofold COMMAND --flag=value ...
  twofold COMMAND --help
"""


def main() -> None:
  """Runs the command that the first argument names, with the other arguments."""
  name, *arguments = sys.argv[1:] or ['--help']
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
