"""The classes that --label asks for."""

import numpy as np
import pytest

from common.data.spec import DataSpec
from common.domains.labels import parse_label

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
  plain = DataSpec('plain', 'image', (4, 4, 1), 17)
  with pytest.raises(ValueError, match='plain has no classes'):
    parse_label('a', 2, plain)
