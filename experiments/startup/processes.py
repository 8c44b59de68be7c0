"""Several processes of one command: they join before JAX starts, and end together."""

import contextlib
import errno
import os
import re
import socket
import sys
import threading
import time
import traceback
from collections.abc import Iterator

import jax
from absl import flags, logging
from jax.experimental import multihost_utils

from common.config import ConfigError
from experiments import cli

flags.disclaim_key_flags()  # --help lists the flags under the command that defines them
AUTO, OFF = 'auto', 'off'
ADDRESS = re.compile(r'(.+):(\d+),(\d+),(\d+)')
LAST = 1.0  # seconds by which process 0 ends after the others: its end aborts those that still run
MARGIN = 60  # seconds by which JAX's own time-out, which aborts, is later than ours
ABOUT = """\
The processes of this command: off (the default), auto (as Slurm, Cloud TPU, GKE or Open MPI started
them), or HOST:PORT,i,n: this is process i of n, and process 0 listens on HOST:PORT.\
"""


class PlaceParser(flags.ArgumentParser):
  """'auto', 'off' or 'HOST:PORT,i,n'."""

  def parse(self, argument: str) -> str:
    if argument in (AUTO, OFF):
      return argument
    if not (match := ADDRESS.fullmatch(argument)):
      raise ValueError('must be auto, off or HOST:PORT,i,n, such as 10.0.0.2:8476,0,4')
    port, index, count = map(int, match.groups()[1:])
    if not 0 < port < 2**16:
      raise ValueError(f'the port must be from 1 to 65535, got {port}')
    if not index < count:
      raise ValueError(
        f'processes are numbered from 0, so i must be less than n, got i={index}, n={count}'
      )
    return argument


def define() -> tuple[flags.FlagHolder, flags.FlagHolder]:
  """Defines --distributed and --distributed_timeout; both go to `joined`."""
  return (
    cli.define('distributed', ABOUT.replace('\n', ' '), PlaceParser()),
    flags.DEFINE_integer(
      'distributed_timeout', 300, 'Seconds to wait for the other processes.', lower_bound=1
    ),
  )


@contextlib.contextmanager
def joined(place: str | None, seconds: int, stops: bool = False) -> Iterator[bool]:
  """Joins the processes of a command, before JAX has used a device; ends them together.

  After an error, a process prints its line and ends at once: JAX would wait for the others, which
  wait for this one. Whoever started the processes has to end the others
  (`experiments.launch.local` does); without that they abort once they miss its heartbeat.

  Args:
    place: the value of --distributed.
    seconds: the time within which all processes must join.
    stops: whether the command saves and stops after a SIGTERM to any of the processes: the signal
      then belongs to JAX, which tells all processes (`signals.stop_on_signals`).

  Yields:
    Whether this process writes the results and reports: process 0 does.

  Raises:
    ConfigError: JAX knows no cluster here, or the port is in use.
  """
  if place in (None, OFF):
    yield True
    return
  jax.config.update('jax_enable_preemption_service', stops)
  _join(place, seconds)
  try:
    with cli.one_line_errors(), contextlib.ExitStack() as stack:
      first = jax.process_index() == 0
      if not first:  # it would say the same as process 0
        logging.set_verbosity(logging.WARNING)
        nowhere = stack.enter_context(open(os.devnull, 'w'))
        stack.enter_context(contextlib.redirect_stdout(nowhere))
      yield first
      # The first to shut down would otherwise wait for the others for a limited time only.
      multihost_utils.sync_global_devices('finished')
  except SystemExit as end:
    _leave(end.code)
  except BaseException:  # --debug
    traceback.print_exc()
    _leave(1)
  jax.distributed.shutdown()


def _join(place: str, seconds: int) -> None:
  """Initialises JAX's runtime for several processes. Ends this process if that takes too long."""
  settings = {}
  if place != AUTO:
    address, index, count = place.rsplit(',', 2)
    settings = dict(coordinator_address=address, process_id=int(index), num_processes=int(count))
    if index == '0':
      settings['coordinator_bind_address'] = _bind_address(address)
  # JAX aborts with a stack trace when its time is up, so ours ends first.
  timer = threading.Timer(seconds, _give_up, (place, seconds))
  timer.daemon = True
  timer.start()
  try:
    jax.distributed.initialize(**settings, initialization_timeout=seconds + MARGIN)
    jax.devices()  # waits until all processes have told of their devices
  except ValueError as error:
    if place != AUTO:
      raise
    raise ConfigError(
      '--distributed=auto: this machine belongs to no cluster that JAX knows (Slurm, Cloud TPU, '
      f'GKE, Open MPI): write HOST:PORT,i,n, or remove the flag. JAX says: {error}'
    ) from error
  finally:
    timer.cancel()


def _bind_address(address: str) -> str | None:
  """The address on which the coordinator listens; None: JAX's choice, every interface.

  HOST itself if it is an address of this machine: behind a translating gateway it is not.
  """
  host, _, port = address.rpartition(':')
  try:
    with socket.create_server((host.strip('[]'), int(port))):
      return address
  except OSError as error:
    if error.errno == errno.EADDRINUSE:
      raise ConfigError(f'--distributed: {address} is in use: choose another port') from None
    return None


def _give_up(place: str, seconds: int) -> None:
  """Ends this process because the others have not joined; it cannot raise from its thread."""
  address, _, rest = place.partition(',')
  if place == AUTO:
    reason = f'the processes of this cluster have not all joined within {seconds} s'
  elif rest.startswith('0,') or _answers(address):
    reason = f'not all {rest.rpartition(",")[2]} processes have joined {address} in {seconds} s'
  else:
    reason = f'the coordinator {address} (process 0) cannot be reached within {seconds} s'
  print(
    f'error: --distributed={place}: {reason}: start every process, and check that the address is '
    "that of process 0's machine and that no firewall closes the port",
    file=sys.stderr,
    flush=True,
  )
  os._exit(1)


def _answers(address: str) -> bool:
  """Whether anything listens at HOST:PORT."""
  host, _, port = address.rpartition(':')
  try:
    socket.create_connection((host.strip('[]'), int(port)), timeout=5.0).close()
  except OSError:
    return False
  return True


def _leave(code: int | None) -> None:
  """Ends this process without waiting for the others."""
  if jax.process_index() == 0:
    time.sleep(LAST)
  sys.stdout.flush()
  sys.stderr.flush()
  os._exit(code or 0)
