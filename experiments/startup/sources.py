"""Fine-tuning starts from a model: its network, head and model are those of the new run.

What a config leaves out comes from `finetune.source`. What it states must agree with the source,
because the same parameters in another network would be another model; only settings that suit any
parameters may differ.
"""

import pathlib
from collections.abc import Collection, Mapping
from typing import Any

from common.config import ConfigError, as_tuple, plain_dict
from experiments import families
from experiments.startup.workdir import config_of

SECTIONS = ('ordering', 'network', 'head', 'model')
# Settings that change neither the parameters nor the function that they stand for.
FREE = {
  *(f'network.{name}' for name in ('dropout', 'attention', 'scan', 'remat', 'context')),
  *(f'model.{name}' for name in ('class_dropout', 'chunk')),
}
# With `finetune.fresh`, the new run may also have other parameters: these settings decide which.
OF_PARAMETERS = {
  f'network.{name}'
  for name in ('width', 'layers', 'mlp_width', 'bias', 'qkv_bias', 'qk_norm', 'heads', 'kv_heads')
}
MOST_SHOWN = 5


def with_source(config: Mapping[str, Any], given: Collection[str]) -> dict[str, Any]:
  """A config with the network, head and model of `finetune.source`, if it names one.

  Args:
    config: a complete config.
    given: dotted names of the settings that the user stated.

  Raises:
    ConfigError: for settings that the user stated and that differ from the source.
  """
  config = plain_dict(config)
  source = config.get('finetune', {}).get('source')
  theirs = _sections(config['family'], source) if source else None
  if theirs is None:
    return config
  wrong = {}
  for section in SECTIONS:
    if section not in config or section not in theirs:
      continue
    own = {name: value for name, value in config[section].items() if f'{section}.{name}' in given}
    for name, value in own.items():
      there = theirs[section].get(name)
      if f'{section}.{name}' not in FREE and as_tuple(there) != as_tuple(value):
        wrong[f'{section}.{name}'] = (there, value)
    config[section] = dict(theirs[section]) | own
  if config['finetune']['fresh']:
    wrong = {k: v for k, v in wrong.items() if k.startswith('network.') and k not in OF_PARAMETERS}
  if wrong:
    raise ConfigError(_message(source, wrong))
  return config


def _sections(family: str, source: str) -> Mapping[str, Any] | None:
  """The sections of the source; None if it cannot be read, which the start of the run reports."""
  path = pathlib.Path(source).expanduser()
  if (path / 'checkpoints').is_dir():
    theirs = config_of(path)
    return theirs if theirs['family'] == family else None
  read = families.FAMILIES[family].published_sections
  return read(path) if read is not None and path.exists() else None


def _message(source: str, wrong: Mapping[str, tuple[Any, Any]]) -> str:
  shown = [f'{key}: there {there!r}, here {here!r}' for key, (there, here) in wrong.items()]
  if len(shown) > MOST_SHOWN:
    shown[MOST_SHOWN:] = [f'{len(shown) - MOST_SHOWN} more']
  return (
    f'finetune.source={source} is another model ({"; ".join(shown)}); leave these settings out, so '
    'that they come from the source'
  )
