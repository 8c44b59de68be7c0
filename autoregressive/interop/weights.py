"""Published weights: GPT-2 and Llama, read and written as safetensors in the public layout.

A folder holds `config.json` and `model.safetensors`, or several such files with an index, as
`transformers` writes them. Both kinds of model are settings of this family's transformer, and a
round trip gives the same files.

  config, params = read_weights('gpt2/')        sections of a config, and a model's parameters
  write_weights('mine/', config, params, ...)   the other way

`twofold convert` does both: --read turns weights into a run, and --write turns a run
into weights.
"""

import json
import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from autoregressive.heads.categorical import Categorical
from autoregressive.interop.layouts import LAYOUTS
from autoregressive.interop.tensors import check_tensors, find_tensors, load_tensors, save_tensors
from autoregressive.model import Model
from autoregressive.networks.transformer import Transformer
from common.config import ConfigError, as_tuple, pick, read_json
from common.files import atomic_folder, atomic_write
from common.ranges import settings_of

Tensors = Mapping[str, Any]  # by their public names
HEAD = 'lm_head.weight'  # the output projection


class Published(NamedTuple):
  """A published model.

  Attributes:
    kind: a key of layouts.LAYOUTS.
    network: settings of the Transformer, including its length.
    tied: whether the output projection is the embedding table.
    vocabulary: number of tokens.
    params: parameters of `model()`.
  """

  kind: str
  network: Mapping[str, Any]
  tied: bool
  vocabulary: int
  params: Any

  def model(self) -> Model:
    """The model. It has no start token: these models were trained on windows of text."""
    network = Transformer(**self.network)
    head = Categorical(1, self.vocabulary)
    return Model(network, head, 1, self.vocabulary, tied=self.tied, start='none')


def read_weights(
  folder: str | pathlib.Path, context: int | None = None
) -> tuple[dict[str, Any], Any]:
  """Reads a folder of published weights for a model of this family.

  Args:
    folder: a pretrained model in the layout of `transformers`.
    context: longest input of the model; None: the length it was trained with. A table of learned
      positions is cut to this length.

  Returns:
    The sections 'ordering', 'network', 'head' and 'model' of a config, with 'vocabulary' and
      'context' next to them. The network's length is not a setting: it comes from the data; nor is
      its type, which comes from `precision`.
    Parameters of the model that `method.build_model` builds from these sections.

  Raises:
    ConfigError: as in `read`; for a context longer than the learned positions.
  """
  published = read_published(folder)
  network = Transformer(**published.network)
  context, params = context or network.length, published.params
  if network.max_length is not None:
    if context > network.max_length:
      raise ConfigError(
        f'{folder} has learned {network.max_length} positions, too few for a context of {context}; '
        f'choose a context of at most {network.max_length}'
      )
    # Positions count from 0, so a shorter context keeps the first rows.
    table = params['network']['position_embed']['embedding'][:context]
    params = params | {'network': params['network'] | {'position_embed': {'embedding': table}}}
  settings = {
    name: vars(network)[name] for name in settings_of(Transformer).keys() - {'length', 'dtype'}
  }
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
  """Writes a model of this family as Llama if its positions are rotary, otherwise as GPT-2.

  Args:
    folder: the folder to write, new or empty.
    config: a config with the sections 'network', 'head' and 'model'.
    params: parameters of the model.
    vocabulary: number of tokens; the padding of the tables is left out.
    context: longest input of the network.
    shard_bytes: largest size of a file, except that a tensor is never split.

  Raises:
    ConfigError: for the first setting of the model that the public layout cannot express.
    ValueError: for a folder that is not empty.
  """
  required = {
    'network.name': (config['network']['name'], 'transformer'),
    'head.name': (config['head']['name'], 'categorical'),
    'model.logit_cap': (config['model']['logit_cap'], 0),
  }
  for name, (value, expected) in required.items():
    if value != expected:
      raise ConfigError(f'published weights need {name}={expected!r}, got {value!r}')
  if 'start_embed' in params:
    raise ConfigError(
      "published weights have no start embedding: train with model.start='none' or 'token'"
    )
  network = {k: as_tuple(v) for k, v in config['network'].items() if k != 'name'}
  # Rows beyond the vocabulary only pad the tables for the hardware (head.pad_to).
  rows = {'token_embed': {'embedding': params['token_embed']['embedding'][:vocabulary]}}
  if not config['model']['tied']:
    rows['output_proj'] = {'kernel': params['output_proj']['kernel'][:, :vocabulary]}
  kind = 'llama' if network['positions'] == 'rotary' else 'gpt2'
  network |= {'length': context}
  made = Published(kind, network, config['model']['tied'], vocabulary, dict(params) | rows)
  write_published(made, folder, shard_bytes)


def read_published(folder: str | pathlib.Path) -> Published:
  """Reads a folder of published weights.

  Raises:
    ConfigError: for a folder without weights, another kind of model, a key of config.json that is
      missing, unknown or not supported, or the first tensor that is missing, unknown, not finite,
      or not of the shape and type that config.json implies.
  """
  folder = pathlib.Path(folder).expanduser()
  where = folder / 'config.json'
  if not where.exists():
    raise ConfigError(f'{folder} holds no published weights: it has no config.json')
  config = read_json(where)
  name = str(config.get('model_type'))
  layout = pick(LAYOUTS, name, f'model_type in {where}:')
  network, tied, vocabulary = layout.from_config(config, str(where))
  found = find_tensors(folder, layout.rename)
  if network['layers'] > len(found):
    raise ConfigError(f'{where} implies {network["layers"]} layers; {folder} holds fewer tensors')
  published = Published(name, network, tied, vocabulary, None)
  try:
    expected = _expected(published)
  except ConfigError as error:
    raise ConfigError(f'{where}: {error}') from error
  # Checked before values are read and parameters made, so that errors name the tensor.
  check_tensors(found, expected, folder, layout.ignored)
  tensors = load_tensors(found, found.keys() & {*expected, HEAD})
  # Many files of tied models store the table twice.
  if tied and HEAD in tensors and (tensors[HEAD] != tensors[layout.names['embedding']]).any():
    raise ConfigError(
      f'{where} ties the output projection to the embedding, but {HEAD!r} differs from it; set '
      'tie_word_embeddings to false'
    )
  return published._replace(params=_import(published, tensors))


def write_published(
  published: Published, folder: str | pathlib.Path, shard_bytes: int = 5 * 10**9
) -> None:
  """Writes a folder of published weights, in files of at most `shard_bytes` if tensors allow.

  Raises:
    ConfigError: for a setting of the network that this kind of model does not have.
    ValueError: for a folder that is not empty.
  """
  layout = pick(LAYOUTS, published.kind, 'kind of published weights')
  network = Transformer(**published.network)
  for setting, value in layout.fixed.items():
    if vars(network)[setting] != value:
      raise ConfigError(
        f'{published.kind} needs network.{setting}={value!r}, got {vars(network)[setting]!r}'
      )
  config = layout.to_config(network) | dict(
    model_type=published.kind,
    vocab_size=published.vocabulary,
    tie_word_embeddings=published.tied,
    torch_dtype='float32',
  )
  tensors = {k: np.ascontiguousarray(v) for k, v in _export(published).items()}
  with atomic_folder(folder) as temporary:
    save_tensors(tensors, temporary, shard_bytes)
    atomic_write(temporary / 'config.json', json.dumps(config, indent=2) + '\n')


def _export(published: Published) -> Tensors:
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


def _import(published: Published, tensors: Tensors):
  """Parameters from tensors whose names and shapes have been checked."""
  layout, network = LAYOUTS[published.kind], Transformer(**published.network)
  tensors = {name: jnp.asarray(value, jnp.float32) for name, value in tensors.items()}
  flat = layout.import_outer(tensors)
  for i in range(network.layers):
    start = f'{layout.names["block"]}.{i}.'
    layer = {k.removeprefix(start): v for k, v in tensors.items() if k.startswith(start)}
    flat[f'block_{i}'] = layout.import_block(layer, network)
  params = {'network': flat, 'token_embed': {'embedding': tensors[layout.names['embedding']]}}
  if not published.tied:
    params['output_proj'] = {'kernel': tensors[HEAD].T}
  return params


def _expected(published: Published) -> dict[str, tuple[int, ...]]:
  """Shapes of all tensors that a model has, by their public names."""
  tokens = jax.ShapeDtypeStruct((1, 2, 1), jnp.int32)
  params = jax.eval_shape(published.model().init, jax.random.key(0), tokens)['params']
  # Shapes only: no weights are allocated for the comparison.
  shapes = jax.eval_shape(lambda p: _export(published._replace(params=p)), params)
  return {name: x.shape for name, x in shapes.items()}
