"""The commands, and what they share: families, runs, flags."""

import ast
import pathlib
import sys
from types import TracebackType

# In the order of a first day: `twofold` and `experiments.list` show them so.
COMMANDS = (
  'train',
  'evaluate',
  'sample',
  'compare',
  'ablate',
  'sweep',
  'prepare_data',
  'convert',
  'benchmark',
  'list',
)


def command_lines() -> dict[str, str]:
  """{command: the first line of its docstring}, without importing the commands."""
  folder, lines = pathlib.Path(__file__).parent, {}
  for name in COMMANDS:
    path = folder / f'{name}.py'
    source = (path if path.is_file() else folder / name / '__main__.py').read_text('utf-8')
    lines[name] = ast.get_docstring(ast.parse(source)).partition('\n')[0]
  return lines


def _one_line_interrupt(
  kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
  """Ctrl-C while a command still imports its libraries prints one line, not a traceback."""
  if issubclass(kind, KeyboardInterrupt):
    print('interrupted', file=sys.stderr)
  else:
    sys.__excepthook__(kind, error, trace)


sys.excepthook = _one_line_interrupt
