"""A resolved config, one setting to a line, each with its meaning."""

from collections.abc import Mapping
from typing import Any

from common.config import Config, differences, flatten
from common.ranges import Setting
from configs import base
from configs.autoregressive import base as autoregressive_base
from configs.classifier import base as classifier_base
from configs.diffusion import base as diffusion_base
from configs.gan import base as gan_base
from configs.vae import base as vae_base
from experiments import families
from experiments.list.describe import comments, describe, explain

BASES = {
  'diffusion': diffusion_base,
  'autoregressive': autoregressive_base,
  'gan': gan_base,
  'vae': vae_base,
  'classifier': classifier_base,
}

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
  family, found = families.FAMILIES[config['family']], {}
  declared = families.declared_settings(config)
  own = {path: text for path, text in comments(BASES[config['family']]).items() if text}
  for path, comment in (comments(base) | own).items():
    setting = declared.get(path, Setting(None))
    found.setdefault(path, explain(path, setting, comment).meaning)
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
