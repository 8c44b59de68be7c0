"""Runs the commands as a user does: in their own processes, with tiny configs."""

import atexit
import functools
import json
import os
import pathlib
import re
import subprocess
import sys
from collections.abc import Sequence

ROOT = pathlib.Path(__file__).parents[2]

# A transformer over four patches: the smallest thing that trains.
TINY = (
  '--config=configs/autoregressive/images.py:digits_4x4',
  '--config.network.width=16',
  '--config.network.layers=1',
  '--config.network.heads=2',
  '--config.network.dropout=0.0',
  '--config.data.batch_size=16',
  '--config.train.steps=40',
  '--config.train.steps_per_call=2',
  '--config.train.checkpoint_every=8',
  '--config.train.evaluate_every=20',
  '--config.train.sample_every=0',
  '--config.train.log_every=2',
  '--config.ema.widths=(0.05,0.1)',
)
TINY_DIFFUSION = (
  '--config=configs/diffusion/images.py:digits',
  '--config.network.width=16',
  '--config.network.depth=1',
  '--config.network.heads=2',
  *TINY[5:],
)


def environment(devices: int) -> dict[str, str]:
  """The environment variables of a command on a number of virtual devices.

  Compiled as in this process (tests/conftest.py): most of a tiny run is compilation.
  """
  flags = re.sub(r'(?<=device_count=)\d+', str(devices), os.environ['XLA_FLAGS'])
  return {'XLA_FLAGS': flags, 'PYTHONUNBUFFERED': '1'}


def start(module: str, *flags: str, devices: int = 1) -> subprocess.Popen:
  """Starts `python -m experiments.<module>` on a number of virtual devices."""
  return subprocess.Popen(
    [sys.executable, '-m', f'experiments.{module}', *map(str, flags)],
    cwd=ROOT,
    env=os.environ | environment(devices),
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )


@functools.cache
def forks() -> subprocess.Popen:
  """The process of tests/experiments/forked.py, which ends with this process."""
  command = [sys.executable, '-m', 'tests.experiments.forked']
  pipe = subprocess.PIPE
  process = subprocess.Popen(command, cwd=ROOT, stdin=pipe, stdout=pipe, text=True)
  atexit.register(process.communicate)
  return process


def ended(module: str, *flags: str, devices: int = 1, **env: str) -> tuple[int, str, str]:
  """Runs a command to its end: its exit code, standard output and errors."""
  [end] = all_ended([(module, *flags)], devices, **env)
  return end


def all_ended(
  lines: Sequence[Sequence[str]], devices: int = 1, **env: str
) -> list[tuple[int, str, str]]:
  """Runs commands at the same time to their end: of each, what `ended` returns.

  They run in forks of a process that has imported most modules: a few seconds less per command.
  """
  settings = environment(devices) | env
  request = [[list(map(str, line)), settings] for line in lines]
  print(json.dumps(request), file=forks().stdin, flush=True)
  return [tuple(end) for end in json.loads(forks().stdout.readline())]


def run(module: str, *flags: str, code: int = 0, devices: int = 1, **env: str) -> str:
  """Runs a command to its end, checks its exit code, and returns all that it printed."""
  found, out, err = ended(module, *flags, devices=devices, **env)
  assert found == code, f'exit {found}\n{out}\n{err}'
  return out + err


def refused(module: str, *flags: str, devices: int = 1) -> str:
  """Runs a command that must fail; returns its one line of error."""
  printed = run(module, *flags, code=1, devices=devices)
  assert 'Traceback' not in printed, printed
  lines = [line for line in printed.splitlines() if line.startswith(('error: ', 'FATAL '))]
  assert len(lines) == 1, printed
  return lines[0]
