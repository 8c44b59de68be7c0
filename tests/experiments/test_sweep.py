"""A sweep: its rows, its messages, its parts, and that finished work is kept."""

import functools

import pytest

from common.config import ConfigError
from common.evaluation.measures import Measure
from common.studies.plans import Row, Study
from common.studies.studies import Results
from experiments.study import running
from experiments.sweep import grid as grids
from tests.experiments.startup import tiny

FILE = tiny.FILES['autoregressive']
SETTINGS = tiny.SMALL['autoregressive'] | tiny.TRAIN | {'train.steps': ['4']}
SETTINGS |= {'train.evaluate_every': ['4'], 'train.checkpoint_every': ['4']}
del SETTINGS['network.width']
METRICS = ('validation_loss', 'training_seconds')


def planned(folder, *axes, shard='1/1', seeds=1):
  grid = grids.parse_grid(axes)
  study = grids.build(FILE, SETTINGS, grid, seeds, METRICS)
  return study, running.plan(study, functools.partial(grids.load, grid=grid), folder, shard)


@pytest.mark.slow
def test_a_grid_is_trained_in_parts_and_kept(tmp_path, capsys):
  for shard in ('1/2', '2/2', '1/1'):
    capsys.readouterr()
    study, jobs = planned(tmp_path, 'optimizer.learning_rate=1e-4,3e-3', shard=shard)
    results = running.run(jobs, study, tmp_path)
    assert not results.failures and len(jobs) == (2 if shard == '1/1' else 1)
  assert ': training in' not in capsys.readouterr().out  # both parts together are the whole
  loss = {
    row: found[0].value for (row, metric), found in results.measures.items() if metric == METRICS[0]
  }
  said = grids.best(results)
  assert said.startswith(f'best by validation loss: {min(loss, key=loss.get)} (')
  assert 'one seed cannot say' in said


def test_a_row_for_each_point_of_the_grid(tmp_path):
  study, jobs = planned(tmp_path, 'optimizer.learning_rate=1e-4,3e-3', 'network.width=8,16')
  assert [row.name for row in study.rows][:2] == [
    'learning_rate=1e-4, width=8',
    'learning_rate=1e-4, width=16',
  ]
  assert [job.config['network']['width'] for job in jobs] == [8, 16, 8, 16]
  assert len({job.folder for job in jobs}) == 4


def test_rows_that_differ_in_sampling_share_a_model(tmp_path):
  _, jobs = planned(tmp_path, 'sampling.temperature=0.5,1.0', seeds=2)
  assert len(jobs) == 4 and len({job.folder for job in jobs}) == 2
  assert [job.seed for job in jobs] == [0, 1, 0, 1]
  assert jobs[0].row.sampling == {'temperature': 0.5}


@pytest.mark.parametrize(
  ('axis', 'message'),
  [
    ('optimizer.lerning_rate=1', r'--grid=optimizer.lerning_rate: .* did you mean .*learning_rate'),
    ('optimizer.learning_rate=-1', r'--grid=optimizer.learning_rate=-1'),
    ('network.layers=1,2', '--config.network.layers sets it too'),
    ('network.width', 'write SETTING=VALUE,VALUE'),
    ('network.width=8,8', 'given twice'),
    ('seed=0,1', '--seeds=2 trains each row'),
    ('evaluation.num_samples=5,6', 'measured alike'),
    ('sampling.temprature=1,2', "did you mean 'temperature'"),
  ],
)
def test_a_wrong_axis_is_refused_by_name(tmp_path, axis, message):
  with pytest.raises(ConfigError, match=message):
    planned(tmp_path, axis)


def test_a_folder_holds_sweeps_of_one_config(tmp_path):
  grids.reserve(tmp_path, FILE, {'train.steps': ['4']})
  grids.reserve(tmp_path, FILE, {'train.steps': ['4']})
  with pytest.raises(ConfigError, match=r'holds a sweep of .*--config.train.steps=4: use these'):
    grids.reserve(tmp_path, FILE, {'train.steps': ['5']})


def results_of(metric, values):
  """Results of a sweep whose rows have some values of a metric."""
  study = Study('s', 't', FILE, tuple(map(Row, values)), (metric,))
  measures = {(row, metric): {0: Measure(value, 0.01)} for row, value in values.items()}
  return Results(study, measures, {}, {}, {}, {row: {} for row in values}, {}, {}, {}, [])


@pytest.mark.parametrize(
  ('metric', 'values', 'said'),
  [
    ('precision', {'a': 0.5, 'b': 0.9}, 'best by precision: b'),
    ('modes', {'a': 8.0, 'b': 5.0}, 'best by modes covered: a'),
    ('accuracy', {'a': 0.1, 'b': 0.9}, 'best by accuracy: b'),
    ('mode_kl', {'a': 0.5, 'b': 0.9}, 'best by KL over modes: a'),
    ('high_frequency', {'a': 0.5, 'b': 1.2}, 'closest to 1 by high-frequency energy: b'),
  ],
)
def test_the_best_row_is_that_of_the_better_direction(metric, values, said, monkeypatch):
  monkeypatch.setattr(grids, 'loss_kind', lambda config: 'one')
  assert grids.best(results_of(metric, values)).startswith(said)
