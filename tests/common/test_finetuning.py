"""Fine-tuning: which parameters are copied, which stay fixed, and what LoRA adds."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from autoregressive.interop import weights
from autoregressive.method import build
from common.checkpoints.checkpoints import Checkpoints
from common.config import ConfigError
from common.data import tokenizers
from common.finetuning import (
  Finetune,
  Source,
  Weights,
  adopt,
  build_finetune,
  init_lora,
  merge,
  read_source,
)
from common.finetuning import initial_params as with_source
from common.method import Context
from common.training import optimizers
from common.training.averages import Averaging
from common.training.state import TrainStep, init_state
from tests.autoregressive.common import perturbed
from tests.autoregressive.texts import LETTERS, WINDOWS, text_config, windows

BATCH = windows(4)
LORA = dict(finetune__lora_rank=2, finetune__lora_alpha=4.0, optimizer__frozen='^base/')


@pytest.fixture(scope='module')
def plain():
  """(method, parameters) without LoRA."""
  made = build(text_config(network__layers=1), WINDOWS)
  return made, perturbed(jax.jit(made.init)(jax.random.key(0), BATCH)[0])


@pytest.fixture(scope='module')
def lora(plain):
  """(config, method, parameters) with LoRA over the plain ones."""
  config = text_config(network__layers=1, **LORA)
  made = build(config, WINDOWS)
  params = jax.jit(made.init)(jax.random.key(1), BATCH)[0]
  return config, made, params | {'base': plain[1]}


def initial_params(params, finetune, tokenizer=None, read_published=None):
  """The parameters that a run starts with."""
  return with_source(params, finetune, read_source(finetune, read_published), tokenizer)


def published_weights(path):
  return Weights(weights.read_published(path).params)


def nats(made, params):
  return np.asarray(jax.jit(made.nll)(params, BATCH, jax.random.key(0)).nats)


def test_lora_begins_at_the_base_and_merging_changes_nothing(plain, lora):
  config, made, params = lora
  np.testing.assert_array_equal(nats(made, params), nats(*plain))
  moved = params | {'lora': perturbed(params['lora'])}
  merged = merge(moved, build_finetune(config))
  np.testing.assert_allclose(nats(plain[0], merged), nats(made, moved), rtol=1e-6)
  assert abs(nats(made, moved) - nats(*plain)).max() > 0.01
  right, total = jax.jit(made.hits)(moved, BATCH)
  np.testing.assert_array_equal(right, jax.jit(plain[0].hits)(merged, BATCH).right)
  assert made.predicts and (total == BATCH['x'].shape[1] - 1).all()
  name = 'network.block_0.attention.qkv.kernel'
  a, b = (np.asarray(moved['lora'][name][k], np.float64) for k in 'ab')
  before, after = (
    np.asarray(p['network']['block_0']['attention']['qkv']['kernel'], np.float64)
    for p in (plain[1], merged)
  )
  np.testing.assert_allclose(after - before, 4.0 / 2 * a @ b, atol=1e-5)
  assert np.linalg.matrix_rank(after - before, tol=1e-4) == 2
  np.testing.assert_array_equal(
    merged['token_embed']['embedding'], plain[1]['token_embed']['embedding']
  )


def test_training_changes_only_the_updates_even_with_weight_decay(lora):
  config, made, params = lora
  settings = config['optimizer'] | dict(weight_decay=0.5, learning_rate=0.1, warmup='0')
  optimizer = optimizers.make_optimizer(settings, optax.constant_schedule(0.1))
  state = init_state(made, optimizer, BATCH, 0)._replace(params=params)
  step = TrainStep(made, optimizer, 0, Averaging(decay=0.0, warmup=False))
  stacked = jax.tree.map(lambda x: x[None], BATCH)
  after, metrics = jax.jit(step)(state, stacked)
  jax.tree.map(np.testing.assert_array_equal, after.params['base'], params['base'])
  assert all(float(jnp.abs(x['b']).max()) > 0 for x in after.params['lora'].values())
  moments = sum(x.size for x in jax.tree.leaves(state.opt_state))
  assert moments < 2.1 * sum(x.size for x in jax.tree.leaves(params['lora']))
  assert float(metrics['gradient_norm'][0]) > 0


def test_the_base_has_no_gradient_and_updates_start_apart(lora):
  _, made, params = lora

  def loss(params):
    context = Context(jnp.int32(0), params, True, jnp.arange(4), 4)
    return made.loss(params, (), BATCH, jax.random.key(0), context)[0]

  grads = jax.jit(jax.grad(loss))(params)
  assert not any(np.any(x) for x in jax.tree.leaves(grads['base']))
  assert all(np.any(x['b']) for x in grads['lora'].values())
  base = {name: {'kernel': jnp.zeros((400, 8))} for name in ('up', 'qkv')}
  one, other = (x['a'] for x in init_lora(jax.random.key(0), base, Finetune(lora_rank=8)).values())
  assert float(one.std()) == pytest.approx(400**-0.5, rel=0.05)
  assert abs(np.corrcoef(one.ravel(), other.ravel())[0, 1]) < 0.1


def test_updates_of_stacked_layers_are_by_layer():
  base = {'blocks': {'up': {'kernel': jnp.ones((3, 4, 5))}}}
  finetune = Finetune(lora_rank=2)
  lora = init_lora(jax.random.key(0), base, finetune)['blocks.up.kernel']
  assert lora['a'].shape == (3, 4, 2) and lora['b'].shape == (3, 2, 5)
  lora['b'] = lora['b'].at[1].set(1.0)
  after = merge({'base': base, 'lora': {'blocks.up.kernel': lora}}, finetune)
  changed = np.asarray(after['blocks']['up']['kernel'] != 1).any((1, 2))
  assert changed.tolist() == [False, True, False]


def test_adopting_copies_all_parameters_that_are_not_fresh(plain):
  _, params = plain
  fresh = jax.tree.map(jnp.zeros_like, params)
  taken = adopt(fresh, params)
  jax.tree.map(np.testing.assert_array_equal, taken, params)
  taken = adopt(fresh, params, fresh='^output_proj/')
  assert not taken['output_proj']['kernel'].any() and taken['token_embed']['embedding'].any()


def test_parameters_that_do_not_fit_are_named(plain):
  _, params = plain
  other = params | {'output_proj': {'kernel': jnp.zeros((16, 7))}}
  with pytest.raises(
    ConfigError, match=r'output_proj/kernel is \(16, 7\) in the source and \(16, 9\) here'
  ):
    adopt(params, other)
  assert adopt(params, other, fresh='^output_proj/')['output_proj']['kernel'].shape == (16, 9)
  with pytest.raises(ConfigError, match=r'the source has no output_proj/kernel, here \(16, 9\)'):
    adopt(params, {k: v for k, v in params.items() if k != 'output_proj'})
  with pytest.raises(ConfigError, match=r"finetune\.fresh='tail' matches no parameter"):
    adopt(params, params, fresh='tail')


def run_folder(folder, config, params, tokenizer=LETTERS):
  """A run as training leaves it."""
  folder.mkdir()
  (folder / 'config.json').write_text(json.dumps(config))
  (folder / 'tokenizer.json').write_text(tokenizers.to_json(tokenizer))
  with Checkpoints(folder / 'checkpoints') as checkpoints:
    state = {'ema': params, 'params': jax.tree.map(jnp.zeros_like, params)}
    checkpoints.save(5, state, config=config, position={}, metrics={'loss': 1.0})
  return folder


def test_a_run_starts_with_the_average_of_another(tmp_path, plain, lora):
  made, params = plain
  zeros = jax.tree.map(jnp.zeros_like, params)
  first = run_folder(tmp_path / 'first', text_config(network__layers=1), params)
  started = initial_params(zeros, Finetune(source=str(first)), LETTERS)
  jax.tree.map(np.testing.assert_array_equal, started, params)
  config, lora_made, lora_params = lora
  finetune = Finetune(source=str(first), step='5', lora_rank=2)
  started = initial_params(lora_params | {'base': zeros}, finetune, LETTERS)
  jax.tree.map(np.testing.assert_array_equal, started['base'], params)
  # A run of LoRA is merged when another starts with it.
  moved = lora_params | {'lora': perturbed(lora_params['lora'])}
  second = run_folder(tmp_path / 'second', config, moved)
  started = initial_params(zeros, Finetune(source=str(second)), LETTERS)
  np.testing.assert_allclose(nats(made, started), nats(lora_made, moved), rtol=1e-6)


def test_invalid_sources_are_refused(tmp_path, plain):
  _, params = plain
  first = run_folder(tmp_path / 'first', text_config(network__layers=1), params)
  other = tokenizers.Characters('\0hijklmn\n')
  with pytest.raises(ConfigError, match='another vocabulary'):
    initial_params(params, Finetune(source=str(first)), other)
  assert initial_params(
    params, Finetune(source=str(first), fresh='^(token_embed|output_proj)/'), other
  )
  with pytest.raises(ConfigError, match='holds no published weights'):
    initial_params(params, Finetune(source=str(tmp_path)), None, published_weights)
  with pytest.raises(ConfigError, match='must be the WORKDIR of a run'):
    initial_params(params, Source(source=str(tmp_path)))
  with pytest.raises(Exception, match='no checkpoint 9'):
    initial_params(params, Finetune(source=str(first), step='9'))


def test_published_weights_are_a_source(tmp_path, plain):
  method, params = plain
  config = text_config(network__layers=1)
  weights.write_weights(tmp_path / 'gpt2', config, params, 9, 12)
  zeros = jax.tree.map(jnp.zeros_like, params)
  finetune = Finetune(source=str(tmp_path / 'gpt2'))
  started = initial_params(zeros, finetune, None, published_weights)
  np.testing.assert_allclose(nats(method, started), nats(method, params), rtol=1e-6)


@pytest.mark.parametrize(
  ('finetune', 'message'),
  [
    (dict(lora_rank=-1), 'finetune.lora_rank=-1 must be at least 0'),
    (dict(lora_alpha=0.0), 'finetune.lora_alpha=0.0 must be above 0'),
    (dict(rank=2), 'unknown setting finetune.rank'),
    (dict(lora_rank=2), r"set optimizer.frozen='\^base/'"),
  ],
)
def test_invalid_settings_are_refused(finetune, message):
  with pytest.raises(ConfigError, match=message) as error:
    build_finetune({'finetune': finetune, 'optimizer': {'frozen': ''}})
  assert '\n' not in str(error.value)


def test_lora_paths_must_match_matrices():
  base = {'bias': jnp.ones(3)}
  for paths, message in (
    ('bias', r'must match only matrices, but bias has shape \(3,\)'),
    ('up', 'matches no par'),
  ):
    with pytest.raises(ConfigError, match=message):
      init_lora(jax.random.key(0), base, Finetune(lora_rank=1, lora_paths=paths))


def test_context_reaches_the_loss_with_plain_averages(lora):
  _, made, params = lora
  context = Context(jnp.int32(0), params, False, jnp.arange(4), 4)
  loss, aux = made.loss(params, (), BATCH, jax.random.key(0), context)
  assert float(loss) * 12 == pytest.approx(float(nats(made, params).mean()), rel=1e-5)
  assert float(aux.count) == 4 * 12
