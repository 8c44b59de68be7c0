"""The families of methods, by the name that a config gives in `family`."""

from collections.abc import Mapping

import autoregressive
import diffusion
from common.config import pick
from common.data.spec import DataSpec
from common.method import Method

FAMILIES = {'diffusion': diffusion.build, 'autoregressive': autoregressive.build}


def build(config: Mapping, spec: DataSpec) -> Method:
  """The method of a config, for data as `spec` describes it."""
  return pick(FAMILIES, config['family'], 'family')(config, spec)
