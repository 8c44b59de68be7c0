"""Studies whose rows repeat settings of other configs, or share models, or compute their grids."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from common.config_files import load_module
from common.studies.plans import plan
from configs.ablations import stability
from configs.ablations.diffusion import edm
from diffusion import processes
from experiments import families


@pytest.mark.parametrize('name', stability.LEARNING_RATES)
def test_tries_have_multiples_of_the_rate_of_their_row(name, tmp_path):
  study = stability.get_study('digits')
  jobs = plan(study, families.load_config, tmp_path, study.metrics)
  rates = {job.row.name: rate_of(job.config['optimizer']) for job in jobs}
  own = rates.pop(name)
  assert own == stability.LEARNING_RATES[name]
  of_tries = [rate for row, rate in rates.items() if row.startswith(f'{name}, ')]
  assert of_tries == [own * factor for factor in stability.FACTORS]


def rate_of(optimizer):
  """The learning rate of an optimiser, or of its groups, which have the same one."""
  groups = [group['learning_rate'] for group in optimizer['groups'].values()]
  rate, *others = groups or [optimizer['learning_rate']]
  assert all(other == rate for other in others)
  return rate


@pytest.mark.parametrize(('name', 'models'), [('ddim', 1), ('score_sde', 2), ('guidance', 3)])
def test_rows_that_differ_in_sampling_share_a_model(name, models, tmp_path):
  study = load_module(f'configs/ablations/diffusion/{name}.py').get_study('cpu')
  study = dataclasses.replace(study, seeds=(0,))
  jobs = plan(study, families.load_config, tmp_path, study.metrics)
  assert len({job.folder for job in jobs}) == models
  assert len({job.keys[1] for job in jobs}) == len(study.rows)


LOW, HIGH = 0.03, 80.0


def levels_of(process, first):
  """Nine noise levels σ/α of a process, at equal steps in time from t = `first` to 1."""
  return np.exp(-0.5 * np.asarray(process.log_snr(jnp.linspace(1, first, 9))))


def test_the_vp_grid_is_that_of_a_vp_process_with_these_ends():
  # ∫₀ᵗ β = β_min·t + ½·(β_max − β_min)·t² is log(1 + σ²) at both ends.
  sides = [[1 - 0.5, 0.5], [edm.VP_EPS - 0.5 * edm.VP_EPS**2, 0.5 * edm.VP_EPS**2]]
  betas = np.linalg.solve(sides, np.log1p([HIGH**2, LOW**2]))
  levels = edm.grid_settings('VP', 9, LOW, HIGH)['times']
  np.testing.assert_allclose(levels, levels_of(processes.VPLinear(*betas), edm.VP_EPS), rtol=1e-4)


def test_the_cosine_grid_has_equal_steps_in_time_of_the_cosine_process():
  levels = np.array(edm.grid_settings('cosine', 9, LOW, HIGH)['times'])
  times = np.asarray(processes.Cosine(s=0.0).time_of(jnp.asarray(-2 * np.log(levels))))
  np.testing.assert_allclose(np.diff(times), np.diff(times).mean(), rtol=1e-3)
  assert (levels[0], levels[-1]) == (HIGH, LOW)
