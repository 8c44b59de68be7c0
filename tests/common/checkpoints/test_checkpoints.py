"""Checkpoints: reading returns exactly what was saved, or fails with one line that says why."""

import json
import logging
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import time
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from common.checkpoints.checkpoints import CheckpointError, Checkpoints
from common.checkpoints.records import MANIFEST, RECORD

ROOT = pathlib.Path(__file__).parents[3]


class State(NamedTuple):
  step: object
  params: object
  opt_state: object
  ema: object
  memory: object


def mesh_of(count: int) -> Mesh:
  return Mesh(np.array(jax.devices()[:count]), ('data',), axis_types=(AxisType.Auto,))


def place(tree, count: int):
  """Onto `count` devices, with the first dimension split if it divides evenly."""
  mesh = mesh_of(count)

  def sharding(x):
    return NamedSharding(mesh, P('data') if x.ndim and x.shape[0] % count == 0 else P())

  return jax.tree.map(lambda x: jax.device_put(x, sharding(x)), tree)


def make_state(seed: int = 0, count: int = 8) -> State:
  keys = jax.random.split(jax.random.key(seed), 4)
  params = {
    'dense': {'kernel': jax.random.normal(keys[0], (16, 24)), 'bias': jnp.arange(24.0) / 7},
    'half': jax.random.normal(keys[1], (8, 8), jnp.bfloat16),
  }
  optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-3))
  memory = {
    'key': keys[2],
    'keys': keys,
    'seen': jnp.array([True, False]),
    'none': jnp.zeros((0, 3)),
  }
  state = State(jnp.int32(7 + seed), params, optimizer.init(params), params, memory)
  return place(state, count)


def abstract(state):
  return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state)


def as_bytes(tree) -> list[bytes]:
  plain = lambda x: jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x
  return [np.asarray(plain(x)).tobytes() for x in jax.tree.leaves(tree)]


def save(checkpoints: Checkpoints, step: int, state=None, **metrics) -> bool:
  return checkpoints.save(
    step,
    make_state(step) if state is None else state,
    config={'model': {'width': 8}, 'shape': (1, 2)},
    position={'step': step, 'examples': 64 * step},
    metrics=metrics,
  )


@pytest.fixture(scope='module')
def two_steps(tmp_path_factory) -> pathlib.Path:
  """A directory with intact steps 1 and 2, for copying."""
  directory = tmp_path_factory.mktemp('two_steps') / 'checkpoints'
  with Checkpoints(directory) as checkpoints:
    save(checkpoints, 1, make_state(1, 2), loss=1.0)
    save(checkpoints, 2, make_state(2, 2), loss=0.5)
  return directory


@pytest.fixture
def copied(two_steps, tmp_path) -> pathlib.Path:
  return shutil.copytree(two_steps, tmp_path / 'checkpoints')


def warnings_of(caplog) -> list[str]:
  return [
    r.getMessage() for r in caplog.records if r.name == 'absl' and r.levelno >= logging.WARNING
  ]


# Saving and restoring.


@pytest.mark.parametrize('saved_on', [1, 8])
def test_restores_every_byte_onto_any_number_of_devices(tmp_path, saved_on):
  state = make_state(3, saved_on)
  with Checkpoints(tmp_path) as checkpoints:
    save(checkpoints, 3, state, loss=0.25)
    for count in (1, 2, 4, 8):
      target = abstract(place(state, count))
      found = checkpoints.restore(target)
      assert as_bytes(found.state) == as_bytes(state)
      assert jax.tree.structure(found.state) == jax.tree.structure(state)
      where = jax.tree.map(lambda x: (x.sharding, x.dtype), found.state)
      assert where == jax.tree.map(lambda x: (x.sharding, x.dtype), target)
      assert found.step == 3 and found.metrics == {'loss': 0.25}
      assert found.config == {'model': {'width': 8}, 'shape': [1, 2]}
      assert found.position == {'step': 3, 'examples': 192}
    save(checkpoints, 4, found.state)  # and back from there
    assert as_bytes(checkpoints.restore(abstract(state)).state) == as_bytes(state)


def test_numbers_and_host_arrays_are_leaves_too(tmp_path):
  state = {'n': 5, 'x': 0.5, 'host': np.arange(3), 'list': [np.float32(2), None, ()]}
  with Checkpoints(tmp_path) as checkpoints:
    save(checkpoints, 1, state)
    found = checkpoints.restore(state).state
  assert jax.tree.map(float, {**found, 'host': found['host'].sum()}) == {
    'n': 5.0, 'x': 0.5, 'host': 3.0, 'list': [2.0, None, ()],
  }  # fmt: skip


def test_a_part_of_the_state_can_be_restored(two_steps):
  expected = make_state(2)
  with Checkpoints(two_steps, read_only=True) as checkpoints:
    found = checkpoints.restore({'ema': abstract(expected.ema)}, partial=True)
    assert as_bytes(found.state) == as_bytes(expected.ema)
    with pytest.raises(CheckpointError, match=r'it has step int32.*absent here'):
      checkpoints.restore({'ema': abstract(expected.ema)})
    found = checkpoints.restore(jax.eval_shape(lambda: {'step': expected.step}), partial=True)
    assert found.state['step'].sharding.device_set == {jax.devices()[0]}


def test_the_state_may_be_donated_as_soon_as_save_returns(tmp_path):
  step = jax.jit(lambda s: jax.tree.map(lambda x: x * 1.5 + 1, s), donate_argnums=0)
  for count in (1, 8):
    state = place({str(i): jnp.full((256, 512), float(i)) for i in range(8)}, count)
    with Checkpoints(tmp_path / str(count), keep=3) as checkpoints:
      expected = {}
      for n in (1, 2, 3):
        expected[n] = as_bytes(state)
        state = jax.tree.map(jnp.copy, state)  # as_bytes holds on to the buffers
        save(checkpoints, n, state)
        for _ in range(5):
          state = step(state)
      for n in (1, 2, 3):
        assert as_bytes(checkpoints.restore(abstract(state), n).state) == expected[n]


def test_a_saved_step_is_on_the_disk_before_older_ones_are_removed(tmp_path, monkeypatch):
  synced, fsync, rmtree = set(), os.fsync, shutil.rmtree

  def spy(descriptor):
    fsync(descriptor)
    synced.add(os.fstat(descriptor).st_ino)

  def removed(path):
    step = tmp_path / '2'
    assert {p.stat().st_ino for p in (*step.rglob('*'), step, tmp_path)} <= synced
    gone.append(path.name)
    rmtree(path)

  gone = []
  monkeypatch.setattr(os, 'fsync', spy)
  monkeypatch.setattr(shutil, 'rmtree', removed)
  with Checkpoints(tmp_path, keep=1) as checkpoints:
    for step in (1, 2):
      save(checkpoints, step, {'x': jnp.arange(3.0)}, loss=-step)
  assert len(gone) == 1 and gone[0].startswith('1.')


# Which steps are kept.


@pytest.mark.parametrize(('mode', 'kept'), [('min', [2, 5, 6]), ('max', [3, 5, 6])])
def test_keeps_the_newest_and_the_best(tmp_path, mode, kept):
  losses = {1: 3.0, 2: 1.0, 3: 5.0, 4: float('nan'), 5: 2.0, 6: 2.0}
  state = {'x': jnp.zeros(3)}
  for step, loss in losses.items():  # every save opens the folder again, as a new process would
    with Checkpoints(tmp_path, best_mode=mode) as checkpoints:
      save(checkpoints, step, state, loss=loss)
  with Checkpoints(tmp_path, best_mode=mode, read_only=True) as checkpoints:
    assert checkpoints.steps == kept and checkpoints.latest == 6
    assert checkpoints.best == kept[0] == checkpoints.restore(state, 'best').step
    assert checkpoints.restore(state, 5).step == 5
    with pytest.raises(CheckpointError, match=rf'no checkpoint 4 .*steps: {kept[0]}, 5, 6'):
      checkpoints.restore(state, 4)


def test_there_is_no_best_step_without_its_metric(tmp_path):
  with Checkpoints(tmp_path, best_metric='fd') as checkpoints:
    save(checkpoints, 1, {'x': jnp.zeros(3)}, loss=1.0)
    checkpoints.wait()
    assert checkpoints.best is None
    with pytest.raises(CheckpointError, match="no checkpoint 'best' with a metric 'fd'"):
      checkpoints.restore({'x': jnp.zeros(3)}, 'best')


def test_a_finished_step_is_never_overwritten(copied):
  before = {p: p.read_bytes() for p in copied.rglob('*') if p.is_file()}
  with Checkpoints(copied) as checkpoints:
    assert not save(checkpoints, 2, make_state(2))  # the same state: nothing to do
    with pytest.raises(CheckpointError, match=r'already holds a different state of step 2'):
      save(checkpoints, 2, make_state(5))
  assert {p: p.read_bytes() for p in copied.rglob('*') if p.is_file()} == before


# Another model.


@pytest.mark.parametrize(
  ('change', 'message'),
  [
    (lambda p: p | {'half': p['half'][:4]}, r'params/half is bfloat16\[8,8\] there.*\[4,8\] here'),
    (lambda p: p | {'half': p['half'].astype('float32')}, 'params/half is bfloat16.*float32'),
    (lambda p: p | {'more': p['half']}, r'it lacks params/more, here bfloat16\[8,8\]'),
    (lambda p: {'half': p['half']}, r'it has params/dense/bias float32\[24\], absent here'),
  ],
)
def test_another_model_is_refused_by_the_first_leaf_that_differs(copied, caplog, change, message):
  state = make_state(2)
  other = abstract(state._replace(params=change(state.params)))
  with Checkpoints(copied) as checkpoints:
    with pytest.raises(CheckpointError, match=message) as error:
      checkpoints.restore(other)
    assert '\n' not in str(error.value) and str(copied / '2') in str(error.value)
    assert checkpoints.steps == [1, 2] and not warnings_of(caplog)


# Damage.


def damaged_versions(content: bytes, flips: int, seed: int):
  """(damage, content or None) for a file that is truncated, empty, missing or has a flipped bit."""
  yield from (('missing', None), ('cut off', content[: len(content) // 2]))
  rng = random.Random(seed)
  for _ in range(flips if content else 0):
    offset, bit = rng.randrange(len(content)), rng.randrange(8)
    flipped = bytearray(content)
    flipped[offset] ^= 1 << bit
    yield f'bit {bit} of byte {offset}', bytes(flipped)


def damage_everything(directory: pathlib.Path, flips: int, caplog) -> dict[str, list[str]]:
  """Damages each file of step 2 in turn; {file: warnings}, '' where nothing was damaged."""
  target, sound = (
    abstract(make_state(2, 1)),
    {1: as_bytes(make_state(1)), 2: as_bytes(make_state(2))},
  )
  reasons = {}
  with Checkpoints(directory, read_only=True) as checkpoints:
    files = sorted(p for p in (directory / '2').rglob('*') if p.is_file())
    for number, file in enumerate(files):
      name = str(file.relative_to(directory / '2'))
      content, reasons[name] = file.read_bytes(), []
      for what, bad in damaged_versions(content, flips, number):
        file.unlink() if bad is None else file.write_bytes(bad)
        caplog.clear()
        found = checkpoints.restore(target)
        said = warnings_of(caplog)
        assert as_bytes(found.state) == sound[found.step], f'{name}: {what}: silently wrong'
        assert found.config['shape'] == [1, 2] and found.position['step'] == found.step
        assert len(said) == (found.step == 1), f'{name}: {what}: {said}'
        assert not said or (str(directory / '2') in said[0] and '\n' not in said[0])
        reasons[name].append(said[0] if said else '')
        file.write_bytes(content)
    assert checkpoints.restore(target).step == 2
  return reasons


def test_no_damaged_file_goes_unnoticed(copied, caplog, capfd):
  reasons = damage_everything(copied, 3, caplog)
  assert len(reasons) > 8
  harmless = [name for name, said in reasons.items() if '' in said]
  # Without files.json the digests still work; half of an empty marker file is the same file.
  assert set(harmless) == {str(MANIFEST), 'orbax.checkpoint'}
  for name, said in reasons.items():
    assert all(name in line for line in said if line)
  assert 'Traceback' not in capfd.readouterr().err


@pytest.mark.slow
@pytest.mark.filterwarnings('ignore')  # from threads that Orbax leaves when a read fails
def test_damage_is_noticed_without_the_crcs_of_a_killed_run(copied, caplog):
  (copied / '2' / MANIFEST).unlink()
  reasons = damage_everything(copied, 12, caplog)
  assert all(any(said) for name, said in reasons.items() if name.startswith('state/d/'))


def test_digests_notice_flipped_bits_that_orbax_does_not(tmp_path, caplog):
  state = {'x': jax.random.normal(jax.random.key(0), (8, 64, 64)), 'y': jnp.zeros(9)}
  with Checkpoints(tmp_path) as checkpoints:
    save(checkpoints, 1, state)
    save(checkpoints, 2, state)
  (tmp_path / '2' / MANIFEST).unlink()
  files = (p for p in (tmp_path / '2').rglob('*') if p.is_file())
  file = max(files, key=lambda p: p.stat().st_size)  # x is in there, incompressible
  content, rng = file.read_bytes(), random.Random(0)
  with Checkpoints(tmp_path, read_only=True) as checkpoints:
    for _ in range(20):
      bad = bytearray(content)
      bad[rng.randrange(20_000, len(content) - 20_000)] ^= 1 << rng.randrange(8)
      file.write_bytes(bad)
      assert checkpoints.restore(state).step == 1
  unnoticed = [
    line for line in warnings_of(caplog) if 'x differs from the saved array (1 of 2' in line
  ]
  assert len(warnings_of(caplog)) == 20 and len(unnoticed) > 10


def test_a_damaged_step_is_moved_aside_and_its_number_is_free_again(copied, caplog):
  target = abstract(make_state(2))
  for name in ('damaged-2', 'damaged-2-2'):
    (copied / '2' / RECORD).write_text('{')
    with Checkpoints(copied) as checkpoints:
      assert checkpoints.restore(target).step == 1
      assert checkpoints.steps == [1] and (copied / name).is_dir()
      assert save(checkpoints, 2)
      assert checkpoints.restore(target).step == 2
  assert len(warnings_of(caplog)) == 2


def test_a_step_under_the_number_of_another_is_not_believed(copied, caplog):
  target = abstract(make_state(2))
  shutil.copytree(copied / '1', copied / '9')
  with Checkpoints(copied, read_only=True) as checkpoints:
    assert checkpoints.restore(target).step == 2
    assert checkpoints.restore(target, 'best').step == 2
    with pytest.raises(CheckpointError, match='step 9: it is a copy of step 1: rename the folder'):
      checkpoints.restore(target, 9)
  assert 'checkpoints/9 is damaged: it is a copy of step 1' in warnings_of(caplog)[0]


def test_a_restored_step_says_which_step_is_best(tmp_path):
  state = {'x': jnp.zeros(3)}
  with Checkpoints(tmp_path, keep=3) as checkpoints:
    for step, loss in {1: 2.0, 2: 1.0, 3: float('nan')}.items():
      save(checkpoints, step, state, loss=loss)
    about = [checkpoints.restore(state, step).about for step in (1, 'best', 'last')]
  assert about == [
    'step 1 (validation loss 2; best: step 2, validation loss 1)',
    'step 2 (best: validation loss 1)',
    'step 3 (best: step 2, validation loss 1)',
  ]


def test_the_next_best_is_used_if_the_best_is_damaged(tmp_path, caplog):
  state = {'x': jnp.zeros(3)}
  with Checkpoints(tmp_path, keep=3) as checkpoints:
    for step, loss in {1: 2.0, 2: 1.0, 3: 3.0}.items():
      save(checkpoints, step, state, loss=loss)
    checkpoints.wait()
    (tmp_path / '2' / 'state' / 'manifest.ocdbt').write_bytes(b'')
    with pytest.raises(CheckpointError, match=r'step 2: state/manifest.ocdbt has 0 bytes instead'):
      checkpoints.restore(state, 2)  # a step requested by number is not replaced by another
    assert checkpoints.restore(state, 'best').step == 1
    assert checkpoints.steps == [1, 3] and checkpoints.best == 1


def test_nothing_is_moved_if_every_step_is_damaged(copied):
  for step in (1, 2):
    (copied / str(step) / RECORD).unlink()
  for _ in range(2):  # the same the second time: no run silently starts from the beginning
    with Checkpoints(copied) as checkpoints:
      assert checkpoints.latest == 2
      with pytest.raises(CheckpointError, match=r'no usable checkpoint.*step 2: .*; step 1: ') as e:
        checkpoints.restore(abstract(make_state()))
      assert '\n' not in str(e.value)


def test_leftovers_of_an_interrupted_save_are_reported_and_removed(copied, caplog):
  half = copied / '3.orbax-checkpoint-tmp'
  shutil.copytree(copied / '2', half)
  with Checkpoints(copied, read_only=True) as checkpoints:
    assert checkpoints.steps == [1, 2] and half.exists() and not warnings_of(caplog)
  with Checkpoints(copied) as checkpoints:
    assert checkpoints.restore(abstract(make_state())).step == 2 and not half.exists()
  assert len(warnings_of(caplog)) == 1 and half.name in warnings_of(caplog)[0]


KILLED = """
import sys
import jax, jax.numpy as jnp
from common.checkpoints.checkpoints import Checkpoints

def state(step):
  x = jnp.arange(2**20, dtype=jnp.float32).reshape(1024, 1024)
  return {str(i): x * (i + 1) + step for i in range(12)}

with Checkpoints(sys.argv[1]) as checkpoints:
  step = checkpoints.latest or 0
  if step:
    found = checkpoints.restore(jax.eval_shape(lambda: state(0)))
    assert found.step == step and found.position == {'step': step}
    same = jax.tree.map(lambda a, b: bool((a == b).all()), found.state, state(step))
    assert all(jax.tree.leaves(same)), 'wrong values'
  print('restored', step, flush=True)
  while len(sys.argv) > 2:
    step += 1
    checkpoints.save(step, state(step), config={}, position={'step': step})
    print('saving', step, flush=True)
"""


def run_python(code: str, *args, **kwargs) -> subprocess.Popen:
  env = os.environ | {'PYTHONPATH': str(ROOT), 'XLA_FLAGS': '', 'JAX_PLATFORMS': 'cpu'}
  return subprocess.Popen(
    [sys.executable, '-c', code, *map(str, args)],
    env=env | kwargs.pop('env', {}),
    text=True,
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    **kwargs,
  )


def test_a_kill_during_a_save_leaves_only_intact_steps(tmp_path):
  rng = random.Random(0)
  last, halves = 0, 0
  for _ in range(4):
    with run_python(KILLED, tmp_path, 'go on') as child:
      first = child.stdout.readline().split()
      assert first[:1] == ['restored'], child.stderr.read()
      assert int(first[1]) >= last
      last = int(first[1])
      child.stdout.readline()
      time.sleep(rng.uniform(0, 0.4))
      child.send_signal(signal.SIGKILL)
    halves += any('tmp' in p.name for p in tmp_path.iterdir())
  with run_python(KILLED, tmp_path) as child:
    output, errors = child.communicate()
  assert child.returncode == 0, errors
  assert int(output.split()[1]) >= last and 'damaged' not in errors
  assert halves, 'no kill fell into a save'


# Failed writes.


def test_a_directory_that_cannot_be_made(tmp_path):
  (tmp_path / 'file').write_text('')
  with pytest.raises(CheckpointError, match=r'cannot hold checkpoints: .*Not a directory') as error:
    Checkpoints(tmp_path / 'file' / 'checkpoints')
  assert '\n' not in str(error.value)


FULL = """
import pathlib, resource, signal, sys
import jax, jax.numpy as jnp
from common.checkpoints.checkpoints import CheckpointError, Checkpoints

directory, limit = pathlib.Path(sys.argv[1]), int(sys.argv[2])
state = {'x': jax.random.normal(jax.random.key(0), (600, 1000))}
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
with Checkpoints(directory) as checkpoints:
  checkpoints.save(1, state, config={}, position={})
  checkpoints.wait()
  resource.setrlimit(resource.RLIMIT_FSIZE, (limit, -1))
  try:
    checkpoints.save(2, state, config={}, position={})
    checkpoints.wait()
  except CheckpointError as e:
    print(e)
  resource.setrlimit(resource.RLIMIT_FSIZE, (-1, -1))
  finished = sorted(p.name for p in directory.iterdir() if p.name.isdecimal())
  print(finished, checkpoints.restore(state).step)
  checkpoints.save(3, state, config={}, position={})
# On a busy machine, a thread of the failed save may write its temporary folder again after it was
# removed. Opening the directory removes it for good.
with Checkpoints(directory):
  pass
print(sorted(p.name for p in directory.iterdir()))
"""


@pytest.mark.parametrize('limit', [10, 1_000_000])  # in the first small file, and in the arrays
def test_a_save_that_runs_out_of_space(tmp_path, limit):
  with run_python(FULL, tmp_path, limit) as child:
    output, errors = child.communicate()
  lines = output.splitlines()
  assert child.returncode == 0 and len(lines) == 3, output + errors
  assert lines[0].startswith(f'checkpoint {tmp_path}/2 could not be saved: ')
  assert 'File too large' in lines[0] and lines[0].endswith('finished steps: 1')
  assert lines[1:] == ["['1'] 1", "['1', '3']"]
  assert 'Traceback' not in errors


@pytest.fixture
def small_disk(tmp_path):
  """A separate file system of 2.5 MB."""
  if (
    os.name != 'posix'
    or subprocess.run(
      ['mount', '-t', 'tmpfs', '-o', 'size=2500k', 'tmpfs', tmp_path],
      capture_output=True,
      check=False,
    ).returncode
  ):
    pytest.skip('no file system can be mounted here')
  yield tmp_path
  subprocess.run(['umount', '-l', tmp_path], check=True)


def test_a_full_and_a_read_only_file_system(small_disk):
  state = {'x': jax.random.normal(jax.random.key(0), (400, 1000))}
  with Checkpoints(small_disk / 'run') as checkpoints:
    save(checkpoints, 1, state)
    checkpoints.wait()
    save(checkpoints, 2, state)
    with pytest.raises(CheckpointError, match=r'/2 could not be saved: .*No space left on device'):
      checkpoints.wait()
    assert [p.name for p in checkpoints.directory.iterdir()] == ['1']
  subprocess.run(['mount', '-o', 'remount,ro', small_disk], check=True)
  with pytest.raises(CheckpointError, match=r'cannot hold checkpoints: .*Read-only file system'):
    Checkpoints(small_disk / 'run')
  with Checkpoints(small_disk / 'run', read_only=True) as checkpoints:
    assert as_bytes(checkpoints.restore(state).state) == as_bytes(state)
    with pytest.raises(CheckpointError, match=r'opened read-only'):
      save(checkpoints, 2, state)


# Invalid input, log output, several processes.


def test_invalid_input_is_refused_in_one_line(tmp_path, copied):
  for settings in (dict(keep=0), dict(best_mode='least')):
    with pytest.raises((CheckpointError, ValueError), match=r'keep|least'):
      Checkpoints(tmp_path, **settings)
  with pytest.raises(CheckpointError, match=r'not another URL'):
    Checkpoints('s3://bucket/run')
  with Checkpoints(copied, read_only=False) as checkpoints:
    with pytest.raises(CheckpointError, match=r'name of the state must be an array of numbers'):
      save(checkpoints, 3, {'name': 'x'})
    with pytest.raises(CheckpointError, match=r'two leaves of the state have the same path'):
      save(checkpoints, 3, {'a': {'b': 1}, 'a/b': 2})
    with pytest.raises(CheckpointError, match=r'3 could not be saved: .*not JSON serializable'):
      checkpoints.save(3, {'x': 1}, config={}, position={'at': object()})
    step = jax.ShapeDtypeStruct((3,), 'int32', sharding=NamedSharding(mesh_of(2), P('data')))
    with pytest.raises(CheckpointError, match=r'step cannot be sharded as requested'):
      checkpoints.restore({'step': step}, partial=True)
    assert checkpoints.steps == [1, 2]
  assert sorted(p.name for p in copied.iterdir()) == ['1', '2']


def test_orbax_log_messages_are_hidden_unless_verbose(tmp_path, caplog):
  caplog.set_level(logging.DEBUG)
  logger = logging.getLogger('absl')
  for verbose in (False, True):
    with Checkpoints(tmp_path / str(verbose), verbose=verbose) as checkpoints:
      save(checkpoints, 1, {'x': jnp.zeros(3)})
      checkpoints.restore({'x': jnp.zeros(3)})
      with Checkpoints(tmp_path / 'other'):
        pass  # others at the same time, as those of the averages, change nothing
      assert bool(logger.filters) != verbose
    said = [r for r in caplog.records if 'orbax' in r.pathname]
    assert bool(said) == verbose and not logger.filters


PROCESSES = """
import json, pathlib, sys
import jax
rank, port, directory = int(sys.argv[1]), sys.argv[2], pathlib.Path(sys.argv[3])
jax.distributed.initialize(
    f'127.0.0.1:{port}', 2, rank, coordinator_bind_address=f'127.0.0.1:{port}')
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec as P
from common.checkpoints.checkpoints import CheckpointError, Checkpoints

mesh = Mesh(np.array(jax.devices()), ('data',), axis_types=(AxisType.Auto,))
host = np.arange(64, dtype=np.float32).reshape(16, 4)

def put(x, spec):
  return jax.make_array_from_callback(x.shape, NamedSharding(mesh, spec), lambda i: x[i])

def state(step):
  return {'split': put(host + step, P('data')), 'whole': put(host[:3] * step, P()),
          'own': jax.device_put(host[0] + step, jax.local_devices()[0])}

with Checkpoints(directory, keep=5) as checkpoints:
  for step in (1, 2, 3, 4):
    checkpoints.save(step, state(step), config={}, position={'step': step})
  checkpoints.wait()
  for step, damaged in ((3, '4/record/data.json'), (2, '3/state/manifest.ocdbt')):
    if rank == 0:
      (directory / damaged).write_bytes(b'')
    multihost_utils.sync_global_devices('damaged')
    found = checkpoints.restore(state(0))
    assert found.step == step == checkpoints.latest, (found.step, step)
    for name, x in state(step).items():
      for a, b in zip(found.state[name].addressable_shards, x.addressable_shards):
        np.testing.assert_array_equal(a.data, b.data)
  try:
    checkpoints.restore({'split': state(0)['split']})
  except CheckpointError as e:
    assert 'it has own' in str(e)
  assert checkpoints.save(3, state(7), config={}, position={})
record = json.loads(json.loads((directory / '2/record/data.json').read_text())['json'])
print(checkpoints.steps, record['leaves']['split'][2])
"""


def test_two_processes_save_restore_and_agree_on_damage(tmp_path):
  import portpicker

  port = portpicker.pick_unused_port()
  children = [run_python(PROCESSES, rank, port, tmp_path) for rank in (0, 1)]
  results = [child.communicate(timeout=100) for child in children]
  assert [c.returncode for c in children] == [0, 0], results[0][1][-2000:] + results[1][1][-2000:]
  said = [output.splitlines()[-1] for output, _ in results]
  assert said[0] == said[1] and said[0].startswith('[1, 2, 3] ')
  with Checkpoints(tmp_path, read_only=True) as checkpoints:  # one process reads what two wrote
    assert checkpoints.steps == [1, 2, 3]
    found = checkpoints.restore(
      {'split': jax.ShapeDtypeStruct((16, 4), 'float32')}, 2, partial=True
    )
  expected = np.arange(64, dtype=np.float32).reshape(16, 4) + 2
  np.testing.assert_array_equal(found.state['split'], expected)
  assert json.loads((tmp_path / '2' / MANIFEST).read_text())
