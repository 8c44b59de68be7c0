"""A resolved config, one setting to a line, each with its meaning."""

from collections.abc import Mapping
from typing import Any

from common.config import Config, differences, flatten
from configs import base
from experiments import families
from experiments.list.describe import comments, describe

WIDTH = 44  # of 'name = value', before the comment


def show(config: Config) -> str:
  """Every setting of a complete config with its meaning; '*' marks those that are not the default.

  The sections have the order of the base configs.
  """
  family = config['family']
  changed, explained = differences(config, families.defaults(family)), explanations(config)
  order = {path: number for number, path in enumerate(explained)}
  values = sorted(flatten(config).items(), key=lambda item: order.get(item[0], len(order)))
  lines = [f'# * is not the default of the family {family!r}']
  for path, value in values:
    text = f'{"*" if path in changed else " "} {path} = {value!r}'
    notes = [explained.get(path, '')]
    if path in changed and changed[path][0] is not None:
      notes.append(f'default: {changed[path][0]!r}')
    note = '; '.join(filter(None, notes))
    lines.append(f'{text:<{WIDTH}}  # {note}' if note else text)
  return '\n'.join(lines)


def explanations(config: Config) -> dict[str, str]:
  """{dotted path: meaning} of the sections and settings of a complete config, in order."""
  family = families.FAMILIES[config['family']]
  found = {}
  for path, comment in (comments(base.get_base) | comments(family.base)).items():
    found.setdefault(path, comment)
    if path in family.tables.components:
      name = _at(config, path)['name']
      entry = describe(name, family.tables.components[path][name])
      found[f'{path}.name'] = entry.line.removesuffix('.')
    elif path in family.tables.sections:
      entry = describe(path, family.tables.sections[path])
    else:
      continue
    found |= {f'{path}.{setting.name}': setting.meaning for setting in entry.settings}
  return found


def _at(config: Mapping, path: str) -> Mapping[str, Any]:
  for part in path.split('.'):
    config = config[part]
  return config
