"""Values of flags: --options=steps=20,eta=1.0,sampler=ddim; --step=best."""

import ast

from absl import flags


def define() -> flags.FlagHolder:
  """The flag; its value is for `parse`."""
  return flags.DEFINE_list(
    'options', [], "Sampler settings that replace the config's: name=value, separated by commas."
  )


def parse(items: list[str]) -> dict:
  """{'steps': 20} from ['steps=20']; a value that is not a Python literal stays text.

  Raises:
    ValueError: for an item without '='.
  """
  options = {}
  for item in _whole(items):
    name, equals, text = item.partition('=')
    if not equals or not name:
      raise ValueError(f'--options={item!r}: write name=value, such as steps=20')
    options[name.strip()] = _value(text.strip())
  return options


def component(items: list[str]) -> dict | None:
  """{'name': 'flow', 'trace': 'exact'} from ['flow', 'trace=exact']; None from an empty list.

  Raises:
    ValueError: for settings without a name.
  """
  if not items:
    return None
  if '=' in items[0]:
    raise ValueError(
      f'--likelihood={",".join(items)}: write the name first, such as flow,trace=exact'
    )
  return {'name': items[0]} | parse(items[1:])


def widths(items: list[str]) -> list[float]:
  """Widths of averages of the parameters.

  Raises:
    ValueError: for a width that is not a number.
  """
  try:
    return [float(item) for item in items]
  except ValueError:
    raise ValueError(f'--ema={",".join(items)}: write widths, such as 0.05,0.1') from None


def _whole(items: list[str]) -> list[str]:
  """Joins items that the flag parser split within brackets: 'times=(3.0', '1.0)'."""
  whole: list[str] = []
  for item in items:
    if whole and whole[-1].count('(') > whole[-1].count(')'):
      whole[-1] += f',{item}'
    else:
      whole.append(item)
  return whole


def _value(text: str):
  if text.lower() in ('true', 'false'):
    return text.lower() == 'true'
  try:
    return ast.literal_eval(text)
  except (ValueError, SyntaxError):
    return text


def step(text: str) -> str | int:
  """A checkpoint: 'last', 'best' or a number."""
  if text in ('last', 'best'):
    return text
  if text.isdecimal():
    return int(text)
  raise ValueError(f"--step={text!r}: write 'last', 'best' or a number")
