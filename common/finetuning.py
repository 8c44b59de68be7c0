"""Fine-tuning: a run that starts from the weights of another run, or from published ones.

  full     every parameter is trained
  frozen   parameters whose path matches `optimizer.frozen` are not trained
  lora     only low-rank updates of matrices are trained (Hu et al. 2021): W + (alpha / rank)·A·B,
           with A random and B zero at first, so training starts at the weights of the source;
           only for the autoregressive family
  fresh    parameters whose path matches `finetune.fresh` (a new head, say) keep their random
           initial values

`initial_params` copies the parameters of a source into a new model; `LoRA` makes a Method
with low-rank updates from any other, whose parameters are {'base': ..., 'lora': ...}; `merge` adds
the updates to the base.
"""

import dataclasses
import functools
import pathlib
import re
from collections.abc import Callable, Mapping
from typing import Annotated, Any, ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from common.checkpoints.checkpoints import Checkpoints
from common.config import ConfigError, component, read_json
from common.method import (
  Aux,
  Batch,
  Context,
  Likelihood,
  Method,
  Program,
  PyTree,
  Request,
  Samples,
)
from common.ranges import ABOVE_ZERO, PATH, PATTERN, ZERO_IS_OFF
from common.trees import path_name


@dataclasses.dataclass(frozen=True)
class Source:
  """What training starts from, and which parameters it changes.

  Attributes:
    source: WORKDIR of a run, or (autoregressive) a folder of published weights; empty: random
      initial weights.
    step: checkpoint of that run: 'last', 'best' or a step number.
    fresh: regular expression; parameters whose path matches are not copied from the source; empty:
      copy all.
  """

  lora_rank: ClassVar[int] = 0

  source: Annotated[str, PATH] = ''
  step: str = 'last'
  fresh: Annotated[str, PATTERN] = ''


@dataclasses.dataclass(frozen=True)
class Finetune(Source):
  """The `finetune` section of a config of a family with low-rank updates.

  Attributes:
    lora_rank: rank of the updates; 0: no LoRA.
    lora_alpha: updates are scaled by alpha / rank.
    lora_paths: regular expression for the paths of the matrices that get updates.
  """

  lora_rank: Annotated[int, ZERO_IS_OFF] = 0
  lora_alpha: Annotated[float, ABOVE_ZERO] = 16.0
  lora_paths: Annotated[str, PATTERN] = r'(qkv|out|output_proj|gate|up|down)/kernel$'

  @property
  def scale(self) -> float:
    """The factor of A·B."""
    return self.lora_alpha / self.lora_rank


def build_finetune(config: Mapping) -> Finetune:
  """The `finetune` section of a config.

  Raises:
    ConfigError: for a setting that is unknown or out of range, or for LoRA over a base that the
      optimiser would change (weight decay acts without a gradient too).
  """
  # `component` takes a named table; this section has one entry.
  settings = dict(config.get('finetune') or {}) | {'name': 'finetune'}
  finetune = component({'finetune': Finetune}, settings, 'finetune')
  # '$.' matches nothing: without optimizer.frozen no parameter is frozen.
  if finetune.lora_rank and not re.search(config['optimizer'].get('frozen') or '$.', 'base/'):
    raise ConfigError(
      f'finetune.lora_rank={finetune.lora_rank} trains only the updates, so the base must be '
      "frozen: set optimizer.frozen='^base/'"
    )
  return finetune


@dataclasses.dataclass(frozen=True, eq=False)
class LoRA(Method):
  """A method with low-rank updates of its matrices; the base gets no gradient.

  Attributes:
    method: any method whose parameters are nested dicts.
    finetune: rank, scale and paths.
  """

  method: Method
  finetune: Finetune

  @property
  def labelled(self) -> bool:
    """That of the wrapped method."""
    return self.method.labelled

  @property
  def has_likelihood(self) -> bool:
    """That of the wrapped method."""
    return self.method.has_likelihood

  @property
  def context(self) -> int:
    """That of the wrapped method."""
    return self.method.context

  def init(self, key: Key[Array, ''], batch: Batch) -> tuple[PyTree, PyTree]:
    """The parameters of the method as 'base', and its updates as 'lora'."""
    base, memory = self.method.init(key, batch)
    # The base gets the key itself, so it starts with the same values as without LoRA.
    lora = init_lora(jax.random.fold_in(key, 1), base, self.finetune)
    return {'base': base, 'lora': lora}, memory

  def loss(
    self, params: PyTree, memory: PyTree, batch: Batch, key: Key[Array, ''], context: Context
  ) -> tuple[Float[Array, ''], Aux]:
    """The method's loss at the merged parameters."""
    # Stopped before the merge: the gradient flows into A and B only.
    stopped = params | {'base': jax.lax.stop_gradient(params['base'])}
    # The wrapped method takes plain parameters, so the average is merged too.
    context = context._replace(ema=merge(context.ema, self.finetune))
    return self.method.loss(merge(stopped, self.finetune), memory, batch, key, context)

  def sample(self, params: PyTree, key: Key[Array, ''], request: Request) -> Samples:
    """The method's samples at the merged parameters."""
    return self.method.sample(_merge_program(params, self.finetune), key, request)

  def check_request(self, params: PyTree | None, request: Request) -> None:
    """That of the wrapped method."""
    merge_plain = functools.partial(merge, finetune=self.finetune)
    merged = None if params is None else jax.eval_shape(merge_plain, params)
    self.method.check_request(merged, request)

  def sampling_program(self, params: PyTree, request: Request) -> Program:
    """That of the wrapped method: merged parameters have the shapes of the base."""
    return self.method.sampling_program(params['base'], request)

  def nll(self, params: PyTree, batch: Batch, key: Key[Array, '']) -> Likelihood:
    """The method's likelihood at the merged parameters."""
    return self.method.nll(merge(params, self.finetune), batch, key)


def init_lora(key: Key[Array, ''], base: PyTree, finetune: Finetune) -> dict[str, dict[str, Array]]:
  """{path of a matrix: {'a': [..., inputs, rank], 'b': [..., rank, outputs]}}, with A·B = 0.

  Paths are written with '.' instead of '/'. Axes before the last two are the layers of a scan.

  Raises:
    ConfigError: if no parameter has a path that matches, or one that does is not a matrix.
  """
  found = {}
  for path, x in jax.tree_util.tree_leaves_with_path(base):
    name = path_name(path)
    if not re.search(finetune.lora_paths, name):
      continue
    if x.ndim < 2:
      raise ConfigError(
        f'finetune.lora_paths must match only matrices, but {name} has shape {x.shape}'
      )
    *layers, inputs, outputs = x.shape
    rank = finetune.lora_rank
    # One key per matrix, from its place in the tree, whose order is alphabetical.
    noise = jax.random.normal(jax.random.fold_in(key, len(found)), (*layers, inputs, rank))
    found[name.replace('/', '.')] = {
      'a': noise * inputs**-0.5,  # x·A then has the variance of x
      'b': jnp.zeros((*layers, rank, outputs)),  # the update starts at zero
    }
  if not found:
    raise ConfigError(
      f'finetune.lora_paths={finetune.lora_paths!r} matches no parameter; the default is '
      f'{Finetune.lora_paths!r}'
    )
  return found


def merge(params: Mapping[str, PyTree], finetune: Finetune) -> PyTree:
  """Plain parameters: the base with its updates added, W + (alpha / rank)·A·B."""
  add = functools.partial(_with_update, params['lora'], finetune.scale)
  return jax.tree_util.tree_map_with_path(add, params['base'])


def _with_update(lora: Mapping[str, PyTree], scale: float, path, x: Float[Array, '...']):
  # Names of updates have dots: in a checkpoint, a slash would start another level of the tree.
  update = lora.get(path_name(path).replace('/', '.'))
  return x if update is None else x + scale * (update['a'] @ update['b'])


_merge_program = jax.jit(merge, static_argnames=('finetune',))


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
  paths = [path_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(params)]
  if fresh and not any(re.search(fresh, name) for name in paths):
    raise ConfigError(
      f'finetune.fresh={fresh!r} matches no parameter; known: {", ".join(sorted(paths))}'
    )

  def take(path, x):
    name = path_name(path)
    if fresh and re.search(fresh, name):
      return x
    hint = 'to start it from random values, add its path to finetune.fresh'
    if name not in available:
      raise ConfigError(f'the source has no {name}, here {tuple(x.shape)}; {hint}')
    if available[name].shape != x.shape:
      raise ConfigError(
        f'{name} is {tuple(available[name].shape)} in the source and {tuple(x.shape)} here; {hint}'
      )
    return jax.device_put(available[name].astype(x.dtype), x.sharding)

  return jax.tree_util.tree_map_with_path(take, params)


def initial_params(
  params: PyTree,
  finetune: Source,
  tokenizer: str | None = None,
  read_published: Callable[[pathlib.Path], PyTree] | None = None,
) -> PyTree:
  """The parameters that a run starts with: its own, or those of its source.

  Args:
    params: as `Method.init` gave them.
    finetune: the section.
    tokenizer: the data's tokenizer, as JSON; a run with another vocabulary is not accepted.
    read_published: reads the parameters of a folder of published weights; None: the family has no
      layout for them.

  Raises:
    ConfigError: for a source that does not exist, or does not fit.
  """
  if not finetune.source:
    return params
  folder = pathlib.Path(finetune.source).expanduser()
  if (folder / 'checkpoints').is_dir():
    step = int(finetune.step) if str(finetune.step).isdecimal() else finetune.step
    source = read_run(folder, step)
    # Rows of an embedding mean nothing under another vocabulary, even where the shapes agree.
    kept = folder / 'tokenizer.json'
    if tokenizer and kept.exists() and not finetune.fresh and kept.read_text() != tokenizer:
      raise ConfigError(
        f'{folder} was trained with another vocabulary than the data has; '
        'use the same data.tokenizer, or name its embeddings in finetune.fresh'
      )
  elif read_published is None:
    raise ConfigError(f'finetune.source={finetune.source!r} must be the WORKDIR of a run')
  else:
    source = read_published(folder)
  if not finetune.lora_rank:
    return adopt(params, source, finetune.fresh)
  # The updates stay as initialised (A·B = 0), so training starts at the source itself.
  return params | {'base': adopt(params['base'], source, finetune.fresh)}


def read_run(workdir: pathlib.Path, step: str | int = 'last') -> PyTree:
  """The averaged parameters of a run; with LoRA, the updates are merged.

  Raises:
    ConfigError: for a folder without a run.
    CheckpointError: for a checkpoint that does not exist or is damaged.
  """
  if not (workdir / 'config.json').exists():
    raise ConfigError(f'{workdir} holds no run: it has no config.json')
  config = read_json(workdir / 'config.json')
  settings = config['train']
  with Checkpoints(
    workdir / 'checkpoints',
    best_metric=settings['best_metric'],
    best_mode=settings['best_mode'],
    read_only=True,
  ) as checkpoints:
    # Only the average is read: parameters and optimiser state would take three times the memory.
    shapes = {k: v for k, v in checkpoints.shapes(step).items() if k.startswith('ema/')}
    params = checkpoints.restore(_nested(shapes), step, partial=True).state['ema']
  return plain(params, config)


def plain(params: PyTree, config: Mapping) -> PyTree:
  """The parameters of a run as its model takes them: with LoRA, the updates are merged."""
  finetune = build_finetune(config)
  return merge(params, finetune) if finetune.lora_rank else params


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
