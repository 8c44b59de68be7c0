"""Files of measures: what they keep, replace and refuse."""

import json
import math

import pytest

from common.config import ConfigError
from common.evaluation.measures import Measure
from common.evaluation.results import ResultFile, file_name

CONDITIONS = {'step': 40, 'options': {'times': (3.0, 1.0)}}


def measures_in(path):
  def refuse(text):
    raise AssertionError(f'{text} is not JSON')

  return json.loads(path.read_text(), parse_constant=refuse)['measures']


def test_a_metric_that_is_added_keeps_the_others_and_replaces_itself(tmp_path):
  path = tmp_path / 'evaluations' / '40.json'
  ResultFile(path, CONDITIONS).add({'agreement': Measure(0.5, 0.1), 'parameters': Measure(3.0)})
  ResultFile(path, CONDITIONS).add({'agreement': Measure(0.75, 0.2, 'better')})
  found = measures_in(path)
  assert found['agreement'].pop('date') == found['parameters'].pop('date') != ''
  assert Measure.from_json(found['agreement']) == Measure(0.75, 0.2, 'better')
  assert Measure.from_json(found['parameters']) == Measure(3.0)


def test_measures_of_other_conditions_are_kept_under_another_name(tmp_path):
  path = tmp_path / '40.json'
  for steps in (10, 20, 30):
    ResultFile(path, {'step': 40, 'steps': steps}).add({'agreement': Measure(steps / 100)})
  values = {p.name: measures_in(p)['agreement']['value'] for p in tmp_path.iterdir()}
  assert values == {'40.1.json': 0.1, '40.2.json': 0.2, '40.json': 0.3}


def test_numbers_that_are_not_finite_are_strict_json(tmp_path):
  path = tmp_path / '40.json'
  broken = Measure(math.nan, math.inf, '1 of 2 likelihoods are not finite')
  ResultFile(path, CONDITIONS).add({'bits_per_dim': broken, 'none': Measure(None)})
  found = measures_in(path)
  assert found['bits_per_dim']['value'] == 'NaN' and found['none']['value'] is None
  del found['bits_per_dim']['date']
  again = Measure.from_json(found['bits_per_dim'])
  assert math.isnan(again.value) and again.standard_error == math.inf and not again.is_finite


@pytest.mark.parametrize('text', ['{', '[]', '{"step": 40}', '{"measures": 3}'])
def test_a_file_without_measures_is_refused_and_left_alone(tmp_path, text):
  (tmp_path / '40.json').write_text(text)
  with pytest.raises(ConfigError, match=r'40\.json must hold measures as JSON'):
    ResultFile(tmp_path / '40.json', CONDITIONS)
  assert (tmp_path / '40.json').read_text() == text


def test_names_say_what_differs_and_fit_a_file_system():
  assert file_name(40, {'steps': 5, 'weak': 'runs/a'}) == '40-steps=5-weak=runs_a'
  long = [file_name(40, {'weak': letter * 300}) for letter in 'ab']
  assert long[0] != long[1] and all(name.startswith('40-') and len(name) < 100 for name in long)
