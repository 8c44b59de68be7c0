"""Studies with toy models: what they train, what they keep, what they refuse."""

import dataclasses
import itertools
import json
import shutil

import numpy as np
import pytest

from common.config import ConfigError
from common.config_files import call, load_config
from common.domains.display import Display
from common.evaluation.measures import Evaluation, Measure, proportion
from common.studies import plans, sections, studies, tables
from common.studies.claims import Claim
from common.studies.plans import Row, Study
from common.studies.stability import Stability
from common.training.meters import TrainingError

BASE = """
from ml_collections import ConfigDict

def get_config(variant='small'):
  return ConfigDict(dict(
    family='toy', seed=0, width={'small': 1, 'large': 5}[variant],
    data=dict(name='toy'),
    network=dict(name='mlp', depth=2), sampling=dict(steps=10), evaluation=dict(num_samples=4),
    parallel=dict(data=1)))
"""
METRICS = ('quality', 'steps', 'parameters')


class Toy:
  """Records its calls and trains nothing; quality = width + depth - 1/steps."""

  def __init__(self):
    self.trained, self.measured, self.fail = [], [], ()

  def train(self, config, folder):
    if config['width'] in self.fail:
      raise ValueError('the gradient\nwas not finite')
    self.trained.append((config['width'], config['network']['depth'], config['seed']))
    folder.mkdir(parents=True, exist_ok=True)

  def evaluate(self, job, metrics):
    config = job.config
    assert all(one.folder.is_dir() for one in job.members or (job,))
    steps = job.row.sampling.get('steps', config['sampling']['steps'])
    self.measured.append((config['width'], steps, tuple(metrics)))
    quality = config['width'] + config['network']['depth'] - 1 / steps + 0.1 * config['seed']
    values = {
      'quality': Measure(float(quality), 0.01, 'toy units'),
      'steps': Measure(float(steps), 0.0),
      'parameters': Measure(100.0 * config['width'], 0.0),
    }
    samples = np.full((4, 2, 2, 1), 3, np.uint8)
    display = Display(samples, None, 2, 17)
    return Evaluation({m: values[m] for m in metrics}, display)


@pytest.fixture
def base(tmp_path):
  path = tmp_path / 'base.py'
  path.write_text(BASE)
  return str(path)


def study_of(base, **changes):
  """Two sampling rows of one model, and one of another."""
  study = Study(
    name='toy',
    title='A toy',
    base=base,
    paper='Nobody 2020, table 1',
    rows=(
      Row('narrow', sampling={'steps': 2}),
      Row('narrow, slow', sampling={'steps': 100}),
      Row('wide', {'width': 3}),
    ),
    metrics=METRICS,
    published={('narrow', 'quality'): 2.6, ('wide', 'quality'): 'diverges'},
    claims=(
      Claim('wide is better', ('wide', 'quality'), above=(('narrow', 'narrow, slow'), 'quality')),
      Claim('equal size', ('wide', 'parameters'), near=('narrow', 'parameters'), within=0.05),
    ),
    plots=(('steps', 'quality'),),
  )
  return dataclasses.replace(study, **changes)


def run(study, folder, toy, **changes):
  """Plans and runs a study quietly."""
  jobs = plans.plan(study, load_config, folder, METRICS)
  settings = dict(train=toy.train, evaluate=toy.evaluate, say=lambda _: None)
  return studies.run(jobs, study, folder, model_metrics=('parameters',), **(settings | changes))


def test_rows_that_differ_in_sampling_share_a_model(base, tmp_path):
  toy = Toy()
  results = run(study_of(base), tmp_path / 'work', toy)
  assert toy.trained == [(1, 2, 0), (3, 2, 0)]
  assert toy.measured == [
    (1, 2, ('quality', 'steps', 'parameters')),
    (1, 100, ('quality', 'steps')),  # the model's own metrics were known
    (3, 10, ('quality', 'steps', 'parameters')),
  ]
  assert results.estimates()['narrow, slow', 'quality'].value == pytest.approx(2.99)
  assert results.estimates()['narrow, slow', 'parameters'].value == 100.0
  assert [verdict.verdict for verdict in results.verdicts()] == ['holds', 'fails']
  assert not results.failures


def test_the_best_checkpoint_of_a_model_is_measured_apart_from_its_last(base, tmp_path):
  toy, study = Toy(), study_of(base)
  run(study, tmp_path / 'work', toy)
  trained = list(toy.trained)
  best = dataclasses.replace(study, checkpoint='best')
  jobs = plans.plan(best, load_config, tmp_path / 'work', METRICS)
  assert {job.checkpoint for job in jobs} == {'best'}
  toy.measured.clear()
  notes = tables.notes(run(best, tmp_path / 'work', toy))
  assert toy.trained == trained and len(toy.measured) == 3
  assert 'each model is that of the best checkpoint of its training' in '\n'.join(notes)
  with pytest.raises(ConfigError, match="checkpoint of study 'toy' 'first'"):
    run(dataclasses.replace(study, checkpoint='first'), tmp_path / 'work', toy)


def test_nothing_finished_is_repeated(base, tmp_path):
  toy, study = Toy(), study_of(base)
  first = run(study, tmp_path / 'work', toy)
  toy.trained.clear(), toy.measured.clear()
  again = run(study, tmp_path / 'work', toy)
  assert not toy.trained and not toy.measured
  assert again.measures == first.measures and again.pictures == first.pictures

  # A new name, another place in the table or another device count needs no new model.
  renamed = dataclasses.replace(study.rows[0], name='thin')
  moved = study_of(base, rows=(study.rows[2], renamed), claims=(), published={})
  run(dataclasses.replace(moved, config={'parallel.data': 2}), tmp_path / 'work', toy)
  assert not toy.trained and not toy.measured

  # A new row costs only its own training; other evaluation settings cost cells, but no training.
  rows = (*study.rows, Row('new', {'network.depth': 7}))
  run(dataclasses.replace(study, rows=rows), tmp_path / 'work', toy)
  assert toy.trained == [(1, 7, 0)] and len(toy.measured) == 1
  run(dataclasses.replace(study, config={'evaluation.num_samples': 8}), tmp_path / 'work', toy)
  assert toy.trained == [(1, 7, 0)] and len(toy.measured) == 4


def test_a_row_of_a_baseline_trains_nothing(base, tmp_path):
  toy, asked = Toy(), []

  def evaluate(job, metrics):
    if job.row.is_model:
      return toy.evaluate(job, metrics)
    asked.append((job.config['width'], job.row.baseline))
    return Evaluation({metric: Measure(7.0, 0.5) for metric in metrics})

  rows = (Row('wide', {'width': 3}), Row('naive', {'width': 3}, baseline='naive'))
  study = study_of(base, rows=rows, claims=(), published={}, plots=(), seeds=(0, 1))
  for _ in range(2):  # the second run measures nothing again
    results = run(study, tmp_path / 'work', toy, evaluate=evaluate)
  assert toy.trained == [(3, 2, 0), (3, 2, 1)] and asked == [(3, 'naive')]
  assert results.estimates()['naive', 'quality'].value == 7.0 and not results.failures
  assert set(results.folders) == {'wide'}
  with pytest.raises(ConfigError, match="unknown baseline of row 'naive' 'niave'"):
    wrong = dataclasses.replace(study, rows=(dataclasses.replace(rows[1], baseline='niave'),))
    run(wrong, tmp_path / 'work', toy)


def test_plots_of_samples_are_shown_like_images(base, tmp_path):
  toy = Toy()

  def evaluate(job, metrics):
    plot = np.full((3, 4, 3), 7, np.uint8)
    return toy.evaluate(job, metrics)._replace(display=Display(plot=plot))

  results = run(study_of(base), tmp_path / 'work', toy, evaluate=evaluate)
  assert set(results.pictures) == {'narrow', 'narrow, slow', 'wide'} and not results.strips
  (samples,) = [one for one in sections.sections(results, {}, {}) if one.title == 'Samples']
  assert len(samples.blocks[0].pictures) == 3


def test_an_ensemble_pools_the_models_of_other_rows(base, tmp_path):
  toy, pooled = Toy(), []

  def evaluate(job, metrics):
    if job.row.is_model:
      return toy.evaluate(job, metrics)
    pooled.append([(one.row.name, one.seed, one.folder.is_dir()) for one in job.members])
    return Evaluation({metric: Measure(9.0, 0.5) for metric in metrics})

  rows = (Row('wide', {'width': 3}), Row('narrow'), Row('both', ensemble=('narrow', 'wide')))
  study = study_of(base, rows=rows, claims=(), published={}, plots=(), seeds=(0, 1))
  for _ in range(2):  # the second run measures nothing again
    results = run(study, tmp_path / 'work', toy, evaluate=evaluate)
  assert len(toy.trained) == 4
  assert pooled == [[('narrow', seed, True), ('wide', seed, True)] for seed in (0, 1)]
  assert results.estimates()['both', 'quality'].value == 9.0 and not results.failures
  assert set(results.folders) == {'wide', 'narrow'}
  # Parts of a study train its models; the ensemble waits for all of them.
  jobs = plans.plan(study, load_config, tmp_path, METRICS)
  parts = [job.row.name for part in (1, 2) for job in plans.shard(jobs, part, 2)]
  assert sorted(parts) == ['narrow', 'narrow', 'wide', 'wide']
  # A member whose model was deleted is trained again.
  shutil.rmtree(tmp_path / 'work' / 'models')
  for path in (tmp_path / 'work' / 'cells').glob('ensemble-*'):
    path.unlink()
  assert not run(study, tmp_path / 'work', toy, evaluate=evaluate).failures
  assert len(toy.trained) == 8 and len(pooled) == 4
  toy.fail = (1,)  # a member that cannot be trained costs the ensemble as well
  failures = run(study, tmp_path / 'other', toy, evaluate=evaluate).failures
  assert set(failures) == {'narrow', 'both'} and 'not finite' in failures['both']


@pytest.mark.parametrize(
  ('row', 'message'),
  [
    (Row('all', ensemble=('wide', 'narow')), "'narow', which is no model in a row above; did you"),
    (Row('all', ensemble=('all', 'wide')), "'all', which is no model in a row above"),
    (Row('all', {'width': 3}, ensemble=('wide',)), "row 'all' has an ensemble and settings"),
    (Row('all', ensemble=('wide',)), 'must name two rows or more, each once'),
    (Row('all', ensemble=('wide', 'wide')), 'must name two rows or more, each once'),
    (Row('all', ensemble=('wide', 'narrow')), "names 'narrow', which has sampler options"),
    (Row('all', ensemble=('wide', 'other')), "'wide' and 'other', whose data differ"),
  ],
)
def test_an_ensemble_of_no_models_is_refused(base, tmp_path, row, message):
  rows = (*study_of(base).rows, Row('other', {'data.name': 'other'}), row)
  with pytest.raises(ConfigError, match=message):
    run(study_of(base, rows=rows), tmp_path / 'work', Toy())


def test_equal_ensembles_are_refused(base, tmp_path):
  rows = (Row('wide', {'width': 3}), Row('narrow'), Row('both', ensemble=('narrow', 'wide')))
  rows = (*rows, Row('again', ensemble=('wide', 'narrow')))
  with pytest.raises(ConfigError, match="rows 'both' and 'again' have the same settings"):
    run(study_of(base, rows=rows, claims=(), published={}, plots=()), tmp_path / 'work', Toy())


def test_a_study_that_was_stopped_resumes(base, tmp_path):
  toy, study = Toy(), study_of(base)

  def stop_at_the_second(job, metrics):
    if toy.measured:
      raise SystemExit(75)
    return toy.evaluate(job, metrics)

  with pytest.raises(SystemExit):
    run(study, tmp_path / 'work', toy, evaluate=stop_at_the_second)
  run(study, tmp_path / 'work', toy)
  assert toy.trained == [(1, 2, 0), (3, 2, 0)]
  assert [steps for _, steps, _ in toy.measured] == [2, 100, 10]


def test_a_damaged_cell_is_measured_again(base, tmp_path):
  toy, study = Toy(), study_of(base)
  run(study, tmp_path / 'work', toy)
  for path in (tmp_path / 'work' / 'cells').glob('*.json'):
    path.write_text(path.read_text()[:10])
  toy.trained.clear(), toy.measured.clear()
  assert run(study, tmp_path / 'work', toy).estimates()['wide', 'quality'].value == pytest.approx(
    4.9
  )
  assert not toy.trained and len(toy.measured) == 3


def test_a_row_that_fails_is_reported_and_the_others_continue(base, tmp_path):
  toy, told = Toy(), []
  toy.fail = (1,)
  results = run(study_of(base), tmp_path / 'work', toy, say=told.append)
  why = 'the gradient was not finite'
  assert results.failures == {'narrow': why, 'narrow, slow': why}
  assert sum('training in' in line for line in told) == 2  # the broken model is tried once
  assert results.estimates()['wide', 'quality'].value == pytest.approx(4.9)
  assert [verdict.verdict for verdict in results.verdicts()] == ['undecided', 'undecided']
  assert f'narrow failed: {why}' in tables.markdown(results, {})

  toy.fail = ()
  assert not run(study_of(base), tmp_path / 'work', toy).failures  # tried again the next time


# Two rows with three seeds, and two other settings of one of them.
STABILITY = dict(
  rows=(
    Row('narrow', sampling={'steps': 2}),
    Row('wide', {'width': 3}, {'steps': 5}),
    Row('wide, deeper', {'network.depth': 3}, tries_of='wide'),
    Row('wide, deepest', {'network.depth': 60}, tries_of='wide'),
  ),
  metrics=(*METRICS, 'stable_runs'),
  seeds=(0, 1, 2),
  stability=Stability('quality', 2.0),
  published={},
  claims=(
    Claim('narrow is more stable', ('narrow', 'stable_runs'), above=('wide', 'stable_runs')),
  ),
)


def test_runs_of_other_settings_count_for_their_row(base, tmp_path):
  toy, study = Toy(), study_of(base, **STABILITY)
  results = run(study, tmp_path / 'work', toy)
  assert not results.failures
  # Another setting starts from the config and sampling of its row; only its distance is measured.
  assert {call[1:] for call in toy.measured if call[0] == 3 and 'steps' not in call[2]} == {
    (5, ('quality',))
  }
  assert (3, 60, 2) in toy.trained and len(toy.trained) == 12
  found = results.estimates()
  # wide: 4.8 to 5, 5.8 to 6 and 62.8 to 63; at most twice the best are six of nine.
  assert found['wide', 'stable_runs'].value == 6 / 9
  assert found['wide', 'stable_runs'].interval == proportion(6, 9)[2]
  assert found['narrow', 'stable_runs'].value == 1.0
  assert ('wide, deeper', 'stable_runs') not in found
  assert results.verdicts()[0].verdict == 'undecided'
  text = tables.markdown(results, {})
  cells = '62.8 (not stable) | 62.9 (not stable) | 63 (not stable)'
  assert f'| wide, deepest | wide | {cells} | 0 of 3 |' in text
  assert text.count('wide, deeper') == 1  # in the table of runs alone
  assert "6 of 9 runs (settings × seeds) end within 2 × the distance of the row's best run" in text
  record = json.loads(tables.as_json(results, {}))
  assert [one['stable'] for one in record['runs']['wide']] == [True] * 6 + [False] * 3
  assert record['rows'][3]['tries_of'] == 'wide'
  lines = tables.as_csv(results).splitlines()
  assert lines[0].endswith('stable_runs,stable_runs_interval') and len(lines) == 5
  assert f',{6 / 9},' in lines[2]

  # Parts leave the share to the whole, which reads it from their cells.
  jobs = plans.plan(study, load_config, tmp_path / 'parts', METRICS)
  settings = dict(train=toy.train, evaluate=toy.evaluate, say=lambda _: None)
  for part in (2, 1):
    studies.run(plans.shard(jobs, part, 2), study, tmp_path / 'parts', **settings)
  toy.measured.clear()
  whole = studies.run(jobs, study, tmp_path / 'parts', **settings)
  assert whole.estimates()['wide', 'stable_runs'] == found['wide', 'stable_runs']
  assert not toy.measured


def test_a_run_that_diverges_is_a_result_and_is_not_trained_again(base, tmp_path):
  toy, study = Toy(), study_of(base, **STABILITY)
  tried = []

  def train(config, folder):
    depth, seed = config['network']['depth'], config['seed']
    if depth == 60 or (depth == 3 and seed == 1):
      tried.append((depth, seed))
      folder.mkdir(parents=True)
      raise TrainingError(4, 'the loss is nan', 'last good checkpoint: none')
    if depth == 3 and seed == 2:
      raise OSError('the disk is full')
    toy.train(config, folder)

  def evaluate(job, metrics):
    if why := studies.divergence(job.folder):
      return Evaluation({metric: Measure(float('nan'), note=why) for metric in metrics})
    return toy.evaluate(job, metrics)

  for _ in range(2):  # the second time only what failed for another reason is tried again
    results = run(study, tmp_path / 'work', toy, train=train, evaluate=evaluate)
    assert tried == [(3, 1), (60, 0), (60, 1), (60, 2)]
    assert results.failures == {'wide, deeper': 'seed 2: the disk is full'}
    assert results.diverged['wide, deeper'] == {1: 'the loss is nan'}
    # All nine runs count: three of wide and one of deeper are stable.
    assert results.estimates()['wide', 'stable_runs'].value == 4 / 9
    text = tables.markdown(results, {})
    assert '| wide, deeper | wide | 5.8 | diverged | failed | 1 of 3 |' in text
    assert '| wide, deepest | wide | diverged | diverged | diverged | 0 of 3 |' in text
    assert '- wide, deeper diverged: seed 1: the loss is nan' in text
    assert '5 diverged or failed' in text


def test_a_row_says_how_many_of_its_seeds_diverged(base, tmp_path):
  toy = Toy()

  def train(config, folder):
    if (config['width'], config['seed']) in ((1, 0), (1, 1), (3, 1)):
      raise TrainingError(4, 'the loss is nan', 'last good checkpoint: none')
    toy.train(config, folder)

  def evaluate(job, metrics):
    if why := studies.divergence(job.folder):
      return Evaluation({metric: Measure(float('nan'), note=why) for metric in metrics})
    return toy.evaluate(job, metrics)

  study = study_of(
    base, rows=(Row('narrow'), Row('wide', {'width': 3})), published={}, seeds=(0, 1)
  )
  study = dataclasses.replace(study, claims=(study.claims[1],))
  results = run(study, tmp_path / 'work', toy, train=train, evaluate=evaluate)
  text = tables.markdown(results, {})
  assert '| narrow | diverged | diverged | diverged |' in text
  assert '| wide | 1 of 2 diverged | 1 of 2 diverged | 1 of 2 diverged |' in text
  assert results.verdicts()[0].verdict == 'undecided' and not results.failures
  table = sections.sections(results, {}, {})[1].blocks[0]
  assert [row[1].text for row in table.rows] == ['diverged', '1 of 2 diverged']


def test_the_losses_of_a_row_and_its_other_settings_share_one_plot(base, tmp_path):
  results = run(study_of(base, **STABILITY), tmp_path / 'work', Toy())
  line = {'step': 1, 'split': 'train', 'loss': 1.0}
  of_runs = {key: [line] for key in results.runs}
  pages = {s.title: s.blocks for s in sections.sections(results, {}, {}, of_runs)}
  table, gallery = pages['Stable runs']
  assert [line[0] for line in table.rows] == ['narrow', 'wide', 'wide, deeper', 'wide, deepest']
  assert [plot.caption for plot in gallery.pictures] == ['narrow', 'wide']
  assert gallery.pictures[1].alt.endswith('wide, deepest, seed 1, wide, deepest, seed 2')
  assert gallery.pictures[1].alt.count('seed') == 9


def test_seeds_give_a_mean_and_an_interval(base, tmp_path):
  toy = Toy()
  results = run(study_of(base, seeds=(0, 1, 2)), tmp_path / 'work', toy)
  assert len(toy.trained) == 6
  found = results.estimates()['narrow', 'quality']
  assert found.value == pytest.approx(2.6)
  assert found.half_width == pytest.approx(4.30265273 * 0.1 / np.sqrt(3))
  # In every seed the gap is the same: paired, this claim is decided exactly.
  close = Claim('slow is better', ('narrow, slow', 'quality'), above=('narrow', 'quality'))
  results = run(study_of(base, seeds=(0, 1, 2), claims=(close,)), tmp_path / 'work', toy)
  assert results.verdicts()[0].verdict == 'holds' and len(toy.trained) == 6


def test_a_value_that_is_not_finite_fails_its_row_and_stays_in_the_table(base, tmp_path):
  toy = Toy()

  def diverged(job, metrics):
    found = toy.evaluate(job, metrics)
    if job.config['width'] == 3 and job.config['seed'] == 1:
      found.measures['quality'] = Measure(float('nan'), note='2 of 4 samples are not finite')
    return found

  study = study_of(base, seeds=(0, 1))
  for _ in range(2):  # the second time from the files
    results = run(study, tmp_path / 'work', toy, evaluate=diverged)
    why = 'seed 1: not finite: quality: 2 of 4 samples are not finite'
    assert results.failures == {'wide': why}
    text = tables.markdown(results, {})
    assert '| wide | not finite | diverges | 10 | 300 |' in text and f'wide failed: {why}' in text
    assert results.verdicts()[0].verdict == 'undecided'
    record = json.loads(tables.as_json(results, {}), parse_constant=pytest.fail)
    assert record['rows'][2]['cells']['quality']['value'] == 'NaN'


def test_parts_of_a_study_share_no_model_and_make_up_the_whole(base, tmp_path):
  study, toy = study_of(base), Toy()
  jobs = plans.plan(study, load_config, tmp_path, METRICS)
  parts = [plans.shard(jobs, part, 2) for part in (1, 2)]
  assert [[job.row.name for job in part] for part in parts] == [
    ['narrow', 'narrow, slow'],
    ['wide'],
  ]
  told, settings = [], dict(train=toy.train, evaluate=toy.evaluate)
  for part in parts:
    studies.run(part, study, tmp_path, say=told.append, **settings)
  assert sum(line.startswith('about ') and 'left' in line for line in told) == 1
  toy.measured.clear()
  assert not studies.run(jobs, study, tmp_path, say=told.append, **settings).failures
  assert not toy.measured


def test_notes_that_differ_in_their_errors_are_one(base, tmp_path):
  toy, count = Toy(), itertools.count(1)

  def noted(job, metrics):
    found = toy.evaluate(job, metrics)
    measure = found.measures['quality']._replace(note=f'n=9, {{}} ± 0.0{next(count)}; a bound')
    return found._replace(measures=found.measures | {'quality': measure})

  results = run(study_of(base), tmp_path / 'work', toy, evaluate=noted)
  low, high = 1, next(count) - 1
  assert high > low
  assert f'quality: n=9, {{}} ± 0.0{low} to 0.0{high}; a bound' in tables.notes(results)


def test_notes_name_their_rows_and_losses_of_different_kinds_share_no_axis(base, tmp_path):
  toy = Toy()

  def noted(job, metrics):
    found = toy.evaluate(job, metrics)
    note = 'judged twice' if job.config['width'] == 3 else 'judged once'
    measure = found.measures['quality']._replace(note=note)
    return found._replace(measures=found.measures | {'quality': measure})

  rows = (*study_of(base).rows, Row('deep', {'network.depth': 3}))
  results = run(study_of(base, rows=rows), tmp_path / 'work', toy, evaluate=noted)
  notes = tables.notes(results)
  assert 'quality of narrow; narrow, slow; deep: judged once' in notes
  assert 'quality of wide: judged twice' in notes
  line = {'step': 1, 'split': 'train', 'loss': 1.0}
  records = {row: [line] for row in ('narrow', 'wide', 'deep')}
  losses = next(s for s in sections.sections(results, {}, records) if s.title == 'Losses')
  # `width` may change what the loss is; `network` does not.
  assert [plot.alt for plot in losses.blocks[0].pictures] == [
    'loss (train) over step for narrow, deep',
    'loss (train) over step for wide',
  ]


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    (dict(rows=()), 'no rows'),
    (dict(rows=(Row('narrow'), Row('narrow', {'width': 2})), claims=(), published={}), 'twice'),
    (
      dict(rows=(Row('a'), Row('b')), claims=(), published={}),
      "'a' and 'b' have the same settings",
    ),
    (dict(metrics=('quality', 'stepps')), "metric 'stepps'; did you mean 'steps'"),
    (dict(config={'widht': 2}), "no setting 'widht'; did you mean 'width'"),
    (dict(config={'network.depht': 2}), "did you mean 'network.depth'"),
    (dict(config={'width.depth': 2}), "no setting 'width.depth'"),
    (dict(config={'width': 'two'}), "width='two'"),
    (dict(config={'network': 'mlp'}), 'must be a dict, because it is a section'),
    (dict(config={'width': {'name': 'mlp'}}), 'must be a value, not a dict'),
    (dict(rows=(Row('narrow', {'sampling.steps': 3}),)), 'put sampler options into'),
    (dict(claims=(Claim('c', ('wyde', 'quality'), above=1),)), "'wyde'; did you mean 'wide'"),
    (dict(claims=(Claim('c', ('wide', 'qualty'), above=1),)), "metric 'qualty'"),
    (dict(claims=(Claim('c', ('wide', 'quality'), above=('wyde', 'quality')),)), "row 'wyde'"),
    (dict(published={('wide', 'fid'): 3.0}), "metric 'fid'"),
    (dict(paper=''), "study 'toy' has published cells, so `paper` must name their source"),
    (dict(plots=(('steps', 'fid'),)), "metric 'fid'"),
    (dict(seeds=(0, 0)), 'twice'),
    (dict(metrics=(*METRICS, 'stable_runs')), 'need each other'),
    (dict(stability=Stability('quality')), 'need each other'),
    (
      dict(stability=Stability('fid'), metrics=(*METRICS, 'stable_runs')),
      "the metric of its stability, 'fid'",
    ),
    (dict(rows=(Row('a'), Row('b', {'width': 2}, tries_of='a'))), 'no `stability`'),
    (
      STABILITY | dict(rows=(Row('wide'), Row('b', {'width': 2}, tries_of='wyde'))),
      "try of 'wyde', which is no row with a model of its own; did you mean 'wide'",
    ),
    (
      STABILITY | dict(rows=(Row('wide'), Row('b', baseline='naive', tries_of='wide'))),
      'is a try: remove its baseline',
    ),
    (
      STABILITY | dict(claims=(Claim('c', ('wide, deeper', 'stable_runs'), above=0.5),)),
      "names 'stable_runs' of 'wide, deeper', of which only 'quality' is measured",
    ),
    (
      STABILITY | dict(rows=(Row('wide'), Row('b', tries_of='wide')), claims=()),
      'have the same settings',
    ),
  ],
)
def test_a_bad_study_is_refused_before_anything_trains(base, tmp_path, changes, message):
  bare = ('rows' in changes and 'claims' not in changes) or 'tries_of' in message
  base_changes = dict(claims=(), published={}) if bare else {}
  with pytest.raises(ConfigError) as error:
    run(study_of(base, **(base_changes | changes)), tmp_path / 'work', None)
  assert message in str(error.value) and '\n' not in str(error.value)
  assert not (tmp_path / 'work').exists()


def test_a_dict_replaces_a_component(base):
  config = load_config(base, {'network': {'name': 'cnn', 'maps': 3}})
  assert config['network'] == {'name': 'cnn', 'maps': 3}
  assert load_config(f'{base}:large', {})['width'] == 5


def test_files_without_a_study_are_refused(base, tmp_path):
  with pytest.raises(ConfigError, match='no file'):
    call(str(tmp_path / 'nothing.py:demo'), 'get_study', Study)
  with pytest.raises(ConfigError, match=r'must define a function get_study\(\)'):
    call(base, 'get_study', Study)


def test_tables_put_published_cells_next_to_measured_ones(base, tmp_path):
  results = run(study_of(base), tmp_path / 'work', Toy())
  text = tables.markdown(results, {'command': 'python -m toy'})
  assert '| row | quality | published quality | steps | parameters |' in text
  assert '| narrow | 2.500 ± 0.020 | 2.6 | 2 | 100 |' in text
  assert '| narrow, slow | 2.990 ± 0.020 |  | 100 | 100 |' in text  # nobody published it
  assert '| wide | 4.900 ± 0.020 | diverges | 10 | 300 |' in text
  assert '- **fails**: equal size (parameters: 300 (wide) against 100 (narrow))' in text
  assert 'quality: toy units' in text and 'published: Nobody 2020, table 1' in text

  lines = tables.as_csv(results).splitlines()
  assert lines[0].startswith('row,quality,quality_interval,quality_published,steps,')
  assert lines[2].startswith('"narrow, slow",2.99,0.0195')
  assert ',,100.0,' in lines[2]

  record = json.loads(tables.as_json(results, {'command': 'python -m toy'}))
  cell = record['rows'][0]['cells']['quality']
  assert cell['published'] == 2.6 and cell['seeds'][0]['standard_error'] == 0.01
  assert record['claims'][0]['verdict'] == 'holds'
