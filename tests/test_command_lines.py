"""Every command line in README, docs, docstrings and --help parses: its flags, names and files."""

import ast
import contextlib
import itertools
import pathlib
import re
import runpy
import shlex
import sys

import pytest
from absl import flags

from common import config_files
from common.config import pick
from common.data.builders import BUILDERS
from common.domains.masks import HIDDEN
from common.evaluation.metrics import METRICS
from common.studies.plans import Study
from diffusion.likelihood import LIKELIHOODS
from experiments import COMMANDS, cli, families, runs
from experiments.benchmarks import GPU, LANGUAGE, SUITES, gpu
from experiments.list import pages
from experiments.study.run_metrics import RUN_METRICS
from experiments.sweep import grid as grids

ROOT = pathlib.Path(__file__).parents[1]
PAGES = [*sorted(ROOT.glob('*.md')), *sorted((ROOT / 'docs').rglob('*.md'))]
CODE = [
  path for name in ('configs', 'experiments', 'twofold') for path in (ROOT / name).rglob('*.py')
]
STARTS = ('twofold ', 'python -m ', 'make ', 'pip install ', 'XLA_FLAGS=')


def code_of_page(text):
  """The lines of code blocks, and the code in running text."""
  blocks = re.findall(r'^```\w*\n(.*?)^```', text, re.M | re.S)
  rest = re.sub(r'^```.*?^```', '', text, flags=re.M | re.S)
  return [*itertools.chain(*map(str.splitlines, blocks)), *code_in_prose(rest)]


def code_of_docstring(text):
  return [*text.splitlines(), *code_in_prose(text)]


def code_in_prose(text):
  """Code in running text is only part of a command, as '...' at its end says."""
  return [f'{code} ...' for code in re.findall(r'`([^`]+)`', text)]


def commands_in(text, code):
  """The commands of a text, whole: a line that ends with a backslash goes on in the next one."""
  lines = (' '.join(line.split()) for line in code(re.sub(r'\\\n\s*', '', text)))
  for line in lines:
    if line.startswith(STARTS):
      # Without what follows a command in a docstring: '(once)', '> FILE', '< FILE'.
      yield re.sub(r' (\(.*|[<>] .*)$', '', line)


def command_lines():
  """(file, command) for every command line that a reader may type."""
  for path in PAGES:
    text = path.read_text(encoding='utf-8')
    yield from ((path.name, line) for line in commands_in(text, code_of_page))
  for path in CODE:
    text = ast.get_docstring(ast.parse(path.read_text(encoding='utf-8'))) or ''
    name = str(path.relative_to(ROOT))
    yield from ((name, line) for line in commands_in(text, code_of_docstring))


LINES = sorted(set(command_lines()))


REFERENCE = 'experiments.benchmarks.reference'  # its --config is plain text
# In place of values that a line leaves open: '--config=...'.
EXAMPLES = {
  'config': 'diffusion/images',
  'workdir': 'runs/any',
  'study': 'ablations/solvers',
  'grid': 'train.steps=1,2',
}
REQUIRED = {'workdir': 'runs/any', 'study': 'ablations/solvers', 'dataset': 'mnist'}


def arguments_of(line):
  """The module that a command line runs, and its arguments."""
  for flag, value in EXAMPLES.items():
    line = re.sub(rf'--{flag}=\S*\.\.\.\S*', f'--{flag}={value}', line)
  program, *words = (word for word in shlex.split(line, comments=True) if word != '...')
  while '=' in program:  # variables of the environment
    program, *words = words
  if program == 'python':
    assert words[0] == '-m'
    return words[1], words[2:]
  return 'twofold', words


RUNS = re.compile(r'(\S+=\S+ )?(twofold|python -m (experiments|twofold))\b')
OURS = [(file, line) for file, line in LINES if RUNS.match(line)]


@contextlib.contextmanager
def parsed(module, arguments, whole):
  """The namespace of a command's module, with its flags parsed as the command itself would.

  Unless the command is whole, it need not have its required flags.
  """
  # A flag that was put back, below, has no module.
  modules = {name: flags.FLAGS.find_module_defining_flag(name) for name in flags.FLAGS}
  others = [
    name
    for name, owner in modules.items()
    if owner is None or (owner.startswith('experiments.') and owner != 'experiments.cli')
  ]
  kept = {name: flags.FLAGS[name] for name in others}  # of commands that other tests import
  before, argv = set(flags.FLAGS) - set(others), sys.argv
  flags.FLAGS.remove_flag_values(others)
  sys.argv = [module, *arguments]
  try:
    namespace = runpy.run_module(module)
    given = {word.partition('=')[0] for word in arguments}
    lacking = [name for name in REQUIRED if name in flags.FLAGS and f'--{name}' not in given]
    examples = [f'--{name}={REQUIRED[name]}' for name in lacking if not whole]
    yield namespace, flags.FLAGS([*sys.argv, *examples])[1:]
  finally:
    sys.argv = argv
    flags.FLAGS.remove_flag_values(set(flags.FLAGS) - before)
    flags.FLAGS.unparse_flags()
    for name, flag in kept.items():
      flags.FLAGS[name] = flag


def trained_configs():
  """{WORKDIR: config} of the runs that the lines themselves train."""
  found = {}
  for _, line in OURS:
    try:
      arguments = arguments_of(line)[1]
    except ValueError:  # an open quotation mark; the line's own test says so
      continue
    values = dict(
      word[2:].split('=', 1) for word in arguments if word.startswith('--') and '=' in word
    )
    if 'config' in values and 'workdir' in values:
      found[values['workdir']] = families.load_config(values['config'], {})
  return found


def check_options(texts, config):
  """Options are settings of the sampling of the run's family, or of any if the run is unknown."""
  options = cli.parse_options(texts)
  names = [config['family']] if config else families.FAMILIES
  sections = [(name, (config or families.defaults(name))['sampling']) for name in names]
  errors = []
  for name, section in sections:
    try:
      return families.FAMILIES[name].with_options(section, options)
    except (TypeError, ValueError) as error:
      errors.append(f'{name}: {error}')
  raise AssertionError(errors)


def check_values(values, config):
  """Names that flags give are names of tables; files are there."""
  tables = {'metrics': METRICS | RUN_METRICS, 'suite': {**SUITES, LANGUAGE: (), GPU: ()}}
  tables['rows'] = gpu.ROWS
  for flag, table in tables.items():
    for name in values.get(flag) or ():
      pick(table, name, flag)
  for flag in ('dataset', 'on'):
    if re.fullmatch('[a-z0-9_]+', values.get(flag) or ''):  # otherwise a file
      pick(BUILDERS, values[flag], flag)
  if values.get('study'):
    config_files.call(values['study'], 'get_study', Study)
  if values.get('options'):
    check_options(values['options'], config)
  if values.get('likelihood'):
    pick(LIKELIHOODS, cli.parse_component(values['likelihood'])['name'], 'likelihood')
  if values.get('task'):
    pick(
      {k: v for f in families.FAMILIES.values() for k, v in f.tasks.items()}, values['task'], 'task'
    )
  if values.get('mask'):
    pick(HIDDEN, values['mask'].partition(':')[0], 'mask')
  if values.get('step') and 'topology' not in values:  # of `compile` it is a choice of absl's
    runs.parse_step(values['step'])
  cli.parse_widths(values.get('ema') or [], stored=(0.1,))  # the text around it says so


def check(line, trained):
  """Parses one command line. Raises an error if the command would refuse it."""
  module, arguments = arguments_of(line)
  if module == 'twofold':
    command, *arguments = arguments or ['--help']
    assert command in (*COMMANDS, 'COMMAND', '--help'), f'there is no command {command!r}'
    module = f'experiments.{command}'
  if arguments in ([], ['--help']):
    return  # only the name of a command
  with parsed(module, arguments, not line.endswith('...')) as (namespace, words):
    values = {name: flags.FLAGS[name].value for name in flags.FLAGS}
    if 'config' in values and module != REFERENCE and namespace['CONFIG'].given:
      namespace['CONFIG'].load()
    check_values(values, trained.get(values.get('workdir')))
    if values.get('grid') and namespace['CONFIG'].given:
      axes = grids.parse_grid(values['grid'])
      assert grids.build(values['config'], namespace['CONFIG'].texts, axes, 1, ()).rows
  if module == 'experiments.list':
    for word in (word for word in words if not word.isupper()):
      assert pages.listing(word)
  elif module == 'experiments.launch':
    check(shlex.join(('twofold', *words)), trained)
  elif module == 'experiments.compare':
    assert len(words) > 1, 'compare takes two or more runs'
  else:
    assert not words, f'{module} takes no arguments: {words}'


@pytest.fixture(scope='module')
def trained():
  return trained_configs()


def test_lines_are_found_in_all_kinds_of_places():
  files = {file for file, _ in OURS}
  assert {
    'README.md',
    'datasets.md',
    'configs/diffusion/images.py',
    'experiments/train.py',
  } <= files
  assert len(OURS) > 60


def test_commands_are_written_in_one_form():
  """`twofold train`, not `python -m experiments.train`; only `twofold` itself mentions both."""
  long = [f'python -m experiments.{command}' for command in COMMANDS]
  others = [(file, line) for file, line in OURS if ' '.join(line.split()[:3]) in long]
  assert not [(file, line) for file, line in others if not file.startswith('twofold/')]


@pytest.mark.parametrize(
  ('file', 'line', 'message'),
  [
    ('a typo', 'twofold train --config=diffusion/images --workdri=x', 'workdri'),
    ('a setting', 'twofold train --config=diffusion/images --config.train.stepz=3', 'train.steps'),
    ('a file', 'twofold train --config=diffusion/image.py --workdir=x', 'diffusion/images.py'),
    ('a variant', 'twofold train --config=diffusion/images:nist --workdir=x', 'mnist'),
    ('a metric', 'twofold evaluate --workdir=x --metrics=fid', 'unknown metric'),
    ('an option', 'twofold sample --workdir=x --options=step=3', 'unknown sampling option'),
    ('a dataset', 'twofold prepare_data --dataset=minst', 'mnist'),
    ('a command', 'twofold trains --workdir=x', 'trains'),
    ('an argument', 'twofold train digits --config=diffusion/images', 'digits'),
  ],
)
def test_a_wrong_line_is_noticed(file, line, message, trained):
  """The test below can fail."""
  with pytest.raises(Exception, match=re.escape(message)):
    check(line, trained)


def test_targets_of_make_and_extras_of_pip_exist():
  targets = set(re.findall(r'^([\w-]+):', (ROOT / 'Makefile').read_text(), re.M))
  extras = set(re.findall(r"^  '(\w+)': \[", (ROOT / 'setup.py').read_text(), re.M))
  for file, line in LINES:
    program, *words = line.split('#')[0].removesuffix('...').split()
    if program == 'make':
      assert {word for word in words if '=' not in word} <= targets, (file, line)
    elif program == 'pip':
      named = {name for part in re.findall(r'\[([\w,]+)\]', line) for name in part.split(',')}
      assert named <= extras, (file, line)


@pytest.mark.parametrize(('file', 'line'), OURS, ids=[f'{f}: {line}' for f, line in OURS])
def test_a_command_line_parses(file, line, trained):
  check(line, trained)
