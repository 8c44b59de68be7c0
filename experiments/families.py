"""The families of methods, by the name that a config gives in `family`."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from ml_collections import ConfigDict

import autoregressive
import diffusion
from common.config import pick
from common.data import tokenizers
from common.data.spec import DataSpec
from common.domains.base import Edit
from common.method import Method, PyTree
from configs.autoregressive import base as autoregressive_base
from configs.diffusion import base as diffusion_base
from diffusion.sampling.tasks import TASKS


class Family(NamedTuple):
  """How a family builds a method, the defaults of its configs, and what it can do but sample.

  Attributes:
    build: (config, spec) -> Method; where there are drafts, `draft=` one is taken too.
    base: the defaults of its configs.
    edits: what it can do with given images, by name of the task.
    draft: (config, spec, params) -> a trained model that drafts for another; None: no such thing.
    begin: (config, spec, params) -> the parameters that training begins with.
  """

  build: Callable[..., Method]
  base: Callable[[], ConfigDict]
  edits: Mapping[str, Edit]
  draft: Callable[[Mapping, DataSpec, PyTree], Any] | None = None
  begin: Callable[[Mapping, DataSpec, PyTree], PyTree] = lambda config, spec, params: params


def _autoregressive_begin(config: Mapping, spec: DataSpec, params: PyTree) -> PyTree:
  tokenizer = None if spec.tokenizer is None else tokenizers.to_json(spec.tokenizer)
  return autoregressive.initial_params(params, autoregressive.build_finetune(config), tokenizer)


FAMILIES = {
  'diffusion': Family(
    diffusion.build,
    diffusion_base.get_base,
    {
      name: Edit(task.needs, {'task': name}, random=not task.reversible)
      for name, task in TASKS.items()
      if name != 'generate'
    },
  ),
  'autoregressive': Family(
    autoregressive.build,
    autoregressive_base.get_base,
    {'complete': Edit(('past', 'mask'), {}, mask='bottom')},
    autoregressive.build_draft,
    _autoregressive_begin,
  ),
}


def build(config: Mapping, spec: DataSpec) -> Method:
  """The method of a config, for data as `spec` describes it."""
  return pick(FAMILIES, config['family'], 'family').build(config, spec)


def base(config: Mapping) -> ConfigDict:
  """The defaults of a config's family."""
  return pick(FAMILIES, config['family'], 'family').base()
