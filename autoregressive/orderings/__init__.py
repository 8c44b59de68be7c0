"""Orderings: data as a sequence of emissions, and back.

The model of this family is p(x) = ∏ p(e_i | e_<i). Only the ordering decides what an emission is
and in which order emissions come: it turns data into arrays [batch, length, values] and back,
exactly. The values within one emission are independent given the past, so K x K patches take K²
times fewer steps than pixels, at the cost of likelihood.
"""

from collections.abc import Mapping

from autoregressive.orderings.base import Ordering
from autoregressive.orderings.horizons import Horizon
from autoregressive.orderings.images import Patches
from autoregressive.orderings.sequences import Frames, Tokens
from autoregressive.orderings.windows import Windows
from common.config import ConfigError, component
from common.data.spec import DataSpec

ORDERINGS: Mapping[str, type[Ordering]] = {
  'patches': Patches,
  'tokens': Tokens,
  'frames': Frames,
  'windows': Windows,
  'horizon': Horizon,
}


def build_ordering(
  settings: Mapping, spec: DataSpec, centred: bool = True, relative: bool = False
) -> Ordering:
  """The ordering that a config's `ordering` section names.

  Args:
    settings: the section.
    spec: the description of the data.
    centred: see `Windows`.
    relative: see `Horizon`.

  Raises:
    ConfigError: for an unknown ordering or setting, or an ordering for another kind of data.
  """
  name = settings.get('name')
  suitable = [known for known, kind in ORDERINGS.items() if spec.domain in kind.domains]
  if name in ORDERINGS and name not in suitable:
    own = ' or '.join(map(repr, ORDERINGS[name].domains))
    raise ConfigError(
      f'ordering {name!r} is for data of domain {own}, but {spec.name!r} has domain '
      f'{spec.domain!r}: use {" or ".join(map(repr, suitable)) or "another family"}'
    )
  given = {'spec': spec, 'centred': centred, 'relative': relative}
  return component(ORDERINGS, settings, 'ordering', **given)
