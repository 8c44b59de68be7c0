"""Runs many command lines of the commands in one process, which imports their libraries once.

Each command line runs in a fork of this process, as `python -m experiments.NAME` would run it.
Reads a JSON list of command lines, such as [["train", "--workdir=x"]], from its standard input;
writes a JSON list of [exit code, printed text].
"""

import json
import os
import runpy
import sys
import tempfile

import experiments.runs  # noqa: F401  most of the time of a short command is this import


def run(line: list[str]) -> tuple[int, str]:
  """The exit code of a command line, and all that it printed."""
  with tempfile.TemporaryFile() as printed:
    child = os.fork()
    if not child:
      for stream in (1, 2):
        os.dup2(printed.fileno(), stream)
      _child(line)
    _, status = os.waitpid(child, 0)
    printed.seek(0)
    return os.waitstatus_to_exitcode(status), printed.read().decode()


def _child(line: list[str]) -> None:
  name, *sys.argv[1:] = line
  code = 0
  try:
    runpy.run_module(f'experiments.{name}', run_name='__main__', alter_sys=True)
  except SystemExit as end:
    code = end.code if isinstance(end.code, int) else int(end.code is not None)
  finally:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code or 0)


if __name__ == '__main__':
  print(json.dumps([run(line) for line in json.load(sys.stdin)]))
