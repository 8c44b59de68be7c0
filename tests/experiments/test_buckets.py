"""Runs and data in a bucket: an object store on the loopback device, and its real clients."""

import json
import pathlib
import signal

import numpy as np
import pytest

from common.config import ConfigError
from common.data import pipeline, preparation
from common.files import to_path
from common.reporting import writers
from experiments import runs
from experiments.startup import workdir as folders
from tests.experiments.commands import TINY, run, start
from tests.experiments.test_train import assert_same_run, wait_for
from tests.gcs import BUCKET

SHORT = [*TINY, '--config.train.sample_every=40', '--config.train.profile=34:38']
RUN = f'gs://{BUCKET}/runs/digits'
DIGITS = {'name': 'digits', 'dir': f'gs://{BUCKET}/data'}


def printed_by(*command):
  """What a command prints. Not in a fork: the server's address is not in its environment."""
  process = start(*command)
  out, err = process.communicate(timeout=300)
  assert process.returncode == 0, err
  return out + err


def validation_losses(workdir):
  return [(row['step'], row['loss']) for row in writers.read(workdir, 'validation')]


@pytest.mark.slow
def test_a_killed_run_in_a_bucket_equals_one_on_this_machine(bucket_server, tmp_path):
  here = tmp_path / 'run'
  run('train', *SHORT, f'--workdir={here}')
  process = start('train', *SHORT, f'--workdir={RUN}')
  wait_for(lambda: 'runs/digits/checkpoints/16/commit_success.txt' in bucket_server.names())
  process.send_signal(signal.SIGKILL)
  process.communicate()
  steps = folders.last_step(to_path(RUN))
  assert 16 <= steps < 40
  printed = printed_by('train', *SHORT, f'--workdir={RUN}')
  assert f'resuming at step {steps} of 40' in printed
  assert f'next: twofold sample --workdir={RUN}' in printed

  # The same state, metrics, averages and pictures, and no other files.
  assert_same_run(to_path(RUN), here)
  assert validation_losses(RUN) == validation_losses(here)
  picture = pathlib.PurePath('samples', '00000040.png')
  assert bucket_server.read(f'runs/digits/{picture}') == (here / picture).read_bytes()
  for folder in ('checkpoints', 'averages'):
    in_bucket = {path.name for path in (to_path(RUN) / folder).iterdir()}
    assert in_bucket == {path.name for path in (here / folder).iterdir()}
  top = {name.split('/')[2] for name in bucket_server.names('runs/digits/')}
  assert top == {path.name for path in here.iterdir()} - {'.lock'}

  # It is sampled and evaluated like one on this machine.
  drawn = [runs.load(place, 'best').sample(num=3) for place in (RUN, here)]
  np.testing.assert_array_equal(*drawn)
  width = runs.with_average(runs.load(RUN), RUN, 0.07)
  assert width.step == 40
  found = printed_by('evaluate', f'--workdir={RUN}', '--metrics=bits_per_dim')
  assert f'written to {RUN}/evaluations/40.json' in found
  run('evaluate', f'--workdir={here}', '--metrics=bits_per_dim')
  results = bucket_server.read('runs/digits/evaluations/40.json'), here / 'evaluations' / '40.json'
  first, second = (json.loads(r if isinstance(r, bytes) else r.read_bytes()) for r in results)
  assert first == second
  assert f'{RUN}' in printed_by('compare', RUN, str(here))

  # --fresh moves it aside.
  folders.move_aside(to_path(RUN))
  assert not bucket_server.names('runs/digits/')
  assert folders.last_step(to_path(f'{RUN}.1')) == 40
  assert_same_run(to_path(f'{RUN}.1'), here)


def test_prepared_data_in_a_bucket_are_copied_and_the_same(bucket_server, tmp_path, monkeypatch):
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
  with pytest.raises(
    ConfigError, match=r'there is no prepared dataset in gs://bucket/data/twofold'
  ):
    pipeline.load(DIGITS)
  assert pipeline.prepared_spec(DIGITS) is None
  prepared = preparation.prepare({'name': 'digits'}, network=False)
  for path in prepared.rglob('*'):
    if path.is_file():
      target = to_path(DIGITS['dir']) / 'twofold' / 'digits' / '1.0.0' / path.name
      target.write_bytes(path.read_bytes())
  data = pipeline.load(DIGITS)
  assert pipeline.fingerprint(data) == pipeline.fingerprint(pipeline.load({'name': 'digits'}))
  assert pipeline.prepared_spec(DIGITS) == data.spec
