"""The processes of one command on this machine: started, ended and restarted together.

JAX's runtime cannot replace a process: when one ends, the others wait for it until a time-out. So
the whole command starts again, and continues from its last checkpoint.
"""

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from typing import IO

from absl import logging

from experiments.startup.signals import KINDS, STOPPED

HOST = '127.0.0.1'
# Seconds that the others get when one process has ended: to print their own error; to shut down.
AFTER_FAILURE, AFTER_END = 3.0, 60.0
LONGEST_PAUSE = 60.0  # seconds between two starts
POLL = 0.05  # seconds
ENDED_BY_SIGTERM = 128 + signal.SIGTERM
FRESH = re.compile(r'--?fresh(=.*)?')  # would rename the run that a restart has to continue
WRITING = threading.Lock()  # lines of two processes do not mix


def run(command: Sequence[str], processes: int, restarts: int = 0) -> int:
  """Runs a command in several processes on this machine, which talk over the loopback device.

  SIGTERM and SIGINT go to all processes, and no restart follows; a second signal kills them. Every
  line that a process prints begins with its number. On a machine with GPUs, process i takes GPU i.

  Args:
    command: the command line: ['twofold', 'train', '--config=...', '--workdir=...']. Each process
      gets its own --distributed=HOST:PORT,i,n at the end.
    processes: the number of processes.
    restarts: how many times to start again after a failure, after 1, 2, 4, ... seconds.

  Returns:
    The exit code of the last start: 0 if all processes finished; 75 if they saved and stopped, or
    stopped at SIGTERM with nothing to save; otherwise that of the first process that failed, as a
    shell tells it (128 + a signal's number).
  """
  with _Signals() as signals:
    for attempt in range(restarts + 1):
      code = _run_once(command, processes, signals)
      if signals.received and code == ENDED_BY_SIGTERM:
        return STOPPED  # before a process could catch it: it had nothing to save yet
      if code in (0, STOPPED) or signals.received or attempt == restarts:
        return code
      pause = min(2.0**attempt, LONGEST_PAUSE)
      logging.info('starting again in %g s: restart %d of %d', pause, attempt + 1, restarts)
      command = [argument for argument in command if not FRESH.fullmatch(argument)]
      if signals.wait(pause):
        return STOPPED if signals.received[0] == signal.SIGTERM else 128 + signal.SIGINT
  raise AssertionError('the loop returns at its last attempt')


class _Signals:
  """Keeps SIGTERM and SIGINT for the processes; a second signal kills them."""

  def __init__(self):
    self.received: list[int] = []
    self._sent = 0
    self._previous = {}

  def __enter__(self) -> '_Signals':
    self._previous = {kind: signal.signal(kind, self._handle) for kind in KINDS}
    return self

  def __exit__(self, *exception) -> None:
    for kind, handler in self._previous.items():
      signal.signal(kind, handler)

  def _handle(self, number: int, frame) -> None:
    del frame
    self.received.append(number)

  def hand_on(self, processes: Sequence[subprocess.Popen]) -> None:
    """Sends what has arrived since the last call."""
    # Not in the handler, which may run before all processes have started.
    while self._sent < len(self.received):
      number = signal.SIGKILL if self._sent else self.received[0]
      self._sent += 1
      for process in processes:
        process.send_signal(number)

  def wait(self, seconds: float) -> bool:
    """Waits; returns at once, and True, if a signal arrives."""
    end = time.monotonic() + seconds
    while not self.received and time.monotonic() < end:
      time.sleep(POLL)
    return bool(self.received)


def _run_once(command: Sequence[str], number: int, signals: _Signals) -> int:
  """Starts all processes and waits for their end; the exit code, as in `run`."""
  address = f'{HOST}:{free_port()}'
  with contextlib.ExitStack() as stack:
    places = (f'--distributed={address},{i},{number}' for i in range(number))
    processes = [
      stack.enter_context(_started([*command, place], i)) for i, place in enumerate(places)
    ]
    return _wait(processes, signals)


def _wait(processes: Sequence[subprocess.Popen], signals: _Signals) -> int:
  """Waits for the end of all processes; kills those that do not end soon after another one."""
  failure, deadline = None, None
  while True:
    signals.hand_on(processes)
    codes = [process.poll() for process in processes]
    failed = [i for i, code in enumerate(codes) if code not in (None, 0, STOPPED)]
    if failure is None and failed:
      failure, deadline = _shown(codes[failed[0]]), time.monotonic() + AFTER_FAILURE
      logging.info('process %d ended with exit code %d: ending the others', failed[0], failure)
    if None not in codes:
      return max(codes) if failure is None else failure
    if deadline is None and set(codes) != {None}:
      deadline = time.monotonic() + AFTER_END
    if deadline is not None and time.monotonic() > deadline:
      for process in processes:
        process.kill()
    time.sleep(POLL)


def _shown(code: int) -> int:
  """An exit code as a shell tells it: 137 for -9, a process that was killed."""
  return code if code >= 0 else 128 - code


@contextlib.contextmanager
def _started(command: Sequence[str], index: int) -> Iterator[subprocess.Popen]:
  """A process, whose lines are printed as they come; killed if it still runs at the end."""
  environment = {'PYTHONUNBUFFERED': '1', 'JAX_LOCAL_DEVICE_IDS': str(index)}
  process = subprocess.Popen(
    command,
    env=environment | dict(os.environ),
    stdin=subprocess.DEVNULL,
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    # A terminal sends Ctrl-C to all processes of its session: these get it from this process.
    start_new_session=True,
  )
  pipes = ((process.stdout, sys.stdout), (process.stderr, sys.stderr))
  threads = [threading.Thread(target=_copy, args=(*pipe, index), daemon=True) for pipe in pipes]
  for thread in threads:
    thread.start()
  try:
    yield process
  finally:
    process.kill()
    process.wait()
    for thread in threads:
      thread.join()
    process.stdout.close()
    process.stderr.close()


def _copy(lines: IO[bytes], out: IO[str], index: int) -> None:
  """Prints the lines of a process, with its number in front."""
  for line in lines:
    # A reader that has closed the pipe, as `head` does, must not stop the run.
    with WRITING, contextlib.suppress(OSError, ValueError):
      out.write(f'[{index}] {line.decode(errors="replace")}')
      out.flush()


def free_port() -> int:
  """A port of the loopback device that nothing listens on now."""
  with socket.create_server((HOST, 0)) as server:
    return server.getsockname()[1]
