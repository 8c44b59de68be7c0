"""A comparison of runs: what differs, what was measured, and curves that can share an axis."""

import json

import numpy as np
import pytest

from common.config import ConfigError, to_json
from common.evaluation.measures import Measure
from common.evaluation.results import ResultFile
from common.reporting import plots
from common.reporting.writers import Writer
from experiments.compare import sides
from tests.experiments.startup import tiny


def folder(path, family, losses=(), **changes):
  """The folder of a run without checkpoints."""
  path.mkdir()
  (path / 'config.json').write_text(to_json(tiny.config(family, **changes)))
  with Writer(path, tensorboard=False) as writer:
    for step, loss in enumerate(losses, 1):
      writer.scalars(step, {'loss': loss, 'seconds': 30.0}, 'train')
      writer.scalars(step, {'loss': loss + 1}, 'validation')
  return sides.read(str(path))


def test_runs_are_compared_by_what_differs(tmp_path):
  first = folder(tmp_path / 'a', 'autoregressive', (3.0, 2.0))
  second = folder(tmp_path / 'b', 'autoregressive', (3.5, 2.5), optimizer__learning_rate='0.5')
  shown, left_out = sides.differing_settings([first, second])
  assert shown == {'optimizer.learning_rate': ['0.003', '0.5']} and left_out == 0
  table = sides.quantities([first, second])
  assert table['validation loss'] == ['3 (step 2)', '3.5 (step 2)']
  assert table['training'] == ['1:00', '1:00'] and table['parameters'] == ['-', '-']
  curves = sides.curves([first, second])
  assert list(curves) == ['train loss', 'validation loss'] and len(curves['train loss']) == 2
  picture = plots.curve_panels(curves, 'step')
  assert picture.ndim == 3 and len(np.unique(picture.reshape(-1, 3), axis=0)) > 2


def test_different_losses_share_no_axis_and_it_is_said(tmp_path):
  both = [
    folder(tmp_path / 'a', 'autoregressive', (3.0,)),
    folder(tmp_path / 'b', 'diffusion', (0.5,)),
    folder(tmp_path / 'c', 'diffusion'),
  ]
  shown, left_out = sides.differing_settings(both)
  assert shown['family'] == ["'autoregressive'", "'diffusion'", "'diffusion'"] and left_out > 10
  assert all(len(curves) == 1 for curves in sides.curves(both).values())
  said = list(sides.notes(both))
  assert 'different quantities' in said[0] and said[1].endswith('c has no metrics yet')


def test_the_newest_evaluation_under_equal_settings_is_shown(tmp_path):
  for step, value in ((5, 0.25), (10, 0.125)):
    conditions = {'step': step, 'options': {'steps': 3}, 'config': {}}
    file = ResultFile(tmp_path / 'a' / 'evaluations' / f'{step}-steps=3.json', conditions)
    file.add({'frechet': Measure(value, 0.01), 'crps': Measure(None)})
  (tmp_path / 'a' / 'evaluations' / '10-steps=3.1.json').write_text(
    json.dumps({'step': 10, 'options': {'steps': 3}, 'measures': {}})
  )
  (tmp_path / 'a' / 'config.json').write_text(to_json(tiny.config('diffusion')))
  table = sides.quantities([sides.read(str(tmp_path / 'a'))])
  assert table['Fréchet distance with steps=3'] == ['0.125 ± 0.020 (step 10)']
  assert not any('CRPS' in name for name in table)


def test_one_run_is_no_comparison(tmp_path):
  for names in ([], ['a'], ['a', './a']):
    with pytest.raises(ConfigError, match='two or more different runs'):
      sides.check(names)
