"""Rows that model the latents of another row."""

import pytest

from common.config import ConfigError
from common.studies import plans
from common.studies.plans import Row, Study

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
