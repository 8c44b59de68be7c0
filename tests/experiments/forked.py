"""Runs the command lines of tests in one process, which imports their libraries once.

Each command line runs in a fork of this process, as `python -m experiments.NAME` would run it.
Reads lines of JSON from its standard input, such as
[[["train", "--workdir=x"], {"NAME": "of the environment"}]]: commands that run at the same time.
Answers each with a line of JSON: [[exit code, standard output, errors]], one for each command.
"""

import contextlib
import gc
import itertools
import json
import os
import runpy
import signal
import sys
import tempfile
from typing import BinaryIO

# Most of the time of a short command is these imports.
import grain  # noqa: F401
import matplotlib.figure  # noqa: F401
import sklearn.neural_network  # noqa: F401

import experiments.runs  # noqa: F401
from common.reporting import writers

SECONDS = 900  # after which a command line is ended by SIGALRM; long, for machines with other work


def run(commands: list[tuple[list[str], dict[str, str]]]) -> list[tuple[int, str, str]]:
  """The exit code of each command, and what it printed."""
  with contextlib.ExitStack() as files:
    outputs = [
      [files.enter_context(tempfile.TemporaryFile()) for _ in ('out', 'err')] for _ in commands
    ]
    children = [_start(*each, *output) for each, output in zip(commands, outputs, strict=True)]
    codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    for file in itertools.chain(*outputs):
      file.seek(0)
    return [
      (code, *(file.read().decode() for file in output))
      for code, output in zip(codes, outputs, strict=True)
    ]


def _start(line: list[str], environment: dict[str, str], out: BinaryIO, err: BinaryIO) -> int:
  """Starts a command line in a fork; the id of its process."""
  child = os.fork()
  if not child:
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(out.fileno(), 1)
    os.dup2(err.fileno(), 2)
    os.environ.update(environment)
    signal.alarm(SECONDS)
    _child(line)
  return child


def _child(line: list[str]) -> None:
  name, *sys.argv[1:] = line
  code = 1
  try:
    runpy.run_module(f'experiments.{name}', run_name='__main__', alter_sys=True)
    code = 0
  except SystemExit as end:
    if isinstance(end.code, str):
      print(end.code, file=sys.stderr)
    code = end.code if isinstance(end.code, int) else int(end.code is not None)
  except BaseException:
    sys.excepthook(*sys.exc_info())
  finally:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == '__main__':
  writers.event_writer()
  # As in tests/conftest.py.
  gc.set_threshold(100_000, 50, 100)
  gc.freeze()
  for request in sys.stdin:
    print(json.dumps(run(json.loads(request))), flush=True)
