"""A study from the command line: tables and report, resuming, failing rows, bad studies."""

import json
import pathlib
import re
import shutil
import signal
import time

import pytest

from tests.experiments.commands import all_ended, refused, run, start

STUDY = """
from common.studies.claims import Claim
from common.config import pick
from common.studies.plans import Row, Study

BROKEN = {
  'smoke': (),
  'broken': (Row('broken', {'optimizer.name': 'adma'}),),
  'longer': (Row('longer', {'train.steps': '400', 'train.checkpoint_every': '200'}),),
  'images': (
    Row('a', {'train.steps': '8'}),
    Row('b', {'train.steps': '10'}),
    Row('both', ensemble=('a', 'b')),
  ),
}
TINY = {
  'network.width': 16, 'network.layers': 1, 'network.heads': 2, 'data.batch_size': 16,
  'train.steps': '6', 'train.steps_per_call': 2, 'train.log_every': '2', 'train.sample_every': '0',
  'evaluation.num_samples': 40, 'evaluation.batch_size': 40,
}

def get_study(scale='smoke'):
  return Study(
    name='tiny', title='Warm & cold', base='configs/autoregressive/images.py:digits_4x4',
    scale=scale, config=TINY,
    rows=(
      Row('warm', sampling={'temperature': 1.0}),
      Row('cold', sampling={'temperature': 0.5}),
      *pick(BROKEN, scale, 'scale'),
    ),
    metrics=('agreement', 'bits_per_dim', 'evaluations', 'parameters', 'training_seconds'),
    paper='Nobody 2020', published={('warm', 'bits_per_dim'): 2.92},
    claims=(Claim('one model', ('warm', 'parameters'), near=('cold', 'parameters'), within=0.05),),
  )
"""


@pytest.fixture(scope='module')
def study(tmp_path_factory):
  path = tmp_path_factory.mktemp('study') / 'tiny.py'
  path.write_text(STUDY)
  return path


@pytest.fixture(scope='module')
def finished(study):
  workdir = study.parent / 'work'
  return workdir, run('ablate', f'--study={study}:smoke', f'--workdir={workdir}')


def test_a_study_writes_its_tables_and_report(finished):
  workdir, printed = finished
  text = (workdir / 'table.md').read_text()
  assert text in printed
  assert '- **holds**: one model' in text and '| 2.92 |' in text
  assert (workdir / 'table.csv').read_text().startswith('row,agreement,agreement_interval,')
  record = json.loads((workdir / 'table.json').read_text())
  warm, cold = (row['cells'] for row in record['rows'])
  assert warm['evaluations']['value'] == 4.0  # one per patch
  assert warm['bits_per_dim']['value'] == cold['bits_per_dim']['value'] > 0
  assert warm['training_seconds']['value'] > 0
  assert len(list((workdir / 'models').iterdir())) == 1
  page = (workdir / 'report.html').read_text()
  assert page.count('data:image/png') == 2 and 'Warm &amp; cold' in page


def test_finished_work_is_not_repeated_and_a_failing_row_does_not_stop_the_others(finished, study):
  workdir, _ = finished
  printed = run('ablate', f'--study={study}:broken', f'--workdir={workdir}', code=1)
  assert 'warm: training' not in printed and 'warm: measuring' not in printed
  assert "broken: failed: unknown optimizer.name 'adma'; did you mean 'adam'?" in printed
  assert '- broken failed: ' in (workdir / 'table.md').read_text()


def test_a_part_that_does_not_exist_is_refused(study, tmp_path):
  said = refused('ablate', f'--study={study}:smoke', f'--workdir={tmp_path}/new', '--shard=3/2')
  assert said == 'error: --shard=3/2: write PART/PARTS, such as 1/4, 2/4, 3/4 and 4/4'
  for seeds in ('0,x', '1,1', '-1'):
    said = refused('ablate', f'--study={study}:smoke', '--show', f'--seeds={seeds}')
    assert said == f'error: --seeds={seeds}: write different whole numbers from 0, such as 0,1,2'
  said = refused('ablate', f'--study={study}:smoke', '--show', '--only=hot')
  assert said == "error: --only='hot' matches no row; rows: warm; cold"
  assert not (tmp_path / 'new').exists()


def test_tables_of_a_part_do_not_replace_those_of_the_study(finished, study):
  workdir, _ = finished
  whole = (workdir / 'table.md').read_text()
  printed = run('ablate', f'--study={study}:smoke', f'--workdir={workdir}', '--only=cold')
  assert ': training' not in printed and ': measuring' not in printed
  assert (workdir / 'table.md').read_text() == whole
  part = (workdir / 'parts' / 'cold' / 'table.md').read_text()
  assert 'warm' not in part and 'Here only the rows of --only=cold.' in part


def test_a_folder_holds_one_study(finished, study):
  workdir, _ = finished
  other = study.parent / 'other.py'
  other.write_text(STUDY.replace("name='tiny'", "name='large'"))
  said = refused('ablate', f'--study={other}:smoke', f'--workdir={workdir}')
  assert said == f"error: {workdir} holds the study 'tiny', not 'large': choose another --workdir"


def test_a_part_of_the_rows_is_shown(study):
  printed = run('ablate', f'--study={study}:smoke', '--show', '--only=^cold', '--seeds=7')
  assert 'cold  (family ' in printed and 'seed 7)' in printed and 'warm' not in printed


def test_an_ensemble_of_images_is_refused_before_training(study, tmp_path):
  said = refused('ablate', f'--study={study}:images', f'--workdir={tmp_path}/new')
  assert "the ensemble 'both' pools forecasts of time series, but digits has none" in said
  assert not (tmp_path / 'new').exists()


def test_an_unknown_scale_is_refused(study, tmp_path):
  said = refused('ablate', f'--study={study}:smoek', f'--workdir={tmp_path}')
  assert (
    said
    == "error: unknown scale 'smoek'; did you mean 'smoke'? known: broken, images, longer, smoke"
  )


def test_a_cell_is_kept_with_everything_that_made_it(finished):
  workdir, _ = finished
  samples = [json.loads(path.read_text()) for path in (workdir / 'cells').glob('samples-*.json')]
  assert sorted(one['settings']['row'] for one in samples) == ['cold', 'warm']
  cold = next(one for one in samples if one['settings']['row'] == 'cold')
  assert cold['settings']['options'] == {'temperature': 0.5} and cold['settings']['seed'] == 0
  assert cold['settings']['config']['network']['width'] == 16
  assert cold['settings']['data']['fingerprint']
  assert cold['conditions'][0].keys() == {'machine', 'devices', 'date', 'versions', 'code'}
  measured = cold['measures']['agreement']
  assert measured['conditions'] == 0 and 0 <= measured['measure']['value'] <= 1
  (model,) = (workdir / 'models').iterdir()
  starts = json.loads((model / 'provenance.json').read_text())['starts']
  assert [one['code'] for one in starts] == [cold['conditions'][0]['code']]
  assert f'- code: {starts[0]["code"]}' in (workdir / 'table.md').read_text()


@pytest.fixture
def of_other_code(finished, tmp_path):
  """A finished study whose cells, and a study whose model, other code has made."""
  other = 'twofold 0.0.9, digest 123456789abc'
  folders = tmp_path / 'cells_of_other_code', tmp_path / 'model_of_other_code'
  for folder, pattern in zip(folders, ('cells/*.json', 'models/*/provenance.json'), strict=True):
    shutil.copytree(finished[0], folder)
    for path in folder.glob(pattern):
      path.write_text(re.sub('"code": "[^"]*"', f'"code": "{other}"', path.read_text()))
  return other, *folders


def test_results_of_other_code_are_never_mixed_unasked(of_other_code, study):
  other, *folders = of_other_code
  for workdir in folders:
    said = refused('ablate', f'--study={study}:smoke', f'--workdir={workdir}')
    assert f'{workdir} holds results of {other}, and this is twofold ' in said
    assert '--other_code=again' in said and '\n' not in said
  command = ('ablate', f'--study={study}:smoke', f'--workdir={folders[0]}')
  printed = run(*command, '--other_code=keep')
  assert 'measuring' not in printed and f'- code: {other}; twofold ' in printed
  printed = run(*command, '--other_code=again')
  # The model is of this code: it stays, and only its cells are measured again.
  assert 'warm: measuring' in printed and ': training' not in printed and other not in printed
  assert len(list((folders[0] / 'before' / '1' / 'cells').glob('samples-*.json'))) == 2
  assert run(*command).count('measuring') == 0


@pytest.mark.slow
def test_a_model_of_other_code_is_trained_again(of_other_code, study):
  other, _, workdir = of_other_code
  command = ('ablate', f'--study={study}:smoke', f'--workdir={workdir}', '--other_code=again')
  printed = run(*command)
  assert printed.count(': training in') == 1 and 'warm: measuring' in printed
  assert other not in printed and len(list((workdir / 'before' / '1' / 'models').iterdir())) == 1


def test_a_failed_row_keeps_its_log(finished, study):
  workdir, _ = finished
  printed = run('ablate', f'--study={study}:broken', f'--workdir={workdir}', code=1)
  log = re.search(r'broken: failed: .* \(log: (.*)\)', printed).group(1)
  assert 'Traceback' in pathlib.Path(log).read_text() and "'adma'" in pathlib.Path(log).read_text()


def test_a_dry_run_says_what_is_left(finished, study):
  workdir, _ = finished
  printed = run('ablate', f'--study={study}:smoke', f'--workdir={workdir}', '--dry_run')
  assert printed.splitlines() == [
    'warm: finished',
    'cold: finished',
    '0 trainings and 0 measurements are left: about 0:00 in one command',
  ]
  said = refused('ablate', '--dry_run')
  assert said == 'error: --study is missing: name one, such as those of twofold ablate --list'


@pytest.fixture(scope='module')
def undisturbed(study):
  """The cells of a study of two models, made in one command."""
  workdir = study.parent / 'undisturbed'
  run('ablate', f'--study={study}:longer', f'--workdir={workdir}')
  return cells_of(workdir)


def cells_of(workdir):
  """The values of a finished table, without those that are times."""
  rows = json.loads((workdir / 'table.json').read_text())['rows']
  return {
    (row['name'], metric): cell['value']
    for row in rows
    for metric, cell in row['cells'].items()
    if metric != 'training_seconds'
  }


@pytest.mark.slow
def test_parts_that_run_at_the_same_time_share_a_folder(study, undisturbed, tmp_path):
  command = ('ablate', f'--study={study}:longer', f'--workdir={tmp_path}')
  for code, printed, said in all_ended([(*command, f'--shard={part}/2') for part in (1, 2)]):
    assert code == 0 and 'is finished; without --shard' in printed, said
  assert len(list((tmp_path / 'models').iterdir())) == 2
  whole = run(*command)
  assert ': training' not in whole and ': measuring' not in whole
  assert cells_of(tmp_path) == undisturbed


@pytest.mark.slow
def test_a_study_that_is_killed_goes_on_where_it_was(study, undisturbed, tmp_path):
  """Killed in the training of its second model, of which a checkpoint is there."""
  command = ('ablate', f'--study={study}:longer', f'--workdir={tmp_path}')
  process = start(*command)
  while not list(tmp_path.glob('models/*/checkpoints/200')) and process.poll() is None:
    time.sleep(0.01)
  process.send_signal(signal.SIGKILL)
  process.communicate()
  assert process.returncode == -signal.SIGKILL and not (tmp_path / 'table.json').exists()
  again = run(*command)
  assert 'warm: training' not in again and 'warm: measuring' not in again
  assert int(re.search(r'resuming at step (\d+) of 400', again).group(1)) >= 200
  assert cells_of(tmp_path) == undisturbed


@pytest.mark.slow
def test_a_dry_run_times_the_models_that_rows_share_once(study, tmp_path):
  new = tmp_path / 'new'
  printed = run('ablate', f'--study={study}:smoke', f'--workdir={new}', '--dry_run', '--seeds=0,1')
  # The rows share their models, which the first of them trains.
  assert re.search(r'^warm: 2 trainings of \d+:\d\d, 2 measurements of \d+:\d\d$', printed, re.M)
  assert re.search(r'^cold: 2 measurements of \d+:\d\d$', printed, re.M)
  assert '2 trainings and 4 measurements are left: about ' in printed and not new.exists()


def test_a_row_that_cannot_be_timed_is_named(finished, study):
  workdir, _ = finished
  printed = run('ablate', f'--study={study}:broken', f'--workdir={workdir}', '--dry_run')
  assert "broken: 1 training, 1 measurement (not timed: unknown optimizer.name 'adma'" in printed
  assert 'in one command; rows not timed: 1' in printed


def test_the_studies_are_listed():
  printed = run('ablate', '--list')
  assert 'configs/ablations/nanogpt.py:cpu' in printed
