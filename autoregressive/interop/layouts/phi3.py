"""The public layout of Phi-3: Llama with joint tensors, which may rotate a part of each head."""

import jax.numpy as jnp

from autoregressive.interop.layouts import llama

QKV, GATE_UP = 'self_attn.qkv_proj.weight', 'mlp.gate_up_proj.weight'
PARTS = tuple(f'self_attn.{x}_proj.weight' for x in 'qkv')
GATES = ('mlp.gate_proj.weight', 'mlp.up_proj.weight')


def _export_block(block, network):
  tensors = llama.export_block(block, network)
  joint = {QKV: PARTS, GATE_UP: GATES}
  made = {name: jnp.concatenate([tensors[part] for part in parts]) for name, parts in joint.items()}
  return {k: x for k, x in tensors.items() if k not in (*PARTS, *GATES)} | made


def _import_block(tensors, network):
  sizes = [network.heads * network.dim, network.key_heads * network.dim]
  parts = jnp.split(tensors[QKV], [sizes[0], sum(sizes)])
  gates = jnp.split(tensors[GATE_UP], 2)
  apart = dict(zip((*PARTS, *GATES), (*parts, *gates), strict=True))
  return llama.import_block(dict(tensors) | apart, network)


PHI3 = llama.layout('phi3', head_dim=0, qkv_bias=False, qk_norm=False)._replace(
  export_block=_export_block, import_block=_import_block
)
