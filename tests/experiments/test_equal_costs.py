"""Rows that are to be equal in parameters and training FLOPs are, at every scale of the study."""

import types

import numpy as np
import pytest

from common.data.spec import DataSpec
from configs.ablations import seeds
from experiments import families
from experiments.study import costs, running

SPECS = {
  'digits': DataSpec('digits', 'image', (8, 8, 1), 17, 10, num_train=1445),
  'cpu': DataSpec('mnist', 'image', (28, 28, 1), 256, 10, num_train=55000),
  'gpu': DataSpec('cifar10', 'image', (32, 32, 3), 256, 10, num_train=45000),
}


@pytest.mark.slow
@pytest.mark.parametrize('scale', SPECS)
def test_ways_to_draw_an_image_cost_the_same(scale, tmp_path, monkeypatch):
  # Costs follow from shapes: the data need not be prepared.
  described = types.SimpleNamespace(spec=SPECS[scale])
  monkeypatch.setattr(costs, 'data_of', lambda section: described)
  jobs = running.plan(seeds.get_study(scale), families.load_config, tmp_path, '1/1')
  by_row = {job.row.name: costs.cost_of(job) for job in jobs if job.row.name in seeds.KINDS}
  found = np.array([(cost.all_parameters, cost.flops) for cost in by_row.values()], float)
  assert len(found) == len(seeds.KINDS)
  np.testing.assert_allclose(found / found[0], 1.0, atol=0.05)
