"""README is true: the way of a batch, the number of things, and how to add one of your own."""

import contextlib
import importlib
import inspect
import pathlib
import re
import sys
import threading

import jax
import pytest

from common.data import pipeline
from common.training.loop import batches_by_call
from common.training.parallel import make_mesh
from common.training.program import build_program
from experiments import families
from experiments.list.kinds import KINDS

ROOT = pathlib.Path(__file__).parents[1]
PACKAGES = ('autoregressive', 'common', 'diffusion', 'experiments')
# Small, and without the settings that take other paths.
CONFIGS = {
  'diffusion': ('configs/diffusion/images.py:digits', {'network.depth': 1}),
  'autoregressive': ('configs/autoregressive/images.py:digits_4x4', {'network.layers': 1}),
}


@contextlib.contextmanager
def recorded_files():
  """Yields a set that receives the paths of all files whose functions are called."""
  found = set()

  def note(frame, event, argument):  # called very often: it only collects
    del event, argument
    found.add(frame.f_code.co_filename)

  threading.setprofile(note)  # batches are made in a thread of their own
  sys.setprofile(note)
  try:
    yield found
  finally:
    sys.setprofile(None)
    threading.setprofile(None)


def listed_files(heading):
  """The files that README links in the part under a heading."""
  text = (ROOT / 'README.md').read_text()
  part = re.search(rf'^\*\*{re.escape(heading)}\*\*.*?(?=^\*\*|^## )', text, re.M | re.S).group()
  return set(re.findall(r'\]\(([\w/]+\.py)\)', part))


def files_of_a_step(family):
  """The files that make and take one training step, from the batch to the new state."""
  file, changes = CONFIGS[family]
  length = {'train.steps': '1', 'train.steps_per_call': 1, 'optimizer.warmup': '0'}
  config = families.load_config(file, changes | length)
  data = pipeline.load(config['data'])
  method = families.build(config, data.spec)
  mesh = make_mesh(config['parallel'], jax.devices()[:1])
  program = build_program(config, method, data.spec, mesh)
  state = program.step.create_state(program.init)
  with recorded_files() as found:
    for _, _, batches in batches_by_call(config, data, program, 0):
      program.step.run(state, program.step.put_batches(batches))
  inside = {name.removeprefix(f'{ROOT}/') for name in found}
  return {name for name in inside if name.partition('/')[0] in PACKAGES}


@pytest.mark.slow
@pytest.mark.parametrize('family', CONFIGS)
def test_the_way_of_one_batch_lists_every_file(family):
  shared, own = listed_files('Both families'), listed_files(f'Only {family}')
  assert files_of_a_step(family) == shared | own


def test_the_box_holds_as_many_things_as_it_says():
  text = (ROOT / 'README.md').read_text()
  box = re.search(r'^\| in the box .*?\n\n', text, re.M | re.S).group()
  counted = set()
  for line in box.strip().splitlines():
    family = {'diffusion': 'diffusion', 'autoregression': 'autoregressive'}.get(line.split()[1], '')
    for number, kind in re.findall(r'(?<![\w-])(\d+) (\w+)', line):
      entries = [e for e in KINDS[kind].read() if not family or e.family in ('', family)]
      assert int(number) == len(entries), f'README counts {number} {kind}; there are {len(entries)}'
      counted.add(kind)
  assert counted >= {'processes', 'targets', 'weightings', 'samplers', 'grids', 'networks', 'heads'}
  assert counted >= {'orderings', 'datasets', 'domains', 'metrics', 'tasks', 'likelihoods'}


def rows_of_add_your_own():
  """{what: its other cells} of README's table."""
  part = (ROOT / 'README.md').read_text().partition('## Add your own')[2].partition('\n## ')[0]
  cells = [line.strip('|').split(' | ') for line in part.splitlines() if line.startswith('| a')]
  return {row[0].strip(): row[1:] for row in cells}


def module_at(path):
  return importlib.import_module(
    path.removesuffix('.py').removesuffix('/__init__').replace('/', '.')
  )


@pytest.mark.parametrize('what', rows_of_add_your_own())
def test_add_your_own_is_true(what):
  """The class is in its file and has these methods with these arguments; the table has such."""
  write, table, hold = rows_of_add_your_own()[what]
  assert all((ROOT / path).exists() for path in re.findall(r'\]\(([^)]+)\)', write + table + hold))
  names, path = re.findall(r'`([A-Z]\w+)`', write), re.search(r'\]\(([\w/]+\.py)\)', write)
  bases = [vars(module_at(path[1]))[name] for name in names if path and name.isidentifier()]
  bases = [base for base in bases if inspect.isclass(base)]
  for method, arguments in re.findall(r'`(\w+)\(([^)]*)\)`', write):
    if bases:
      parameters = [*inspect.signature(vars_of(bases[0])[method]).parameters]
      assert parameters[0] == 'self' and ', '.join(parameters[1:]) == arguments, (what, method)
  name, file = re.search(r'`([A-Z_]+)`', table), re.search(r'\]\(([\w/]+\.py)\)', table)
  if name:
    entries = vars(module_at(file[1]))[name[1]].values()
    kinds = [entry if inspect.isclass(entry) else type(entry) for entry in entries]
    assert what == 'a metric' or all(issubclass(kind, bases[0]) for kind in kinds)
  for constant, test in re.findall(r'`([A-Z]+)`[^|]*?\]\((tests/[\w/]+\.py)\)', hold):
    assert f'{constant} = ' in (ROOT / test).read_text(), (what, constant)


def vars_of(kind):
  """The members of a class, with those that it inherits."""
  return {name: member for base in reversed(kind.__mro__) for name, member in vars(base).items()}
