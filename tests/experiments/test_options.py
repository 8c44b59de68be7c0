"""Values of flags."""

import numpy as np
import pytest

from common.data.spec import DataSpec
from experiments import options

SPEC = DataSpec('toy', 'image', (4, 4, 1), 17, 3, class_names=('a', 'b', 'c'))


def test_settings_are_literals_or_text():
  assert options.parse(['steps=20', 'sampler=ddim', 'final_denoise=true', 'eta=0.5']) == {
    'steps': 20,
    'sampler': 'ddim',
    'final_denoise': True,
    'eta': 0.5,
  }


def test_a_tuple_keeps_its_commas():
  """The flag is a list by commas: those within brackets are put back."""
  items = ['grid=given', 'times=(3.0', '1.0', '0.2)', 'steps=3']
  assert options.parse(items) == {'grid': 'given', 'times': (3.0, 1.0, 0.2), 'steps': 3}


def test_classes_in_turn_unless_the_method_takes_none():
  np.testing.assert_array_equal(options.classes(None, 4, SPEC), [0, 1, 2, 0])
  assert options.classes(None, 4, SPEC, labelled=False) is None
  np.testing.assert_array_equal(options.classes('b', 2, SPEC), [1, 1])


@pytest.mark.parametrize('item', ['steps', '=3'])
def test_what_is_no_setting(item):
  with pytest.raises(ValueError, match='write name=value'):
    options.parse([item])
