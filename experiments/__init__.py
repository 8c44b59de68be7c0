"""The commands, and what they share: families, runs, flags."""

import ast
import pathlib

# In the order of a first day: `twofold` and `experiments.list` show them so.
COMMANDS = (
  'train',
  'evaluate',
  'sample',
  'chat',
  'compare',
  'ablate',
  'sweep',
  'launch',
  'prepare_data',
  'compile',
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
