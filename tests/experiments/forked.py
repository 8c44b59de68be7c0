"""Runs the command lines of tests in one process, which imports their libraries once.

Each command line runs in a fork of this process, as `python -m experiments.NAME` would run it.
Reads lines of JSON, such as [["train", "--workdir=x"], {"NAME": "of the environment"}], from its
standard input, and answers each with a line of JSON: [exit code, standard output, errors].
"""

import json
import os
import runpy
import signal
import sys
import tempfile

import experiments.runs  # noqa: F401  most of the time of a short command is this import

SECONDS = 900  # after which a command line is ended by SIGALRM; long, for machines with other work


def run(line: list[str], environment: dict[str, str]) -> tuple[int, str, str]:
  """The exit code of a command line, and what it printed."""
  with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
    child = os.fork()
    if not child:
      os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
      os.dup2(out.fileno(), 1)
      os.dup2(err.fileno(), 2)
      os.environ.update(environment)
      signal.alarm(SECONDS)
      _child(line)
    _, status = os.waitpid(child, 0)
    out.seek(0)
    err.seek(0)
    return os.waitstatus_to_exitcode(status), out.read().decode(), err.read().decode()


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
  for request in sys.stdin:
    print(json.dumps(run(*json.loads(request))), flush=True)
