"""The floors of the house: imports only go down, and nothing heavy comes in by the way."""

import ast
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]
ABOVE = {  # what a package must not import
  'common': {'diffusion', 'autoregressive', 'configs', 'experiments'},
  'diffusion': {'autoregressive', 'configs', 'experiments'},
  'autoregressive': {'diffusion', 'configs', 'experiments'},
  'configs': {'diffusion', 'autoregressive', 'experiments', 'jax', 'flax', 'optax', 'numpy'},
}


def imports(path):
  for node in ast.walk(ast.parse(path.read_text())):
    if isinstance(node, ast.Import):
      yield from (alias.name.partition('.')[0] for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
      assert not node.level, f'{path}: relative import'
      yield node.module.partition('.')[0]


@pytest.mark.parametrize('package', ABOVE)
def test_imports_only_go_down(package):
  files = list((ROOT / package).rglob('*.py'))
  assert files
  upwards = {str(f.relative_to(ROOT)): ABOVE[package] & set(imports(f)) for f in files}
  assert not {f: names for f, names in upwards.items() if names}


@pytest.mark.parametrize('package', [*ABOVE, 'experiments'])
def test_flags_are_defined_by_commands_alone(package):
  defining = [f for f in (ROOT / package).rglob('*.py') if 'flags.DEFINE' in f.read_text()]
  assert all(f.relative_to(ROOT).parts[0] == 'experiments' for f in defining)


def test_importing_everything_brings_in_no_other_framework():
  modules = [
    '.'.join(f.relative_to(ROOT).with_suffix('').parts)
    for package in ('common', 'diffusion', 'autoregressive')
    for f in (ROOT / package).rglob('*.py')
    if f.name != '__init__.py'
  ]
  code = (
    f'import importlib, sys; [importlib.import_module(m) for m in {modules!r}]; '
    "heavy = {'tensorflow', 'torch', 'sklearn', 'matplotlib', 'diffrax'} & set(sys.modules); "
    'sys.exit(str(heavy) if heavy else 0)'
  )
  done = subprocess.run([sys.executable, '-c', code], cwd=ROOT, capture_output=True, text=True)
  assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
  'command', ['train', 'evaluate', 'sample', 'ablate', 'prepare_data', 'benchmark', 'convert']
)
def test_every_command_has_help(command):
  done = subprocess.run(
    [sys.executable, '-m', f'experiments.{command}', '--help'],
    cwd=ROOT,
    capture_output=True,
    text=True,
  )
  assert done.returncode in (0, 1)  # absl exits with 1 after --help
  assert f'python -m experiments.{command}' in done.stdout and 'Traceback' not in done.stderr
