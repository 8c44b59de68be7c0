"""Published weights: round trips, refusals, and the same numbers as `transformers`."""

import functools
import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from autoregressive.decoding.generate import generate
from autoregressive.decoding.runner import Runner
from autoregressive.decoding.search import beam_search
from autoregressive.decoding.sequences import Limits, Prompt
from autoregressive.decoding.settings import DecodingSettings
from autoregressive.interop import weights
from autoregressive.interop.weights import Published, write_weights
from autoregressive.method import build_model
from common.config import ConfigError
from common.data.spec import DataSpec
from common.method import example_keys
from common.published.tensors import INDEX
from tests.autoregressive.common import outputs_of, perturbed, small_config
from tests.autoregressive.interop import reference
from tests.cases import slow

GPT2 = dict(length=24, width=32, layers=2, heads=4, mlp_width=128)
LLAMA = GPT2 | dict(
  kv_heads=2,
  head_dim=8,
  mlp_width=80,
  activation='swiglu',
  norm='rms',
  norm_eps=1e-6,
  positions='rotary',
  bias=False,
)
LLAMA3 = LLAMA | dict(rotary_base=5e5, rotary_scaling=('llama3', 8.0, 16, 1.0, 4.0))
YARN = ('yarn', 4.0, 16, 32.0, 1.0, 0.1 * math.log(4.0) + 1.0, 1)
KINDS = {
  'gpt2': ('gpt2', GPT2, True),
  'gpt2_gelu_untied': ('gpt2', GPT2 | dict(activation='gelu'), False),
  'gpt2_scan': ('gpt2', GPT2 | dict(scan=True), True),
  'llama': ('llama', LLAMA, False),
  'llama_linear_tied': ('llama', LLAMA | dict(rotary_scaling=('linear', 2.0)), True),
  'llama3': ('llama', LLAMA3, False),
  'llama_yarn': ('llama', LLAMA | dict(rotary_scaling=YARN), False),
  'llama_proportional': ('llama', LLAMA | dict(rotary_scaling=('proportional', 2.0, 0.5)), False),
  'mistral': ('mistral', LLAMA | dict(window=4), False),
  'qwen2': ('qwen2', LLAMA | dict(qkv_bias=True), True),
  'qwen2_window': ('qwen2', LLAMA | dict(qkv_bias=True, window=4), False),
  'qwen3': ('qwen3', LLAMA | dict(qk_norm=True, head_dim=12), True),
  'phi3': ('phi3', LLAMA | dict(rotary_fraction=0.5, window=4, head_dim=0), False),
}
# Kinds whose numbers only `transformers` checks, not the papers in NumPy.
SCALED = ('llama_yarn', 'llama_proportional', 'phi3')
TOKENS = np.array([[3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5], [2, 7, 1, 8, 2, 8, 1, 8, 2, 8, 4]])


@functools.cache
def published(name):
  """A model of random weights."""
  kind, network, tied = KINDS[name]
  made = Published(kind, network, tied, 61, None)
  params = jax.jit(made.model().init)(jax.random.key(0), jnp.zeros((1, 2, 1), jnp.int32))
  return made._replace(params=perturbed(params['params'], 0.2))


def logits(made, tokens=TOKENS):
  """Logits of the token after each position."""
  padded = np.pad(tokens, ((0, 0), (0, 1)))[..., None]
  return outputs_of(made.model(), made.params, padded)


@pytest.mark.parametrize(
  ('name', 'shard_bytes'),
  [
    *((name, 20_000) for name in ('gpt2', 'gpt2_scan', 'llama3')),
    *slow((name, 10**9) for name in KINDS),
  ],
)
def test_weights_survive_a_round_trip(name, shard_bytes, tmp_path):
  made = published(name)
  weights.write_published(made, tmp_path, shard_bytes)
  files = list(tmp_path.glob('*.safetensors'))
  assert (len(files) > 1) == (shard_bytes < 10**9)
  again = weights.read_published(tmp_path)
  assert (again.kind, again.tied) == (made.kind, made.tied)
  if made.network.get('scan'):  # read as layers apart
    np.testing.assert_allclose(logits(again), logits(made), atol=1e-4)
  else:
    assert made.model() == again.model().clone(network=made.model().network)
    jax.tree.map(np.testing.assert_array_equal, made.params, again.params)


GPT2_SIZES = {  # (layers, width, heads): parameters
  (12, 768, 12): 124_439_808,
  (24, 1024, 16): 354_823_168,
  (36, 1280, 20): 774_030_080,
  (48, 1600, 25): 1_557_611_200,
}
LLAMA_SIZES = {  # (layers, width, heads, key heads, feed-forward, vocabulary): parameters
  (32, 4096, 32, 32, 11_008, 32_000): 6_738_415_616,  # Llama 2, 7B
  (32, 4096, 32, 8, 14_336, 128_256): 8_030_261_248,  # Llama 3, 8B
}


def parameters(model):
  shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 2, 1), jnp.int32))
  return sum(math.prod(x.shape) for x in jax.tree.leaves(shapes))


def test_parameters_of_gpt2_and_llama():
  for (layers, width, heads), number in GPT2_SIZES.items():
    network = dict(length=1024, width=width, layers=layers, heads=heads, scan=True)
    assert parameters(Published('gpt2', network, True, 50_257, None).model()) == number
  for (layers, width, heads, kv_heads, hidden, vocabulary), number in LLAMA_SIZES.items():
    network = LLAMA | dict(length=4096, width=width, layers=layers, heads=heads, scan=True)
    network |= dict(kv_heads=kv_heads, head_dim=width // heads, mlp_width=hidden)
    assert parameters(Published('llama', network, False, vocabulary, None).model()) == number


def test_parameters_of_the_small_published_setting():
  """65 characters, context 64, 4 layers of 128, no bias, tied: 804,096."""
  config = small_config(
    ordering=dict(name='tokens'),
    network__width=128,
    network__layers=4,
    network__bias=False,
    model__tied=True,
    model__start='none',
  )
  assert parameters(build_model(config, DataSpec('text', 'text', (65,), 65))[1]) == 804_096


@pytest.mark.parametrize('name', ['gpt2', 'llama3'])
def test_weights_are_sections_of_a_config_and_back(name, tmp_path):
  """A model of a shorter context has the same outputs; written again, the weights are the same."""
  made = published(name)
  weights.write_published(made, tmp_path / 'one')
  read = weights.read_published(tmp_path / 'one')
  sections, params = weights.sections(read), read.params
  assert (read.vocabulary, sections['network']['context']) == (61, 24)
  sections['network']['rotary_scaling'] = list(sections['network']['rotary_scaling'])  # as JSON
  config = small_config() | sections | {'ordering': {'name': 'tokens'}}
  _, model = build_model(config, DataSpec('text', 'text', (12,), 61))
  padded = np.pad(TOKENS, ((0, 0), (0, 1)))[..., None]
  np.testing.assert_allclose(outputs_of(model, params, padded), logits(made), atol=1e-4)
  write_weights(tmp_path / 'two', config, params, 61, 11, companions=read.companions)
  for file in ('config.json', 'model.safetensors'):
    assert (tmp_path / 'one' / file).read_bytes() == (tmp_path / 'two' / file).read_bytes()


def test_a_padded_model_without_biases_is_gpt2_with_zeros(tmp_path):
  config = small_config(
    ordering=dict(name='tokens'),
    network__bias=False,
    head__pad_to=16,
    model__tied=True,
    model__start='none',
  )
  _, model = build_model(config, DataSpec('text', 'text', (12,), 61))
  tokens = np.pad(TOKENS, ((0, 0), (0, 1)))[..., None]
  params = perturbed(jax.jit(model.init)(jax.random.key(0), jnp.asarray(tokens))['params'], 0.2)
  write_weights(tmp_path, config, params, 61, 11)
  ours = outputs_of(model, params, tokens)[..., :61]
  np.testing.assert_allclose(ours, logits(weights.read_published(tmp_path)), atol=1e-4)


@pytest.mark.parametrize(
  'overrides, message',
  [
    (dict(model__logit_cap=30.0), 'model.logit_cap=0, got 30.0'),
    (dict(model__output_bias=True), 'model.output_bias=False, got True'),
    (dict(head=dict(name='bernoulli')), "head.name='categorical', got 'bernoulli'"),
    (dict(network=dict(name='lstm')), "network.name='transformer', got 'lstm'"),
    (dict(model__start='learned'), 'have no start embedding'),
    (dict(network__positions='alibi'), "gpt2 needs network.positions='learned', got 'alibi'"),
  ],
)
def test_models_of_neither_kind_are_refused(overrides, message, tmp_path):
  config = small_config(**overrides)
  params = {'network': {}, 'token_embed': {'embedding': np.zeros((4, 4))}}
  params['output_proj'] = {'kernel': np.eye(4)}
  if config['model']['start'] == 'learned' and 'start' in message:
    params['start_embed'] = {}
  with pytest.raises(ConfigError, match=message) as error:
    write_weights(tmp_path, config, params, 4, 8)
  assert '\n' not in str(error.value)


@pytest.mark.parametrize('name', ['gpt2', 'llama'])
def test_a_context_beyond_that_of_the_weights_is_refused(name):
  config = small_config(ordering={'name': 'tokens'}) | weights.sections(published(name))
  with pytest.raises(ConfigError, match=r'sequences of 25 inputs, .* at most network.context=24'):
    build_model(config, DataSpec('text', 'text', (26,), 61))


def damaged(tmp_path, change):
  """A folder of weights with its tensors changed."""
  weights.write_published(published('llama'), tmp_path)
  tensors = safetensors.numpy.load_file(tmp_path / 'model.safetensors')
  change(tensors)
  safetensors.numpy.save_file(tensors, tmp_path / 'model.safetensors')


def transposed(tensors):
  name = 'model.layers.1.mlp.down_proj.weight'
  tensors[name] = np.ascontiguousarray(tensors[name].T)


@pytest.mark.parametrize(
  'change, message',
  [
    (
      transposed,
      r"layers.1.mlp.down_proj.weight' has shape \(80, 32\); .*config.json implies \(32, 80\)",
    ),
    (
      lambda t: t.pop('model.norm.weight'),
      "implies a tensor 'model.norm.weight', of shape .*, which is missing",
    ),
    (
      lambda t: t.update({'model.layers.2.mlp.down_proj.weight': np.zeros((32, 80))}),
      "a tensor 'model.layers.2.mlp.down_proj.weight' that no part of the model uses",
    ),
  ],
)
def test_tensors_that_disagree_are_named(change, message, tmp_path):
  damaged(tmp_path, change)
  with pytest.raises(ConfigError, match=message) as error:
    weights.read_published(tmp_path)
  assert '\n' not in str(error.value)


@pytest.mark.parametrize(
  'change, message',
  [
    (
      lambda t: t.update({'model.norm.weight': np.full(32, np.nan, np.float32)}),
      "model.safetensors: tensor 'model.norm.weight' has values that are not finite",
    ),
    (
      lambda t: t.update({'model.norm.weight': np.full(32, 1e300)}),
      "tensor 'model.norm.weight' has values that are not finite in float32",
    ),
    (
      lambda t: t.update({'model.norm.weight': np.ones(32, np.int8)}),
      "tensor 'model.norm.weight' has type I8; it must be one of F64, F32, F16, BF16",
    ),
  ],
)
def test_values_that_are_no_parameters_are_refused(change, message, tmp_path):
  damaged(tmp_path, change)
  with pytest.raises(ConfigError, match=message):
    weights.read_published(tmp_path)


def test_half_precision_is_read_as_float32(tmp_path):
  made = published('llama')
  halved = lambda t: t.update({name: x.astype(jnp.bfloat16) for name, x in t.items()})
  damaged(tmp_path, halved)
  again = weights.read_published(tmp_path).params
  rounded = jax.tree.map(lambda x: x.astype(jnp.bfloat16).astype(jnp.float32), made.params)
  jax.tree.map(np.testing.assert_array_equal, rounded, again)


def test_folders_without_complete_weights_are_refused(tmp_path):
  with pytest.raises(ConfigError, match=r'neither a GGUF file nor a folder with config\.json'):
    weights.read_published(tmp_path)
  weights.write_published(published('gpt2'), tmp_path, 20_000)
  shard = sorted(tmp_path.glob('*.safetensors'))[1]
  shard.write_bytes(shard.read_bytes()[:100])
  with pytest.raises(ConfigError, match='is not a complete safetensors file'):
    weights.read_published(tmp_path)
  shard.unlink()
  with pytest.raises(ConfigError, match=f'has no {shard.name}'):
    weights.read_published(tmp_path)
  (tmp_path / 'config.json').write_text(json.dumps({'model_type': 'bert'}))
  with pytest.raises(ConfigError, match="'bert'; known: gpt2, llama, mistral"):
    weights.read_published(tmp_path)


def test_an_index_must_agree_with_its_files_and_stay_in_its_folder(tmp_path):
  weights.write_published(published('gpt2'), tmp_path, 20_000)
  path = tmp_path / INDEX
  index = json.loads(path.read_text())
  places = index['weight_map']
  names = sorted(places)
  for change, message in [
    ({names[0]: '../model.safetensors'}, 'must be in the same folder, got'),
    ({names[0]: 3}, 'must be in the same folder, got 3'),
    ({'transformer.more': places[names[0]]}, "lacks a tensor 'transformer.more'"),
  ]:
    path.write_text(json.dumps({'weight_map': places | change}))
    with pytest.raises(ConfigError, match=message):
      weights.read_published(tmp_path)
  for text in ('{}', '[]', '{', '\xff', '[' * 100_000):
    path.write_bytes(text.encode('latin-1'))
    with pytest.raises(ConfigError, match=r'index\.json (must|cannot)') as error:
      weights.read_published(tmp_path)
    assert '\n' not in str(error.value)
  path.write_text(json.dumps(index))
  (tmp_path / 'model.safetensors').write_bytes(b'')
  with pytest.raises(ConfigError, match=r'has both model\.safetensors and .*index'):
    weights.read_published(tmp_path)


def test_one_tensor_under_two_names_is_refused(tmp_path):
  weights.write_published(published('gpt2'), tmp_path)
  tensors = safetensors.numpy.load_file(tmp_path / 'model.safetensors')
  tensors['wpe.weight'] = tensors['transformer.wpe.weight'] + 1
  safetensors.numpy.save_file(tensors, tmp_path / 'model.safetensors')
  with pytest.raises(ConfigError, match=r"has the tensor 'transformer\.wpe.weight' twice"):
    weights.read_published(tmp_path)


def test_a_tied_projection_that_differs_is_refused(tmp_path):
  made = published('gpt2')
  weights.write_published(made, tmp_path)
  tensors = safetensors.numpy.load_file(tmp_path / 'model.safetensors')
  for scale, accepted in ((1, True), (2, False)):
    tensors['lm_head.weight'] = scale * tensors['transformer.wte.weight']
    safetensors.numpy.save_file(tensors, tmp_path / 'model.safetensors')
    if accepted:
      jax.tree.map(
        np.testing.assert_array_equal, made.params, weights.read_published(tmp_path).params
      )
    else:
      with pytest.raises(ConfigError, match=r"ties .* 'lm_head\.weight' differs"):
        weights.read_published(tmp_path)


MISSING = object()


@pytest.mark.parametrize(
  'name, changes, message',
  [
    ('gpt2', dict(scale_attn_by_inverse_layer_idx=True), 'only False is'),
    ('gpt2', dict(scale_attn_weights=False), 'has scale_attn_weights=False, .* only True is'),
    ('gpt2', dict(add_cross_attention=True), 'has add_cross_attention=True'),
    ('gpt2', dict(activation_function='quick_gelu'), "activation_function in .*'quick_gelu'"),
    ('gpt2', dict(activation_function=['gelu']), "activation_function=.'gelu'.; it must be a text"),
    ('gpt2', dict(n_embd=MISSING), "config.json lacks 'n_embd', which must be a whole number"),
    ('gpt2', dict(n_embd=None), "lacks 'n_embd'"),
    ('gpt2', dict(n_head=5), 'config.json: network.heads=5 does not divide network.width=32'),
    ('gpt2', dict(n_layer=0), 'n_layer=0; it must be a whole number from 1'),
    ('gpt2', dict(n_layer=True), 'n_layer=True; it must be a whole number'),
    ('gpt2', dict(n_layer=10**9), 'implies 1000000000 layers; it has fewer tensors'),
    ('gpt2', dict(vocab_size=10**30), 'vocab_size=1000'),
    ('gpt2', dict(layer_norm_epsilon=float('nan')), 'epsilon=nan; it must be a finite number'),
    ('gpt2', dict(n_headz=4), "an unknown key 'n_headz' .* did you mean 'n_head'"),
    ('gpt2', dict(quantization_config={'bits': 4}), "an unknown key 'quantization_config'"),
    ('llama', dict(partial_rotary_factor=0.5), 'has partial_rotary_factor=0.5, .* only 1.0 is'),
    ('llama', dict(attention_bias=True), 'has attention_bias=True'),
    ('llama', dict(mlp_bias=True), 'has mlp_bias=True'),
    ('llama', dict(hidden_act='gelu'), "has hidden_act='gelu', .* only 'silu' is"),
    ('llama', dict(sliding_window=8), "unknown key 'sliding_window'"),
    ('llama', dict(rope_parameters={'rope_type': 'yarm'}), "rope_type in .*'yarm'.*known: default"),
    ('llama', dict(rope_parameters={'rope_type': 'dynamic'}), "rope_type='dynamic', whose freq"),
    ('llama', dict(rope_scaling={'type': 'longrope'}), 'rope_parameters, and they differ'),
    ('llama', dict(rope_parameters={'type': 'longrope'}), "rope_type='longrope', whose freq"),
    (
      'qwen2',
      dict(use_sliding_window=True, sliding_window=4, max_window_layers=1),
      'config.json has a window in 1 of 2 layers',
    ),
    (
      'llama',
      dict(rope_parameters={'rope_type': 'linear'}),
      "rope_parameters in .* lacks 'factor', which must be a finite number",
    ),
    (
      'llama',
      dict(rope_parameters={'partial_rotary_factor': 0.5}),
      'rope_parameters in .* has partial_rotary_factor=0.5',
    ),
    ('llama', dict(rope_parameters={'rope_theta': 7.0}), 'two values of rope_theta: 7.0, 10000.0'),
    ('llama', dict(rope_scaling={'type': 'linear', 'factor': 2.0}), 'both .* and they differ'),
    ('llama', dict(model_type=['llama']), 'unknown model_type'),
    ('llama', dict(num_key_value_heads=3), 'kv_heads=3 does not divide network.heads=4'),
    ('llama', dict(head_dim=3), 'heads of an even dimension, got 3'),
  ],
)
def test_keys_of_a_config_are_known_or_refused_by_name(name, changes, message, tmp_path):
  weights.write_published(published(name), tmp_path)
  path = tmp_path / 'config.json'
  config = json.loads(path.read_text()) | changes
  path.write_text(json.dumps({k: v for k, v in config.items() if v is not MISSING}))
  with pytest.raises(ConfigError, match=message) as error:
    weights.read_published(tmp_path)
  assert '\n' not in str(error.value) and 'config.json' in str(error.value)


@pytest.mark.parametrize('text', ['', '[]', '3', '{', 'null', '[' * 100_000])
def test_a_config_that_is_no_object_is_refused(text, tmp_path):
  (tmp_path / 'config.json').write_text(text)
  with pytest.raises(ConfigError, match=r'config\.json (must hold|cannot be read)') as error:
    weights.read_published(tmp_path)
  assert '\n' not in str(error.value)


def test_older_configs_mean_the_same(tmp_path):
  """Keys that describe other things are ignored, and those of older files have their defaults."""
  made = published('llama_linear_tied')
  weights.write_published(made, tmp_path)
  path = tmp_path / 'config.json'
  config = json.loads(path.read_text())
  del config['rope_parameters'], config['rope_theta'], config['head_dim']
  config |= dict(rope_scaling={'type': 'linear', 'factor': 2.0}, pretraining_tp=2, head_dim=None)
  config |= dict(bos_token_id=1, use_cache=True, temperature=0.6, rope_theta=10_000)
  path.write_text(json.dumps(config))
  np.testing.assert_array_equal(logits(weights.read_published(tmp_path)), logits(made))


def test_weights_are_written_only_into_a_new_or_empty_folder(tmp_path):
  made = published('gpt2')
  (tmp_path / 'run').mkdir()
  for name in ('config.json', 'mine.safetensors'):
    (tmp_path / 'run' / name).write_text('mine')
  with pytest.raises(ValueError, match="run must be a new or an empty folder, but it contains '"):
    weights.write_published(made, tmp_path / 'run')
  assert {path.read_text() for path in (tmp_path / 'run').iterdir()} == {'mine'}
  (tmp_path / 'empty').mkdir()
  weights.write_published(made, tmp_path / 'empty')
  with pytest.raises(ValueError, match='must be a new or an empty folder: Not a directory'):
    weights.write_published(made, tmp_path / 'empty' / 'config.json')
  # Nothing is half-written: neither the folder nor its temporary name.
  with pytest.raises(KeyError):
    weights.write_published(made._replace(params={'network': {}}), tmp_path / 'new')
  assert {path.name for path in tmp_path.iterdir()} == {'run', 'empty'}


@pytest.mark.parametrize(
  'kind, change, message',
  [
    ('gpt2', dict(positions='rotary'), "gpt2 needs network.positions='learned', got 'rotary'"),
    ('llama', dict(qk_norm=True), 'llama needs network.qk_norm=False, got True'),
    ('gpt2', dict(base_width=8), 'gpt2 needs network.base_width=0, got 8'),
    (
      'llama',
      dict(rotary_scaling=('ntk', 2.0)),
      "rotary_scaling 'ntk' has no equivalent",
    ),
    ('gpt3', {}, "unknown kind of published weights 'gpt3'"),
  ],
)
def test_networks_of_another_kind_are_refused(kind, change, message, tmp_path):
  network = (LLAMA if kind == 'llama' else GPT2) | change
  with pytest.raises(ConfigError, match=message):
    weights.write_published(Published(kind, network, True, 61, {}), tmp_path)


def test_a_folder_without_the_prefix_and_with_masks_is_gpt2_too(tmp_path):
  """The layout in which GPT-2 itself is published."""
  made = published('gpt2')
  weights.write_published(made, tmp_path)
  tensors = safetensors.numpy.load_file(tmp_path / 'model.safetensors')
  tensors = {name.removeprefix('transformer.'): value for name, value in tensors.items()}
  tensors['h.0.attn.bias'] = np.tril(np.ones((1, 1, 24, 24), np.float32))
  safetensors.numpy.save_file(tensors, tmp_path / 'model.safetensors')
  jax.tree.map(np.testing.assert_array_equal, made.params, weights.read_published(tmp_path).params)


@pytest.mark.parametrize('name', [name for name in KINDS if name not in SCALED])
def test_our_export_has_the_logits_of_the_papers(name, tmp_path):
  made = published(name)
  weights.write_published(made, tmp_path)
  config = json.loads((tmp_path / 'config.json').read_text())
  tensors = safetensors.numpy.load_file(tmp_path / 'model.safetensors')
  tensors = {key: value.astype(np.float64) for key, value in tensors.items()}
  forward = reference.gpt2 if made.kind == 'gpt2' else reference.llama
  expected = [forward(tensors, config, row) for row in TOKENS]
  np.testing.assert_allclose(logits(made), expected, atol=1e-4)


FROM_PEERS = ['gpt2', 'llama3', 'llama_yarn', 'mistral', 'qwen2', 'qwen3', 'phi3']
PEERS = [name for name in KINDS if name != 'gpt2_scan']


def peer(name, folder):
  """Our weights as `transformers` loads them."""
  torch = pytest.importorskip('torch')
  transformers = pytest.importorskip('transformers')
  weights.write_published(published(name), folder)
  model = transformers.AutoModelForCausalLM.from_pretrained(folder, attn_implementation='eager')
  return torch, model.eval()


@pytest.mark.peers
@pytest.mark.parametrize('name', PEERS)
def test_our_export_loads_in_transformers_with_the_same_logits(name, tmp_path):
  torch, model = peer(name, tmp_path)
  with torch.no_grad():
    theirs = model(torch.tensor(TOKENS)).logits.numpy()
  np.testing.assert_allclose(logits(published(name)), theirs, atol=1e-4)
  ours = sum(x.size for x in jax.tree.leaves(published(name).params))
  assert ours == sum(p.numel() for p in model.parameters())


@pytest.mark.peers
@pytest.mark.parametrize('name', FROM_PEERS)
def test_weights_of_transformers_load_here_with_the_same_logits(name, tmp_path):
  torch, model = peer(name, tmp_path / 'ours')
  torch.manual_seed(0)
  for parameter in model.parameters():
    parameter.data.add_(0.1 * torch.randn_like(parameter))
  model.save_pretrained(tmp_path / 'theirs', max_shard_size='20KB')
  with torch.no_grad():
    theirs = model(torch.tensor(TOKENS)).logits.numpy()
  np.testing.assert_allclose(logits(weights.read_published(tmp_path / 'theirs')), theirs, atol=1e-4)


@pytest.mark.peers
@pytest.mark.parametrize('name', ['gpt2', 'llama'])
@pytest.mark.parametrize('penalty', [1.0, 1.3])
def test_greedy_decoding_is_that_of_transformers(name, penalty, tmp_path):
  torch, model = peer(name, tmp_path)
  prompt = TOKENS[:, :5]
  theirs = model.generate(
    torch.tensor(prompt),
    attention_mask=torch.ones(prompt.shape, dtype=torch.long),
    do_sample=False,
    max_length=20,
    eos_token_id=None,
    pad_token_id=0,
    repetition_penalty=penalty,
  )
  made = published(name)
  given = jnp.pad(jnp.asarray(prompt), ((0, 0), (0, 15)))[..., None]
  keys = example_keys(jax.random.key(0), jnp.arange(2))
  settings = DecodingSettings(greedy=True, repetition_penalty=penalty)
  ours = jax.jit(generate, static_argnames=('greedy',))(
    Runner(made.model(), made.params),
    keys,
    Prompt(given, jnp.full(2, 5)),
    settings.active_transforms(),
    greedy=True,
    limits=Limits(prefix=5),
  )
  np.testing.assert_array_equal(ours.emissions[..., 0], theirs.numpy())


@pytest.mark.peers
@pytest.mark.parametrize('name', ['gpt2', 'llama'])
@pytest.mark.parametrize('stop', [None, 7])
def test_beam_search_is_that_of_transformers(name, stop, tmp_path):
  torch, model = peer(name, tmp_path)
  prompt = TOKENS[:, :5]
  theirs = model.generate(
    torch.tensor(prompt),
    attention_mask=torch.ones(prompt.shape, dtype=torch.long),
    do_sample=False,
    num_beams=4,
    length_penalty=1.0,
    early_stopping='never',
    max_length=16,
    eos_token_id=stop,
    pad_token_id=0,
    output_scores=True,
    return_dict_in_generate=True,
  )
  made = published(name)
  run = jax.jit(beam_search, static_argnames=('beams',))
  given = jnp.pad(jnp.asarray(prompt), ((0, 0), (0, 11)))[..., None]
  stops = None if stop is None else jnp.array([[stop]])
  runner, prompt = Runner(made.model(), made.params), Prompt(given, jnp.full(2, 5))
  ours = run(runner, prompt, beams=4, limits=Limits(prefix=5, stop=stops))
  width = theirs.sequences.shape[1]
  np.testing.assert_array_equal(ours.emissions[:, 0, :width], theirs.sequences.numpy())
  np.testing.assert_allclose(ours.scores[:, 0], theirs.sequences_scores.numpy(), atol=1e-4)
