"""The families of methods, by the name that a config gives in `family`."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

from ml_collections import ConfigDict

import autoregressive
import diffusion
from common.config import pick
from common.data import tokenizers
from common.data.spec import DataSpec
from common.method import Method, PyTree
from configs.autoregressive import base as autoregressive_base
from configs.diffusion import base as diffusion_base


class Family(NamedTuple):
  """How a family builds a method, the defaults of its configs, what its training begins with."""

  build: Callable[[Mapping, DataSpec], Method]
  base: Callable[[], ConfigDict]
  begin: Callable[[Mapping, DataSpec, PyTree], PyTree] = lambda config, spec, params: params


def _autoregressive_begin(config: Mapping, spec: DataSpec, params: PyTree) -> PyTree:
  tokenizer = None if spec.tokenizer is None else tokenizers.to_json(spec.tokenizer)
  return autoregressive.begin(params, autoregressive.build_finetune(config), tokenizer)


FAMILIES = {
  'diffusion': Family(diffusion.build, diffusion_base.get_base),
  'autoregressive': Family(
    autoregressive.build, autoregressive_base.get_base, _autoregressive_begin
  ),
}


def build(config: Mapping, spec: DataSpec) -> Method:
  """The method of a config, for data as `spec` describes it."""
  return pick(FAMILIES, config['family'], 'family').build(config, spec)


def base(config: Mapping) -> ConfigDict:
  """The defaults of a config's family."""
  return pick(FAMILIES, config['family'], 'family').base()
