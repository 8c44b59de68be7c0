"""Values of flags, errors and signals of commands."""

import math

import pytest

from experiments import cli


def test_settings_are_literals_or_text():
  assert cli.parse_options(['steps=20', 'sampler=ddim', 'final_denoise=true', 'eta=0.5']) == {
    'steps': 20,
    'sampler': 'ddim',
    'final_denoise': True,
    'eta': 0.5,
  }


@pytest.mark.parametrize(
  ('text', 'options'),
  [
    ('grid=given,times=(3.0, 1.0,0.2),steps=3', {'times': (3.0, 1.0, 0.2), 'steps': 3}),
    ('steps=3,stop=["a,b", "c"]', {'stop': ['a,b', 'c'], 'steps': 3}),
    ("stop=don't,steps=3", {'stop': "don't", 'steps': 3}),  # an apostrophe opens no text
    ('s_tmax=inf,steps=3', {'s_tmax': math.inf, 'steps': 3}),
    ('stop="say, \'no\'",steps=3', {'stop': "say, 'no'", 'steps': 3}),
  ],
)
def test_a_comma_inside_brackets_or_quotes_separates_nothing(text, options):
  found = cli.parse_options(cli.split_items(text))
  assert found | options == found


def test_an_option_is_given_once():
  with pytest.raises(ValueError, match='steps is given twice'):
    cli.parse_options(['steps=3', 'steps=4'])


@pytest.mark.parametrize('item', ['steps', '=3'])
def test_an_item_without_name_and_value_is_refused(item):
  with pytest.raises(ValueError, match='write name=value'):
    cli.parse_options([item])
