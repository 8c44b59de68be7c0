"""Training in several processes on this machine, which talk over the loopback device."""

import contextlib
import json
import os
import pathlib
import shutil
import signal
import socket
import sys
import threading
import time

import jax
import numpy as np
import pytest

from common.checkpoints import records
from common.files import to_path
from common.reporting import writers
from experiments.launch import local
from tests.experiments.commands import (
  ROOT,
  TINY,
  TINY_DIFFUSION,
  all_ended,
  environment,
  refused,
  run,
  start,
)
from tests.experiments.test_train import assert_same_curve, final_state, losses

SECONDS = 300  # after which a process hangs; long, for machines with other work


def lines_of(flags, workdir, own=((), ()), command='train'):
  """The command lines of two processes; `own` are the flags that only one of them gets."""
  port = local.free_port()
  places = [f'--distributed=127.0.0.1:{port},{i},2' for i in (0, 1)]
  return [(command, *flags, f'--workdir={workdir}', places[i], *own[i]) for i in (0, 1)]


def ends_of(processes):
  """(exit code, standard output, errors) of each process."""
  ends = []
  try:
    for process in processes:
      out, err = process.communicate(timeout=SECONDS)
      ends.append((process.returncode, out, err))
  finally:
    for process in processes:
      process.kill()
  return ends


def run_all(flags, workdir, code=0, devices=1, **settings):
  """Runs a command in two processes to their end; returns what each printed."""
  ends = all_ended(lines_of(flags, workdir, **settings), devices)
  assert [end[0] for end in ends] == [code, code], ends
  return [out + err for _, out, err in ends]


def refusals(flags, workdir, **settings):
  """The one line of error of each process."""
  lines = []
  for printed in run_all(flags, workdir, code=1, **settings):
    assert 'Traceback' not in printed, printed
    lines += [line for line in printed.splitlines() if line.startswith('error: ')]
  assert len(lines) == 2, lines
  return lines


def validation_losses(workdir):
  return [(row['step'], row['loss']) for row in writers.read(workdir, 'validation')]


def assert_equal_runs(one, other, steps=40, rtol=0.0):
  """Two runs have the same leaves, bit for bit, and the same rows of metrics.

  `rtol` is the tolerance of the validation loss.
  """
  (step, state), (other_step, other_state) = final_state(one), final_state(other)
  assert step == other_step == steps
  jax.tree.map(np.testing.assert_array_equal, state, other_state)
  assert losses(one) == losses(other)
  assert [step for step, *_ in losses(one)] == list(range(2, steps + 1, 2))
  np.testing.assert_allclose(validation_losses(one), validation_losses(other), rtol=rtol)


@pytest.fixture(scope='module')
def undisturbed(tmp_path_factory):
  """A run in two processes with a device each, with a picture at step 40; and what they printed."""
  workdir = tmp_path_factory.mktemp('undisturbed') / 'run'
  return workdir, run_all([*TINY, '--config.train.sample_every=40'], workdir)


@pytest.mark.slow
def test_two_processes_equal_one_with_two_devices_bit_for_bit(undisturbed, tmp_path):
  workdir, (first, second) = undisturbed
  run('train', *TINY, '--config.train.sample_every=40', f'--workdir={tmp_path}/run', devices=2)
  assert_equal_runs(workdir, tmp_path / 'run')
  picture = pathlib.Path('samples', '00000040.png')
  assert (workdir / picture).read_bytes() == (tmp_path / 'run' / picture).read_bytes()
  # Only process 0 reports, and only it writes.
  assert 'last: step 40' in first and '2 × cpu' in first
  assert not [line for line in second.splitlines() if not line.startswith('[Gloo]')]
  assert len(list((workdir / 'tensorboard').iterdir())) == 1
  assert not list(workdir.rglob('*.tmp')) and not list(workdir.parent.glob('.shared-*'))


SHORT = ['--config.train.steps=16', '--config.train.evaluate_every=16']


@pytest.mark.slow
def test_pmap_in_two_processes_equals_one_process(tmp_path):
  flags = [*TINY, *SHORT, '--config.train.sample_every=16', '--config.parallel.mode=pmap']
  run_all(flags, tmp_path / 'two')
  run('train', *flags, f'--workdir={tmp_path}/one', devices=2)
  # Every process evaluates the whole batch by itself: the sums have another order.
  assert_equal_runs(tmp_path / 'two', tmp_path / 'one', steps=16, rtol=1e-6)


@pytest.mark.slow
def test_two_processes_with_two_devices_each(tmp_path):
  flags = [*TINY, *SHORT, '--config.parallel.tensor=2']
  run_all(flags, tmp_path / 'run', devices=2)
  run('train', *flags, f'--workdir={tmp_path}/four', devices=4)
  assert_same_curve(tmp_path / 'four', tmp_path / 'run')


@pytest.mark.slow
def test_diffusion_in_two_processes(tmp_path):
  flags = [*TINY_DIFFUSION, *SHORT, '--config.train.sample_every=16', '--config.parallel.fsdp=2']
  run_all(flags, tmp_path / 'two')
  run('train', *flags, f'--workdir={tmp_path}/one', devices=2)
  assert_equal_runs(tmp_path / 'two', tmp_path / 'one', steps=16)
  assert (tmp_path / 'two' / 'samples' / '00000016.png').exists()


def free_job_id():
  """The id of a job of Slurm for which JAX chooses a port that nothing listens on now."""
  for port in range(61440, 65536):
    with contextlib.suppress(OSError), socket.create_server(('127.0.0.1', port)):
      return port - 61440, port
  raise AssertionError('no port is free')


@pytest.mark.slow
def test_processes_of_slurm_find_each_other_and_share_a_bucket(
  undisturbed, bucket_server, monkeypatch
):
  job, port = free_job_id()
  workdir = 'gs://bucket/runs/slurm'
  # What srun sets and JAX reads; the coordinator would listen on every interface.
  monkeypatch.setenv('SLURM_JOB_ID', str(job))
  monkeypatch.setenv('SLURM_STEP_NODELIST', 'localhost')
  monkeypatch.setenv('SLURM_NTASKS', '2')
  monkeypatch.setenv('JAX_COORDINATOR_BIND_ADDRESS', f'127.0.0.1:{port}')
  processes = []
  for i in '01':
    monkeypatch.setenv('SLURM_PROCID', i)
    monkeypatch.setenv('SLURM_LOCALID', i)
    flags = [*TINY, '--config.train.sample_every=40', f'--workdir={workdir}', '--distributed=auto']
    processes.append(start('train', *flags))
  ends = ends_of(processes)
  assert [code for code, *_ in ends] == [0, 0], ends
  assert f'checkpoints in {workdir}: last: step 40' in ends[0][2]
  assert_equal_runs(to_path(workdir), undisturbed[0])
  assert not [name for name in bucket_server.names() if '.shared-' in name or '.writable-' in name]


@pytest.mark.slow
def test_samples_and_evaluations_in_two_processes(undisturbed, tmp_path):
  for place in ('two', 'one'):
    shutil.copytree(undisturbed[0], tmp_path / place)
  asked = [f'--out={tmp_path}/two.npy', '--num=5'], ['--metrics=bits_per_dim']
  drawn, silent = run_all(asked[0], tmp_path / 'two', command='sample')
  assert 'two.npy' in drawn and 'two.npy' not in silent
  run('sample', f'--workdir={tmp_path}/one', f'--out={tmp_path}/one.npy', '--num=5', devices=2)
  np.testing.assert_array_equal(np.load(tmp_path / 'two.npy'), np.load(tmp_path / 'one.npy'))
  printed, silent = run_all(asked[1], tmp_path / 'two', command='evaluate')
  assert 'bits/dim' in printed and 'bits/dim' not in silent
  run('evaluate', *asked[1], f'--workdir={tmp_path}/one', devices=2)
  found = [next((tmp_path / place / 'evaluations').glob('*.json')) for place in ('two', 'one')]
  values = [json.loads(path.read_text())['measures']['bits_per_dim']['value'] for path in found]
  assert values[0] == pytest.approx(values[1], rel=1e-6)


# Failures, under the supervisor.


def supervised(flags, workdir, monkeypatch, restarts=0):
  """Trains in two processes under the supervisor; its exit code."""
  for name, value in environment(1).items():
    monkeypatch.setenv(name, value)
  monkeypatch.chdir(ROOT)
  command = [sys.executable, '-m', 'twofold', 'train', *flags, f'--workdir={workdir}']
  return local.run(command, processes=2, restarts=restarts)


def process_id(workdir, index):
  """The id of a process of the run in a folder; None if there is none."""
  for path in pathlib.Path('/proc').glob('[0-9]*/cmdline'):
    try:
      arguments = path.read_bytes().decode().split('\0')
    except OSError:  # it has ended
      continue
    if f'--workdir={workdir}' in arguments and any(a.endswith(f',{index},2') for a in arguments):
      return int(path.parent.name)
  return None


def kill_coordinator(workdir):
  os.kill(process_id(workdir, 0), signal.SIGKILL)


@pytest.mark.slow
def test_a_killed_run_is_started_again_and_equals_an_undisturbed_one(
  undisturbed, tmp_path, monkeypatch, caplog
):
  workdir, disturbed = tmp_path / 'run', []

  def wait_and_disturb():
    while not (workdir / 'checkpoints' / '8').exists():
      time.sleep(0.002)
    kill_coordinator(workdir)
    disturbed.append(time.monotonic())

  thread = threading.Thread(target=wait_and_disturb)
  thread.start()
  caplog.set_level('INFO', logger='absl')
  flags = [*TINY, '--config.train.sample_every=40']
  assert supervised(flags, workdir, monkeypatch, restarts=2) == 0
  thread.join()
  assert 'process 0 ended with exit code 137' in caplog.text
  assert 'starting again in 1 s: restart 1 of 2' in caplog.text
  [restart] = [r for r in caplog.records if 'starting again' in r.getMessage()]
  ended_after = restart.created - time.time() + time.monotonic() - disturbed[0]
  assert ended_after < 15  # the rest has ended within seconds
  assert_equal_runs(workdir, undisturbed[0])


LONG = [*TINY, '--config.train.steps=4000', '--config.train.checkpoint_every=4000']


@pytest.mark.slow
def test_sigterm_to_one_stops_all_at_the_same_step(tmp_path):
  workdir = tmp_path / 'run'
  processes = [start(*line) for line in lines_of(LONG, workdir)]
  metrics = workdir / writers.METRICS_FILE
  while not (metrics.exists() and metrics.read_text().count('\n') >= 2):
    assert all(process.poll() is None for process in processes)
    time.sleep(0.01)
  processes[1].send_signal(signal.SIGTERM)
  ends = ends_of(processes)
  assert [code for code, *_ in ends] == [75, 75], ends
  [step] = [int(path.name) for path in (workdir / 'checkpoints').iterdir()]
  assert 0 < step < 4000 and 'stopped: the same command continues' in ends[0][2]
  record = records.read_record(workdir / 'checkpoints' / str(step), step)
  assert record['position']['examples'] == 16 * step
  assert losses(workdir)[-1][0] == step
  # It goes on, on other numbers of devices and in one process, with no step lost or seen twice.
  end = step + 8
  flags = [*LONG, f'--config.train.steps={end}', '--extend']
  for devices in (1, 4):
    shutil.copytree(workdir, tmp_path / f'{devices}')
    printed = run('train', *flags, f'--workdir={tmp_path}/{devices}', devices=devices)
    assert f'resuming at step {step} of {end}' in printed
    assert [row[0] for row in losses(tmp_path / f'{devices}')] == list(range(2, end + 1, 2))
  run_all(flags, workdir)
  assert [row[0] for row in losses(workdir)] == list(range(2, end + 1, 2))
  for devices in (1, 4):
    np.testing.assert_allclose(losses(tmp_path / f'{devices}'), losses(workdir), rtol=2e-4)


# What is refused.


@pytest.mark.parametrize(
  ('place', 'message'),
  [
    ('on', '--distributed=on: must be auto, off or HOST:PORT,i,n'),
    ('127.0.0.1:99999,0,2', 'the port must be from 1 to 65535, got 99999'),
    ('127.0.0.1:9000,2,2', 'i must be less than n, got i=2, n=2'),
    ('auto', 'this machine belongs to no cluster that JAX knows (Slurm, Cloud TPU'),
  ],
)
def test_a_place_that_is_not_one(tmp_path, place, message):
  assert message in refused('train', *TINY, f'--workdir={tmp_path}/r', f'--distributed={place}')
  assert not list(tmp_path.iterdir())


def test_processes_that_do_not_find_each_other(tmp_path):
  flags = [*TINY, f'--workdir={tmp_path}/run', '--distributed_timeout=1']
  with socket.create_server(('127.0.0.1', 0)) as taken:
    address = f'127.0.0.1:{taken.getsockname()[1]}'
    line = refused('train', *flags, f'--distributed={address},0,2')
    assert f'--distributed: {address} is in use: choose another port' in line
    line = refused('train', *flags, f'--distributed={address},1,2')
    assert f'not all 2 processes have joined {address} in 1 s' in line
  line = refused('train', *flags, f'--distributed={address},1,2')
  assert f'the coordinator {address} (process 0) cannot be reached within 1 s' in line
  line = refused('train', *flags, f'--distributed={address},0,2')
  assert f'not all 2 processes have joined {address} in 1 s' in line
  assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_different_configs_are_refused_by_all(tmp_path):
  own = (), ('--config.optimizer.learning_rate=0.5', '--fresh')
  for line in refusals(TINY, tmp_path / 'run', own=own):
    assert 'process 1 holds another config than process 0 (--fresh: there True, on' in line
    assert 'optimizer.learning_rate: there 0.5, on process 0 0.003): start all with' in line
  assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_different_data_are_refused_by_all(tmp_path):
  own = [[f'--config.data.dir={tmp_path}/data{i}'] for i in (0, 1)]
  first = [*TINY, *own[0], '--config.train.steps=2']
  run('train', *first, f'--workdir={tmp_path}/first')
  shutil.copytree(tmp_path / 'data0', tmp_path / 'data1')
  [info] = (tmp_path / 'data1').rglob('metadata.json')
  info.write_text(info.read_text().replace('"3"', '"three"'))
  for line in refusals(TINY, tmp_path / 'run', own=own):
    assert 'process 1 holds another dataset than process 0 (fingerprint: there ' in line
  assert not (tmp_path / 'run').exists()


@pytest.mark.slow
def test_a_workdir_that_is_not_shared_is_refused_by_all(tmp_path):
  (tmp_path / 'elsewhere').mkdir()
  own = (), [f'--workdir={tmp_path}/elsewhere/run']
  for line in refusals(TINY, tmp_path / 'run', own=own):
    assert 'process 1 does not see the files that process 0 writes to ' in line
    assert 'give a folder on a file system that all processes share' in line
  assert [path.name for path in tmp_path.iterdir()] == ['elsewhere']
  assert not list((tmp_path / 'elsewhere').iterdir())


@pytest.mark.slow
def test_a_workdir_in_use_and_a_fresh_start(undisturbed, tmp_path):
  workdir = tmp_path / 'run'
  shutil.copytree(undisturbed[0], workdir)
  with (workdir / '.lock').open('w') as file:
    import fcntl

    fcntl.flock(file, fcntl.LOCK_EX)
    own, other = refusals([*TINY, '--fresh'], workdir)
  assert 'is in use by' in own and 'process 0 could not start: its own message says why' in other
  run_all([*TINY, '--fresh', '--config.train.sample_every=40'], workdir)
  assert_equal_runs(workdir, undisturbed[0])
  assert_equal_runs(tmp_path / 'run.1', undisturbed[0])
