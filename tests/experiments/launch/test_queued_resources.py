"""The script of queued resources, run with a stand-in for gcloud that has one worker."""

import subprocess

import pytest

from experiments.launch import gcloud, job
from tests.experiments.launch import standins

START = job.Job('digits', ('train', '--workdir=/mnt/x'), '/mnt/x', (('A', 'b c'),), restarts=1)
SETTINGS = gcloud.Settings(
  'v6e-16', 'us-east5-b', project='p', spot=True, setup='echo "$TREE" >> "$FAKE/prepared"'
)
BEGIN = ['scp', 'unpack', 'start', 'follow', 'code']
REQUEST = ['list', 'create', 'list', 'list']


@pytest.fixture
def tree(tmp_path, monkeypatch):
  """A clone of a project, as the current folder."""
  folder = tmp_path / 'tree'
  folder.mkdir()
  subprocess.run(['git', 'init', '--quiet', folder], check=True)
  for name in ('setup.py', 'a file', 'deleted', 'ignored'):
    (folder / name).write_text(name)
  (folder / '.gitignore').write_text('ignored')
  subprocess.run(['git', '-C', folder, 'add', '.'], check=True)
  (folder / 'deleted').unlink()
  (folder / 'new').write_text('not tracked yet')
  monkeypatch.chdir(folder)
  return folder


@pytest.fixture
def launch(tree, tmp_path, monkeypatch):
  """launch(*codes, failing='3') runs the script: its exit code, what gcloud did, the folder."""
  fake = tmp_path / 'fake'
  fake.mkdir()

  def launched(*codes, failing='', start=START):
    for name, value in standins.environment(fake, *codes, failing=failing).items():
      monkeypatch.setenv(name, value)
    code = job.run(gcloud.plan(start, SETTINGS), 'gcloud', gcloud.NEEDS)
    calls = standins.calls(fake, 'gcloud')
    assert all(call[:4] == ['--quiet', 'compute', 'tpus', 'queued-resources'] for call in calls)
    assert all(call[-2:] == ['--zone=us-east5-b', '--project=p'] for call in calls)
    return code, [call[4:-2] for call in calls], fake

  return launched


def verbs(calls):
  """'create', ..., or the function that a worker is asked to call."""
  return [call[-1].rpartition(' ')[2] if call[0] == 'ssh' else call[0] for call in calls]


def test_a_run_from_request_to_deletion(launch, capfd):
  code, calls, fake = launch(0)
  assert code == 0 and verbs(calls) == [*REQUEST, *BEGIN, 'delete']
  assert 'a line of the log' in capfd.readouterr().out
  assert calls[1] == [
    'create',
    'digits',
    '--async',
    '--accelerator-type=v6e-16',
    '--runtime-version=v2-alpha-tpuv6e',
    '--node-id=digits',
    '--spot',
  ]
  assert calls[4][3:] == ['digits:', '--node=all', '--worker=all']
  assert calls[6] == ['ssh', 'digits', '--node=all', '--worker=all', calls[6][-1]]
  assert calls[7] == ['ssh', 'digits', '--node=0', '--worker=0', calls[7][-1]]
  assert calls[-1] == ['delete', 'digits', '--force'] and not (fake / 'state').exists()
  assert standins.calls(fake, 'twofold') == [['train', '--workdir=/mnt/x', '--distributed=auto']]
  assert standins.calls(fake, 'uv')[-1][-2:] == ['constraints.txt', '.[tpu]']


def test_workers_get_the_files_that_git_tracks_or_would(launch, monkeypatch):
  monkeypatch.setitem(standins.PROGRAMS, 'uv', 'ls -A > "$FAKE/files"; ' + standins.UV)
  _, _, fake = launch(0)
  assert (fake / 'files').read_text().split('\n')[:-1] == [
    '.gitignore',
    '.venv',
    'a file',
    'new',
    'setup.py',
  ]


def test_words_survive_two_scripts_and_a_connection(launch):
  start = job.Job('digits', standins.WORDS, '/mnt/x', (('SPACE', standins.SPACE),))
  _, _, fake = launch(0, start=start)
  assert standins.calls(fake, 'twofold') == [[*standins.WORDS, '--distributed=auto']]
  assert (fake / 'space').read_text() == standins.SPACE


def test_the_third_call_fails_and_the_run_finishes(launch):
  code, calls, fake = launch(0, failing='3')
  assert code == 0 and verbs(calls) == [*REQUEST[:3], *REQUEST[2:], *BEGIN, 'delete']
  assert len(standins.calls(fake, 'twofold')) == 1


@pytest.mark.parametrize('failing', ['2 7 10 14 20 23 25', '2 8 12 17 21 24 27 30'])
def test_any_call_may_fail(launch, failing):
  """Of every function of the script and of the workers, at least one call."""
  code, calls, fake = launch(0, failing=failing)
  assert code == 0 and verbs(calls)[-1] == 'delete' and not (fake / 'state').exists()
  assert len(standins.calls(fake, 'twofold')) == 1


def test_a_lost_connection_attaches_to_the_same_run(launch):
  code, calls, fake = launch('slow', failing='10 11')
  assert code == 0 and verbs(calls) == [*REQUEST, *BEGIN, 'list', *BEGIN, 'delete']
  assert len(standins.calls(fake, 'twofold')) == 1


def test_a_run_that_saved_and_one_that_crashed_go_on(launch):
  code, calls, fake = launch(75, 75, 134, 0)
  again = ['list', *BEGIN[:2], 'stop', *BEGIN[2:]]
  assert code == 0 and verbs(calls) == [*REQUEST, *BEGIN, *again * 3, 'delete']
  assert len(standins.calls(fake, 'twofold')) == 4
  assert len(standins.calls(fake, 'uv')) == 2  # installed once


def test_crashes_end_after_the_restarts_and_nothing_is_left(launch, capfd):
  code, calls, fake = launch(134, 3)
  assert code == 3 and verbs(calls)[-1] == 'delete' and not (fake / 'state').exists()
  assert 'the run ended with exit code 3, after 1 restarts' in capfd.readouterr().err


def test_a_preempted_slice_is_requested_again(launch):
  code, calls, fake = launch('preempted', 'preempted', 0)
  again = ['list', 'delete', 'list', 'create', 'list', 'list', *BEGIN]
  assert code == 0 and verbs(calls) == [*REQUEST, *BEGIN, *again * 2, 'delete']
  assert len(standins.calls(fake, 'uv')) == 6  # on new machines
  assert len((fake / 'prepared').read_text().split()) == 3  # before each start


def test_a_request_that_fails_is_not_made_for_ever(launch, monkeypatch, capfd):
  failed = standins.GCLOUD.replace('create) echo PROVISIONING', 'create) echo FAILED')
  monkeypatch.setitem(standins.PROGRAMS, 'gcloud', failed)
  code, calls, fake = launch()
  assert code == 1 and verbs(calls).count('create') == 8 and not (fake / 'state').exists()
  said = capfd.readouterr().err
  assert 'gcloud failed 8 times in a row. Run this again, or delete digits' in said
  assert 'queued-resources delete digits --force --zone=us-east5-b --project=p' in said
