"""Where a number comes from: the command, the machine, the versions and the code that made it."""

import datetime
import functools
import hashlib
import importlib.metadata
import json
import os
import pathlib
import platform
import shlex
import subprocess
import sys
from collections.abc import Sequence

import jax

from common.config import ConfigError, read_json
from common.files import Path, atomic_write, exists

ROOT = pathlib.Path(__file__).parents[2]
PACKAGES = ('autoregressive', 'common', 'diffusion', 'experiments')  # configs are recorded whole
FILE = 'provenance.json'  # in the folder of a run
VERSIONS = ('jax', 'jaxlib', 'flax', 'optax', 'numpy', 'scikit-learn')


def environment() -> dict[str, str]:
  """The conditions of a measurement: command, machine, devices, date, versions and code."""
  devices = jax.devices()
  # The cores that this process may use: a container often has fewer than the machine.
  cores = len(os.sched_getaffinity(0)) if sys.platform == 'linux' else os.cpu_count()
  return {
    'command': command(),
    'machine': f'{cores}-core {platform.machine()}, {platform.system()}',
    'devices': f'{len(devices)} × {devices[0].device_kind}',
    'date': datetime.datetime.now(datetime.UTC).strftime('%Y-%m-%d %H:%M UTC'),
    'versions': f'Python {platform.python_version()}, '
    + ', '.join(f'{name} {importlib.metadata.version(name)}' for name in VERSIONS),
    'code': code(),
  }


def conditions() -> dict[str, str]:
  """What is kept beside a result: `environment` without the command, and the date as a day."""
  found = environment()
  del found['command']
  return found | {'date': found['date'].partition(' ')[0]}


def remember(folder: Path) -> None:
  """Adds the present conditions to those of a run, in its folder, unless they are there."""
  known, now = remembered(folder), conditions()
  if now not in known:
    atomic_write(folder / FILE, json.dumps({'starts': [*known, now]}, indent=2))


def remembered(folder: Path) -> list[dict[str, str]]:
  """The conditions under which the run in a folder was started and resumed.

  [] if they are not known, because there is no file or it is damaged.
  """
  path = folder / FILE
  try:
    starts = read_json(path)['starts'] if exists(path) else []
  except (ConfigError, KeyError):
    return []
  whole = isinstance(starts, list) and all(isinstance(one, dict) for one in starts)
  return starts if whole else []


def merged(found: Sequence[dict[str, str]]) -> dict[str, str]:
  """One set of conditions that names every value of each, the dates as the first and the last."""
  facts = {}
  for key in dict.fromkeys(key for one in found for key in one):
    values = list(dict.fromkeys(one[key] for one in found if key in one))
    dates = sorted({min(values), max(values)})
    facts[key] = ' to '.join(dates) if key == 'date' else '; '.join(values)
  return facts


def command() -> str:
  """The command line that started this program, as a user would type it."""
  spec = sys.modules['__main__'].__spec__  # None unless started by `python -m`
  program = (
    ['python', '-m', spec.name.removesuffix('.__main__')] if spec else ['python', sys.argv[0]]
  )
  return shlex.join([*program, *sys.argv[1:]])


@functools.cache
def code() -> str:
  """The code as a person names it: 'twofold 0.1.0, commit 0a8af45 with changes, digest 1f…'."""
  try:
    parts = [f'twofold {importlib.metadata.version("twofold")}']
  except importlib.metadata.PackageNotFoundError:  # a copy of the tree on PYTHONPATH
    parts = ['twofold, not installed']
  # In an installed package, git would find the repository around the environment, if any.
  if _git('rev-parse', '--show-toplevel') == str(ROOT.resolve()):
    changed = _git('status', '--porcelain', '--', *PACKAGES)
    parts.append(f'commit {_git("rev-parse", "--short", "HEAD")}' + ' with changes' * bool(changed))
  return ', '.join([*parts, f'digest {code_digest()}'])


@functools.cache
def code_digest() -> str:
  """A hash of the modules of this project, with which equal configs give equal numbers."""
  sums = hashlib.sha256()
  for package in PACKAGES:
    for path in sorted((ROOT / package).rglob('*.py')):
      sums.update(f'{path.relative_to(ROOT).as_posix()}\0'.encode())
      sums.update(path.read_bytes())
  return sums.hexdigest()[:12]


def digest_of(text: str) -> str:
  """The digest in a text of `code`."""
  return text.rpartition(' ')[2]


def _git(*arguments: str) -> str:
  """What git prints about the folder of the code; '' without git or a repository."""
  try:
    done = subprocess.run(['git', '-C', ROOT, *arguments], capture_output=True, timeout=20)
  except (OSError, subprocess.TimeoutExpired):
    return ''
  return done.stdout.decode('utf-8', 'replace').strip() if done.returncode == 0 else ''
