"""The public layouts of Llama and of its relatives: Mistral, Qwen2, Qwen3, and Phi-3 (phi3.py).

They share their tensors. Mistral's positions see a window, Qwen2 has biases of queries, keys and
values, and Qwen3 norms of queries and keys.
"""

import functools
from collections.abc import Mapping
from typing import Any

from autoregressive.interop.layouts.base import Layout, join_heads, split_heads
from autoregressive.interop.layouts.keys import DESCRIPTIONS, FIXED
from autoregressive.interop.layouts.rotary import read_rotary, write_rotary
from common.config import ConfigError
from common.published.keys import Keys

SIZES = dict(
  max_position_embeddings=int,
  hidden_size=int,
  num_hidden_layers=int,
  num_attention_heads=int,
  intermediate_size=int,
  vocab_size=int,
)
OPTIONAL = dict(
  rms_norm_eps=(float, 1e-6),
  tie_word_embeddings=(bool, False),
  rope_theta=(float, None),
  rope_scaling=(dict, {}),  # the older name of `rope_parameters`
  rope_parameters=(dict, {}),
)
PLAIN = FIXED | dict(hidden_act='silu', mlp_bias=False, partial_rotary_factor=1.0)
IGNORED = DESCRIPTIONS | {'attention_dropout', 'max_sequence_length'}
WINDOW = dict(
  use_sliding_window=(bool, False),
  sliding_window=(int, None),
  layer_types=(list, None),
)
# `transformers` has defaults for sizes that a file of these models may leave out; they are those of
# one published model, so that a file without them is refused here.
KEYS: Mapping[str, Keys] = {
  'llama': Keys(
    required=SIZES,
    optional=OPTIONAL | dict(num_key_value_heads=(int, None), head_dim=(int, None)),
    fixed=PLAIN | dict(attention_bias=False, rope_interleaved=False),
    # `pretraining_tp` splits products into parts with the same sum.
    ignored=IGNORED | {'pretraining_tp', 'is_llama_config'},
  ),
  'mistral': Keys(
    required=SIZES | dict(num_key_value_heads=int),
    optional=OPTIONAL | dict(head_dim=(int, None), sliding_window=(int, None)),
    fixed=PLAIN,
    ignored=IGNORED,
  ),
  'qwen2': Keys(
    required=SIZES | dict(num_key_value_heads=int),
    optional=OPTIONAL | WINDOW | dict(head_dim=(int, None)),
    fixed=PLAIN | dict(use_mrope=False),
    ignored=IGNORED | {'max_window_layers'},
  ),
  'qwen3': Keys(
    required=SIZES | dict(num_key_value_heads=int, head_dim=int),
    optional=OPTIONAL | WINDOW,
    fixed=PLAIN | dict(attention_bias=False),
    ignored=IGNORED | {'max_window_layers'},
  ),
  'phi3': Keys(
    required=SIZES,
    optional=OPTIONAL
    | dict(
      rms_norm_eps=(float, 1e-5),
      num_key_value_heads=(int, None),
      sliding_window=(int, None),
      partial_rotary_factor=(float, None),
    ),
    fixed=FIXED | dict(hidden_act='silu', attention_bias=False),
    ignored=IGNORED | {'original_max_position_embeddings', 'embd_pdrop', 'resid_pdrop'},
  ),
}
QWEN_LAYERS = 28  # of a config.json that leaves `max_window_layers` out
MISTRAL_WINDOW = 4096  # of a config.json that leaves `sliding_window` out; null: none


def _from_config(kind: str, config: Mapping[str, Any], where: str):
  given, config = config, KEYS[kind].read(config, where)
  heads = config['num_attention_heads']
  network = dict(
    length=config['max_position_embeddings'],
    width=config['hidden_size'],
    layers=config['num_hidden_layers'],
    heads=heads,
    kv_heads=config['num_key_value_heads'] or heads,
    head_dim=config.get('head_dim') or 0,  # 0: width / heads
    mlp_width=config['intermediate_size'],
    activation='swiglu',
    norm='rms',
    norm_eps=config['rms_norm_eps'],
    positions='rotary',
    bias=False,
    qkv_bias=kind == 'qwen2',
    qk_norm=kind == 'qwen3',
    window=_window(kind, given, config, where),
    **read_rotary(config, where, partial=kind == 'phi3'),
  )
  return network, config['tie_word_embeddings'], config['vocab_size']


def _window(kind: str, given: Mapping[str, Any], config: Mapping[str, Any], where: str) -> int:
  """The number of positions that a query sees; 0: all. Raises ConfigError if layers differ."""
  if kind in ('mistral', 'phi3'):
    absent = kind == 'mistral' and 'sliding_window' not in given
    return MISTRAL_WINDOW if absent else config['sliding_window'] or 0
  if not config.get('use_sliding_window') or not config['sliding_window']:
    return 0
  layers = config['num_hidden_layers']
  # The first layers see everything, and the others the window.
  full = given.get('max_window_layers', QWEN_LAYERS)
  if not isinstance(full, int):
    raise ConfigError(f'{where} has max_window_layers={full!r:.60}; it must be a whole number')
  full = min(full, layers)
  kinds = config['layer_types'] or ['full_attention'] * full + ['sliding_attention'] * (
    layers - full
  )
  if len(set(kinds)) > 1:
    raise ConfigError(
      f'{where} has a window in {kinds.count("sliding_attention")} of {layers} layers, which is '
      'not supported; all layers must be alike'
    )
  return config['sliding_window'] if kinds[0] == 'sliding_attention' else 0


ARCHITECTURES = {
  'llama': 'LlamaForCausalLM',
  'mistral': 'MistralForCausalLM',
  'qwen2': 'Qwen2ForCausalLM',
  'qwen3': 'Qwen3ForCausalLM',
  'phi3': 'Phi3ForCausalLM',
}


def _to_config(kind: str, network) -> dict[str, Any]:
  config = dict(
    architectures=[ARCHITECTURES[kind]],
    max_position_embeddings=network.longest,
    hidden_size=network.width,
    num_hidden_layers=network.layers,
    num_attention_heads=network.heads,
    num_key_value_heads=network.key_heads,
    head_dim=network.dim,
    intermediate_size=network.mlp_width or 4 * network.width,
    hidden_act='silu',
    rms_norm_eps=network.norm_eps,
    **write_rotary(network),
  )
  if kind == 'mistral':
    return config | dict(sliding_window=network.window or None)
  if kind == 'phi3':
    config['rope_parameters']['partial_rotary_factor'] = network.rotary_fraction
    del config['head_dim']  # it is the width over the heads
    # The default of `transformers` is a token that only the vocabulary of Phi-3 has.
    return config | dict(sliding_window=network.window or None, pad_token_id=None)
  if kind == 'llama':
    return config | dict(attention_bias=False, mlp_bias=False)
  window = bool(network.window)
  config |= dict(use_sliding_window=window, sliding_window=network.window or None)
  if window:
    config['max_window_layers'] = 0  # counted from here on, all layers have the window
    config['layer_types'] = ['sliding_attention'] * network.layers
  return config | (dict(attention_bias=False) if kind == 'qwen3' else {})


def export_block(block, network):
  kernels = {
    'self_attn.o_proj': block['attention']['out']['kernel'],
    'mlp.gate_proj': block['gate']['kernel'],
    'mlp.up_proj': block['up']['kernel'],
    'mlp.down_proj': block['down']['kernel'],
  }
  tensors = {f'{name}.weight': kernel.T for name, kernel in kernels.items()}  # theirs: [out, in]
  for part, joint in block['attention']['qkv'].items():
    ending = {'kernel': 'weight', 'bias': 'bias'}[part]
    for name, value in zip('qkv', split_heads(joint, network), strict=True):
      tensors[f'self_attn.{name}_proj.{ending}'] = value.T  # a bias is its own transpose
  for ours, theirs in (('query_norm', 'q_norm'), ('key_norm', 'k_norm')):
    if network.qk_norm:
      tensors[f'self_attn.{theirs}.weight'] = block['attention'][ours]['scale']
  return tensors | {
    'input_layernorm.weight': block['attention_norm']['scale'],
    'post_attention_layernorm.weight': block['mlp_norm']['scale'],
  }


def import_block(tensors, network):
  kernels = {  # theirs are [out, in]
    name.removesuffix('.weight'): tensor.T
    for name, tensor in tensors.items()
    if name.endswith('_proj.weight')
  }
  qkv = {'kernel': join_heads(*(kernels[f'self_attn.{x}_proj'] for x in 'qkv'), network)}
  if network.qkv_bias:
    qkv['bias'] = join_heads(*(tensors[f'self_attn.{x}_proj.bias'] for x in 'qkv'), network)
  attention = {'qkv': qkv, 'out': {'kernel': kernels['self_attn.o_proj']}}
  if network.qk_norm:
    attention |= {
      'query_norm': {'scale': tensors['self_attn.q_norm.weight']},
      'key_norm': {'scale': tensors['self_attn.k_norm.weight']},
    }
  return {
    'attention_norm': {'scale': tensors['input_layernorm.weight']},
    'attention': attention,
    'mlp_norm': {'scale': tensors['post_attention_layernorm.weight']},
    'gate': {'kernel': kernels['mlp.gate_proj']},
    'up': {'kernel': kernels['mlp.up_proj']},
    'down': {'kernel': kernels['mlp.down_proj']},
  }


def _export_outer(flat):
  return {'model.norm.weight': flat['final_norm']['scale']}


def _import_outer(tensors):
  return {'final_norm': {'scale': tensors['model.norm.weight']}}


SHARED = dict(
  positions='rotary',
  norm='rms',
  norm_position='pre',
  activation='swiglu',
  bias=False,
  attention_cap=0.0,
  base_width=0,
)
WHOLE = dict(rotary_fraction=1.0)


def layout(kind: str, **fixed: Any) -> Layout:
  """The layout of one kind; `fixed`: settings that its networks share besides SHARED."""
  return Layout(
    names={'embedding': 'model.embed_tokens.weight', 'block': 'model.layers'},
    ignored=('.rotary_emb.inv_freq', 'lm_head.weight'),
    fixed=SHARED | fixed,
    rename=str,
    from_config=functools.partial(_from_config, kind),
    to_config=functools.partial(_to_config, kind),
    export_outer=_export_outer,
    import_outer=_import_outer,
    export_block=export_block,
    import_block=import_block,
  )


LLAMA = layout('llama', **WHOLE, qkv_bias=False, qk_norm=False, window=0)
MISTRAL = layout('mistral', **WHOLE, qkv_bias=False, qk_norm=False)
QWEN2 = layout('qwen2', **WHOLE, qkv_bias=True, qk_norm=False)
QWEN3 = layout('qwen3', **WHOLE, qkv_bias=False, qk_norm=True)
