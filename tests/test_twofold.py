"""The command `twofold`: what it runs, and that an installed package finds its own files."""

import os
import pathlib
import shutil
import site
import subprocess
import sys
import venv

import pytest

from common import config_files
from common.config import ConfigError
from experiments import COMMANDS
from twofold.__main__ import main

ROOT = pathlib.Path(__file__).parents[1]
CONFIG = "from configs.diffusion.images import get_config\n'Of the user.'\n"


def test_help_has_a_line_for_each_command(monkeypatch, capsys):
  monkeypatch.setattr(sys, 'argv', ['twofold'])
  main()
  printed = capsys.readouterr().out
  lines = {line.split()[0]: line for line in printed.splitlines() if line.strip()}
  assert all(len(lines[name].split()) > 4 for name in COMMANDS)


def test_a_misspelt_command_is_refused_with_the_nearest(monkeypatch):
  monkeypatch.setattr(sys, 'argv', ['twofold', 'trian', '--workdir=x'])
  with pytest.raises(SystemExit, match=r"no command 'trian'; did you mean 'train'\? commands: "):
    main()


INTERRUPTED = """
import signal, sys
from twofold.__main__ import main

class Finder:  # Ctrl-C while the import system looks for JAX
  def find_spec(self, name, path, target=None):
    if name == 'jax':
      try:
        signal.raise_signal(signal.SIGINT)
      except BaseException:
        pass  # as in a callback, from which an exception is lost

sys.meta_path.insert(0, Finder())
sys.argv = ['twofold', 'list']
# A shell that runs the tests in the background has set Ctrl-C to be ignored.
signal.signal(signal.SIGINT, signal.default_int_handler)
main()
"""


def test_ctrl_c_while_libraries_are_imported_ends_with_one_line():
  done = subprocess.run([sys.executable, '-c', INTERRUPTED], cwd=ROOT, capture_output=True)
  assert (done.returncode, done.stdout, done.stderr) == (130, b'', b'interrupted\n')


def test_shipped_files_are_found_from_any_folder_unless_the_user_has_one(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  shipped = ROOT / 'configs' / 'diffusion' / 'images.py'
  for name in ('configs/diffusion/images.py', 'diffusion/images.py', 'diffusion/images'):
    assert config_files.find_file(name) == shipped
  assert config_files.find_file('ablations/solvers').name == 'solvers.py'
  mine = pathlib.Path('configs/diffusion/images.py')
  mine.parent.mkdir(parents=True)
  mine.write_text(CONFIG)
  assert config_files.find_file('configs/diffusion/images.py') == mine
  assert config_files.find_file('diffusion/images') == shipped
  with pytest.raises(ConfigError, match=r'did you mean configs/diffusion/images\.py\?'):
    config_files.find_file('diffusion/image.py')


@pytest.fixture(scope='module')
def installed(tmp_path_factory):
  """The folder of programs of a new environment with the package, which sees our dependencies."""
  folder = tmp_path_factory.mktemp('installed')
  source, environment = folder / 'source', folder / 'environment'
  # A copy: building leaves folders behind.
  ignored = shutil.ignore_patterns('.*', '__pycache__', '*.egg-info', 'tests', 'docs', 'runs')
  shutil.copytree(ROOT, source, ignore=ignored)
  venv.create(environment, symlinks=True)
  packages = next(environment.glob('lib/python*/site-packages'))
  ours = [path for path in site.getsitepackages() if (pathlib.Path(path) / 'jax').is_dir()]
  (packages / 'dependencies.pth').write_text('\n'.join(ours) + '\n')
  python = environment / 'bin' / 'python'
  flags = ['--no-deps', '--no-build-isolation', '--no-index', '--quiet', '--force-reinstall']
  subprocess.run([python, '-m', 'pip', 'install', *flags, source], check=True, cwd=folder)
  return environment / 'bin'


@pytest.mark.slow
def test_an_installed_package_trains_samples_and_ablates_from_any_folder(installed, tmp_path):
  (tmp_path / 'mine.py').write_text(CONFIG)

  def twofold(*arguments, code=0):
    done = subprocess.run(
      [installed / 'twofold', *arguments],
      cwd=tmp_path,
      env=os.environ | {'PYTHONPATH': ''},
      capture_output=True,
      text=True,
      timeout=300,
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr

  where = twofold('list', 'configs')
  assert 'configs/diffusion/images.py' in where
  small = ['network.width=16', 'network.depth=1', 'network.heads=2', 'train.steps=2']
  small += ['train.steps_per_call=1', 'train.sample_every=0', 'train.evaluate_every=0']
  flags = [f'--config.{setting}' for setting in small]
  # A config of the user, which imports a shipped one; and a shipped one by its short name.
  twofold('train', '--config=mine.py:digits', *flags, '--workdir=run')
  assert 'error' not in twofold('train', '--config=diffusion/images:digits', '--show')
  twofold('sample', '--workdir=run', '--num=4', '--options=steps=2', '--out=samples.png')
  assert (tmp_path / 'samples.png').is_file()
  rows = twofold('ablate', '--study=ablations/why_diffusion:smoke', '--show')
  assert 'regression' in rows and not (tmp_path / 'configs').exists()
  assert "did you mean 'sample'" in twofold('sampel', code=1)
  # The report's template is data of the package.
  files = subprocess.run(
    [installed / 'python', '-c', 'import common.reporting as r; print(r.__path__[0])'],
    cwd=tmp_path,
    capture_output=True,
    text=True,
    check=True,
  ).stdout.strip()
  assert str(installed.parent) in files and list(pathlib.Path(files).glob('*.jinja'))
