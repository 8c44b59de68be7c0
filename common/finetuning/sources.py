"""The weights that a run starts with: those of another run, or published ones."""

import functools
import pathlib
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
from jaxtyping import Array

from common.checkpoints import records
from common.checkpoints.checkpoints import Checkpoints, Restored
from common.config import ConfigError, read_json
from common.data import tokenizers
from common.data.tokenizers import Tokenizer, same_vocabulary
from common.files import Path
from common.finetuning import adapters
from common.finetuning.lora import plain
from common.finetuning.settings import Source, build_finetune
from common.method import PyTree
from common.trees import path_name


class Weights(NamedTuple):
  """The weights of a source.

  Attributes:
    params: the parameters.
    tokenizer: that of their data, if it is text.
    step: the checkpoint that has them; None: none has them as they are.
  """

  params: PyTree
  tokenizer: Tokenizer | None = None
  step: int | None = None


def adopt(params: PyTree, source: PyTree, fresh: str = '') -> PyTree:
  """Parameters with the values of a source.

  Args:
    params: the initial parameters; those whose path matches `fresh` stay as they are.
    source: nested dicts of arrays; parameters that are not in `params` are ignored.
    fresh: a regular expression; empty: take all from the source.

  Raises:
    ConfigError: for the first parameter that the source lacks or has in another shape; if `fresh`
      matches nothing.
  """
  available = {path_name(path): x for path, x in jax.tree_util.tree_leaves_with_path(source)}
  named = {path_name(path): x for path, x in jax.tree_util.tree_leaves_with_path(params)}
  if fresh and not any(re.search(fresh, name) for name in named):
    raise ConfigError(
      f'finetune.fresh={fresh!r} matches no parameter; known: {", ".join(sorted(named))}'
    )
  wanted = {name: x for name, x in named.items() if not (fresh and re.search(fresh, name))}
  _check_shapes(wanted, available)

  def take(path, x):
    name = path_name(path)
    return jax.device_put(available[name].astype(x.dtype), x.sharding) if name in wanted else x

  return jax.tree_util.tree_map_with_path(take, params)


def _check_shapes(wanted: Mapping[str, Array], available: Mapping[str, Array]) -> None:
  """Raises ConfigError for the first parameter that the source lacks or has in another shape."""
  wrong = {}
  for name, x in wanted.items():
    if name not in available:
      wrong[name] = f'the source has no {name}, here {tuple(x.shape)}'
    elif available[name].shape != x.shape:
      wrong[name] = (
        f'{name} is {tuple(available[name].shape)} in the source and {tuple(x.shape)} here'
      )
  if wrong:
    # Some parameters can start anew; a model of which most do is not fine-tuned.
    hint = 'to start it from random values, add its path to finetune.fresh'
    if len(wrong) > len(wanted) / 2:
      hint = f'{len(wrong)} of {len(wanted)} parameters differ: the source is another model'
    raise ConfigError(f'{next(iter(wrong.values()))}; {hint}')


def read_source(
  finetune: Source, read_published: Callable[[pathlib.Path], Weights] | None = None
) -> Weights:
  """The weights that a run starts with.

  Args:
    finetune: the section.
    read_published: reads published weights; None: the family has no layout for them.

  Raises:
    ConfigError: for a source that does not exist, or cannot be read.
  """
  folder = pathlib.Path(finetune.source).expanduser()
  if (folder / 'checkpoints').is_dir():
    step = int(finetune.step) if str(finetune.step).isdecimal() else finetune.step
    kept = folder / 'tokenizer.json'
    tokenizer = tokenizers.from_json(kept.read_text()) if kept.exists() else None
    config, restored = _restore(folder, step)
    params = plain(restored.state['ema'], config)
    merged = build_finetune(config).lora_rank > 0
    return Weights(params, tokenizer, None if merged else restored.step)
  if read_published is None:
    raise ConfigError(f'finetune.source={finetune.source!r} must be the WORKDIR of a run')
  return read_published(folder)


def initial_params(
  params: PyTree, finetune: Source, source: Weights, tokenizer: Tokenizer | None = None
) -> PyTree:
  """The parameters that a run starts with, those of its source.

  Args:
    params: as `Method.init` gave them.
    finetune: the section.
    source: the weights.
    tokenizer: the tokenizer of the data; a source with another vocabulary is not accepted.

  Raises:
    ConfigError: for a source that does not fit.
  """
  # Rows of an embedding mean nothing under another vocabulary, even where the shapes agree.
  known = tokenizer is not None and source.tokenizer is not None
  if known and not finetune.fresh and not same_vocabulary(source.tokenizer, tokenizer):
    raise ConfigError(
      f'{finetune.source} was trained with another vocabulary than the data has; use that of the '
      "source (data.tokenizer='files'), or name its embeddings in finetune.fresh"
    )
  if not finetune.lora_rank:
    return adopt(params, source.params, finetune.fresh)
  # The updates stay as initialised (A·B = 0), so training starts at the source itself.
  return params | {'base': adopt(params['base'], source.params, finetune.fresh)}


def open_checkpoints(config: Mapping, workdir: Path, read_only: bool = False) -> Checkpoints:
  """The checkpoints of a run, with the settings of its config.

  Raises:
    CheckpointError: the folder cannot be written.
  """
  train, directory = config['train'], workdir / 'checkpoints'
  settings = {name: train[name] for name in ('keep', 'best_metric', 'best_mode')}
  settings['read_only'] = read_only
  reference = adapters.read_reference(workdir)
  if reference is None:
    return Checkpoints(directory, **settings)
  read_base = functools.partial(_read_base, workdir, reference)
  return adapters.AdapterCheckpoints(directory, workdir, reference, read_base, **settings)


def _read_base(workdir: Path, reference: adapters.Reference) -> PyTree:
  """The parameters of the base, which is in another run or in the run's own folder."""
  if reference.source:
    return read_run(pathlib.Path(reference.source), reference.step)
  with Checkpoints(workdir / adapters.OWN, read_only=True) as checkpoints:
    shapes = checkpoints.shapes(reference.step)
    return checkpoints.restore(_nested(shapes), reference.step).state


def refer_to_base(workdir: Path, config: Mapping, base: PyTree, step: int | None = None) -> None:
  """Writes where the base of a run with LoRA is, before its first checkpoint.

  Args:
    workdir: the folder of the run.
    config: its config.
    base: the parameters of the base.
    step: the checkpoint of `finetune.source` that has them; None: none has them as they are, so
      they are stored in WORKDIR/base.
  """
  source = config['finetune']['source'] if step is not None else ''
  if not source:
    with Checkpoints(workdir / adapters.OWN) as checkpoints:
      checkpoints.save(0, base, config=config, position={})
  leaves = {n: records.storable(n, x) for n, x in records.named_leaves(base).items()}
  place = str(pathlib.Path(source).expanduser().absolute()) if source else ''
  reference = adapters.Reference(place, step or 0, records.describe(leaves))
  if jax.process_index() == 0:
    reference.write(workdir)


def read_run(workdir: Path, step: str | int = 'last') -> PyTree:
  """The averaged parameters of a run; with LoRA, the updates are merged.

  Raises:
    ConfigError: for a folder without a run.
    CheckpointError: for a checkpoint that does not exist or is damaged.
  """
  config, restored = _restore(workdir, step)
  return plain(restored.state['ema'], config)


def _restore(workdir: Path, step: str | int) -> tuple[dict[str, Any], Restored]:
  """The config of a run, and its averaged parameters as they are in its checkpoint."""
  if not (workdir / 'config.json').exists():
    raise ConfigError(f'{workdir} holds no run: it has no config.json')
  config = read_json(workdir / 'config.json')
  with open_checkpoints(config, workdir, read_only=True) as checkpoints:
    # Only the average is read: parameters and optimiser state would take three times the memory.
    shapes = {k: v for k, v in checkpoints.shapes(step).items() if k.startswith('ema/')}
    return config, checkpoints.restore(_nested(shapes), step, partial=True)


def _nested(flat: Mapping[str, Any]) -> dict:
  """{'a/b': x} as {'a': {'b': x}}."""
  tree: dict = {}
  for name, value in flat.items():
    *parents, last = name.split('/')
    node = tree
    for parent in parents:
      node = node.setdefault(parent, {})
    node[last] = value
  return tree
