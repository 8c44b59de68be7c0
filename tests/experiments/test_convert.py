"""Published weights into a run and back, as commands."""

import itertools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from autoregressive.interop.weights import Published, read_published, write_published
from autoregressive.method import build, build_model
from common.config import ConfigError
from common.data.pipeline import Data
from common.data.tokenizers import chat_template
from common.domains.text import first_tokens
from common.finetuning import plain
from common.published.tensors import INDEX
from experiments import convert, families, runs
from tests.autoregressive.common import outputs_of, perturbed
from tests.autoregressive.interop import tiny
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


@pytest.fixture(scope='module')
def from_gguf(tmp_path_factory):
  """The folder of a run that was read from a GGUF file without data, and was written again."""
  folder = tmp_path_factory.mktemp('gguf')
  tiny.write(folder / 'tiny.gguf', tiny.gguf_tensors(tiny.model()), quantised='F32')
  config = families.load_config(convert.DEFAULT, {})
  assert convert.read(str(folder / 'tiny.gguf'), config, folder / 'run') == sum(
    x.size for x in jax.tree.leaves(tiny.model().params)
  )
  convert.write(runs.load(folder / 'run'), folder / 'run', folder / 'out')
  return folder


def test_a_gguf_file_becomes_a_run_with_tokenizer_and_template_without_data(from_gguf):
  run = runs.load(from_gguf / 'run')
  assert (run.data.spec.name, run.data.spec.levels) == ('none', tiny.VOCABULARY)
  assert (run.method.context, run.trained.context) == (65, 65)
  tokens = np.array([[5, 9, 200, 31, 77, 2]])[..., None]
  ours = outputs_of(run.method.model, run.params, tokens)
  expected = outputs_of(tiny.model().model(), tiny.model().params, tokens)
  np.testing.assert_allclose(ours, expected, atol=1e-5)
  template = chat_template.read(from_gguf / 'run')
  assert (template.text, template.tokens['eos_token']) == (tiny.TEMPLATE, '<|im_end|>')
  past = first_tokens(run.data.spec, run.data.splits['train'], np.arange(2))
  assert past.tolist() == [[0], [0]]  # the separator begins a text
  with pytest.raises(ConfigError, match=r'the test split of none is empty; .* --on='):
    run.evaluate(['bits_per_dim'])
  config = json.loads((from_gguf / 'out' / 'config.json').read_text())
  assert (config['max_position_embeddings'], config['eos_token_id']) == (64, 2)
  assert (from_gguf / 'out' / 'tokenizer.json').exists()


def test_settings_that_differ_from_the_weights_are_refused(from_gguf):
  config, source = families.load_config(convert.DEFAULT, {}), str(from_gguf / 'tiny.gguf')
  for setting, value, message in [
    ('network.rotary_base', 5.0, 'rotary_base=5.0 does not suit the weights, which have 10000.0'),
    ('model.tied', False, 'tied=False does not suit the weights, which have True'),
  ]:
    with pytest.raises(ConfigError, match=message):
      convert.read(source, config, from_gguf / 'new', given={setting: value})
  assert not (from_gguf / 'new').exists()
  with pytest.raises(ConfigError, match=r'holds a run already; .* --fresh'):
    convert.read(source, config, from_gguf / 'run')


@pytest.mark.slow
def test_a_gguf_file_is_fine_tuned_with_lora_and_its_updates_written(from_gguf):
  (from_gguf / 'text.txt').write_text(tiny.TEXT * 6)
  scanned = ('--config.network.scan=true', '--config.network.attention=reference')
  workdir = f'--workdir={from_gguf}/scanned'
  run('convert', f'--read={from_gguf}/tiny.gguf', workdir, *scanned)
  train = (
    '--config=configs/autoregressive/published.py:lora',
    f'--config.finetune.source={from_gguf}/scanned',
    f'--config.data.source={from_gguf}/text.txt',
    f'--config.data.dir={from_gguf}/data',
    '--config.data.context=16',
    '--config.precision=bfloat16',
    '--config.train.steps=4',
    '--config.train.steps_per_call=2',
    f'--workdir={from_gguf}/tuned',
  )
  printed = run('train', *train)
  assert 'before fine-tuning: validation loss' in printed
  config = json.loads((from_gguf / 'tuned' / 'config.json').read_text())
  assert (config['network']['scan'], config['network']['context']) == (True, 64)
  assert json.loads((from_gguf / 'tuned' / 'base.json').read_text())['step'] == 0
  made = runs.load(from_gguf / 'tuned')
  assert abs(made.params['lora']['network.blocks.up.kernel']['b']).max() > 0
  assert run('train', *train)  # a finished run restores its base, and ends
  sampled = run('sample', f'--workdir={from_gguf}/tuned', '--prompt=the quick', '--length=70')
  assert sampled.count('the quick') == 4  # beyond the windows of the data, within the context
  run('convert', f'--write={from_gguf}/merged', f'--workdir={from_gguf}/tuned')
  run('convert', f'--write={from_gguf}/adapters', f'--workdir={from_gguf}/tuned', '--adapters')
  message = 'was not fine-tuned with LoRA'
  plain = (f'--write={from_gguf}/no', f'--workdir={from_gguf}/run', '--adapters')
  assert message in refused('convert', *plain)
  check_adapters(from_gguf)


def check_adapters(folder):
  """PEFT's updates of the weights that were read are the merged weights."""
  before = safetensors.numpy.load_file(folder / 'out' / 'model.safetensors')
  merged = safetensors.numpy.load_file(folder / 'merged' / 'model.safetensors')
  updates = safetensors.numpy.load_file(folder / 'adapters' / 'adapter_model.safetensors')
  settings = json.loads((folder / 'adapters' / 'adapter_config.json').read_text())
  scale = settings['lora_alpha'] / settings['r']
  for module in settings['target_modules']:
    a, b = (updates[f'base_model.model.{module}.lora_{x}.weight'] for x in 'AB')
    name = f'{module}.weight'
    np.testing.assert_allclose(merged[name], before[name] + scale * b @ a, atol=1e-5)
  assert len(updates) == 2 * len(settings['target_modules']) == 2 * 2 * 7
  same = merged.keys() - {f'{module}.weight' for module in settings['target_modules']}
  assert all((merged[name] == before[name]).all() for name in same)
