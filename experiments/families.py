"""The families of methods, by the name that a config gives in `family`."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from ml_collections import ConfigDict

import autoregressive
import diffusion
from common.config import pick
from common.data.spec import DataSpec
from common.method import Method, PyTree
from configs.autoregressive import base as autoregressive_base
from configs.diffusion import base as diffusion_base


class Family(NamedTuple):
  """How a family builds a method, and the defaults of its configs.

  Attributes:
    build: (config, spec) -> Method; where there are drafts, `draft=` one is taken too.
    base: the defaults of its configs.
    draft: (config, spec, params) -> a trained model that drafts for another; None: no such thing.
  """

  build: Callable[..., Method]
  base: Callable[[], ConfigDict]
  draft: Callable[[Mapping, DataSpec, PyTree], Any] | None = None


FAMILIES = {
  'diffusion': Family(diffusion.build, diffusion_base.get_base),
  'autoregressive': Family(
    autoregressive.build, autoregressive_base.get_base, autoregressive.build_draft
  ),
}


def build(config: Mapping, spec: DataSpec) -> Method:
  """The method of a config, for data as `spec` describes it."""
  return pick(FAMILIES, config['family'], 'family').build(config, spec)


def base(config: Mapping) -> ConfigDict:
  """The defaults of a config's family."""
  return pick(FAMILIES, config['family'], 'family').base()
