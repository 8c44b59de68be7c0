"""The shape of the code: imports only go down, folders and functions stay small."""

import ast
import importlib.util
import pathlib
import subprocess
import sys

import pytest

from experiments import COMMANDS
from tests.experiments.commands import ended

ROOT = pathlib.Path(__file__).parents[1]
PACKAGES = ('common', 'diffusion', 'autoregressive', 'configs', 'experiments', 'twofold')
ABOVE = {  # packages that each package must not import
  'common': {'diffusion', 'autoregressive', 'configs', 'experiments', 'twofold'},
  'diffusion': {'autoregressive', 'configs', 'experiments', 'twofold'},
  'autoregressive': {'diffusion', 'configs', 'experiments', 'twofold'},
  'configs': {
    'diffusion',
    'autoregressive',
    'experiments',
    'twofold',
    'jax',
    'flax',
    'optax',
    'numpy',
  },
  'experiments': {'twofold'},
  'twofold': {'jax'},  # it starts fast: only the command that runs imports jax
}
# Modules and folders of common/, from the bottom up. Reporting and domains are below training and
# evaluation: the loop writes metrics and draws samples, and evaluation asks a domain for its own.
FLOORS = (
  {
    'buckets',
    'config',
    'config_files',
    'devices',
    'files',
    'flops',
    'method',
    'precision',
    'ranges',
    'trees',
  },
  {
    'attention',
    'checkpoints',
    'data',
    'finetuning',
    'patches',
    'published',
    'reporting',
    'text',
  },
  {'domains'},
  {'baselines', 'evaluation', 'training'},
  {'studies'},
)
MAX_MODULES, MAX_LINES, MAX_ARGUMENTS = 11, 400, 8
# Folders with more modules, each with its reason.
LONG_LISTS = {'configs/papers': 'one file for each paper, found by its name'}
# Lambdas, and functions inside functions, per 1,000 lines of the packages above (all lines, as
# `per_thousand_lines` counts them). Before methods, steps and samplers became frozen dataclasses
# they were 9.7 and 8.8.
MAX_LAMBDAS, MAX_NESTED = 4.0, 3.0
# Modules that may call getattr or hasattr, each with its reason. An interface has a base class with
# neutral defaults instead.
PROBING = {}


def modules(package):
  return sorted((ROOT / package).rglob('*.py'))


def name_of(path):
  return str(path.relative_to(ROOT))


def nodes(path):
  return ast.walk(ast.parse(path.read_text()))


def imports(path):
  """The full name of every imported module, and of whatever is imported from one."""
  for node in nodes(path):
    if isinstance(node, ast.Import):
      yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
      assert not node.level, f'{path}: relative import'
      yield from (f'{node.module}.{alias.name}' for alias in node.names)


def packages_imported(path):
  return {name.partition('.')[0] for name in imports(path)}


def rooms_imported(path):
  """The modules and folders of common/ that a module imports."""
  names = (name.split('.') for name in imports(path))
  return {name[1] for name in names if name[0] == 'common'}


def room_of(path):
  return path.relative_to(ROOT / 'common').parts[0].removesuffix('.py')


def floor_of(room):
  found = [number for number, rooms in enumerate(FLOORS) if room in rooms]
  assert found, f'common/{room} is on no floor: add it to FLOORS'
  return found[0]


@pytest.mark.parametrize('package', ABOVE)
def test_imports_only_go_down(package):
  assert modules(package)
  upwards = {name_of(f): ABOVE[package] & packages_imported(f) for f in modules(package)}
  assert not {f: names for f, names in upwards.items() if names}


def test_imports_inside_common_only_go_down():
  upwards = {}
  for path in modules('common'):
    if path != ROOT / 'common' / '__init__.py':
      floor = floor_of(room_of(path))
      upwards[name_of(path)] = {r for r in rooms_imported(path) if floor_of(r) > floor}
  assert not {f: rooms for f, rooms in upwards.items() if rooms}


def test_no_two_rooms_of_common_import_each_other():
  edges = {
    (room_of(path), room)
    for path in modules('common')
    for room in rooms_imported(path)
    if room != room_of(path)
  }
  assert not {edge for edge in edges if edge[::-1] in edges}


@pytest.mark.parametrize('package', PACKAGES)
def test_flags_are_defined_by_commands_alone(package):
  defining = [f for f in modules(package) if 'flags.DEFINE' in f.read_text()]
  assert all(f.relative_to(ROOT).parts[0] == 'experiments' for f in defining)


@pytest.mark.parametrize('package', PACKAGES)
def test_a_folder_has_few_modules(package):
  folders = {}
  for path in modules(package):
    if path.name != '__init__.py':
      folders.setdefault(name_of(path.parent), []).append(path.stem)
  long = {f: names for f, names in folders.items() if len(names) > MAX_MODULES}
  assert not long.keys() - LONG_LISTS.keys()


@pytest.mark.parametrize('package', PACKAGES)
def test_modules_are_short(package):
  lines = {name_of(f): f.read_text().count('\n') for f in modules(package)}
  assert not {f: number for f, number in lines.items() if number > MAX_LINES}


@pytest.mark.parametrize('package', PACKAGES)
def test_functions_have_few_arguments(package):
  many = {}
  for path in modules(package):
    for node in nodes(path):
      if isinstance(node, ast.FunctionDef):
        number = sum(map(len, (node.args.posonlyargs, node.args.args, node.args.kwonlyargs)))
        if number > MAX_ARGUMENTS:
          many[f'{name_of(path)}: {node.name}'] = number
  assert not many


@pytest.mark.parametrize('package', PACKAGES)
def test_members_of_interfaces_are_not_probed_for(package):
  found = {
    f'{name_of(path)}:{node.lineno}'
    for path in modules(package)
    for node in nodes(path)
    if isinstance(node, ast.Call)
    and isinstance(node.func, ast.Name)
    and node.func.id in ('getattr', 'hasattr')
    and name_of(path) not in PROBING
  }
  assert not found


def is_domain(node):
  return (isinstance(node, ast.Attribute) and node.attr == 'domain') or (
    isinstance(node, ast.Name) and node.id == 'domain'
  )


@pytest.mark.parametrize('package', PACKAGES)
def test_domains_are_compared_nowhere(package):
  """A kind of data is an object with methods (common/domains), never a case distinction."""
  found = set()
  for path in modules(package):
    for node in nodes(path):
      if isinstance(node, ast.Compare):
        sides = [node.left, *node.comparators]
        texts = [c for side in sides for c in ast.walk(side) if isinstance(c, ast.Constant)]
        if any(map(is_domain, sides)) and any(isinstance(c.value, str) for c in texts):
          found.add(f'{name_of(path)}:{node.lineno}')
  assert not found


def nested_functions(node, inside=False):
  """The number of functions that are defined in another function."""
  total = 0
  for child in ast.iter_child_nodes(node):
    function = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef)
    total += (function and inside) + nested_functions(child, inside or function)
  return total


def per_thousand_lines(count):
  """Of the code outside tests/: `count` is given the syntax tree of each module."""
  texts = [f.read_text() for package in PACKAGES for f in modules(package)]
  lines = sum(text.count('\n') for text in texts)
  return 1000 * sum(count(ast.parse(text)) for text in texts) / lines


def test_lambdas_are_few():
  count = lambda tree: sum(isinstance(node, ast.Lambda) for node in ast.walk(tree))
  assert per_thousand_lines(count) <= MAX_LAMBDAS


def test_functions_inside_functions_are_few():
  assert per_thousand_lines(nested_functions) <= MAX_NESTED


def test_importing_everything_brings_in_no_other_framework():
  modules = [
    '.'.join(f.relative_to(ROOT).with_suffix('').parts)
    for package in ('common', 'diffusion', 'autoregressive')
    for f in (ROOT / package).rglob('*.py')
    if f.name != '__init__.py'
  ]
  code = (
    f'import importlib, sys; [importlib.import_module(m) for m in {modules!r}]; '
    "heavy = {'tensorflow', 'torch', 'sklearn', 'scipy.stats', 'matplotlib', 'diffrax'}; "
    'heavy &= set(sys.modules); '
    'sys.exit(str(heavy) if heavy else 0)'
  )
  done = subprocess.run([sys.executable, '-c', code], cwd=ROOT, capture_output=True, text=True)
  assert done.returncode == 0, done.stderr


def test_every_module_that_runs_is_a_command():
  running = {f for f in modules('experiments') if 'cli.run(main' in f.read_text()}
  names = {f.parent.name if f.name == '__main__.py' else f.stem for f in running}
  assert names - {'cli', 'reference', 'completions'} == set(COMMANDS)  # two belong to docs/


@pytest.mark.parametrize('command', COMMANDS)
def test_every_command_has_help(command):
  code, out, err = ended(command, '--help')
  module = importlib.util.find_spec(f'experiments.{command}')
  if module.submodule_search_locations:
    module = importlib.util.find_spec(f'experiments.{command}.__main__')
  doc = ast.get_docstring(ast.parse(pathlib.Path(module.origin).read_text()))
  assert code == 0, err
  assert f'twofold {command}' in doc and out.startswith(f'{doc}\n\nflags:\n\n  --')
