"""How GPT-2 and Llama are stored in public, against how this family holds the same numbers."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp

from autoregressive.networks.transformer import Transformer
from common.config import ConfigError, pick


class Kind(NamedTuple):
  """How one kind of model is stored.

  Attributes:
    names: public names of the table of 'embedding's and of a 'block'.
    ignored: endings of tensors that are no parameters.
    fixed: settings that a network of this kind has.
    rename: a name as some folders have it -> the public name.
    from_config: config.json -> (network settings, tied, vocabulary).
    to_config: Transformer -> its part of config.json.
    outer, inner: parameters outside the blocks -> tensors, and back.
    export, restore: (a block's parameters, Transformer) -> tensors, and back.
  """

  names: Mapping[str, str]
  ignored: tuple[str, ...]
  fixed: Mapping[str, Any]
  rename: Callable
  from_config: Callable
  to_config: Callable
  outer: Callable
  inner: Callable
  export: Callable
  restore: Callable


def split_heads(qkv, network: Transformer):
  """Our joint projection [..., key heads · (groups + 2) · dim] as those of queries, keys, values.

  Each comes as [..., heads · dim].
  """
  kv_heads, groups = network.key_heads, network.heads // network.key_heads
  heads = qkv.reshape(*qkv.shape[:-1], kv_heads, groups + 2, network.dim)
  parts = heads[..., :groups, :], heads[..., groups, :], heads[..., groups + 1, :]
  return tuple(part.reshape(*qkv.shape[:-1], -1) for part in parts)


def join_heads(query, key, value, network: Transformer):
  """The inverse of `split_heads`."""
  shape = (*query.shape[:-1], network.key_heads, -1, network.dim)
  joined = jnp.concatenate([x.reshape(shape) for x in (query, key, value)], -2)
  return joined.reshape(*query.shape[:-1], -1)


ACTIVATIONS = {
  'gelu_new': 'gelu_tanh',
  'gelu_pytorch_tanh': 'gelu_tanh',
  'gelu': 'gelu',
  'relu': 'relu',
}


def _gpt2_from_config(config):
  network = dict(
    length=config['n_positions'],
    width=config['n_embd'],
    layers=config['n_layer'],
    heads=config['n_head'],
    mlp_width=config.get('n_inner') or 4 * config['n_embd'],
    activation=pick(ACTIVATIONS, config.get('activation_function', 'gelu_new'), 'activation'),
    norm_eps=config.get('layer_norm_epsilon', 1e-5),
  )
  return network, config.get('tie_word_embeddings', True), config['vocab_size']


def _gpt2_to_config(network):
  names = {'gelu_tanh': 'gelu_new', 'gelu': 'gelu', 'relu': 'relu'}
  return dict(
    architectures=['GPT2LMHeadModel'],
    n_positions=network.length,
    n_ctx=network.length,
    n_embd=network.width,
    n_layer=network.layers,
    n_head=network.heads,
    n_inner=network.mlp_width or 4 * network.width,
    activation_function=pick(names, network.activation, 'activation of GPT-2'),
    layer_norm_epsilon=network.norm_eps,
  )


def _gpt2_export(block, network):
  qkv = {
    part: jnp.concatenate(split_heads(value, network), -1)
    for part, value in block['attention']['qkv'].items()
  }
  return {
    **_gpt2_norm('ln_1', block['attention_norm']),
    **_gpt2_norm('ln_2', block['mlp_norm']),
    **_gpt2_dense('attn.c_attn', qkv),
    **_gpt2_dense('attn.c_proj', block['attention']['out']),
    **_gpt2_dense('mlp.c_fc', block['up']),
    **_gpt2_dense('mlp.c_proj', block['down']),
  }


def _gpt2_norm(name, norm):
  """A norm; without a bias it has a bias of zeros."""
  scale = norm['scale']
  return {f'{name}.weight': scale, f'{name}.bias': norm.get('bias', jnp.zeros_like(scale))}


def _gpt2_dense(name, dense):
  """A projection, [in, out]; without a bias it has a bias of zeros."""
  kernel = dense['kernel']
  bias = dense.get('bias', jnp.zeros_like(kernel[0]))
  return {f'{name}.weight': kernel, f'{name}.bias': bias}


def _gpt2_restore(tensors, network):
  def dense(name):  # theirs are [in, out], as ours
    return {'kernel': tensors[f'{name}.weight'], 'bias': tensors[f'{name}.bias']}

  def norm(name):
    return {'scale': tensors[f'{name}.weight'], 'bias': tensors[f'{name}.bias']}

  joint = {
    part: join_heads(*jnp.split(x, 3, -1), network) for part, x in dense('attn.c_attn').items()
  }
  return {
    'attention_norm': norm('ln_1'),
    'attention': {'qkv': joint, 'out': dense('attn.c_proj')},
    'mlp_norm': norm('ln_2'),
    'up': dense('mlp.c_fc'),
    'down': dense('mlp.c_proj'),
  }


GPT2 = Kind(
  names={'embedding': 'transformer.wte.weight', 'block': 'transformer.h'},
  ignored=('.attn.bias', '.attn.masked_bias', 'lm_head.weight'),  # masks; the tied projection
  fixed=dict(
    kv_heads=0,
    head_dim=0,
    positions='learned',
    norm='layer',
    norm_position='pre',
    qk_norm=False,
    attention_cap=0.0,
    window=0,
    base_width=0,
  ),
  rename=lambda name: (
    name if name.startswith(('transformer.', 'lm_head.')) else (f'transformer.{name}')
  ),
  from_config=_gpt2_from_config,
  to_config=_gpt2_to_config,
  outer=lambda flat: {
    'transformer.wpe.weight': flat['position_embed']['embedding'],
    **_gpt2_norm('transformer.ln_f', flat['final_norm']),
  },
  inner=lambda tensors: {
    'position_embed': {'embedding': tensors['transformer.wpe.weight']},
    'final_norm': {
      'scale': tensors['transformer.ln_f.weight'],
      'bias': tensors['transformer.ln_f.bias'],
    },
  },
  export=_gpt2_export,
  restore=_gpt2_restore,
)


def _llama_rotary(config) -> dict[str, Any]:
  """Base and scaling of rotary positions; configs have had them in two places."""
  rotary = config.get('rope_parameters') or config.get('rope_scaling') or {}
  base = rotary.get('rope_theta') or config.get('rope_theta', 10_000.0)
  names = {
    'default': lambda: (),
    'linear': lambda: ('linear', float(rotary['factor'])),
    'llama3': lambda: (
      'llama3',
      float(rotary['factor']),
      rotary['original_max_position_embeddings'],
      float(rotary['low_freq_factor']),
      float(rotary['high_freq_factor']),
    ),
  }
  kind = rotary.get('rope_type', rotary.get('type', 'default'))
  return dict(rotary_base=float(base), rotary_scaling=pick(names, kind, 'rope_type')())


def _llama_from_config(config):
  for name in ('attention_bias', 'mlp_bias'):
    if config.get(name):
      raise ConfigError(f'config.json has {name}=true; projections with a bias are not of Llama')
  if config.get('hidden_act', 'silu') != 'silu':
    raise ConfigError(f"config.json has hidden_act={config['hidden_act']!r}; Llama has 'silu'")
  heads = config['num_attention_heads']
  network = dict(
    length=config['max_position_embeddings'],
    width=config['hidden_size'],
    layers=config['num_hidden_layers'],
    heads=heads,
    kv_heads=config.get('num_key_value_heads') or heads,
    head_dim=config.get('head_dim') or config['hidden_size'] // heads,
    mlp_width=config['intermediate_size'],
    activation='swiglu',
    norm='rms',
    norm_eps=config['rms_norm_eps'],
    positions='rotary',
    bias=False,
    **_llama_rotary(config),
  )
  return network, config.get('tie_word_embeddings', False), config['vocab_size']


def _llama_to_config(network):
  rotary = {'rope_theta': network.rotary_base, 'rope_type': 'default'}
  if network.rotary_scaling:
    name, factor, *more = network.rotary_scaling
    if name not in ('linear', 'llama3'):
      raise ConfigError(f'rotary scaling {name!r} has no public name; known: linear, llama3')
    rotary |= {'rope_type': name, 'factor': factor}
    if name == 'llama3':
      names = ('original_max_position_embeddings', 'low_freq_factor', 'high_freq_factor')
      rotary |= dict(zip(names, (*more, *(0, 1.0, 4.0)[len(more) :]), strict=True))
  return dict(
    architectures=['LlamaForCausalLM'],
    max_position_embeddings=network.length,
    hidden_size=network.width,
    num_hidden_layers=network.layers,
    num_attention_heads=network.heads,
    num_key_value_heads=network.key_heads,
    head_dim=network.dim,
    intermediate_size=network.mlp_width or 4 * network.width,
    hidden_act='silu',
    rms_norm_eps=network.norm_eps,
    rope_theta=network.rotary_base,
    rope_parameters=rotary,
    attention_bias=False,
    mlp_bias=False,
  )


def _llama_export(block, network):
  query, key, value = split_heads(block['attention']['qkv']['kernel'], network)
  gate, up = jnp.split(block['up']['kernel'], 2, -1)
  kernels = {  # theirs are [out, in]
    'self_attn.q_proj': query,
    'self_attn.k_proj': key,
    'self_attn.v_proj': value,
    'self_attn.o_proj': block['attention']['out']['kernel'],
    'mlp.gate_proj': gate,
    'mlp.up_proj': up,
    'mlp.down_proj': block['down']['kernel'],
  }
  return {f'{name}.weight': kernel.T for name, kernel in kernels.items()} | {
    'input_layernorm.weight': block['attention_norm']['scale'],
    'post_attention_layernorm.weight': block['mlp_norm']['scale'],
  }


def _llama_restore(tensors, network):
  def kernel(name):
    return tensors[f'{name}.weight'].T

  joint = join_heads(*(kernel(f'self_attn.{x}_proj') for x in 'qkv'), network)
  up = jnp.concatenate([kernel('mlp.gate_proj'), kernel('mlp.up_proj')], -1)
  return {
    'attention_norm': {'scale': tensors['input_layernorm.weight']},
    'attention': {'qkv': {'kernel': joint}, 'out': {'kernel': kernel('self_attn.o_proj')}},
    'mlp_norm': {'scale': tensors['post_attention_layernorm.weight']},
    'up': {'kernel': up},
    'down': {'kernel': kernel('mlp.down_proj')},
  }


LLAMA = Kind(
  names={'embedding': 'model.embed_tokens.weight', 'block': 'model.layers'},
  ignored=('.rotary_emb.inv_freq', 'lm_head.weight'),
  fixed=dict(
    positions='rotary',
    norm='rms',
    norm_position='pre',
    activation='swiglu',
    bias=False,
    qk_norm=False,
    attention_cap=0.0,
    window=0,
    base_width=0,
  ),
  rename=lambda name: name,
  from_config=_llama_from_config,
  to_config=_llama_to_config,
  outer=lambda flat: {'model.norm.weight': flat['final_norm']['scale']},
  inner=lambda tensors: {'final_norm': {'scale': tensors['model.norm.weight']}},
  export=_llama_export,
  restore=_llama_restore,
)

KINDS: Mapping[str, Kind] = {'gpt2': GPT2, 'llama': LLAMA}
