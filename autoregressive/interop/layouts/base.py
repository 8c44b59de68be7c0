"""What a public layout is, and joint projections of queries, keys and values."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp

from autoregressive.networks.transformer import Transformer


class Layout(NamedTuple):
  """How the files of one kind of model are organised.

  Attributes:
    names: public names of the 'embedding' table and of a 'block'.
    ignored: name endings of tensors that are not parameters.
    fixed: settings that all networks of this kind share.
    rename: name of a tensor in a folder -> its public name.
    from_config: (config.json, its name for messages) -> (network settings, tied, vocabulary). The
      setting 'length' is the longest sequence.
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
