"""Low-rank updates of matrices (Hu et al. 2021): W + (alpha / rank)·A·B."""

import dataclasses
import functools
import re
from collections.abc import Mapping

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from common.config import ConfigError
from common.finetuning.settings import Finetune, build_finetune
from common.method import (
  Aux,
  Batch,
  Context,
  Hits,
  Likelihood,
  Method,
  Program,
  PyTree,
  Request,
  Samples,
)
from common.trees import path_name


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
  def predicts(self) -> bool:
    """That of the wrapped method."""
    return self.method.predicts

  @property
  def likelihood_note(self) -> str:
    """That of the wrapped method."""
    return self.method.likelihood_note

  @property
  def context(self) -> int:
    """That of the wrapped method."""
    return self.method.context

  @property
  def parts(self) -> int:
    """That of the wrapped method."""
    return self.method.parts

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

  def hits(self, params: PyTree, batch: Batch) -> Hits:
    """The method's predictions at the merged parameters."""
    return self.method.hits(merge(params, self.finetune), batch)


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


def plain(params: PyTree, config: Mapping) -> PyTree:
  """The parameters of a run as its model takes them: with LoRA, the updates are merged."""
  finetune = build_finetune(config)
  return merge(params, finetune) if finetune.lora_rank else params
