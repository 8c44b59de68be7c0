"""The time of a study, from that of its parts: what is scaled up, and by how much."""

import dataclasses
import json

import pytest

from common.config import merge
from common.evaluation.measures import Measure
from common.studies import plans
from common.studies.plans import Row, Study
from experiments import families
from experiments.study import timing

CONFIG = {'train.steps': '1000', 'train.steps_per_call': 10, 'train.evaluate_every': '250'}


def job_of(tmp_path, **changes):
  study = Study(
    name='one',
    title='One',
    base='configs/diffusion/images.py:digits',
    rows=(Row('a'),),
    metrics=('frechet',),
    config=CONFIG | changes,
  )
  (job,) = plans.plan(study, families.load_config, tmp_path, ['frechet'])
  return job


@pytest.mark.parametrize(('every', 'expected'), [('250', 4), ('300', 4), ('0', 0)])
def test_the_time_of_a_training_follows_from_its_calls_and_validations(tmp_path, every, expected):
  """A call of 10 steps takes 2 s, after 7 s of compilation, and a validation 0.5 s."""
  job = job_of(tmp_path, **{'train.evaluate_every': every})
  short = timing._short(job.config)
  validates = short['train']['evaluate_every'] != '0'
  lines, now = [], 100.0
  for step in (10, 20, 30):
    now += 2.0
    seconds = {'seconds': 2.0} if step > 10 else {}
    lines.append({'step': step, 'split': 'train', 'time': now, 'loss': 1.0, **seconds})
    if validates:
      now += 0.5
      lines.append({'step': step, 'split': 'validation', 'time': now, 'loss': 1.0})
  (tmp_path / 'metrics.jsonl').write_text(''.join(f'{json.dumps(line)}\n' for line in lines))
  wall = 7.0 + now - 100.0
  whole = timing._whole(job, short, tmp_path, wall)
  assert whole == pytest.approx(7.0 + 1000 * 0.2 + 0.5 * expected)


def test_a_short_run_keeps_the_model_and_its_batches(tmp_path):
  config = job_of(tmp_path).config
  short = timing._short(config)
  assert short['train']['steps'] == '30' and short['train']['sample_every'] == '0'
  assert merge(short, {'train': config['train']}) == config
  long = timing._short(merge(config, {'train': {'steps_per_call': 500}}))
  assert long['train']['steps_per_call'] == timing.MOST_PER_CALL


@pytest.mark.parametrize(
  ('batch_size', 'num_samples', 'sample_sets', 'draws'),
  [(256, 1000, 1, 1024), (31, 124, 1, 124), (500, 100, 1, 400), (500, 100, 3, 600)],
)
def test_draws_are_whole_batches_and_those_that_are_timed(
  batch_size, num_samples, sample_sets, draws
):
  settings = dict(batch_size=batch_size, num_samples=num_samples, sample_sets=sample_sets)
  assert timing._draws(settings) == draws


@pytest.mark.parametrize(
  ('sampling', 'expected'),
  [
    ({'steps': 1000}, (8, 1000)),
    ({'steps': 16}, (16, 16)),
    ({}, (8, 18)),  # those of the config
    ({'steps': 20, 'grid': {'name': 'given', 'times': (80.0, 1.0)}}, (20, 20)),
  ],
)
def test_long_samplers_are_timed_in_few_steps(tmp_path, sampling, expected):
  job = job_of(tmp_path)
  job = job._replace(row=dataclasses.replace(job.row, sampling=sampling))
  assert timing._steps(job) == expected


def test_the_time_of_a_sample_grows_with_its_steps(tmp_path, monkeypatch):
  """A sample takes 0.1 s and 0.02 s for each step."""
  job = job_of(tmp_path)
  job = job._replace(row=dataclasses.replace(job.row, sampling={'steps': 1000}))
  asked = []

  def measured(job, run, settings, metrics, steps):
    asked.append(steps)
    return {timing.SECONDS_PER_SAMPLE: Measure(0.1 + 0.02 * steps, 0.0)}

  monkeypatch.setattr(timing, '_measured', measured)
  assert timing._seconds_per_sample(job, None, 0.1 + 0.02 * 8) == pytest.approx(0.1 + 0.02 * 1000)
  assert asked == [16]
