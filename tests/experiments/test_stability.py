"""The stability of training from real trainings: two families, a diverged run, two datasets."""

import dataclasses
import json
import math

import numpy as np
import pytest

from common.config import ConfigError
from common.reporting import writers
from common.studies import studies
from common.studies.claims import Claim
from common.studies.plans import PaperTraining, Row, Stability, Study
from experiments import families
from experiments.study import costs, running
from tests.experiments.startup import tiny

pytestmark = pytest.mark.slow  # several trainings of two families

CONFIG = {
  'data.batch_size': 16,
  'train.steps': '4',
  'train.steps_per_call': 2,
  'train.log_every': '2',
  'train.sample_every': '0',
  'evaluation.num_samples': 20,
  'evaluation.batch_size': 20,
  'evaluation.extractor': 'pixels',
}
PATCHES = {'network.width': 16, 'network.layers': 1, 'network.heads': 2}
MLP = {'network': {'name': 'mlp', 'width': 16}}
# The first step of this size leaves no finite parameter behind it.
STEEP = {
  'optimizer.learning_rate': 1e30,
  'optimizer.warmup': '0',
  'optimizer.schedule': 'constant',
}
METRICS = (
  *('frechet', 'stable_runs', 'agreement', 'parameters', 'training_flops'),
  *('examples_seen', 'paper_share'),
)
PAPER = PaperTraining('configs/autoregressive/images.py:digits_4x4')


def study_of(images):
  """Patches, also with a step far too large; diffusion on the digits and on other images."""
  other = {'data.name': 'npz', 'data.source': str(images), 'data.dir': str(images.parent / 'data')}
  return Study(
    name='stable',
    title='Stable runs',
    base=tiny.FILES['autoregressive'],
    config=CONFIG,
    rows=(
      Row('patches', PATCHES),
      Row('patches, steep', STEEP, tries_of='patches'),
      Row('diffusion', MLP, {'steps': 2}, base=tiny.FILES['diffusion']),
      Row('other images', MLP | other, {'steps': 2}, base=tiny.FILES['diffusion']),
      Row('diverges', PATCHES | STEEP | {'network.width': 8}),
    ),
    metrics=METRICS,
    claims=(
      Claim('as large', ('patches', 'parameters'), near=(('diverges',), 'parameters'), within=0.05),
    ),
    stability=Stability(),
    paper_training=PAPER,
  )


def planned(folder):
  study = study_of(folder / 'images.npz')
  return study, running.plan(study, families.load_config, folder / 'work', '1/1')


@pytest.fixture(scope='module')
def finished(tmp_path_factory):
  folder = tmp_path_factory.mktemp('stable')
  images = np.random.default_rng(0).integers(0, 255, (300, 8, 8)).astype(np.uint8)
  np.savez(folder / 'images.npz', x=images)
  study, jobs = planned(folder)
  running.check_metrics(jobs, study.metrics)
  results = running.run(jobs, study, folder / 'work')
  running.write_results(results, folder / 'work', '1/1')
  return folder, results


def test_a_diverged_run_is_recorded_and_counted(finished):
  folder, results = finished
  assert not results.failures and set(results.diverged) == {'patches, steep', 'diverges'}
  found = results.estimates()
  assert found['patches', 'stable_runs'].value == 0.5
  assert ('diffusion', 'stable_runs') in found and found['diffusion', 'stable_runs'] is None
  text = (folder / 'work' / 'table.md').read_text()
  assert '- patches, steep diverged: ' in text and '| patches, steep | patches | diverged |' in text
  # What a config alone decides is known of a run that diverged too.
  (line,) = (line for line in text.splitlines() if line.startswith('| diverges | diverged'))
  assert line.count('diverged') == 2 and found['diverges', 'parameters'].value > 0
  lines = writers.read(results.folders['diverges'], 'train')
  assert lines and lines[-1]['bad_steps'] > 0
  page = (folder / 'work' / 'report.html').read_text()
  assert 'Stable runs' in page and 'loss (train) over step for patches, patches, steep' in page
  record = json.loads((folder / 'work' / 'table.json').read_text())
  assert record['runs']['patches'][1] == {
    'row': 'patches, steep',
    'seed': 0,
    'distance': None,
    'stable': False,
  }


def test_costs_are_exact_in_files_and_readable_in_the_table(finished):
  folder, results = finished
  study, jobs = planned(folder)
  cost = costs.cost_of(jobs[0])
  assert cost.flops == 4 * cost.flops_per_step
  measured = results.measures['patches', 'training_flops'][0]
  assert measured.value == cost.flops and measured.standard_error == 0.0
  assert results.measures['patches', 'parameters'][0].value == cost.parameters
  work = folder / 'work'
  assert "share of the paper's training FLOPs" in (work / 'table.md').read_text()
  assert f'{float(cost.flops)}' in (work / 'table.csv').read_text()
  assert 'training MFLOP' in (work / 'table.md').read_text()
  batch = jobs[0].config['data']['batch_size']
  assert results.measures['patches', 'examples_seen'][0].value == 4 * batch
  share = results.measures['patches', 'paper_share'][0]
  assert share.value == cost.flops / costs.paper_cost(PAPER).flops < 1
  assert PAPER.config in share.note
  shown = running.show_rows(jobs)
  assert f'{cost.parameters:,} parameters, {cost.flops:.4g} training FLOPs: 4 steps of' in shown
  assert shown.count(' training FLOPs: 4 steps of ') == len(study.rows)


def test_rows_of_two_families_and_two_datasets_stand_in_one_table(finished):
  _, results = finished
  for row in ('patches', 'diffusion', 'other images'):
    assert math.isfinite(results.estimates()[row, 'frechet'].value)
  assert results.measures['other images', 'agreement'][0].note == 'the data has no classes'


def test_nothing_finished_is_repeated(finished, capsys):
  folder, results = finished
  study, jobs = planned(folder)
  again = running.run(jobs, study, folder / 'work')
  assert again.diverged == results.diverged and again.failures == {}
  assert str(again.measures) == str(results.measures)  # as text, because NaN differs from itself
  said = capsys.readouterr().out
  assert 'training in' not in said and 'measuring' not in said
  assert studies.divergence(results.folders['diverges'])


def test_rows_without_their_data_are_shown_without_costs(tmp_path):
  _, jobs = planned(tmp_path)
  shown = running.show_rows(jobs)
  assert shown.count('parameters and training FLOPs are not known: ') == 1


def test_data_that_are_not_here_are_described_for_the_cost_of_a_papers_training():
  spec = dict(shape=(8, 8, 3), levels=256, num_classes=10, num_train=5000)
  small = costs.paper_cost(PaperTraining('configs/gan/images.py:digits', spec))
  known = costs.paper_cost(PaperTraining('configs/gan/images.py:digits'))
  longer = PaperTraining('configs/gan/images.py:digits', settings={'train.steps': '8'})
  assert costs.paper_cost(longer).steps == 8 < known.steps
  # Three channels in place of one: only the first and the last layers differ.
  assert known.parameters < small.parameters < 1.1 * known.parameters


def test_a_papers_training_that_does_not_exist_is_refused_before_training(finished):
  folder, _ = finished
  other = PaperTraining('configs/papers/x.py')
  study = dataclasses.replace(planned(folder)[0], paper_training=other)
  jobs = running.plan(study, families.load_config, folder / 'work', '1/1')
  with pytest.raises(ConfigError, match=r'configs/papers/x\.py'):
    running.check_metrics(jobs, study.metrics)
