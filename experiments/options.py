"""Sampler options as a flag: --options=steps=20,eta=1.0,sampler=ddim."""

import ast

from absl import flags


def define() -> flags.FlagHolder:
  """The flag; its value is for `parse`."""
  return flags.DEFINE_list(
    'options', [], "Sampler settings that replace the config's: name=value, separated by commas."
  )


def parse(items: list[str]) -> dict:
  """{'steps': 20} from ['steps=20']; a value that is no Python literal is text.

  Raises:
    ValueError: an item without '='.
  """
  options = {}
  for item in items:
    name, equals, text = item.partition('=')
    if not equals or not name:
      raise ValueError(f'--options: {item!r}; write name=value, such as steps=20')
    options[name.strip()] = _value(text.strip())
  return options


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
