"""The network, head and model of a fine-tuned run are those of its source."""

import json

import pytest

from common.config import ConfigError, flatten
from experiments.startup.sources import with_source
from tests.autoregressive.common import small_config
from tests.autoregressive.interop import tiny
from tests.autoregressive.texts import text_config


@pytest.fixture
def source(tmp_path):
  """A run whose network has unusual settings."""
  config = text_config(network__positions='rotary', network__rotary_base=500.0, model__tied=True)
  (tmp_path / 'run' / 'checkpoints').mkdir(parents=True)
  (tmp_path / 'run' / 'config.json').write_text(json.dumps(config))
  return tmp_path / 'run'


def finetuned(source, **overrides):
  return text_config(finetune__source=str(source), **overrides)


def test_what_a_config_leaves_out_comes_from_the_source(source):
  config = finetuned(source, network__dropout=0.1)
  made = with_source(config, {'network.dropout', 'network.width', 'ordering.name'})
  assert (made['network']['rotary_base'], made['model']['tied']) == (500.0, True)
  assert made['network']['dropout'] == 0.1
  plain = small_config()
  assert with_source(plain, ()) == plain  # without a source nothing changes


@pytest.mark.parametrize(
  ('setting', 'value'),
  [
    ('network.rotary_base', 1e4),
    ('network.rotary_scaling', ('linear', 2.0)),
    ('network.activation', 'relu'),
    ('network.norm_position', 'post'),
    ('network.kv_heads', 1),
    ('network.window', 3),
    ('network.attention_cap', 5.0),
    ('model.logit_cap', 30.0),
    ('head.pad_to', 16),
  ],
)
def test_another_network_of_equal_shapes_is_refused_by_the_setting_that_differs(
  source, setting, value
):
  config = finetuned(source, **{setting.replace('.', '__'): value})
  with pytest.raises(ConfigError, match=rf'another model \({setting}: there ') as error:
    with_source(config, {setting})
  assert '\n' not in str(error.value) and 'leave these settings out' in str(error.value)


def test_settings_that_suit_any_parameters_may_differ(source):
  free = dict(dropout=0.3, attention='reference', scan=True, remat='nothing', context=99)
  config = finetuned(source, **{f'network__{name}': value for name, value in free.items()})
  config['network'] |= dict(positions='rotary', rotary_base=500.0)
  config['model']['tied'] = True
  assert with_source(config, flatten(config))['network'] | free == config['network']


def test_fresh_parameters_may_have_other_settings_but_not_another_network(source):
  config = finetuned(source, finetune__fresh='token_embed', head__pad_to=16, network__layers=3)
  assert with_source(config, {'head.pad_to', 'network.layers'})['head']['pad_to'] == 16
  with pytest.raises(ConfigError, match=r'network\.rotary_base'):
    with_source(config, {'head.pad_to', 'network.rotary_base'})


def test_published_weights_are_a_source_too(tmp_path):
  path = tmp_path / 'tiny.gguf'
  tiny.write(path, tiny.gguf_tensors(tiny.model()))
  made = with_source(finetuned(path), {'network.attention'})
  network = made['network']
  assert (network['rotary_base'], network['kv_heads'], network['context']) == (1e4, 2, 64)
  assert made['head']['min_rows'] == tiny.ROWS
  with pytest.raises(ConfigError, match=r'network\.norm: there .rms., here .layer.'):
    with_source(finetuned(path), {'network.norm'})
