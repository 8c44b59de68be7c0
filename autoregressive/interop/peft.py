"""Low-rank updates in the layout of PEFT: adapter_config.json and adapter_model.safetensors."""

import json
import pathlib
import re
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np
import safetensors.numpy

from autoregressive.interop.layouts.base import split_heads
from autoregressive.interop.weights import HEAD, Published
from autoregressive.networks.transformer import Transformer
from common.config import ConfigError
from common.files import atomic_folder, atomic_write
from common.finetuning import Finetune

# {our name of a matrix in a block: its name in the public layout}
LLAMA = {'attention.out': 'self_attn.o_proj'} | {x: f'mlp.{x}_proj' for x in ('gate', 'up', 'down')}
GPT2 = {'attention.out': 'attn.c_proj', 'up': 'mlp.c_fc', 'down': 'mlp.c_proj'}
UPDATE = re.compile(r'network\.(?:block_(\d+)|(blocks))\.(.+)\.kernel')


def write_adapters(
  folder: str | pathlib.Path,
  published: Published,
  lora: Mapping[str, Mapping[str, jax.Array]],
  finetune: Finetune,
) -> None:
  """Writes the updates of a run alone.

  Args:
    folder: the folder to write, new or empty.
    published: the model that they are for; its parameters are not used.
    lora: {path of a matrix: {'a': [..., inputs, rank], 'b': [..., rank, outputs]}}.
    finetune: rank and scale.

  Raises:
    ConfigError: for an update of a matrix that the public layout does not have.
    ValueError: for a folder that is not empty.
  """
  network = Transformer(**published.network)
  tensors, modules = {}, []
  for name, update in lora.items():
    for module, a, b in _modules(name, update, published.kind, network):
      modules.append(module)
      # theirs are [rank, inputs] and [outputs, rank]
      tensors[f'base_model.model.{module}.lora_A.weight'] = np.ascontiguousarray(np.asarray(a).T)
      tensors[f'base_model.model.{module}.lora_B.weight'] = np.ascontiguousarray(np.asarray(b).T)
  config = {
    'peft_type': 'LORA',
    'task_type': 'CAUSAL_LM',
    'base_model_name_or_path': finetune.source or None,
    'r': finetune.lora_rank,
    'lora_alpha': finetune.lora_alpha,
    'lora_dropout': 0.0,
    'bias': 'none',
    'fan_in_fan_out': published.kind == 'gpt2',
    'inference_mode': True,
    'target_modules': sorted(modules),
  }
  with atomic_folder(folder) as temporary:
    content = safetensors.numpy.save(tensors, {'format': 'pt'})
    atomic_write(temporary / 'adapter_model.safetensors', content)
    atomic_write(temporary / 'adapter_config.json', json.dumps(config, indent=2) + '\n')


def _modules(
  name: str, update: Mapping[str, jax.Array], kind: str, network: Transformer
) -> Iterator[tuple[str, Any, Any]]:
  """(public name, A, B) of each public matrix that an update changes."""
  if name == 'output_proj.kernel':
    yield HEAD.removesuffix('.weight'), update['a'], update['b']
    return
  match = UPDATE.fullmatch(name)
  if match is None:
    raise ConfigError(
      f"finetune.lora_paths matches {name}, which has no place in PEFT's layout; write the merged "
      'weights (without --adapters)'
    )
  if match[2]:  # stacked layers
    layers = ((i, update['a'][i], update['b'][i]) for i in range(network.layers))
  else:
    layers = ((int(match[1]), update['a'], update['b']),)
  for i, a, b in layers:
    for matrix, part in _parts(match[3], b, kind, network):
      yield f'{"transformer.h" if kind == "gpt2" else "model.layers"}.{i}.{matrix}', a, part


def _parts(
  matrix: str, b: jax.Array, kind: str, network: Transformer
) -> Iterator[tuple[str, jax.Array]]:
  """The public matrices of one of ours, with their columns of B."""
  if matrix != 'attention.qkv':
    yield (GPT2 if kind == 'gpt2' else LLAMA)[matrix], b
    return
  query, key, value = split_heads(b, network)
  if kind == 'gpt2':
    yield 'attn.c_attn', np.concatenate([query, key, value], -1)
    return
  for name, part in zip('qkv', (query, key, value), strict=True):
    yield f'self_attn.{name}_proj', part
