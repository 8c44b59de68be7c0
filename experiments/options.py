"""Values of flags: --options=steps=20,eta=1.0,sampler=ddim; --step=best; --label=3."""

import ast

import jax
import jax.numpy as jnp
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
  for item in _whole(items):
    name, equals, text = item.partition('=')
    if not equals or not name:
      raise ValueError(f'--options: {item!r}; write name=value, such as steps=20')
    options[name.strip()] = _value(text.strip())
  return options


def component(items: list[str]) -> dict | None:
  """{'name': 'flow', 'trace': 'exact'} from ['flow', 'trace=exact']; None from nothing.

  Raises:
    ValueError: for settings without a name.
  """
  if not items:
    return None
  if '=' in items[0]:
    raise ValueError(f'--likelihood={",".join(items)}: begin with its name, such as flow')
  return {'name': items[0]} | parse(items[1:])


def widths(items: list[str]) -> list[float]:
  """Widths of averages.

  Raises:
    ValueError: for one that is no number.
  """
  try:
    return [float(item) for item in items]
  except ValueError:
    raise ValueError(f'--ema={",".join(items)}: write widths, such as 0.05,0.1') from None


def _whole(items: list[str]) -> list[str]:
  """Items that were split within brackets, put together again: 'times=(3.0', '1.0)'."""
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


def classes(text: str | None, num: int, spec, labelled: bool = True) -> jax.Array | None:
  """[num] classes: that of `text`, or all in turn; None where the data has none, or none is asked.

  Args:
    text: name or number of a class, 'none', or None: all in turn.
    num: of samples.
    spec: of the data.
    labelled: whether the method can be asked for a class; if not, `None` is no class.

  Raises:
    ValueError: for a class that the data does not have.
  """
  if text is None:
    return jnp.arange(num) % spec.num_classes if spec.num_classes and labelled else None
  if not spec.num_classes:
    raise ValueError(f'--label={text!r}: {spec.name} has no classes')
  names = list(spec.class_names)
  if text in names:
    return jnp.full(num, names.index(text))
  if text.isdecimal() and int(text) < spec.num_classes:
    return jnp.full(num, int(text))
  if text == 'none':
    return None
  raise ValueError(f'--label={text!r} is no class of {spec.name}; known: {", ".join(names)}')
