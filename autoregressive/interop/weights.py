"""Published weights: GPT-2, Llama and its relatives, read and written in the public layouts.

A folder holds `config.json` and `model.safetensors`, or several such files with an index, as
`transformers` writes them, with the tokenizer and the chat template. A GGUF file holds the same in
one file. All of these models are settings of this family's transformer, and a round trip gives the
same files.

  made = read_published('gpt2/')         a model, its parameters and its other files
  sections(made)                         sections of a config
  write_weights('mine/', config, ...)    the other way

`twofold convert` does both: --read turns weights into a run, and --write turns a run
into weights.
"""

import dataclasses
import functools
import json
import pathlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np

from autoregressive.heads.categorical import Categorical
from autoregressive.interop.companions import (
  NOTHING,
  Companions,
  gguf_companions,
  load_companions,
  read_companions,
)
from autoregressive.interop.gguf_files import read_gguf
from autoregressive.interop.layouts import LAYOUTS, kind_of, misfit
from autoregressive.interop.layouts.base import Layout
from autoregressive.interop.layouts.keys import DESCRIPTIONS
from autoregressive.model import Model
from autoregressive.networks.transformer import Transformer
from common.config import ConfigError, as_tuple, pick, read_json
from common.files import Path, atomic_folder, atomic_write
from common.published.tensors import (
  Stored,
  check_tensors,
  find_tensors,
  load_tensor,
  save_tensors,
)
from common.ranges import settings_of

Tensors = Mapping[str, Any]  # by their public names
HEAD = 'lm_head.weight'  # the output projection
# What published models have in common.
MODEL = dict(start='none', start_token=0, output_bias=False, logit_cap=0.0, class_dropout=0.0)
DTYPES = {  # types of weights in a file
  'F32': (np.float32, 'float32'),
  'BF16': (ml_dtypes.bfloat16, 'bfloat16'),
  'F16': (np.float16, 'float16'),
}


class Published(NamedTuple):
  """A published model.

  Attributes:
    kind: a key of layouts.LAYOUTS.
    network: settings of the Transformer, including its length.
    tied: whether the output projection is the embedding table.
    vocabulary: number of rows of the embedding table, at least the number of tokens.
    params: parameters of `model()`.
    companions: the files next to the weights.
  """

  kind: str
  network: Mapping[str, Any]
  tied: bool
  vocabulary: int
  params: Any
  companions: Companions = NOTHING

  def model(self) -> Model:
    """The model. It has no start token: these models were trained on windows of text."""
    network = Transformer(**self.network)
    head = Categorical(1, self.vocabulary)
    return Model(network, head, 1, self.vocabulary, tied=self.tied, start='none')

  @property
  def tokens(self) -> int:
    """The number of tokens: the rows beyond them pad the table."""
    tokenizer = self.companions.tokenizer
    return self.vocabulary if tokenizer is None else tokenizer.vocabulary


def sections(published: Published) -> dict[str, Any]:
  """The sections 'network', 'head' and 'model' of a config.

  The network's type is not among its settings: it comes from `precision`.
  """
  network = vars(Transformer(**published.network))
  names = settings_of(Transformer).keys() - {'length', 'input_std', 'dtype'}
  settings = {name: network[name] for name in names} | {'context': published.network['length']}
  return dict(
    network={'name': 'transformer'} | settings,
    head={'name': 'categorical', 'pad_to': 1, 'min_rows': published.vocabulary},
    model=MODEL | {'tied': published.tied},
  )


def write_weights(
  folder: str | pathlib.Path,
  config: Mapping[str, Any],
  params: Any,
  vocabulary: int,
  context: int,
  *,
  companions: Companions = NOTHING,
  shard_bytes: int = 5 * 10**9,
) -> None:
  """Writes a model of this family in the layout that it was read from, or in one that suits it.

  Args:
    folder: the folder to write, new or empty.
    config: a config with the sections 'network', 'head' and 'model'.
    params: parameters of the model.
    vocabulary: number of tokens; rows that `head.pad_to` adds to the tables are left out.
    context: longest input of the network, unless its settings have one.
    companions: the files to write next to the weights; of config.json, all that has not changed.
    shard_bytes: largest size of a file, except that a tensor is never split.

  Raises:
    ConfigError: for the first setting of the model that the public layout cannot express.
    ValueError: for a folder that is not empty.
  """
  made = as_published(config, params, vocabulary, context, companions)
  write_published(made, folder, shard_bytes)


def as_published(
  config: Mapping[str, Any],
  params: Any,
  vocabulary: int,
  context: int,
  companions: Companions = NOTHING,
) -> Published:
  """A model of this family as a published one; see `write_weights`."""
  required = {
    'network.name': (config['network']['name'], 'transformer'),
    'head.name': (config['head']['name'], 'categorical'),
    'model.output_bias': (config['model']['output_bias'], False),
    'model.logit_cap': (config['model']['logit_cap'], 0),
  }
  for name, (value, expected) in required.items():
    if value != expected:
      raise ConfigError(f'published weights need {name}={expected!r}, got {value!r}')
  if 'start_embed' in params:
    raise ConfigError(
      "published weights have no start embedding: train with model.start='none' or 'token'"
    )
  settings = {k: as_tuple(v) for k, v in config['network'].items() if k != 'name'}
  settings |= {'length': settings.get('context') or context}
  rows = max(vocabulary, config['head'].get('min_rows', 0))
  tables = {'token_embed': {'embedding': params['token_embed']['embedding'][:rows]}}
  if not config['model']['tied']:
    tables['output_proj'] = {'kernel': params['output_proj']['kernel'][:, :rows]}
  kind = kind_of(Transformer(**settings), companions.config.get('model_type', ''))
  tied = config['model']['tied']
  return Published(kind, settings, tied, rows, dict(params) | tables, companions)


def read_published(path: str | pathlib.Path, dtype: str = 'float32') -> Published:
  """Reads a folder of published weights, or a GGUF file.

  Args:
    path: the folder or the file.
    dtype: 'bfloat16' rounds the values to it; the parameters are float32 in any case.

  Raises:
    ConfigError: for a folder without weights, another kind of model, a key of config.json that is
      missing, unknown or not supported, or the first tensor that is missing, unknown, not finite,
      or not of the shape and type that config.json implies.
  """
  path = pathlib.Path(path).expanduser()
  if path.is_file():
    gguf = read_gguf(path)
    return _read(gguf.config, str(path), gguf.tensors, gguf_companions(gguf, path), dtype)
  config, where = _config_of(path)
  layout = LAYOUTS[config['model_type']]
  layout.from_config(config, where)  # before the files are read
  return _read(config, where, find_tensors(path, layout.rename), read_companions(path), dtype)


def describe(path: str | pathlib.Path) -> Published:
  """Published weights without their parameters: only the config is read.

  Raises:
    ConfigError: as `read_published`, for the config.
  """
  path = pathlib.Path(path).expanduser()
  if path.is_file():
    config, where = read_gguf(path).config, str(path)
  else:
    config, where = _config_of(path)
  kind = str(config['model_type'])
  network, tied, vocabulary = LAYOUTS[kind].from_config(config, where)
  return Published(kind, network, tied, vocabulary, None)


def keep_files(source: pathlib.Path, workdir: Path) -> None:
  """Copies the files that come with weights, except the tokenizer, to the folder of a run.

  Args:
    source: a run that may have such files, or published weights.
    workdir: the new run; its tokenizer is that of its data.
  """
  if (source / 'checkpoints').is_dir():
    companions = load_companions(source)
  elif source.is_file():
    companions = gguf_companions(read_gguf(source), source)
  else:
    config, _ = _config_of(source)
    layout = LAYOUTS[config['model_type']]
    stored = find_tensors(source, layout.rename)[layout.names['embedding']]
    companions = read_companions(source).with_dtype(stored.dtype)
  if companions.config:
    dataclasses.replace(companions, tokenizer=None).save(workdir)


def _config_of(folder: pathlib.Path) -> tuple[dict[str, Any], str]:
  """config.json of a kind that is known here, and its name."""
  where = folder / 'config.json'
  if not where.exists():
    raise ConfigError(
      f'{folder} holds no published weights: it is neither a GGUF file nor a folder with '
      'config.json'
    )
  config = read_json(where)
  pick(LAYOUTS, str(config.get('model_type')), f'model_type in {where}:')
  return config, str(where)


def _read(
  config: Mapping[str, Any],
  where: str,
  found: Mapping[str, Stored],
  companions: Companions,
  dtype: str,
) -> Published:
  """A model from its config and its tensors, which are checked before any is loaded."""
  name = str(config['model_type'])
  layout = LAYOUTS[name]
  network, tied, vocabulary = layout.from_config(config, where)
  if network['layers'] > len(found):
    raise ConfigError(f'{where} implies {network["layers"]} layers; it has fewer tensors')
  published = Published(name, network, tied, vocabulary, None, companions)
  if published.tokens > vocabulary:
    raise ConfigError(
      f'{where} has {vocabulary} rows for {published.tokens} tokens of its tokenizer; extend the '
      'embedding, or remove the added tokens'
    )
  try:
    expected = _expected(published)
  except ConfigError as error:
    raise ConfigError(f'{where}: {error}') from error
  check_tensors(found, expected, where, layout.ignored)
  table = found[layout.names['embedding']]
  # Many files of tied models store the table twice.
  if tied and HEAD in found:
    _check_tied(found[HEAD], table, where)
  load = functools.partial(_load, found, dtype)
  stored = 'BF16' if dtype == 'bfloat16' else table.dtype
  companions = companions.with_dtype(stored)
  return published._replace(params=_import(published, expected, load), companions=companions)


def _check_tied(head: Stored, table: Stored, where: str) -> None:
  """Raises ConfigError unless both are the same."""
  if head.shape != table.shape or (load_tensor(head) != load_tensor(table)).any():
    raise ConfigError(
      f'{where} ties the output projection to the embedding, but {HEAD!r} differs from it; set '
      'tie_word_embeddings to false'
    )


def _load(found: Mapping[str, Stored], dtype: str, name: str) -> jax.Array:
  """A tensor as float32, with the values of `dtype`."""
  values = load_tensor(found[name])
  if dtype == 'bfloat16':
    values = values.astype(ml_dtypes.bfloat16).astype(np.float32)
  return jnp.asarray(values)


def write_published(
  published: Published, folder: str | pathlib.Path, shard_bytes: int = 5 * 10**9
) -> None:
  """Writes a folder of published weights, in files of at most `shard_bytes` if tensors allow.

  Raises:
    ConfigError: for a setting of the network that this kind of model does not have.
    ValueError: for a folder that is not empty.
  """
  config = _config(published)
  dtype = DTYPES.get(published.companions.dtype, DTYPES['F32'])[0]
  tensors = {k: np.ascontiguousarray(v).astype(dtype) for k, v in export_tensors(published).items()}
  with atomic_folder(folder) as temporary:
    save_tensors(tensors, temporary, shard_bytes)
    published.companions.write(temporary)
    atomic_write(temporary / 'config.json', json.dumps(config, indent=2) + '\n')


def _config(published: Published) -> dict[str, Any]:
  """config.json: that of the source if the model has not changed, or else its descriptions."""
  layout = pick(LAYOUTS, published.kind, 'kind of published weights')
  network = Transformer(**published.network)
  if (setting := misfit(network, layout)) is not None:
    expected, found = layout.fixed[setting], vars(network)[setting]
    raise ConfigError(f'{published.kind} needs network.{setting}={expected!r}, got {found!r}')
  source = published.companions.config
  dtype = DTYPES.get(published.companions.dtype, DTYPES['F32'])[1]
  if source.get('model_type') == published.kind:
    settings, *rest = layout.from_config(source, 'config.json of the source')
    same = all(
      vars(network)[k] == v for k, v in vars(Transformer(**settings)).items() if k in STATED
    )
    if same and rest == [published.tied, published.vocabulary]:
      return {k: v for k, v in source.items() if v is not None} | _dtype_key(source, dtype)
  kept = {k: v for k, v in source.items() if k in DESCRIPTIONS and v is not None}
  return (
    kept
    | layout.to_config(network)
    | dict(
      model_type=published.kind,
      vocab_size=published.vocabulary,
      tie_word_embeddings=published.tied,
      **_dtype_key(source, dtype),
    )
  )


# Settings that config.json states; the others do not change the outputs.
STATED = settings_of(Transformer).keys() - {
  'context',
  'dropout',
  'attention',
  'scan',
  'remat',
  'input_std',
  'dtype',
}


def _dtype_key(source: Mapping[str, Any], dtype: str) -> dict[str, str]:
  """The type under the key that the source has for it."""
  return {'dtype' if 'dtype' in source else 'torch_dtype': dtype}


def export_tensors(published: Published) -> Tensors:
  """All tensors under their public names."""
  layout, network = LAYOUTS[published.kind], Transformer(**published.network)
  params = dict(published.params)
  _, flat = network.unroll(params['network'])
  table = params['token_embed']['embedding']
  tensors = {layout.names['embedding']: table} | layout.export_outer(flat)
  for i in range(network.layers):
    layer = layout.export_block(flat[f'block_{i}'], network)
    tensors |= {f'{layout.names["block"]}.{i}.{name}': value for name, value in layer.items()}
  if not published.tied:
    tensors[HEAD] = params['output_proj']['kernel'].T  # theirs is [out, in]
  return tensors


def _import(published: Published, names: Iterable[str], load: Callable[[str], jax.Array]):
  """Parameters from tensors whose names and shapes have been checked."""
  layout, network = LAYOUTS[published.kind], Transformer(**published.network)
  flat = layout.import_outer({name: load(name) for name in names if _is_outer(name, layout)})
  # Layer by layer: the whole model is in memory only once.
  for i in range(network.layers):
    start = f'{layout.names["block"]}.{i}.'
    layer = {n.removeprefix(start): load(n) for n in names if n.startswith(start)}
    flat[f'block_{i}'] = layout.import_block(layer, network)
  params = {'network': flat, 'token_embed': {'embedding': load(layout.names['embedding'])}}
  if not published.tied:
    params['output_proj'] = {'kernel': load(HEAD).T}
  return params


def _is_outer(name: str, layout: Layout) -> bool:
  tables = (layout.names['embedding'], HEAD)
  return name not in tables and not name.startswith(f'{layout.names["block"]}.')


def _expected(published: Published) -> dict[str, tuple[int, ...]]:
  """Shapes of all tensors that a model has, by their public names."""
  tokens = jax.ShapeDtypeStruct((1, 2, 1), jnp.int32)
  params = jax.eval_shape(published.model().init, jax.random.key(0), tokens)['params']
  # Shapes only: no weights are allocated for the comparison.
  shapes = jax.eval_shape(lambda p: export_tensors(published._replace(params=p)), params)
  return {name: x.shape for name, x in shapes.items()}
