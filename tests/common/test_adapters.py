"""Checkpoints of a run with LoRA: the updates alone, and a base that is checked."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from common.checkpoints.checkpoints import Checkpoints
from common.checkpoints.records import CheckpointError
from common.finetuning import open_checkpoints, read_run, refer_to_base
from common.finetuning.adapters import REFERENCE
from experiments.families import defaults

BASE = {'up': {'kernel': jnp.arange(6.0).reshape(2, 3)}, 'norm': {'scale': jnp.ones(3)}}
LORA = {'up.kernel': {'a': jnp.ones((2, 1)), 'b': jnp.full((1, 3), 0.5)}}
CONFIG = defaults('autoregressive')


def state():
  params = {'base': BASE, 'lora': LORA}
  return {'step': jnp.int32(4), 'params': params, 'ema': params, 'averages': (params,)}


def lora_config(source):
  finetune = CONFIG['finetune'] | dict(source=str(source), lora_rank=1, lora_alpha=2.0)
  optimizer = CONFIG['optimizer'] | {'frozen': '^base/'}
  return CONFIG | {'finetune': finetune, 'optimizer': optimizer}


@pytest.fixture
def source(tmp_path):
  folder = tmp_path / 'source'
  folder.mkdir()
  (folder / 'config.json').write_text(json.dumps(CONFIG))
  with Checkpoints(folder / 'checkpoints') as checkpoints:
    checkpoints.save(7, {'ema': BASE}, config=CONFIG, position={})
  return folder


def tuned(folder, source, step):
  """A run with LoRA, at step 4."""
  config = lora_config(source)
  folder.mkdir()
  (folder / 'config.json').write_text(json.dumps(config))
  refer_to_base(folder, config, BASE, step)
  with open_checkpoints(config, folder) as checkpoints:
    checkpoints.save(4, state(), config=config, position={})
  return config


@pytest.mark.parametrize('step', [7, None])  # in the source, or stored once in the run
def test_checkpoints_hold_the_updates_alone_and_are_read_whole(source, tmp_path, step):
  folder = tmp_path / 'tuned'
  config = tuned(folder, source, step)
  record = json.loads((folder / 'checkpoints' / '4' / 'record' / 'data.json').read_text())
  leaves = json.loads(record['json'])['leaves']
  assert leaves.keys() == {'step'} | {
    f'{tree}/lora/up.kernel/{part}' for tree in ('params', 'ema', 'averages/0') for part in 'ab'
  }
  assert (folder / 'base').exists() == (step is None)
  with open_checkpoints(config, folder, read_only=True) as checkpoints:
    restored = checkpoints.restore(state())
    jax.tree.map(np.testing.assert_array_equal, restored.state, state())
    # Separate buffers: a compiled step donates them all.
    pointers = [x.unsafe_buffer_pointer() for x in jax.tree.leaves(restored.state)]
    assert len(set(pointers)) == len(pointers)
  merged = read_run(folder)
  np.testing.assert_array_equal(merged['up']['kernel'], BASE['up']['kernel'] + 2.0 * 0.5)


def test_a_base_that_is_missing_or_has_changed_is_refused(source, tmp_path):
  folder = tmp_path / 'tuned'
  config = tuned(folder, source, 7)
  source.rename(tmp_path / 'moved')
  with (
    open_checkpoints(config, folder, read_only=True) as checkpoints,
    pytest.raises(
      CheckpointError, match=r'base of .*tuned cannot be read from .*base\.json'
    ) as error,
  ):
    checkpoints.restore(state())
  assert '\n' not in str(error.value)
  reference = json.loads((folder / REFERENCE).read_text())
  (folder / REFERENCE).write_text(json.dumps(reference | {'source': str(tmp_path / 'moved')}))
  with open_checkpoints(config, folder, read_only=True) as checkpoints:
    assert checkpoints.restore(state()).step == 4
  other = jax.tree.map(lambda x: x + 1, BASE)
  with Checkpoints(tmp_path / 'other' / 'checkpoints') as checkpoints:
    checkpoints.save(7, {'ema': other}, config=CONFIG, position={})
  (tmp_path / 'other' / 'config.json').write_text(json.dumps(CONFIG))
  (folder / REFERENCE).write_text(json.dumps(reference | {'source': str(tmp_path / 'other')}))
  with (
    open_checkpoints(config, folder, read_only=True) as checkpoints,
    pytest.raises(CheckpointError, match=r'has changed: .*\(2 of 2 arrays differ\)') as error,
  ):
    checkpoints.restore(state())
  assert '\n' not in str(error.value)
