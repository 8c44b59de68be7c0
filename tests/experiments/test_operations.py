"""The time of a large model: its operations, counted without drawing or training anything."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from common.config import ConfigError
from common.domains import domain_of
from common.studies import plans
from common.studies.plans import Row, Study
from experiments import families
from experiments.study import operations, timing
from tests.experiments.commands import run

DIFFUSION, PIXELS = 'configs/diffusion/images.py:digits', 'configs/autoregressive/images.py:digits'
TINY = {'network.width': 16, 'network.heads': 2}
LATENTS = {'shape': (4, 4, 2), 'levels': 0, 'num_classes': 3, 'num_train': 1000}
PAPER = 'configs/papers/dit.py:S8'
DDIM = {'sampler': {'name': 'ddim'}}
GIVEN = tuple(float(level) for level in np.geomspace(80, 0.03, 20))
TRANSFORMER = {
  'network.width': 16,
  'network.depth': 1,
  'network.heads': 2,
  'network.patch': 2,
  'data.batch_size': 8,
}


def job_of(folder, base, row, config=TINY, training=None):
  study = Study(
    name='one',
    title='One',
    base=base,
    rows=(row,),
    metrics=('frechet',),
    config=config,
    paper_training=training,
  )
  (job,) = plans.plan(study, families.load_config, folder, ['frechet'])
  return job


@pytest.mark.parametrize(
  ('base', 'sampling', 'steps'),
  [
    (DIFFUSION, {**DDIM, 'grid.end': 'clean', 'steps': 5}, 5),
    (DIFFUSION, {**DDIM, 'grid.end': 'clean', 'steps': 50, 'guidance': 3}, 50),
    (DIFFUSION, {'sampler': {'name': 'ancestral'}, 'steps': 40}, 40),
    (DIFFUSION, {'grid': {'name': 'given', 'times': GIVEN}, 'steps': 20, **DDIM}, 20),
    (PIXELS, {}, 0),
  ],
)
def test_the_operations_of_a_sample_are_those_of_its_evaluations(tmp_path, base, sampling, steps):
  """Held to the evaluations that drawing a sample counts, padded loops or not."""
  job = job_of(tmp_path, base, Row('a', sampling=sampling))
  model = operations.model_of(job)
  counted = operations.sampling_flops(model, operations.options_of(job), steps)
  params, _ = model.method.init(jax.random.key(0), model.spec.batch_struct(1) | _zeros(model))
  request = domain_of(model.spec).request(model.spec, 1, jnp.zeros(1, jnp.int32), sampling)
  samples = model.method.sample(params, jax.random.key(1), request)
  of_one = model.method.evaluation_flops(params, request)
  # The two branches of guidance count as two evaluations; a decoder also computes its caches.
  assert counted == pytest.approx(samples.evaluations * of_one, rel=0.03)


def _zeros(model):
  return {k: jnp.zeros(v.shape, v.dtype) for k, v in model.spec.batch_struct(1).items()}


def test_the_operations_of_the_bound_grow_with_its_terms(tmp_path):
  few, many = (bound_flops(tmp_path, terms) for terms in (10, 30))
  assert many == pytest.approx(3 * few, rel=0.2)


def test_the_steps_of_an_adaptive_solver_are_not_guessed(tmp_path):
  job = job_of(tmp_path, DIFFUSION, Row('a'), TINY | {'likelihood': {'name': 'flow'}})
  with pytest.raises(ConfigError, match='chooses its own steps'):
    operations.likelihood_flops(operations.model_of(job))


def bound_flops(folder, terms):
  settings = TINY | {'likelihood': {'name': 'vlb', 'terms': terms}}
  return operations.likelihood_flops(
    operations.model_of(job_of(folder, DIFFUSION, Row('a'), settings))
  )


def test_seeds_and_losses_share_the_speed_of_a_network(tmp_path):
  job = job_of(tmp_path, DIFFUSION, Row('a'))
  others = [
    job_of(tmp_path, DIFFUSION, Row('b', {name: value}))
    for name, value in {
      'seed': 1,
      'prediction.target': 'eps',
      'optimizer.learning_rate': 1e-4,
      'network.width': 32,
    }.items()
  ]
  same = [operations.key_of(other) == operations.key_of(job) for other in others]
  assert same == [True, True, True, False]


def test_only_models_beyond_the_limit_are_large(tmp_path, monkeypatch):
  job = job_of(tmp_path, DIFFUSION, Row('a'))
  assert not operations.is_large(job) and not timing._is_only_counted(job)
  monkeypatch.setitem(operations.MOST, 'cpu', 1e3)
  assert operations.is_large(job) and timing._is_only_counted(job)


@pytest.mark.slow
def test_a_paper_is_timed_and_shown_without_its_data(tmp_path):
  """The rows, from a study as users write it, of latents that nobody has prepared."""
  text = f"""
from common.studies.plans import PaperTraining, Row, Study

def get_study():
  return Study(
    name='two', title='Two', base={PAPER!r}, config={TRANSFORMER!r}, seeds=(0, 1),
    rows=(Row('many', sampling={{'steps': 250}}), Row('few', sampling={{'steps': 25}})),
    metrics=('frechet', 'parameters', 'training_flops'),
    paper_training=PaperTraining({PAPER!r}, {LATENTS!r}),
  )
"""
  study = tmp_path / 'two.py'
  study.write_text(text)
  printed = run('ablate', f'--study={study}', f'--workdir={tmp_path}/work', '--dry_run')
  assert re.search(
    r'^many: 2 trainings of \S+( days)?, 2 measurements of \S+( days)? \*$', printed, re.M
  )
  assert re.search(r'^few: 2 measurements of \S+( days)? \*$', printed, re.M)
  assert '* too large to be run here, or without its data: ' in printed
  assert not (tmp_path / 'work').exists()
  shown = run('ablate', f'--study={study}', '--show')
  assert shown.count(' parameters, ') == 4 and 'not known' not in shown
