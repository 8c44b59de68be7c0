"""Rows that model the latents of another row."""

import pytest

from common.config import ConfigError
from common.evaluation.measures import Evaluation, Measure
from common.studies import plans, studies
from common.studies.plans import Row, Stability, Study
from common.training.meters import TrainingError

VAE, LATENTS = 'VAE', 'diffusion over its latents'


def load(base, overrides):
  """A config file that says what it was asked for."""
  nested = {'family': base, 'data': {'first_stage': ''}, 'train': {}}
  for key, value in overrides.items():
    section, _, leaf = key.rpartition('.')
    (nested.setdefault(section, {}) if section else nested)[leaf] = value
  return nested


def planned(tmp_path, *rows, seeds=(0, 1)):
  study = Study('toy', 'Toy', 'diffusion', rows, ('frechet',), seeds=seeds)
  return plans.plan(study, load, tmp_path, ('frechet',))


ROWS = (Row(VAE, base='vae'), Row('diffusion'), Row(LATENTS, first_stage=VAE))


def test_each_seed_models_the_latents_of_its_own_first_stage(tmp_path):
  jobs = planned(tmp_path, *ROWS)
  stages = {job.seed: job for job in jobs if job.row.name == VAE}
  for job in jobs:
    if job.row.name == LATENTS:
      assert job.stage is stages[job.seed]
      assert job.config['data']['first_stage'] == str(stages[job.seed].folder)
    else:
      assert job.stage is None


def test_a_model_has_one_name_wherever_its_folder_is(tmp_path):
  here, there = (planned(tmp_path / name, *ROWS) for name in ('a', 'b'))
  assert [job.folder.name for job in here] == [job.folder.name for job in there]
  assert [job.keys for job in here] == [job.keys for job in there]


def test_another_first_stage_makes_another_model(tmp_path):
  other = Row('another VAE', base='vae', config={'train.steps': '3'})
  second = Row('over the others', first_stage='another VAE')
  jobs = planned(tmp_path, *ROWS, other, second)
  folders = {job.folder for job in jobs if job.stage is not None}
  assert len(folders) == 4


def test_a_part_of_a_study_holds_a_model_with_its_first_stage(tmp_path):
  jobs = planned(tmp_path, *ROWS)
  parts = [plans.shard(jobs, index, 4) for index in (1, 2, 3, 4)]
  assert sum(map(len, parts)) == len(jobs)
  for part in parts:
    names = {(job.row.name, job.seed) for job in part}
    for job in part:
      assert job.stage is None or (VAE, job.seed) in names


@pytest.mark.parametrize('name', ['VEA', 'diffusion over its latents'])
def test_a_first_stage_must_be_a_row_above(name, tmp_path):
  with pytest.raises(ConfigError, match="row above as the first stage of 'diffusion over its"):
    planned(tmp_path, ROWS[0], Row(LATENTS, first_stage=name))


def test_a_try_models_the_latents_of_the_same_row(tmp_path):
  rows = (*ROWS, Row('try', {'train.steps': '3'}, tries_of=LATENTS))
  study = Study(
    'toy', 'Toy', 'diffusion', rows, ('frechet', 'stable_runs'), stability=Stability('frechet')
  )
  jobs = {job.row.name: job for job in plans.plan(study, load, tmp_path, ('frechet',))}
  assert jobs['try'].stage is jobs[LATENTS].stage is not None
  assert jobs['try'].folder != jobs[LATENTS].folder


def test_a_first_stage_given_by_hand_makes_another_model(tmp_path):
  rows = [Row(name, {'data.first_stage': name}) for name in ('a', 'b')]
  assert len({job.folder for job in planned(tmp_path, *rows, seeds=(0,))}) == 2


@pytest.mark.parametrize('error', [OSError('disk full'), TrainingError(3, 'not finite', 'stop')])
def test_nothing_is_trained_on_the_latents_of_a_first_stage_that_failed(error, tmp_path):
  trained = []

  def train(config, folder):
    folder.mkdir(parents=True)
    if config['family'] == 'vae':
      raise error
    trained.append(config['data']['first_stage'])

  jobs = planned(tmp_path, *ROWS, seeds=(0,))
  study = Study('toy', 'Toy', 'diffusion', ROWS, ('frechet',), seeds=(0,))

  def evaluate(job, metrics):
    return Evaluation({metric: Measure(1.0, 0.0) for metric in metrics})

  results = studies.run(jobs, study, tmp_path, train, evaluate, say=lambda line: None)
  assert trained == ['']
  assert LATENTS in results.failures and (LATENTS, 'frechet') not in results.measures


def test_a_first_stage_is_trained_before_its_latents_are_modelled_even_if_its_cells_are_there(
  tmp_path,
):
  order = []

  def train(config, folder):
    folder.mkdir(parents=True)
    order.append(config['family'])

  def evaluate(job, metrics):
    return Evaluation({metric: Measure(1.0, 0.0) for metric in metrics})

  jobs = [job for job in planned(tmp_path, *ROWS, seeds=(0,)) if job.stage is not None]
  study = Study('toy', 'Toy', 'diffusion', ROWS, ('frechet',), seeds=(0,))
  studies.run(jobs, study, tmp_path, train, evaluate, say=lambda line: None)
  assert order == ['vae', 'diffusion']
