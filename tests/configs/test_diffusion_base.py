"""The tables of components agree with their constructors: every setting, and its default."""

import inspect

import pytest

from configs.diffusion import base
from diffusion.likelihood import LIKELIHOODS
from diffusion.likelihood.flow import FlowLikelihood
from diffusion.networks import NETWORKS
from diffusion.objectives import TIME_DISTRIBUTIONS, WEIGHTINGS
from diffusion.processes import PROCESSES
from diffusion.sampling.grids import GRIDS

GIVEN = {'parent', 'name', 'self', 'out_channels', 'num_classes'}
TABLES = {
  'PROCESSES': PROCESSES,
  'WEIGHTINGS': WEIGHTINGS,
  'TIMES': TIME_DISTRIBUTIONS,
  'NETWORKS': NETWORKS,
  'GRIDS': GRIDS,
  'LIKELIHOODS': LIKELIHOODS,
}


@pytest.mark.parametrize('table', TABLES)
def test_every_component_is_listed_with_all_its_settings(table):
  listed = getattr(base, table)
  assert listed.keys() == TABLES[table].keys()
  for name, constructor in TABLES[table].items():
    settings = dict(listed[name])
    assert settings.pop('name') == name
    settings.pop('end', None) if table == 'GRIDS' else None
    parameters = inspect.signature(constructor).parameters
    defaults = {k: p.default for k, p in parameters.items() if k not in GIVEN}
    assert settings == defaults, f'{table} {name}'


def test_flow_is_a_likelihood():
  assert LIKELIHOODS['flow'] is FlowLikelihood
