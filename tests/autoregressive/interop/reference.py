"""GPT-2 and Llama in NumPy, from the papers: float64, one sequence, no cache, public names.

A round trip through our own layouts cannot notice two projections that are swapped both ways, nor a
rotation in the wrong direction; an independent forward pass does.
"""

import math

import numpy as np
from scipy.special import erf

ACTIVATIONS = {
  'gelu_new': lambda x: 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
  'gelu': lambda x: 0.5 * x * (1 + erf(x / math.sqrt(2))),
}


def attention(query, key, value, heads, kv_heads, window=None):
  """Causal attention of [length, heads · dim] queries; each key head serves several queries."""
  length = len(query)
  query = query.reshape(length, heads, -1)
  key, value = (x.reshape(length, kv_heads, -1) for x in (key, value))
  mixed = np.zeros_like(query)
  for head in range(heads):
    shared = head * kv_heads // heads
    scores = query[:, head] @ key[:, shared].T / math.sqrt(query.shape[-1])
    seen = np.tri(length, dtype=bool)
    if window:  # the position itself and those before it
      seen &= ~np.tri(length, k=-window, dtype=bool)
    weights = np.exp(np.where(seen, scores, -np.inf))
    mixed[:, head] = weights / weights.sum(1, keepdims=True) @ value[:, shared]
  return mixed.reshape(length, -1)


def gpt2(tensors, config, tokens):
  """Logits [length, vocabulary] of GPT-2 (Radford et al. 2019)."""

  def norm(x, name):
    x = x - x.mean(-1, keepdims=True)
    x = x / np.sqrt((x**2).mean(-1, keepdims=True) + config['layer_norm_epsilon'])
    return x * tensors[f'{name}.weight'] + tensors[f'{name}.bias']

  def dense(x, name):
    return x @ tensors[f'{name}.weight'] + tensors[f'{name}.bias']

  h = tensors['transformer.wte.weight'][tokens] + tensors['transformer.wpe.weight'][: len(tokens)]
  for i in range(config['n_layer']):
    block = f'transformer.h.{i}'
    qkv = np.split(dense(norm(h, f'{block}.ln_1'), f'{block}.attn.c_attn'), 3, -1)
    h = h + dense(attention(*qkv, config['n_head'], config['n_head']), f'{block}.attn.c_proj')
    hidden = dense(norm(h, f'{block}.ln_2'), f'{block}.mlp.c_fc')
    h = h + dense(ACTIVATIONS[config['activation_function']](hidden), f'{block}.mlp.c_proj')
  head = tensors.get('lm_head.weight', tensors['transformer.wte.weight'])
  return norm(h, 'transformer.ln_f') @ head.T


def frequencies(config):
  """Radians per position, with the scaling that Llama 3.1's code states in wavelengths."""
  rotary, dim = config['rope_parameters'], config['head_dim']
  plain = rotary['rope_theta'] ** (-np.arange(0, dim, 2) / dim)
  if rotary['rope_type'] == 'linear':
    return plain / rotary['factor']
  if rotary['rope_type'] == 'default':
    return plain
  context, scaled = rotary['original_max_position_embeddings'], []
  low, high = rotary['low_freq_factor'], rotary['high_freq_factor']
  for frequency in plain:
    wavelength = 2 * math.pi / frequency
    if wavelength < context / high:
      scaled.append(frequency)
    elif wavelength > context / low:
      scaled.append(frequency / rotary['factor'])
    else:
      smooth = (context / wavelength - low) / (high - low)
      scaled.append((1 - smooth) * frequency / rotary['factor'] + smooth * frequency)
  return np.array(scaled)


def llama(tensors, config, tokens):
  """Logits [length, vocabulary] of Llama (Touvron et al. 2023) and its relatives.

  Mistral has a window (Jiang et al. 2023), Qwen2 biases, Qwen3 norms of queries and keys.
  """
  heads, kv_heads = config['num_attention_heads'], config['num_key_value_heads']
  angles = np.arange(len(tokens))[:, None, None] * frequencies(config)

  def norm(x, name):
    x = x / np.sqrt((x**2).mean(-1, keepdims=True) + config['rms_norm_eps'])
    return x * tensors[f'{name}.weight']

  def dense(x, name):
    return x @ tensors[f'{name}.weight'].T + tensors.get(f'{name}.bias', 0)

  def normed(x, number, name):
    split = x.reshape(len(x), number, -1)
    return (norm(split, name) if f'{name}.weight' in tensors else split).reshape(x.shape)

  def rotated(x, number):
    # Each pair (x[j], x[j + dim / 2]) is a complex number, turned by its angle.
    first, second = np.split(x.reshape(len(x), number, -1), 2, -1)
    turned = (first + 1j * second) * np.exp(1j * angles)
    return np.concatenate([turned.real, turned.imag], -1).reshape(len(x), -1)

  h = tensors['model.embed_tokens.weight'][tokens]
  for i in range(config['num_hidden_layers']):
    block = f'model.layers.{i}'
    x = norm(h, f'{block}.input_layernorm')
    query, key, value = (dense(x, f'{block}.self_attn.{part}_proj') for part in 'qkv')
    query = normed(query, heads, f'{block}.self_attn.q_norm')
    key = normed(key, kv_heads, f'{block}.self_attn.k_norm')
    turned = rotated(query, heads), rotated(key, kv_heads)
    mixed = attention(*turned, value, heads, kv_heads, config.get('sliding_window'))
    h = h + dense(mixed, f'{block}.self_attn.o_proj')
    x = norm(h, f'{block}.post_attention_layernorm')
    gate, up = dense(x, f'{block}.mlp.gate_proj'), dense(x, f'{block}.mlp.up_proj')
    h = h + dense(gate / (1 + np.exp(-gate)) * up, f'{block}.mlp.down_proj')
  head = tensors.get('lm_head.weight', tensors['model.embed_tokens.weight'])
  return norm(h, 'model.norm') @ head.T
