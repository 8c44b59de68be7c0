"""Completions of functions: what is given, and what counts as code."""

import pytest

from common.data.builders.text import Document
from experiments.completions.functions import parses, prompts

CODE = '''import os

def f(x, *, y=2):
  """One line."""
  return x + y

def g(x):
  """Several

  lines."""
  if x:
    return 1

def without(x):
  return x

def h(x):
  """Ends
      deeper."""
  return x
'''
GIVEN = 'def f(x, *, y=2):\n  """One line."""'


def test_functions_are_given_with_their_docstrings():
  found = prompts([Document('a.py', CODE), Document('b.py', 'def broken(:')], 10)
  assert [prompt.name for prompt in found] == ['f in a.py', 'g in a.py']
  assert found[0].given == GIVEN and found[1].given.endswith('  lines."""')
  assert len(prompts([Document('a.py', CODE)], 1)) == 1


@pytest.mark.parametrize(
  ('completion', 'expected'),
  [
    ('  return x\n', True),
    ('  if x:\n    return 1\n\n  return 2\n', True),
    ('', False),
    ('  # nothing\n', False),
    ('  return (x\n', False),
    ('  return x\nz = 3\n', False),
    ('   return x\n', False),
  ],
)
def test_code_parses_together_with_what_is_given(completion, expected):
  assert parses(GIVEN, f'\n{completion}') == expected
