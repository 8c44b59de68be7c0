"""Fine-tuning: a run that begins with the weights of another run, or with published ones.

  full     every parameter moves
  frozen   those whose path `optimizer.frozen` matches do not
  lora     low-rank updates of matrices alone (Hu et al. 2021): W + (alpha / rank)·A·B, where A
           begins random and B at zero, so that training begins at the weights themselves
  fresh    parameters whose path `finetune.fresh` matches begin anew: another head, say

`adopt` fills the parameters of a new model with those of the source; `with_lora` makes a Method of
low-rank updates from any other, whose parameters are {'base': ..., 'lora': ...}; `merge` makes the
plain ones of them.
"""

import dataclasses
import json
import pathlib
import re
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from autoregressive.interop import weights
from common.checkpoints.checkpoints import Checkpoints
from common.config import ConfigError, component
from common.method import Functions, Method, PyTree
from common.trees import path_name


@dataclasses.dataclass(frozen=True)
class Finetune:
  """The `finetune` section of a config.

  Attributes:
    source: WORKDIR of a run, or a folder of published weights; empty: begin anew.
    step: of the run: 'last', 'best' or a number.
    fresh: paths of parameters that begin anew; empty: none.
    lora_rank: rank of the updates; 0: no LoRA.
    lora_alpha: updates are scaled by alpha / rank.
    lora_paths: the matrices that are updated.

  Raises:
    ConfigError: for a rank or a scale out of range.
  """

  source: str = ''
  step: str = 'last'
  fresh: str = ''
  lora_rank: int = 0
  lora_alpha: float = 16.0
  lora_paths: str = r'(qkv|out|up|down)/kernel$'

  def __post_init__(self):
    if self.lora_rank < 0 or self.lora_alpha <= 0:
      raise ConfigError(
        f'finetune.lora_rank={self.lora_rank} must be 0 (off) or more, and '
        f'finetune.lora_alpha={self.lora_alpha} above 0'
      )

  @property
  def scale(self) -> float:
    """What A·B is multiplied by."""
    return self.lora_alpha / self.lora_rank


def build_finetune(config: Mapping) -> Finetune:
  """The `finetune` section of a config.

  Raises:
    ConfigError: for a setting that is unknown or out of range, or LoRA over a base that the
      optimiser would move (weight decay does, without any gradient).
  """
  settings = dict(config.get('finetune') or {}) | {'name': 'finetune'}
  finetune = component({'finetune': Finetune}, settings, 'finetune')
  if finetune.lora_rank and not re.search(config['optimizer'].get('frozen') or '$.', 'base/'):
    raise ConfigError("finetune.lora_rank: set optimizer.frozen='^base/', so that the base stays")
  return finetune


def with_lora(method: Method, finetune: Finetune) -> Method:
  """The method with low-rank updates of its matrices; the base gets no gradient.

  Args:
    method: any method, of parameters in nested dicts.
    finetune: rank, scale and paths.
  """

  def init(key, batch):
    base, memory = method.init(key, batch)
    lora = init_lora(jax.random.fold_in(key, 1), base, finetune)
    return {'base': base, 'lora': lora}, memory

  def merged(params):
    return merge(params, finetune)

  def loss(params, memory, batch, key, context):
    still = params | {'base': jax.lax.stop_gradient(params['base'])}
    context = context._replace(ema=merged(context.ema))
    return method.loss(merged(still), memory, batch, key, context)

  compiled = jax.jit(merged)  # one object, so that it is compiled once
  nll = method.nll and (lambda params, batch, key: method.nll(merged(params), batch, key))
  return Functions(
    init=init,
    loss=loss,
    sample=lambda params, key, request: method.sample(compiled(params), key, request),
    nll=nll,
  )


def init_lora(key: Key[Array, ''], base: PyTree, finetune: Finetune) -> dict[str, dict[str, Array]]:
  """{path of a matrix: {'a': [..., inputs, rank], 'b': [..., rank, outputs]}}, A·B zero.

  Paths are written with '.' in place of '/'. Axes before the last two are layers of a scan.

  Raises:
    ConfigError: where no parameter has such a path, or one is no matrix.
  """
  found = {}
  for path, x in jax.tree_util.tree_leaves_with_path(base):
    name = path_name(path)
    if not re.search(finetune.lora_paths, name):
      continue
    if x.ndim < 2:
      raise ConfigError(f'finetune.lora_paths: {name}, of shape {x.shape}, is no matrix')
    *layers, inputs, outputs = x.shape
    rank = finetune.lora_rank
    noise = jax.random.normal(jax.random.fold_in(key, len(found)), (*layers, inputs, rank))
    found[name.replace('/', '.')] = {
      'a': noise * inputs**-0.5,
      'b': jnp.zeros((*layers, rank, outputs)),
    }
  if not found:
    raise ConfigError(f'finetune.lora_paths={finetune.lora_paths!r} matches no parameter')
  return found


def merge(params: Mapping[str, PyTree], finetune: Finetune) -> PyTree:
  """Plain parameters: the base with its updates added."""

  def add(path, x: Float[Array, '...']):
    update = params['lora'].get(path_name(path).replace('/', '.'))
    return x if update is None else x + finetune.scale * (update['a'] @ update['b'])

  return jax.tree_util.tree_map_with_path(add, params['base'])


def adopt(params: PyTree, source: PyTree, fresh: str = '') -> PyTree:
  """Parameters with the values of a source.

  Args:
    params: as they begin; those whose path `fresh` matches stay.
    source: nested dicts of arrays; what it has beside them is left out.

  Raises:
    ConfigError: for the first parameter that the source lacks or has in another shape; where
      `fresh` matches nothing.
  """
  there = {path_name(path): x for path, x in jax.tree_util.tree_leaves_with_path(source)}
  kept = []

  def take(path, x):
    name = path_name(path)
    if fresh and re.search(fresh, name):
      kept.append(name)
      return x
    hint = 'add its path to finetune.fresh to begin it anew'
    if name not in there:
      raise ConfigError(f'the source has no {name}, here {tuple(x.shape)}; {hint}')
    if there[name].shape != x.shape:
      raise ConfigError(
        f'{name} is {tuple(there[name].shape)} in the source and {tuple(x.shape)} here; {hint}'
      )
    return jnp.asarray(there[name], x.dtype)

  taken = jax.tree_util.tree_map_with_path(take, params)
  if fresh and not kept:
    raise ConfigError(f'finetune.fresh={fresh!r} matches no parameter')
  return taken


def begin(params: PyTree, finetune: Finetune, tokenizer: str | None = None) -> PyTree:
  """The parameters a run begins with: those of its source, where it has one.

  Args:
    params: as `Method.init` gave them.
    finetune: the section.
    tokenizer: of the data, as JSON; a run over another vocabulary is refused as a source.

  Raises:
    ConfigError: for a source that is not there, or does not fit.
  """
  if not finetune.source:
    return params
  folder = pathlib.Path(finetune.source).expanduser()
  if (folder / 'checkpoints').is_dir():
    step = int(finetune.step) if str(finetune.step).isdecimal() else finetune.step
    source = read_run(folder, step)
    kept = folder / 'tokenizer.json'
    if tokenizer and kept.exists() and not finetune.fresh and kept.read_text() != tokenizer:
      raise ConfigError(
        f'{folder} was trained with another vocabulary than the data has; '
        'use the same data.tokenizer, or name its tables in finetune.fresh'
      )
  else:
    source = weights.read(folder).params
  if not finetune.lora_rank:
    return adopt(params, source, finetune.fresh)
  return params | {'base': adopt(params['base'], source, finetune.fresh)}


def read_run(workdir: pathlib.Path, step: str | int = 'last') -> PyTree:
  """The averaged parameters of a run, plain ones even of a run with LoRA.

  Raises:
    ConfigError: for a folder without a run.
    CheckpointError: for a checkpoint that is not there or damaged.
  """
  if not (workdir / 'config.json').exists():
    raise ConfigError(f'{workdir} holds no run (no config.json)')
  config = json.loads((workdir / 'config.json').read_text())
  settings = config['train']
  with Checkpoints(
    workdir / 'checkpoints',
    best_metric=settings['best_metric'],
    best_mode=settings['best_mode'],
    read_only=True,
  ) as checkpoints:
    shapes = {k: v for k, v in checkpoints.shapes(step).items() if k.startswith('ema/')}
    params = checkpoints.restore(_nested(shapes), step, partial=True).state['ema']
  return plain(params, config)


def plain(params: PyTree, config: Mapping) -> PyTree:
  """The parameters of a run as its model has them: with LoRA, its updates merged into the base."""
  finetune = build_finetune(config)
  return merge(params, finetune) if finetune.lora_rank else params


def _nested(flat: Mapping[str, Any]) -> dict:
  """{'a': {'b': x}} of {'a/b': x}."""
  tree: dict = {}
  for name, value in flat.items():
    *parents, last = name.split('/')
    node = tree
    for parent in parents:
      node = node.setdefault(parent, {})
    node[last] = value
  return tree
