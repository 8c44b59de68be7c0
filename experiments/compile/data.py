"""The description of the data that a config trains on, without preparing them."""

from collections.abc import Mapping
from typing import Any

from common.config import ConfigError, pick, suggestion
from common.data import pipeline
from common.data.builders import BUILDERS
from common.data.builders.images import ImageBuilder
from common.data.builders.text import TextBuilder
from common.data.spec import DataSpec
from experiments.startup import datasets

NEEDED = ('shape', 'levels', 'num_classes')
# Only the lengths of schedules depend on it.
ASSUMED_EXAMPLES = 1_000_000
GIVEN = (*NEEDED, 'num_train')
EXAMPLE = 'shape=(32,32,4),levels=0,num_classes=1000'


def spec_of(settings: Mapping[str, Any], given: Mapping[str, Any]) -> DataSpec:
  """The `DataSpec` of a `data` section.

  What is given replaces what the settings decide. Otherwise it is that of the prepared dataset.

  Args:
    settings: the `data` section of a config.
    given: attributes of the spec: shape, levels, num_classes, num_train.

  Raises:
    ConfigError: for an attribute that is unknown or has an invalid value, or one that only the
      data can tell.
  """
  builder = pick(BUILDERS, settings['name'], 'data.name')
  _check(given)
  if settings.get('first_stage') and given:
    if missing := [name for name in NEEDED if name not in given]:
      raise ConfigError(
        f'--spec describes the latents of data.first_stage, and lacks {" and ".join(missing)}: '
        f'write {EXAMPLE}, or leave --spec out to read the first stage'
      )
  elif settings.get('first_stage'):
    return datasets.load(settings).spec
  found = None if given else _prepared_spec(settings)
  if found is not None:
    return found
  known = {'num_train': ASSUMED_EXAMPLES} | builder.expected(settings) | dict(given)
  # The windows of series and music depend on the data.
  if not (issubclass(builder, ImageBuilder | TextBuilder) or builder.expected(settings)):
    raise ConfigError(
      f'{builder.name} is not prepared, and its windows depend on the data: prepare it first, with '
      f'twofold prepare_data --dataset={builder.name}'
    )
  if missing := [name for name in NEEDED if name not in known]:
    raise ConfigError(
      f'{builder.name} is not prepared, so its {" and ".join(missing)} must be given, such as '
      f'--spec={EXAMPLE} (levels: values are integers below it; 0: floats); or prepare the data'
    )
  return DataSpec(builder.name, builder.domain, **known)


def _prepared_spec(settings: Mapping[str, Any]) -> DataSpec | None:
  try:
    return pipeline.prepared_spec(settings)
  except ConfigError:
    if settings.get('source'):
      raise
    return None  # the user's own files, and none are named


def _check(given: Mapping[str, Any]) -> None:
  for name, value in given.items():
    if name not in GIVEN:
      raise ConfigError(f'--spec: unknown attribute {name!r};{suggestion(name, GIVEN)}')
    sizes = value if name == 'shape' else (value,)
    least = 1 if name in ('shape', 'num_train') else 0
    if not isinstance(sizes, tuple) or not sizes or not all(_is_size(s, least) for s in sizes):
      wanted = 'a tuple of sizes, such as (32,32,4)' if name == 'shape' else f'at least {least}'
      raise ConfigError(f'--spec: {name} must be {wanted}, got {value!r}')


def _is_size(value: Any, least: int) -> bool:
  return isinstance(value, int) and not isinstance(value, bool) and value >= least
