"""The public layout of GPT-2."""

import functools

import jax.numpy as jnp

from autoregressive.interop.layouts.base import Layout, join_heads, split_heads
from autoregressive.interop.layouts.keys import DESCRIPTIONS, FIXED
from common.config import pick
from common.published.keys import Keys

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
    n_positions=network.longest,
    n_ctx=network.longest,
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
    qkv_bias=False,
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
