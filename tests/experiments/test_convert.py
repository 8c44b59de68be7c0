"""Published weights into a run and back, as commands."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from autoregressive.interop.tensors import INDEX
from autoregressive.interop.weights import Published, read_published, write_published
from autoregressive.method import build, build_model
from common.data.pipeline import Data
from common.finetuning import plain
from experiments import convert, runs
from tests.autoregressive.common import outputs_of, perturbed
from tests.autoregressive.texts import WINDOWS, text_config, windows
from tests.cases import mostly_slow
from tests.experiments.commands import refused, run

PIXELS = (8 * 8, 256)  # (number of tokens in a sequence, vocabulary size)


@pytest.fixture(scope='module')
def weights(tmp_path_factory):
  """A folder of GPT-2 weights that reads images of 8 x 8 pixels as tokens."""
  network = dict(length=PIXELS[0] - 1, width=16, layers=1, heads=2, mlp_width=64)
  made = Published('gpt2', network, True, PIXELS[1], None)
  params = jax.jit(made.model().init)(jax.random.key(0), jnp.zeros((1, 2, 1), jnp.int32))
  folder = tmp_path_factory.mktemp('weights')
  write_published(made._replace(params=params['params']), folder)
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
  assert 'run must be a new or an empty folder, but it contains' in refused(
    'convert', f'--write={tmp_path}/run', f'--workdir={tmp_path}/run'
  )
  made = runs.load(tmp_path / 'run')
  x = made.data.splits['train'].gather(np.arange(2))['x']
  nats = made.method.nll(made.params, {'x': jnp.asarray(x)}, jax.random.key(0)).nats
  np.testing.assert_allclose(nats, 63 * np.log(256), rtol=0.02)  # a network at its start


def test_weights_that_do_not_match_the_data_are_refused(weights, data, tmp_path):
  digits = '--config=configs/autoregressive/images.py:digits'
  read = f'--read={weights}'
  workdir = f'--workdir={tmp_path}/run'
  assert 'has a vocabulary of 256 tokens, but digits has 17' in refused(
    'convert', read, digits, workdir
  )
  empty = f'--read={tmp_path}'
  assert 'neither a GGUF file nor a folder' in refused('convert', empty, *data, workdir)
  assert 'give either --read=PATH or --write=FOLDER' in refused('convert', *data, workdir)
  assert not (tmp_path / 'run').exists()


LAYOUTS = {
  'gpt2': {},
  'llama': dict(
    network__positions='rotary',
    network__norm='rms',
    network__activation='swiglu',
    network__bias=False,
    network__kv_heads=1,
    network__scan=True,
  ),
}


@pytest.mark.slow
@pytest.mark.parametrize(
  ('shard_bytes', 'kind'),
  mostly_slow(itertools.product([10**9, 2000], LAYOUTS), [(10**9, 'gpt2')]),
)
def test_a_run_with_lora_is_written_merged(kind, shard_bytes, tmp_path):
  """The weights give the same logits as the merged model, and the same nll as LoRA."""
  lora = dict(finetune__lora_rank=2, finetune__lora_alpha=6.0, optimizer__frozen='^base/')
  config = text_config(network__layers=2, **LAYOUTS[kind], **lora)
  method, batch = build(config, WINDOWS), windows(3)
  params = perturbed(jax.jit(method.init)(jax.random.key(0), batch)[0])
  out = tmp_path / 'out'
  run_of_lora = runs.Run(config, Data(WINDOWS, {}), method, params, 7)
  convert.write(run_of_lora, tmp_path, out, shard_bytes)
  assert (out / INDEX).exists() == (shard_bytes == 2000)
  published = read_published(out)
  assert published.kind == kind
  tokens = batch['x'].astype(jnp.int32)[..., None]
  _, model = build_model(config, WINDOWS)
  logits = outputs_of(published.model(), published.params, tokens)
  merged = outputs_of(model, plain(params, config), tokens)
  np.testing.assert_allclose(logits, merged, atol=1e-5)
  before = outputs_of(model, params['base'], tokens)
  assert abs(before - merged).max() > 0.1
  nats = method.nll(params, batch, jax.random.key(0)).nats
  each = jnp.take_along_axis(jax.nn.log_softmax(logits), tokens[:, 1:], -1)
  np.testing.assert_allclose(nats, -each.sum((1, 2)), rtol=1e-5)
