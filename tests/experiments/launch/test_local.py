"""The processes of one command on this machine, with small programs in place of a training run."""

import os
import signal
import sys
import threading
import time

import pytest

from experiments.launch import local
from tests.cases import slow

# What each process runs; `i` is its number, `n` the number of processes, `address` HOST:PORT.
BEGIN = """
import os, pathlib, signal, sys, time
address, i, n = sys.argv[-1].removeprefix('--distributed=').split(',')
folder = pathlib.Path(sys.argv[1])
(folder / f'{i}-{len(list(folder.glob(i + "-*")))}').write_text(f'{address} {n} {os.getpid()}')
"""


def run(folder, program, *flags, processes=2, restarts=0):
  command = [sys.executable, '-c', BEGIN + program, str(folder), *flags]
  return local.run(command, processes, restarts)


def started(folder, process):
  """(address, number of processes, process id) of each start of a process."""
  paths = sorted(folder.glob(f'{process}-*'), key=lambda path: int(path.name.partition('-')[2]))
  return [path.read_text().split() for path in paths if path.stat().st_size]


def is_running(pid):
  try:
    os.kill(int(pid), 0)
  except ProcessLookupError:
    return False
  return True


def test_every_process_gets_its_place_and_its_lines_have_its_number(tmp_path, capfd):
  program = (
    'print("out", i); print("err", i, file=sys.stderr); print(os.environ["JAX_LOCAL_DEVICE_IDS"])'
  )
  assert run(tmp_path, program, processes=3) == 0
  places = [started(tmp_path, i)[0] for i in range(3)]
  assert {(address, n) for address, n, _ in places} == {(places[0][0], '3')}
  assert places[0][0].startswith('127.0.0.1:')
  out, err = capfd.readouterr()
  assert sorted(out.splitlines()) == sorted(f'[{i}] {x}' for i in range(3) for x in (f'out {i}', i))
  assert sorted(err.splitlines()) == [f'[{i}] err {i}' for i in range(3)]


@pytest.mark.parametrize(
  ('program', 'code'),
  [
    ('sys.exit(75)', 75),
    ('sys.exit(3) if i == "1" else time.sleep(100)', 3),
    *slow([('os.kill(os.getpid(), signal.SIGKILL) if i == "0" else time.sleep(100)', 137)]),
    # The first failure counts, not that of a process that misses the first one.
    ('time.sleep(0.3 * (i == "0")); sys.exit(4 - int(i))', 3),
    # One that has finished does not hide another that fails.
    ('sys.exit(0) if i == "0" else (time.sleep(0.3), sys.exit(5))', 5),
  ],
)
def test_the_exit_code_and_the_end_of_the_rest(tmp_path, program, code):
  begin = time.monotonic()
  assert run(tmp_path, program) == code
  assert time.monotonic() - begin < 15
  assert not any(is_running(started(tmp_path, i)[0][2]) for i in (0, 1))


def test_the_rest_has_time_to_print_its_own_error(tmp_path, capfd):
  assert run(tmp_path, 'time.sleep(0.5 * int(i)); print("error", i); sys.exit(1)') == 1
  assert set(capfd.readouterr().out.splitlines()) == {'[0] error 0', '[1] error 1'}


@pytest.mark.slow
def test_a_failed_command_starts_again_as_often_as_asked(tmp_path):
  program = 'sys.exit(0 if len(list(folder.glob(i + "-*"))) > 2 else 9)'
  for name in ('a', 'b'):
    (tmp_path / name).mkdir()
  assert run(tmp_path / 'a', program, restarts=1) == 9
  assert len(started(tmp_path / 'a', 0)) == 2
  begin = time.monotonic()
  assert run(tmp_path / 'b', program, restarts=5) == 0
  assert len(started(tmp_path / 'b', 1)) == 3
  assert time.monotonic() - begin > 1 + 2  # the pauses
  ports = [address for address, *_ in started(tmp_path / 'b', 0)]
  assert ports == [address for address, *_ in started(tmp_path / 'b', 1)]


def test_a_restart_continues_a_run_that_began_as_a_fresh_one(tmp_path, capfd):
  program = 'print(sys.argv[2:-1]); sys.exit(1)'
  assert run(tmp_path, program, '--fresh', '--extend', processes=1, restarts=1) == 1
  assert capfd.readouterr().out.splitlines() == ["[0] ['--fresh', '--extend']", "[0] ['--extend']"]


def test_a_stopped_command_does_not_start_again(tmp_path):
  assert run(tmp_path, 'sys.exit(75)', restarts=3) == 75
  assert len(started(tmp_path, 0)) == 1


WAITING = """
def stop(number, frame):
  print(number, flush=True)
  sys.exit(75 if number == signal.SIGTERM else 130)
for kind in (signal.SIGTERM, signal.SIGINT):
  signal.signal(kind, stop)
(folder / f'ready{i}').touch()
time.sleep(100)
"""
DEAF = """
for kind in (signal.SIGTERM, signal.SIGINT):
  signal.signal(kind, lambda *_: (folder / f'heard{i}').touch())
(folder / f'ready{i}').touch()
while True:
  time.sleep(1)
"""


def send(folder, *signals):
  """Sends signals to this process, each as soon as both processes have got the one before."""
  for number, name in signals:
    while len(list(folder.glob(f'{name}?'))) < 2:
      time.sleep(0.01)
    os.kill(os.getpid(), number)


EARLY = '(folder / f"ready{i}").touch(); time.sleep(100)'  # before it handles any signal


@pytest.mark.parametrize('program', [WAITING, EARLY], ids=['waiting', 'early'])
@pytest.mark.parametrize(('number', 'code'), [(signal.SIGTERM, 75), (signal.SIGINT, 130)])
def test_a_signal_goes_to_all_processes(tmp_path, capfd, program, number, code):
  handlers = [signal.getsignal(kind) for kind in local.KINDS]
  sender = threading.Thread(target=send, args=(tmp_path, (number, 'ready')))
  sender.start()
  assert run(tmp_path, program, restarts=3) == code
  sender.join()
  if program == WAITING:
    assert sorted(capfd.readouterr().out.splitlines()) == [f'[{i}] {int(number)}' for i in (0, 1)]
  assert len(started(tmp_path, 0)) == 1
  assert [signal.getsignal(kind) for kind in local.KINDS] == handlers


def test_a_signal_while_processes_start_reaches_all(tmp_path, monkeypatch):
  start = local._started

  def start_after_a_signal(command, index):
    if index == 1:
      os.kill(os.getpid(), signal.SIGTERM)
    return start(command, index)

  monkeypatch.setattr(local, '_started', start_after_a_signal)
  assert run(tmp_path, WAITING) == 75


def test_a_signal_between_two_starts_ends_the_command(tmp_path):
  def send_between():
    while not (places := started(tmp_path, 0)) or is_running(places[0][2]):
      time.sleep(0.01)
    time.sleep(0.3)  # the next start is a second after the end
    os.kill(os.getpid(), signal.SIGTERM)

  sender = threading.Thread(target=send_between)
  sender.start()
  assert run(tmp_path, 'sys.exit(1)', processes=1, restarts=3) == 75
  sender.join()
  assert len(started(tmp_path, 0)) == 1


def test_a_second_signal_kills_all_processes(tmp_path):
  signals = (signal.SIGTERM, 'ready'), (signal.SIGTERM, 'heard')
  sender = threading.Thread(target=send, args=(tmp_path, *signals))
  sender.start()
  assert run(tmp_path, DEAF, restarts=3) == 137
  sender.join()
  assert len(started(tmp_path, 0)) == 1
