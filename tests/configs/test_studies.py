"""Studies whose rows repeat settings of other configs agree with them."""

import pytest

from common.studies.plans import plan
from configs.ablations import stability
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
