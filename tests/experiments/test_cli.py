"""Values of flags."""

import pytest

from experiments import cli


def test_settings_are_literals_or_text():
  assert cli.parse_options(['steps=20', 'sampler=ddim', 'final_denoise=true', 'eta=0.5']) == {
    'steps': 20,
    'sampler': 'ddim',
    'final_denoise': True,
    'eta': 0.5,
  }


def test_a_tuple_keeps_its_commas():
  """The flag parser splits at commas; `parse_options` joins the parts inside brackets."""
  items = ['grid=given', 'times=(3.0', '1.0', '0.2)', 'steps=3']
  assert cli.parse_options(items) == {'grid': 'given', 'times': (3.0, 1.0, 0.2), 'steps': 3}


@pytest.mark.parametrize('item', ['steps', '=3'])
def test_an_item_without_name_and_value_is_refused(item):
  with pytest.raises(ValueError, match='write name=value'):
    cli.parse_options([item])
