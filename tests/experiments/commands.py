"""Runs the commands as a user does: in their own processes, with tiny configs."""

import os
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).parents[2]
# Compiled with the usual optimisations but by one thread, because the other cores run tests.
ONE_COMPILER_THREAD = '--xla_cpu_parallel_codegen_split_count=1'

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


def start(module: str, *flags: str, devices: int = 1, **env: str) -> subprocess.Popen:
  """Starts `python -m experiments.<module>` on a number of virtual devices."""
  environment = os.environ | {
    'XLA_FLAGS': f'--xla_force_host_platform_device_count={devices} {ONE_COMPILER_THREAD}',
    'PYTHONUNBUFFERED': '1',
    **env,
  }
  return subprocess.Popen(
    [sys.executable, '-m', f'experiments.{module}', *map(str, flags)],
    cwd=ROOT,
    env=environment,
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )


def run(module: str, *flags: str, code: int = 0, **options) -> str:
  """Runs a command to its end, checks its exit code, and returns all that it printed."""
  process = start(module, *flags, **options)
  out, err = process.communicate(timeout=300)
  assert process.returncode == code, f'exit {process.returncode}\n{out}\n{err}'
  return out + err


def refused(module: str, *flags: str, **options) -> str:
  """Runs a command that must fail; returns its one line of error."""
  printed = run(module, *flags, code=1, **options)
  assert 'Traceback' not in printed, printed
  lines = [line for line in printed.splitlines() if line.startswith(('error: ', 'FATAL '))]
  assert len(lines) == 1, printed
  return lines[0]
