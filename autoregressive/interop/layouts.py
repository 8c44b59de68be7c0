"""The public layouts of GPT-2 and Llama, and how this family stores the same parameters."""

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp

from autoregressive.interop.keys import DESCRIPTIONS, FIXED, Keys
from autoregressive.networks.positions import LLAMA3_TURNS
from autoregressive.networks.transformer import Transformer
from common.config import ConfigError, pick


class Layout(NamedTuple):
  """How the files of one kind of model are organised.

  Attributes:
    names: public names of the 'embedding' table and of a 'block'.
    ignored: name endings of tensors that are not parameters.
    fixed: settings that all networks of this kind share.
    rename: name of a tensor in a folder -> its public name.
    from_config: (config.json, its name for messages) -> (network settings, tied, vocabulary).
    to_config: Transformer -> its part of config.json.
    export_outer, import_outer: parameters outside the blocks -> tensors, and back.
    export_block, import_block: (a block's parameters, Transformer) -> tensors, and back.
  """

  names: Mapping[str, str]
  ignored: tuple[str, ...]
  fixed: Mapping[str, Any]
  rename: Callable
  from_config: Callable
  to_config: Callable
  export_outer: Callable
  import_outer: Callable
  export_block: Callable
  import_block: Callable


def split_heads(qkv, network: Transformer):
  """Our joint projection [..., key heads · (groups + 2) · dim] split into queries, keys, values.

  Each of them is [..., heads · dim].
  """
  # Our kernel keeps the heads that share a key next to each other, so that splitting its columns
  # over devices keeps each group whole. The public layouts store q, k and v one after the other.
  kv_heads, groups = network.key_heads, network.heads // network.key_heads
  # Each key head holds the queries of its group, then its key, then its value.
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
  'gelu_fast': 'gelu_tanh',
  'gelu_pytorch_tanh': 'gelu_tanh',
  'gelu': 'gelu',
  'gelu_python': 'gelu',
  'relu': 'relu',
}

GPT2_KEYS = Keys(
  required=dict(n_positions=int, n_embd=int, n_layer=int, n_head=int, vocab_size=int),
  optional=dict(
    n_inner=(int, None),
    activation_function=(str, 'gelu_new'),
    layer_norm_epsilon=(float, 1e-5),
    tie_word_embeddings=(bool, True),
  ),
  fixed=FIXED
  | dict(scale_attn_weights=True, scale_attn_by_inverse_layer_idx=False, add_cross_attention=False),
  # `reorder_and_upcast_attn` only protects half precision; weights are read in float32. `n_ctx` is
  # an older name of `n_positions`. A summary is another head, which language models do not have.
  ignored=DESCRIPTIONS
  | {'reorder_and_upcast_attn', 'n_ctx', 'attn_pdrop', 'embd_pdrop', 'resid_pdrop'}
  | {'summary_type', 'summary_use_proj', 'summary_activation', 'summary_proj_to_labels'}
  | {'summary_first_dropout'},
)


def _gpt2_from_config(config, where):
  config = GPT2_KEYS.read(config, where)
  activation = config['activation_function']
  network = dict(
    length=config['n_positions'],
    width=config['n_embd'],
    layers=config['n_layer'],
    heads=config['n_head'],
    mlp_width=config['n_inner'] or 4 * config['n_embd'],
    activation=pick(ACTIVATIONS, activation, f'activation_function in {where}:'),
    norm_eps=config['layer_norm_epsilon'],
  )
  return network, config['tie_word_embeddings'], config['vocab_size']


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


def _gpt2_export_block(block, network):
  qkv = {
    # One joint kernel and bias in GPT-2 too, but as [q of all heads, k of all, v of all].
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
  """A norm. GPT-2 always has a bias, so a norm without one gets zeros."""
  scale = norm['scale']
  return {f'{name}.weight': scale, f'{name}.bias': norm.get('bias', jnp.zeros_like(scale))}


def _gpt2_dense(name, dense):
  """A projection, [in, out] like ours. Without a bias it gets a bias of zeros."""
  kernel = dense['kernel']
  bias = dense.get('bias', jnp.zeros_like(kernel[0]))
  return {f'{name}.weight': kernel, f'{name}.bias': bias}


def _gpt2_import_block(tensors, network):
  dense, norm = functools.partial(_dense, tensors), functools.partial(_norm, tensors)
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


def _dense(tensors, name):
  """A projection; theirs are [in, out], like ours."""
  return {'kernel': tensors[f'{name}.weight'], 'bias': tensors[f'{name}.bias']}


def _norm(tensors, name):
  return {'scale': tensors[f'{name}.weight'], 'bias': tensors[f'{name}.bias']}


def _gpt2_rename(name):
  """Adds the prefix, which folders of the model without its head leave out."""
  return name if name.startswith(('transformer.', 'lm_head.')) else f'transformer.{name}'


def _gpt2_export_outer(flat):
  return {
    'transformer.wpe.weight': flat['position_embed']['embedding'],
    **_gpt2_norm('transformer.ln_f', flat['final_norm']),
  }


def _gpt2_import_outer(tensors):
  return {
    'position_embed': {'embedding': tensors['transformer.wpe.weight']},
    'final_norm': _norm(tensors, 'transformer.ln_f'),
  }


GPT2 = Layout(
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
  rename=_gpt2_rename,
  from_config=_gpt2_from_config,
  to_config=_gpt2_to_config,
  export_outer=_gpt2_export_outer,
  import_outer=_gpt2_import_outer,
  export_block=_gpt2_export_block,
  import_block=_gpt2_import_block,
)


LLAMA_KEYS = Keys(
  required=dict(
    max_position_embeddings=int,
    hidden_size=int,
    num_hidden_layers=int,
    num_attention_heads=int,
    intermediate_size=int,
    vocab_size=int,
  ),
  optional=dict(
    num_key_value_heads=(int, None),
    head_dim=(int, None),
    rms_norm_eps=(float, 1e-6),
    tie_word_embeddings=(bool, False),
    rope_theta=(float, None),
    rope_scaling=(dict, {}),  # the older name of `rope_parameters`
    rope_parameters=(dict, {}),
  ),
  fixed=FIXED
  | dict(hidden_act='silu', attention_bias=False, mlp_bias=False, partial_rotary_factor=1.0),
  # `pretraining_tp` splits products into parts with the same sum.
  ignored=DESCRIPTIONS | {'attention_dropout', 'pretraining_tp', 'max_sequence_length'},
)
# Settings of each kind of rotary scaling, in the order that `positions.rotary_frequencies` takes
# them.
ROTARY_SCALINGS: Mapping[str, Mapping[str, type]] = {
  'default': {},
  'linear': dict(factor=float),
  'llama3': dict(
    factor=float,
    original_max_position_embeddings=int,
    low_freq_factor=float,
    high_freq_factor=float,
  ),
}


def _llama_rotary(config, where) -> dict[str, Any]:
  """Base and scaling of rotary positions, which old and new configs keep in different places."""
  old, new = config['rope_scaling'], config['rope_parameters']
  if old and new and old != new:
    raise ConfigError(f'{where} has both rope_scaling and rope_parameters, and they differ')
  rotary = new or old
  kind = str(rotary.get('rope_type') or rotary.get('type') or 'default')
  scaling = pick(ROTARY_SCALINGS, kind, f'rope_type in {where}:')
  keys = Keys(
    required=scaling,
    optional=dict(rope_theta=(float, None)),
    fixed=dict(partial_rotary_factor=1.0),
    ignored=('rope_type', 'type'),
  )
  values = keys.read(rotary, f'rope_parameters in {where}')
  bases = {base for base in (config['rope_theta'], values['rope_theta']) if base is not None}
  if len(bases) > 1:
    raise ConfigError(f'{where} has two values of rope_theta: {", ".join(map(str, sorted(bases)))}')
  (base,) = bases or {10_000.0}
  chosen = (kind, *(values[name] for name in scaling)) if scaling else ()
  return dict(rotary_base=base, rotary_scaling=chosen)


def _llama_from_config(config, where):
  config = LLAMA_KEYS.read(config, where)
  heads = config['num_attention_heads']
  network = dict(
    length=config['max_position_embeddings'],
    width=config['hidden_size'],
    layers=config['num_hidden_layers'],
    heads=heads,
    kv_heads=config['num_key_value_heads'] or heads,
    head_dim=config['head_dim'] or 0,  # 0: width / heads
    mlp_width=config['intermediate_size'],
    activation='swiglu',
    norm='rms',
    norm_eps=config['rms_norm_eps'],
    positions='rotary',
    bias=False,
    **_llama_rotary(config, where),
  )
  return network, config['tie_word_embeddings'], config['vocab_size']


def _llama_to_config(network):
  rotary = {'rope_theta': network.rotary_base, 'rope_type': 'default'}
  if network.rotary_scaling:
    name, factor, *more = network.rotary_scaling
    if name not in ('linear', 'llama3'):
      raise ConfigError(
        f'network.rotary_scaling {name!r} has no equivalent in Llama; known: linear, llama3'
      )
    rotary |= {'rope_type': name, 'factor': factor}
    if name == 'llama3':
      names = ('original_max_position_embeddings', 'low_freq_factor', 'high_freq_factor')
      length, *bounds = more
      bounds += LLAMA3_TURNS[len(bounds) :]
      rotary |= dict(zip(names, (length, *bounds), strict=True))
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


def _llama_export_block(block, network):
  query, key, value = split_heads(block['attention']['qkv']['kernel'], network)
  kernels = {  # theirs are [out, in]
    'self_attn.q_proj': query,
    'self_attn.k_proj': key,
    'self_attn.v_proj': value,
    'self_attn.o_proj': block['attention']['out']['kernel'],
    'mlp.gate_proj': block['gate']['kernel'],
    'mlp.up_proj': block['up']['kernel'],
    'mlp.down_proj': block['down']['kernel'],
  }
  return {f'{name}.weight': kernel.T for name, kernel in kernels.items()} | {
    'input_layernorm.weight': block['attention_norm']['scale'],
    'post_attention_layernorm.weight': block['mlp_norm']['scale'],
  }


def _llama_import_block(tensors, network):
  kernels = {  # theirs are [out, in]
    name.removesuffix('.weight'): tensor.T
    for name, tensor in tensors.items()
    if name.endswith('_proj.weight')
  }
  joint = join_heads(*(kernels[f'self_attn.{x}_proj'] for x in 'qkv'), network)
  return {
    'attention_norm': {'scale': tensors['input_layernorm.weight']},
    'attention': {'qkv': {'kernel': joint}, 'out': {'kernel': kernels['self_attn.o_proj']}},
    'mlp_norm': {'scale': tensors['post_attention_layernorm.weight']},
    'gate': {'kernel': kernels['mlp.gate_proj']},
    'up': {'kernel': kernels['mlp.up_proj']},
    'down': {'kernel': kernels['mlp.down_proj']},
  }


def _llama_export_outer(flat):
  return {'model.norm.weight': flat['final_norm']['scale']}


def _llama_import_outer(tensors):
  return {'final_norm': {'scale': tensors['model.norm.weight']}}


LLAMA = Layout(
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
  rename=str,
  from_config=_llama_from_config,
  to_config=_llama_to_config,
  export_outer=_llama_export_outer,
  import_outer=_llama_import_outer,
  export_block=_llama_export_block,
  import_block=_llama_import_block,
)

LAYOUTS: Mapping[str, Layout] = {'gpt2': GPT2, 'llama': LLAMA}
