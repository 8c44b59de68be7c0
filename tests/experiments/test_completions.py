"""Completions of functions: what is given, and what counts as code."""

import re

import numpy as np
import pytest

from common.data import pipeline
from common.data.builders.text import Document
from experiments.completions.functions import parses, prompts, split

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


def test_the_files_are_split_as_the_data_are(tmp_path):
  texts = {f'{i}.py': f'x = {i}\n' * 40 for i in range(30)}
  for name, text in texts.items():
    (tmp_path / name).write_text(text)
  documents = [Document(name, text) for name, text in texts.items()]
  parts = split(documents)
  assert sum(map(len, parts.values())) == 30 and all(parts.values())
  settings = dict(name='text', tokenizer='bytes', context=80, dir=str(tmp_path / 'data'))
  data = pipeline.load(settings | dict(source=str(tmp_path)))
  tokenizer = data.spec.tokenizer
  rows = data.splits['test'].gather(np.arange(len(data.splits['test'])))['x']
  seen = {int(n) for row in rows for n in re.findall(r'x = (\d+)\n', tokenizer.decode(row))}
  assert seen == {int(one.name[:-3]) for one in parts['test']}


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
