"""Published weights into a run and back, as commands."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from autoregressive import interop
from autoregressive.interop import Published
from experiments import runs
from tests.experiments.commands import refused, run

PIXELS = (8 * 8, 256)  # a sequence of so many tokens, of so many values


@pytest.fixture(scope='module')
def weights(tmp_path_factory):
  """A folder of GPT-2 weights that reads images of 8 x 8 pixels as tokens."""
  network = dict(length=PIXELS[0] - 1, width=16, layers=1, heads=2, mlp_width=64)
  made = Published('gpt2', network, True, PIXELS[1], None)
  params = jax.jit(made.model().init)(jax.random.key(0), jnp.zeros((1, 2, 1), jnp.int32))
  folder = tmp_path_factory.mktemp('weights')
  interop.write(made._replace(params=params['params']), folder)
  return folder


@pytest.fixture(scope='module')
def data(tmp_path_factory):
  """Flags for images of 8 x 8 pixels without classes."""
  path = tmp_path_factory.mktemp('images') / 'images.npz'
  x = np.random.default_rng(0).integers(0, 256, (20, 8, 8, 1)).astype(np.uint8)
  np.savez(path, x=x)
  return (
    '--config=configs/autoregressive/images.py:digits',
    '--config.data.name=npz',
    f'--config.data.source={path}',
    f'--config.data.dir={path.parent}/prepared',
  )


def test_weights_become_a_run_and_weights_again(weights, data, tmp_path):
  printed = run('convert', f'--read={weights}', *data, f'--workdir={tmp_path}/run')
  tensors = safetensors.numpy.load_file(weights / 'model.safetensors')
  assert f'{sum(x.size for x in tensors.values()):,} parameters' in printed
  run('convert', f'--write={tmp_path}/out', f'--workdir={tmp_path}/run')
  again = safetensors.numpy.load_file(tmp_path / 'out' / 'model.safetensors')
  assert tensors.keys() == again.keys()
  for name, value in tensors.items():
    np.testing.assert_array_equal(value, again[name])
  made = runs.load(tmp_path / 'run')
  x = made.data.splits['train'].gather(np.arange(2))['x']
  nats = made.method.nll(made.params, {'x': jnp.asarray(x)}, jax.random.key(0)).nats
  np.testing.assert_allclose(nats, 63 * np.log(256), rtol=0.02)  # a network at its start


def test_weights_that_do_not_suit_are_refused(weights, data, tmp_path):
  digits = '--config=configs/autoregressive/images.py:digits'
  read = f'--read={weights}'
  workdir = f'--workdir={tmp_path}/run'
  assert 'has 256 tokens, digits has 17' in refused('convert', read, digits, workdir)
  assert 'has no config.json' in refused('convert', f'--read={tmp_path}', *data, workdir)
  assert 'give either --read or --write' in refused('convert', *data, workdir)
  assert not (tmp_path / 'run').exists()
