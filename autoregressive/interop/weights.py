"""Published weights: GPT-2 and Llama, read and written as safetensors in the public layout.

A folder holds `config.json` and `model.safetensors`, or several such files with an index: the
layout of `transformers`. Both kinds are settings of the one transformer of this family; both go
back as they came.

  config, params = read_weights('gpt2/')        sections of a config, and a model's parameters
  write_weights('mine/', config, params, ...)   the other way

`python -m experiments.convert` does both: --read makes a run of weights, --write weights of a run.
"""

import json
import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import safetensors.numpy

from autoregressive.heads.categorical import Categorical
from autoregressive.interop.layouts import KINDS
from autoregressive.model import Model
from autoregressive.networks.transformer import Transformer
from common.config import ConfigError, as_tuple, pick, settings_of
from common.files import atomic_write

Tensors = Mapping[str, Any]  # by their public names
INDEX = 'model.safetensors.index.json'


class Published(NamedTuple):
  """A published model.

  Attributes:
    kind: a key of layouts.KINDS.
    network: settings of the Transformer, its length among them.
    tied: whether embeddings double as the last projection.
    vocabulary: number of tokens.
    params: parameters of `model()`.
  """

  kind: str
  network: Mapping[str, Any]
  tied: bool
  vocabulary: int
  params: Any

  def model(self) -> Model:
    """The model. It has no start token: these were trained on windows of text."""
    network = Transformer(**self.network)
    head = Categorical(1, self.vocabulary)
    return Model(network, head, 1, self.vocabulary, tied=self.tied, start='none')


def read_weights(
  folder: str | pathlib.Path, context: int | None = None
) -> tuple[dict[str, Any], Any]:
  """Reads a folder of published weights for a model of this family.

  Args:
    folder: what `transformers` calls a pretrained model.
    context: inputs that the model shall take; None: as many as it was trained on. A table of
      learned positions is cut to so many.

  Returns:
    Sections of a config (configs/autoregressive/base.py): 'ordering', 'network', 'head', 'model';
      and 'vocabulary', 'context'. The network's length is not among the settings: data has it.
    Parameters of the model that `method.build_model` makes of them.

  Raises:
    ConfigError: as `read`; for a context longer than the positions that were learned.
  """
  published = read(folder)
  network = Transformer(**published.network)
  context, params = context or network.length, published.params
  if network.max_length is not None:
    if context > network.max_length:
      raise ConfigError(f'{folder} has learned {network.max_length} positions, not {context}')
    table = params['network']['position_embed']['embedding'][:context]
    params = params | {'network': params['network'] | {'position_embed': {'embedding': table}}}
  settings = {name: getattr(network, name) for name in settings_of(Transformer) - {'length'}}
  config = dict(
    ordering={'name': 'tokens'},
    network={'name': 'transformer'} | settings,
    head={'name': 'categorical', 'pad_to': 1},
    model=dict(tied=published.tied, start='none', start_token=0, logit_cap=0.0, class_dropout=0.0),
    vocabulary=published.vocabulary,
    context=context,
  )
  return config, params


def write_weights(
  folder: str | pathlib.Path,
  config: Mapping[str, Any],
  params: Any,
  vocabulary: int,
  context: int,
  shard_bytes: int = 5 * 10**9,
) -> None:
  """Writes a model of this family as GPT-2 or Llama, whichever it is.

  Args:
    folder: to write into.
    config: with the sections 'network', 'head' and 'model'.
    params: of the model.
    vocabulary: tokens; a padding of the tables is left out.
    context: inputs that the network takes.
    shard_bytes: size of a file, where tensors allow.

  Raises:
    ConfigError: where the model has what neither kind knows; the first such setting is named.
  """
  wrong = {
    'network.name': (config['network']['name'], 'transformer'),
    'head.name': (config['head']['name'], 'categorical'),
    'model.logit_cap': (config['model']['logit_cap'], 0),
  }
  for name, (value, right) in wrong.items():
    if value != right:
      raise ConfigError(f'published weights have {name}={right!r}, not {value!r}')
  if 'begin' in params:
    raise ConfigError("published weights have no start of their own: model.start='none', 'token'")
  network = {k: as_tuple(v) for k, v in config['network'].items() if k != 'name'}
  rows = {'table': {'embedding': params['table']['embedding'][:vocabulary]}}
  if not config['model']['tied']:
    rows['out'] = {'kernel': params['out']['kernel'][:, :vocabulary]}
  kind = 'llama' if network['positions'] == 'rotary' else 'gpt2'
  network |= {'length': context}
  made = Published(kind, network, config['model']['tied'], vocabulary, dict(params) | rows)
  write(made, folder, shard_bytes)


def read(folder: str | pathlib.Path) -> Published:
  """Reads a folder of published weights.

  Raises:
    ConfigError: for a folder without weights, another kind of model, or tensors that are missing,
      unknown or of another shape than config.json says; the first of them is named.
  """
  folder = pathlib.Path(folder)
  if not (folder / 'config.json').exists():
    raise ConfigError(f'{folder} has no config.json: it holds no published weights')
  config = json.loads((folder / 'config.json').read_text())
  name = config.get('model_type')
  kind = pick(KINDS, name, f'model_type in {folder / "config.json"}:')
  network, tied, vocabulary = kind.from_config(config)
  published = Published(name, network, tied, vocabulary, None)
  tensors = {kind.rename(key): value for key, value in _load(folder).items()}
  _compare(tensors, _expected(published), folder, kind.ignored)
  return published._replace(params=_import(published, tensors))


def write(published: Published, folder: str | pathlib.Path, shard_bytes: int = 5 * 10**9) -> None:
  """Writes a folder of published weights, in files of at most `shard_bytes` where tensors allow.

  Raises:
    ConfigError: where the network has settings that this kind of model does not know.
  """
  kind = pick(KINDS, published.kind, 'kind of published weights')
  network = Transformer(**published.network)
  for setting, value in kind.fixed.items():
    if getattr(network, setting) != value:
      raise ConfigError(
        f'{published.kind} has network.{setting}={value!r}, not {getattr(network, setting)!r}'
      )
  config = kind.to_config(network) | dict(
    model_type=published.kind,
    vocab_size=published.vocabulary,
    tie_word_embeddings=published.tied,
    torch_dtype='float32',
  )
  folder = pathlib.Path(folder)
  tensors = {k: np.ascontiguousarray(v) for k, v in _export(published).items()}
  written = _save(tensors, folder, shard_bytes)
  atomic_write(folder / 'config.json', json.dumps(config, indent=2) + '\n')
  for path in {*folder.glob('model*.safetensors'), folder / INDEX} - written:
    path.unlink(missing_ok=True)  # of weights that were there before


def _export(published: Published) -> Tensors:
  """All tensors under their public names."""
  kind, network = KINDS[published.kind], Transformer(**published.network)
  params = dict(published.params)
  _, flat = network.unroll(params['network'])
  table = params['table']['embedding']
  tensors = {kind.names['embedding']: table} | kind.outer(flat)
  for i in range(network.layers):
    layer = kind.export(flat[f'block_{i}'], network)
    tensors |= {f'{kind.names["block"]}.{i}.{name}': value for name, value in layer.items()}
  if not published.tied:
    tensors['lm_head.weight'] = params['out']['kernel'].T
  return tensors


def _import(published: Published, tensors: Tensors):
  """Parameters from tensors whose names and shapes are right."""
  kind, network = KINDS[published.kind], Transformer(**published.network)
  tensors = {name: jnp.asarray(value, jnp.float32) for name, value in tensors.items()}
  flat = kind.inner(tensors)
  for i in range(network.layers):
    start = f'{kind.names["block"]}.{i}.'
    layer = {k.removeprefix(start): v for k, v in tensors.items() if k.startswith(start)}
    flat[f'block_{i}'] = kind.restore(layer, network)
  params = {'network': flat, 'table': {'embedding': tensors[kind.names['embedding']]}}
  if not published.tied:
    params['out'] = {'kernel': tensors['lm_head.weight'].T}
  return params


def _expected(published: Published) -> dict[str, tuple[int, ...]]:
  """Shapes of all tensors, by their public names."""
  tokens = jax.ShapeDtypeStruct((1, 2, 1), jnp.int32)
  params = jax.eval_shape(published.model().init, jax.random.key(0), tokens)['params']
  shapes = jax.eval_shape(lambda p: _export(published._replace(params=p)), params)
  return {name: x.shape for name, x in shapes.items()}


def _compare(tensors: Tensors, expected: Mapping[str, tuple], folder, ignored) -> None:
  for name, shape in expected.items():
    if name not in tensors:
      raise ConfigError(f'{folder} has no tensor {name!r}, of shape {shape}')
    if tensors[name].shape != shape:
      raise ConfigError(
        f'{folder}: tensor {name!r} has shape {tensors[name].shape}; config.json means {shape}'
      )
  for name in tensors:
    if name not in expected and not name.endswith(ignored):
      raise ConfigError(f'{folder} has a tensor {name!r} that config.json leaves no place for')


def _load(folder: pathlib.Path) -> dict[str, np.ndarray]:
  """All tensors of a folder."""
  files = ['model.safetensors']
  if (folder / INDEX).exists():
    index = json.loads((folder / INDEX).read_text())
    files = sorted(set(index['weight_map'].values()))
  tensors = {}
  for file in files:
    if not (folder / file).exists():
      raise ConfigError(f'{folder} has no {file}')
    try:
      tensors |= safetensors.numpy.load_file(folder / file)
    except safetensors.SafetensorError as error:
      raise ConfigError(f'{folder / file} is no whole safetensors file: {error}') from error
  return tensors


def _save(
  tensors: Mapping[str, np.ndarray], folder: pathlib.Path, shard_bytes: int
) -> set[pathlib.Path]:
  """One file, or several with an index; returns their paths."""
  shards, size = [{}], 0
  for name, value in tensors.items():
    if size and size + value.nbytes > shard_bytes:
      shards.append({})
      size = 0
    shards[-1][name] = value
    size += value.nbytes
  metadata = {'format': 'pt'}
  whole = folder / 'model.safetensors'
  if len(shards) == 1:
    atomic_write(whole, safetensors.numpy.save(shards[0], metadata))
    return {whole}
  where = {}
  for i, shard in enumerate(shards):
    file = f'model-{i + 1:05d}-of-{len(shards):05d}.safetensors'
    atomic_write(folder / file, safetensors.numpy.save(shard, metadata))
    where |= dict.fromkeys(shard, file)
  total = sum(value.nbytes for value in tensors.values())
  index = {'metadata': {'total_size': total}, 'weight_map': where}
  atomic_write(folder / INDEX, json.dumps(index, indent=2) + '\n')
  return {folder / INDEX, *(folder / file for file in where.values())}
