"""The classes that --label asks for."""

import numpy as np
import pytest

from common.data.spec import DataSpec
from common.domains.labels import class_cycle, parse_label

SPEC = DataSpec('toy', 'image', (4, 4, 1), 17, 3, class_names=('a', 'b', 'c'))


def test_classes_come_in_turn_unless_the_method_takes_no_classes():
  np.testing.assert_array_equal(parse_label(None, 4, SPEC), [0, 1, 2, 0])
  assert parse_label(None, 4, SPEC, labelled=False) is None
  np.testing.assert_array_equal(parse_label('b', 2, SPEC), [1, 1])


def test_a_class_has_a_name_or_a_number():
  np.testing.assert_array_equal(parse_label('2', 2, SPEC), [2, 2])
  assert parse_label('none', 2, SPEC) is None
  with pytest.raises(ValueError, match="--label='d' is not a class of toy; known: a, b, c"):
    parse_label('d', 2, SPEC)
  many = DataSpec('many', 'image', (4, 4, 1), 17, 40, tuple(f'c{i}' for i in range(40)))
  with pytest.raises(ValueError, match=r'class of many; it has 40, such as c0, .*, c19$'):
    parse_label('d', 2, many)
  plain = DataSpec('plain', 'image', (4, 4, 1), 17)
  with pytest.raises(ValueError, match='plain has no classes'):
    parse_label('a', 2, plain)


def test_classes_named_by_numbers_are_asked_for_by_name():
  """With classes 5, 7 and 10, --label=2 must not mean the third."""
  spec = DataSpec('numbers', 'image', (4, 4, 1), 17, 3, class_names=('10', '5', '7'))
  np.testing.assert_array_equal(parse_label('7', 2, spec), [2, 2])
  for text in ('2', '0', '07'):
    with pytest.raises(ValueError, match=r'is not a class of numbers;.* known: 10, 5, 7'):
      parse_label(text, 2, spec)


def test_the_cycle_of_classes_keeps_their_proportions():
  np.testing.assert_array_equal(class_cycle(np.array([2, 2, 2])), [0, 1, 2, 0, 1, 2])
  # By hand: positions 1/12, 3/12, 5/12, 7/12, 9/12, 11/12 of class 0 and 1/4, 3/4 of class 2.
  np.testing.assert_array_equal(class_cycle(np.array([6, 0, 2])), [0, 0, 2, 0, 0, 0, 2, 0])
  cycle = class_cycle(np.array([178, 20]))
  assert np.bincount(cycle[:99]).tolist() == [89, 10] and len(cycle) == 198
