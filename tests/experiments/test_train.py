"""The training command: bit-exact resume, signals, and errors for bad input."""

import functools
import json
import shutil
import signal
import time

import jax
import numpy as np
import pytest

from common.checkpoints.checkpoints import Checkpoints
from common.data import pipeline
from common.reporting import writers
from common.training.parallel import make_mesh
from common.training.program import build_program
from configs.base import get_base
from experiments import families, runs
from tests.experiments.commands import TINY, TINY_DIFFUSION, refused, run, start


@functools.cache
def abstract_state(text):
  """The shapes of the state of a run, on one device; `text` is its config as JSON."""
  config = json.loads(text)
  data = pipeline.load(config['data'])
  config['parallel'] = get_base().parallel.to_dict()
  mesh = make_mesh(config['parallel'], jax.devices()[:1])
  return build_program(
    config, families.build(config, data.spec), data.spec, mesh
  ).step.abstract_state


def final_state(workdir):
  """The last checkpoint of a run: every leaf of parameters, optimiser, average and counters."""
  shapes = abstract_state((workdir / 'config.json').read_text())
  with Checkpoints(workdir / 'checkpoints', read_only=True) as checkpoints:
    restored = checkpoints.restore(shapes)
  return restored.step, jax.device_get(restored.state)


def losses(workdir):
  """(step, loss, gradient norm) of every line; equal only if the batches were equal."""
  rows = writers.read(workdir, 'train')
  return [(row['step'], row['loss'], row['gradient_norm']) for row in rows]


def assert_same_run(one, other):
  (step, state), (other_step, other_state) = final_state(one), final_state(other)
  assert step == other_step == 40
  jax.tree.map(np.testing.assert_array_equal, state, other_state)
  assert losses(one) == losses(other)
  assert len(losses(one)) == 20


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
  workdir = tmp_path_factory.mktemp('whole') / 'run'
  run('train', *TINY, f'--workdir={workdir}')
  return workdir


def wait_for(condition, seconds=120):
  end = time.monotonic() + seconds
  while not condition():
    assert time.monotonic() < end, 'nothing happened'
    time.sleep(0.005)


# Saves are at 8, 16, ...: while the temporary folder exists, a save is in progress.
@pytest.mark.parametrize(
  'moment', ['between saves', pytest.param('during a save', marks=pytest.mark.slow)]
)
def test_a_killed_and_restarted_run_is_the_same_bit_for_bit(whole, tmp_path, moment):
  workdir = tmp_path / 'run'
  process = start('train', *TINY, f'--workdir={workdir}')
  checkpoints = workdir / 'checkpoints'
  pattern = '8' if moment == 'between saves' else '16.*tmp*'
  wait_for(lambda: process.poll() is not None or list(checkpoints.glob(pattern)))
  process.send_signal(signal.SIGKILL)
  process.communicate()
  run('train', *TINY, f'--workdir={workdir}')
  assert_same_run(whole, workdir)


@pytest.mark.parametrize('name', ['SIGTERM', pytest.param('SIGINT', marks=pytest.mark.slow)])
def test_a_signal_saves_and_exits_with_75_and_the_same_command_resumes(whole, tmp_path, name):
  workdir = tmp_path / 'run'
  process = start('train', *TINY, f'--workdir={workdir}')
  metrics = workdir / writers.METRICS_FILE
  wait_for(lambda: metrics.exists() and metrics.read_text().count('\n') >= 2)
  process.send_signal(getattr(signal, name))
  process.communicate(timeout=120)
  assert process.returncode == 75
  step, _ = final_state(workdir)
  assert 0 < step < 40
  run('train', *TINY, f'--workdir={workdir}')
  assert_same_run(whole, workdir)


def assert_same_curve(one, other):
  (_, state), (_, other_state) = final_state(one), final_state(other)
  np.testing.assert_allclose(losses(other), losses(one), rtol=2e-4)
  for a, b in zip(jax.tree.leaves(state.params), jax.tree.leaves(other_state.params), strict=True):
    np.testing.assert_allclose(b, a, atol=2e-3)


@pytest.mark.slow
@pytest.mark.parametrize('flags', [['--config.parallel.fsdp=2'], ['--config.parallel.mode=pmap']])
def test_eight_devices_follow_the_curve_of_one(whole, tmp_path, flags):
  workdir = tmp_path / 'run'
  run('train', *TINY, *flags, f'--workdir={workdir}', devices=8)
  assert_same_curve(whole, workdir)


@pytest.mark.slow
def test_a_run_moves_from_eight_devices_to_one(whole, tmp_path):
  workdir = tmp_path / 'run'
  process = start('train', *TINY, f'--workdir={workdir}', devices=8)
  metrics = workdir / writers.METRICS_FILE
  wait_for(lambda: metrics.exists() and metrics.read_text().count('\n') >= 2)
  process.send_signal(signal.SIGTERM)
  process.communicate(timeout=120)
  assert process.returncode == 75 and final_state(workdir)[0] < 40
  run('train', *TINY, f'--workdir={workdir}')
  assert_same_curve(whole, workdir)


@pytest.mark.slow
def test_a_profile_of_a_few_steps(tmp_path):
  workdir = tmp_path / 'run'
  run(
    'train', *TINY, '--config.train.steps=12', '--config.train.profile=4:8', f'--workdir={workdir}'
  )
  assert list((workdir / 'profile').rglob('*.xplane.pb'))


def test_a_finished_run_does_not_change(whole):
  before = {p: p.read_bytes() for p in (whole / 'checkpoints').rglob('*') if p.is_file()}
  printed = run('train', *TINY, f'--workdir={whole}')
  assert 'last: step 40, best: step' in printed
  assert f'next: twofold sample --workdir={whole}' in printed
  assert {p: p.read_bytes() for p in (whole / 'checkpoints').rglob('*') if p.is_file()} == before


@pytest.mark.slow
def test_a_workdir_with_another_config_is_refused_and_fresh_renames_it(whole, tmp_path):
  workdir = tmp_path / 'run'
  run('train', *TINY, f'--workdir={workdir}')
  line = refused('train', *TINY, '--config.optimizer.learning_rate=0.5', f'--workdir={workdir}')
  assert 'optimizer.learning_rate: there 0.003, now 0.5' in line and '--fresh' in line
  assert losses(workdir) == losses(whole)
  run('train', *TINY, '--config.optimizer.learning_rate=0.5', f'--workdir={workdir}', '--fresh')
  assert losses(tmp_path / 'run.1') == losses(whole) != losses(workdir)


@pytest.mark.slow
def test_a_damaged_checkpoint_is_reported_and_the_previous_one_is_used(whole, tmp_path):
  workdir = tmp_path / 'run'
  shutil.copytree(whole, workdir)
  newest = workdir / 'checkpoints' / '40'
  file = max((p for p in newest.rglob('*') if p.is_file()), key=lambda p: p.stat().st_size)
  flipped = bytearray(file.read_bytes())
  flipped[len(flipped) // 2] ^= 1
  file.write_bytes(flipped)
  printed = run('train', *TINY, f'--workdir={workdir}')
  assert 'checkpoints/40 is damaged' in printed and 'resuming at step 32 of 40' in printed
  assert_same_run(whole, workdir)


@pytest.mark.parametrize(
  ('flags', 'message'),
  [
    (['--config.train.stepz=3'], '--config.train.stepz: there is no such setting'),
    (['--config.train.keep=many'], "--config.train.keep='many' must be a whole number"),
    (['--config.network.name=transfromer'], "unknown network 'transfromer'; did you mean"),
    (['--config.optimizer.name=adma'], "unknown optimizer.name 'adma'; did you mean 'adam'"),
    (
      ['--config.train.steps=soon'],
      "train.steps='soon' must be a number such as '500'",
    ),
    (['--config.data.name=digit'], "'digit'"),
    (['--config.parallel.data=3'], 'must be the number of devices, 1, got data=3'),
    (['--config.train.micro_batches=3'], 'data.batch_size=16 must be a multiple of 3 '),
    (['--config.train.profile=5'], "train.profile must be 'first:last'"),
    (['surplus'], "unexpected argument 'surplus'"),
    (['--config=configs/nowhere.py'], 'configs/nowhere.py'),
    (['--config=configs/autoregressive/images.py:digitz'], "unknown variant 'digitz'"),
  ],
  ids=lambda value: value[0] if isinstance(value, list) else '',
)
def test_invalid_input_is_refused_in_one_line_and_leaves_no_run(tmp_path, flags, message):
  workdir = tmp_path / 'run'
  line = refused('train', *TINY, *flags, f'--workdir={workdir}')
  assert message in line
  assert not list(workdir.rglob('*.json'))


def test_a_batch_that_the_devices_do_not_divide(tmp_path):
  line = refused(
    'train', *TINY, '--config.data.batch_size=12', f'--workdir={tmp_path}/run', devices=8
  )
  assert 'data.batch_size=12 must be a multiple of 8 (8 devices' in line


def test_a_workdir_that_cannot_be_written(tmp_path):
  (tmp_path / 'file').write_text('')
  assert 'file/run' in refused('train', *TINY, f'--workdir={tmp_path}/file/run')


@pytest.mark.slow
def test_the_diffusion_family_trains_on_the_same_loop(tmp_path):
  run('train', *TINY_DIFFUSION, f'--workdir={tmp_path}/run', '--config.train.sample_every=40')
  assert (tmp_path / 'run' / 'samples' / '00000040.png').stat().st_size > 500
  assert len(losses(tmp_path / 'run')) == 20
  assert '; upper bound' in run('evaluate', f'--workdir={tmp_path}/run', '--metrics=bits_per_dim')


def test_too_many_bad_steps_end_the_run(tmp_path):
  workdir = tmp_path / 'run'
  flags = [*TINY, '--config.train.steps=60', '--config.optimizer.clip=0.0']
  flags += ['--config.optimizer.name=sgd', '--config.optimizer.learning_rate=1e30']
  flags += ['--config.optimizer.schedule=constant', '--config.optimizer.warmup=0']
  line = refused('train', *flags, '--config.train.max_bad_steps=6', f'--workdir={workdir}')
  assert 'the gradient was not finite in' in line and 'train.max_bad_steps=6' in line


def test_the_program_needs_no_data():
  """Lowers the step from shapes only, as for another machine."""
  from configs.autoregressive import images

  config = families.complete(images.get_config('digits_4x4'))
  spec = pipeline.load(config['data']).spec
  program = build_program(config, families.build(config, spec), spec, make_mesh(config['parallel']))
  batch = {
    k: jax.ShapeDtypeStruct((2, *v.shape), v.dtype, sharding=None)
    for k, v in spec.batch_struct(config['data']['batch_size']).items()
  }
  text = program.step.compiled.lower(program.step.abstract_state, batch).as_text()
  assert 'stablehlo.while' in text  # the scan over steps


def test_evaluate_and_sample_read_the_run_back(whole, tmp_path):
  metrics = '--metrics=bits_per_dim,parameters,evaluations'
  printed = run('evaluate', f'--workdir={whole}', metrics, '--num_samples=20')
  path = whole / 'evaluations' / '40-num_samples=20.json'
  assert 'step 40 (' in printed and 'best: ' in printed
  measures = json.loads(path.read_text())['measures']
  assert 1.0 < measures['bits_per_dim']['value'] < 4.2
  assert measures['parameters']['value'] == sum(
    x.size for x in jax.tree.leaves(runs.load(whole).params)
  )
  assert 'bits/dim' in printed
  out = tmp_path / 'three.npy'
  run('sample', f'--workdir={whole}', '--num=6', '--label=3', f'--out={out}')
  again = tmp_path / 'again.npy'
  run('sample', f'--workdir={whole}', '--num=6', '--label=3', f'--out={again}')
  x = np.load(out)
  assert x.shape == (6, 8, 8, 1) and x.max() <= 16
  np.testing.assert_array_equal(x, np.load(again))
  printed = run('sample', f'--workdir={whole}', '--task=complete', f'--out={tmp_path}/complete.png')
  assert '3 × 10 results' in printed and (tmp_path / 'complete.png').stat().st_size > 1000


@pytest.mark.slow
def test_eight_devices_draw_the_samples_of_one_and_measure_the_same(whole, tmp_path):
  drawn, measured = [], []
  for devices in (1, 8):
    out = tmp_path / f'{devices}.npy'
    run('sample', f'--workdir={whole}', '--num=130', f'--out={out}', devices=devices)
    drawn.append(np.load(out))
    metrics, num = '--metrics=bits_per_dim,frechet', 20 + devices
    run('evaluate', f'--workdir={whole}', metrics, f'--num_samples={num}', devices=devices)
    text = (whole / 'evaluations' / f'40-num_samples={num}.json').read_text()
    measured.append(json.loads(text)['measures']['bits_per_dim']['value'])
  assert (drawn[0] != drawn[1]).mean() < 0.01 and len(np.unique(drawn[0], axis=0)) > 100
  assert measured[0] == pytest.approx(measured[1], rel=1e-5)


@pytest.mark.parametrize(
  ('command', 'flags', 'message'),
  [
    ('sample', ['--label=eleven'], 'is not a class of digits; known: 0, 1'),
    ('sample', ['--out=x.jpg'], 'must end in .png or .npy'),
    ('sample', ['--options=stepz=3'], "'stepz'"),
    ('sample', ['--step=7'], 'no checkpoint 7'),
    ('sample', ['--task=inpaint'], "unknown autoregressive task 'inpaint'; known: complete"),
    ('evaluate', ['--metrics=fid'], "unknown metric 'fid'"),
    ('evaluate', ['--ema=wide'], '--ema=wide: write widths, such as 0.05,0.1'),
    ('evaluate', ['--likelihood=trace=exact'], 'write the name first, such as flow'),
    ('evaluate', ['--likelihood=flow'], 'the autoregressive family has only an exact one'),
    ('evaluate', ['--step=late'], "must be 'last', 'best' or a number, got 'late'"),
  ],
)
def test_evaluate_and_sample_refuse_invalid_input(whole, command, flags, message):
  assert message in refused(command, f'--workdir={whole}', *flags)


def test_a_folder_without_a_run(tmp_path):
  assert 'holds no run' in refused('sample', f'--workdir={tmp_path}')
