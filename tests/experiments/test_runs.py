"""A run in this process: resumed, extended, locked, fine-tuned; what ends it and what it leaves."""

import dataclasses
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl import logging
from jax.tree_util import tree_leaves_with_path

from common import finetuning
from common.config import ConfigError, to_json
from common.data.pipeline import Data
from common.devices.limits import OutOfMemoryError
from common.method import Samples
from common.reporting import writers
from common.reporting.rates import is_speed
from common.trees import path_name
from experiments import families, runs
from experiments.startup import workdir as folders
from tests import toy
from tests.experiments.startup import tiny

STEPS = 40


def rows(workdir, split='train'):
  """The rows of metrics that do not depend on the time of day."""
  found = writers.read(workdir, split)
  return [{k: v for k, v in r.items() if k != 'time' and not is_speed(k)} for r in found]


def after(calls):
  """Stops a run after a number of compiled calls (of two steps)."""
  left = iter(range(calls - 1))
  return lambda: next(left, None) is None


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
  """A finished run of the autoregressive family."""
  workdir = tmp_path_factory.mktemp('whole') / 'run'
  assert runs.train(tiny.config('autoregressive'), workdir)
  return workdir


@pytest.fixture
def copied(whole, tmp_path):
  return shutil.copytree(whole, tmp_path / 'run')


@pytest.mark.slow
def test_a_run_stopped_between_two_log_lines_writes_the_same_rows(whole, tmp_path, caplog):
  config, workdir = tiny.config('autoregressive'), tmp_path / 'run'
  assert not runs.train(config, workdir, stop=after(7))  # at step 14 of 40, logged at 10 and 20
  assert [row['step'] for row in rows(workdir)] == [10]
  caplog.set_level('INFO')
  logging.set_verbosity(logging.INFO)
  assert runs.train(config, workdir)
  assert rows(workdir) == rows(whole) and len(rows(whole)) == 4
  lines = [r.getMessage().split('  ')[0] for r in caplog.records]
  assert [line for line in lines if line.endswith('/40')] == [f'step {n}/40' for n in (20, 30, 40)]


@pytest.mark.parametrize(
  'changes',
  [
    dict(sampling__temperature='0.5', evaluation__num_samples='5', data__dir=''),
    dict(train__log_every='4', train__checkpoint_every='20', train__keep='5', ema__keep='3'),
    dict(train__best_metric='bits_per_dim', train__evaluate_every='4', train__profile='1:2'),
  ],
)
def test_settings_that_training_does_not_depend_on_may_change(copied, changes):
  assert runs.train(tiny.config('autoregressive', **changes), copied)


def test_a_finished_run_is_extended(copied, tmp_path, caplog):
  longer = tiny.config('autoregressive', train__steps='60')
  with pytest.raises(ConfigError, match=r'a run of 40 steps, not 60: add --extend to continue it'):
    runs.train(longer, copied)
  caplog.set_level('INFO')
  logging.set_verbosity(logging.INFO)
  assert runs.train(longer, copied, extend=True)
  said = [r.getMessage() for r in caplog.records if 'extending' in r.getMessage()]
  assert len(said) == 1 and 'from step 40 to 60' in said[0] and 'learning rate' in said[0]
  assert [row['step'] for row in rows(copied)] == [10, 20, 30, 40, 50, 60]
  assert runs.train(longer, copied)  # now an ordinary run of 60 steps
  shorter = tiny.config('autoregressive', train__steps='20')
  with pytest.raises(ConfigError, match=r'has 60 steps already; set train.steps to more than 60'):
    runs.train(shorter, copied, extend=True)
  other = tiny.config('autoregressive', train__steps='80', optimizer__b1='0.5')
  with pytest.raises(ConfigError, match=r'another config .optimizer.b1'):
    runs.train(other, copied, extend=True)
  with pytest.raises(ConfigError, match=r'--extend: .* holds no run'):
    runs.train(longer, tmp_path / 'none', extend=True)


def test_one_process_trains_in_a_folder(copied):
  config = tiny.config('autoregressive')
  with folders.locked(copied):
    for fresh in (False, True):
      with pytest.raises(ConfigError, match=r'in use by process \d+ on .+: wait for it, stop it'):
        runs.train(config, copied, fresh=fresh)
  assert runs.train(config, copied)


def test_a_folder_that_vanishes_ends_the_run(tmp_path):
  config, workdir = tiny.config('autoregressive'), tmp_path / 'run'

  def remove():
    shutil.rmtree(workdir, ignore_errors=True)
    return False

  with pytest.raises(FileNotFoundError, match='was removed or replaced while the run was writing'):
    runs.train(config, workdir, stop=remove)


def test_checkpoints_without_a_config_belong_to_the_config_in_their_record(copied):
  (copied / 'config.json').unlink()
  other = tiny.config('autoregressive', optimizer__learning_rate='0.5')
  with pytest.raises(ConfigError, match=r'optimizer.learning_rate: there 0.003, now 0.5'):
    runs.train(other, copied)
  assert not (copied / 'config.json').exists()
  assert runs.load(copied).step == STEPS
  assert runs.train(tiny.config('autoregressive'), copied)
  assert (copied / 'config.json').exists()
  (copied / 'config.json').unlink()
  for record in copied.glob('checkpoints/*/record/data.json'):
    record.write_text('{}')
  with pytest.raises(ConfigError, match='no checkpoint has a readable record'):
    runs.train(other, copied)


@pytest.mark.parametrize(
  ('workdir', 'message'),
  [
    ('', '--workdir is empty; name the folder'),
    ('{}/file', 'cannot be written: .*file is not a folder; choose another'),
    ('{}/file/run', 'cannot be written: .*file is not a folder; choose another'),
  ],
)
def test_a_workdir_that_cannot_be_one_is_refused_before_anything(tmp_path, workdir, message):
  (tmp_path / 'file').write_text('')
  with pytest.raises(ConfigError, match=message) as error:
    runs.train({}, workdir.format(tmp_path))
  assert '\n' not in str(error.value)


def test_a_model_of_diffusion_takes_the_average_of_another_run(tmp_path):
  spec, source = tiny.data().spec, dict(finetune__source=tmp_path / 'run')
  config = tiny.config('diffusion', **source, finetune__fresh='bias$')
  method = families.build(config, spec)
  params = jax.jit(method.init)(jax.random.key(0), {'x': tiny.data().splits['train'].x[:1]})[0]
  ones = jax.tree.map(jnp.ones_like, params)
  with finetuning.open_checkpoints(config, tmp_path / 'run') as checkpoints:
    checkpoints.save(3, {'ema': ones}, config=config, position={})
  (tmp_path / 'run' / 'config.json').write_text(to_json(config))
  started = families.initial_params(config, spec, params, families.read_source(config))
  taken = {path_name(p): bool((x == 1).all()) for p, x in tree_leaves_with_path(started)}
  assert taken == {name: not name.endswith('bias') for name in taken}
  with pytest.raises(ConfigError, match='must be the WORKDIR of a run'):
    families.read_source(tiny.config('diffusion', finetune__source=tmp_path))


@pytest.mark.slow
def test_a_diffusion_run_starts_from_the_average_of_another(tmp_path):
  short = dict(train__steps='8', train__checkpoint_every='8')
  assert runs.train(tiny.config('diffusion', **short), tmp_path / 'first')
  source = dict(finetune__source=tmp_path / 'first', optimizer__frozen='^network/conditioning')
  assert runs.train(tiny.config('diffusion', **short, **source), tmp_path / 'second')
  first, second = (rows(tmp_path / name, 'validation') for name in ('first', 'second'))
  assert [row['step'] for row in second] == [0, 8]
  assert second[0]['loss'] == pytest.approx(first[-1]['loss'], rel=1e-5)
  with pytest.raises(ConfigError, match=r'another model \(network\.width: there 16, here 24\)'):
    tiny.config('diffusion', **short, **source, network__width='24')


def test_exhausted_memory_names_what_to_lower():
  def sample(params, key, request):
    return Samples(jnp.zeros((2**50, *toy.SPEC.shape), jnp.uint8), 1)

  x = np.zeros((20, *toy.SPEC.shape), np.uint8)
  data = Data(toy.SPEC, dict.fromkeys(('train', 'test'), tiny.Images(x, classes=10)))
  method = dataclasses.replace(toy.build(), sample=sample)
  run = runs.Run(tiny.config('diffusion'), data, method, {}, 0)
  with pytest.raises(OutOfMemoryError, match='device while sampling: lower --num or --draws'):
    run.sample(num=4)
  with pytest.raises(OutOfMemoryError, match=r'evaluating: lower evaluation\.batch_size \(now 256'):
    run.evaluate(['seconds_per_sample'])
