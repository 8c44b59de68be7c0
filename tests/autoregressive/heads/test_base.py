"""The interface of heads."""

import pytest

from autoregressive.heads import HEADS
from autoregressive.heads.base import Head
from common.ranges import settings_of


@pytest.mark.parametrize('name', HEADS)
def test_every_head_has_the_members_of_the_base_class(name):
  constructor = HEADS[name]
  assert issubclass(constructor, Head)
  assert constructor.over_numbers != ('vocabulary' in settings_of(constructor))
  assert constructor.over_numbers or not constructor.counts
  members = [member for member in vars(Head) if not member.startswith('_')]
  overridden = set(members) & set().union(*(vars(kind) for kind in constructor.__mro__[:-2]))
  assert {'log_prob', 'sample', 'mode'} <= overridden
  assert ('logits' in overridden) == constructor.discrete
