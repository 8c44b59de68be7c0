"""The settings of a sampling program, from a config's section and a request's options."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from common.config import ConfigError, check_setting, component, pick, suggestion
from common.ranges import Setting, settings_of
from diffusion.sampling.driver import SAMPLERS
from diffusion.sampling.grids import GRIDS
from diffusion.sampling.solvers import Sampler
from diffusion.sampling.tasks import Task, build_task

COMPONENTS = {'sampler': SAMPLERS, 'grid': GRIDS}
# The setting that an option replaces if it names only the section, as in guidance=2.0.
MAIN_SETTINGS = {'guidance': 'weight', 'threshold': 'name', 'task': 'name'}


@dataclasses.dataclass(frozen=True)
class GuidanceSettings:
  """How samples are guided; its weight is an input of the program.

  Attributes:
    weighted: whether the null class or a weaker model guides, with a weight other than 1.
    low, high: guide only where low < σ/α <= high; high 0 stands for infinity.
    rescale: share of the contrast that is restored.
    classifier: scale of the guidance by a classifier, or 0.
  """

  weighted: bool
  low: float
  high: float
  rescale: float
  classifier: float

  def __post_init__(self):
    if 0 < self.high <= self.low:
      raise ConfigError(
        f'sampling.guidance.low={self.low:g} must be below sampling.guidance.high={self.high:g}'
      )


@dataclasses.dataclass(frozen=True)
class ThresholdSettings:
  """How clean estimates are clipped: 'none', 'static' or 'dynamic' (see `guidance`)."""

  name: str
  bound: float
  percentile: float


@dataclasses.dataclass(frozen=True)
class SamplerSettings:
  """Everything that a compiled sampling program depends on, besides the model.

  Hashable, and compared by value: equal settings share a program. The weight of the guidance and
  the number of steps within a bucket are not settings but inputs of the program.

  Attributes:
    shape: shape of the samples, [num, *DataSpec.shape].
    levels: number of values of each dimension of the data.
    task: new images, or a kind of edit.
    sampler: takes one step.
    guidance: how samples are guided.
    threshold: how clean estimates are clipped.
    final_denoise: whether one more evaluation returns the clean estimate at the last time.
    grid: the times, if the task needs to know them when it is compiled; else None.
  """

  shape: tuple[int, ...]
  levels: int
  task: Task
  sampler: Sampler
  guidance: GuidanceSettings
  threshold: ThresholdSettings
  final_denoise: bool
  grid: tuple[float, ...] | None


def build_settings(
  section: Mapping,
  shape: tuple[int, ...],
  levels: int,
  weighted: bool,
  times: tuple[float, ...],
  variance: str,
) -> SamplerSettings:
  """The settings of a program.

  Args:
    section: the sampling section of a config, with a request's options in their places.
    shape: shape of the samples, [num, *DataSpec.shape].
    levels: number of values of each dimension of the data.
    weighted: see `GuidanceSettings`.
    times: the grid.
    variance: the variance of the model's reverse steps.

  Raises:
    ConfigError: for unknown names or settings.
    ValueError: for settings out of range.
  """
  # Components are built here, outside the compiled program: a bad setting fails before compilation.
  guidance, threshold, task = section['guidance'], section['threshold'], build_task(section['task'])
  return SamplerSettings(
    shape=shape,
    levels=levels,
    task=task,
    sampler=component(SAMPLERS, section['sampler'], 'sampler').of_model(variance),
    guidance=GuidanceSettings(
      weighted, guidance['low'], guidance['high'], guidance['rescale'], guidance['classifier']
    ),
    threshold=ThresholdSettings(threshold['name'], threshold['bound'], threshold['percentile']),
    final_denoise=section['final_denoise'],
    grid=times if task.fixed_grid else None,
  )


def with_options(sampling: Mapping, options: Mapping[str, Any]) -> dict[str, Any]:
  """The sampling section of a config with options in their places.

  An option is 'steps'; a part of the section ('sampler=heun', 'grid=karras', 'guidance=2.0'); a
  path ('grid.rho'); or a setting that only one part has ('eta', 'rho'). An option that names a
  sampler or grid also resets the settings of that part to the defaults of the new one.

  Raises:
    ConfigError: for an unknown option, with the known ones; for a value of another type than the
      value it replaces.
  """
  result = {k: dict(v) if isinstance(v, Mapping) else v for k, v in sampling.items()}
  # Parts first: a setting of theirs ('rho') belongs to the part that the options name.
  parts = [name for name in options if name in result]
  for name in parts:
    value = options[name]
    if isinstance(value, Mapping):
      result[name] = dict(value) if name in COMPONENTS else result[name] | value
    elif name in COMPONENTS:
      result[name] = {'name': value} | ({'end': result[name]['end']} if name == 'grid' else {})
    elif name in MAIN_SETTINGS:
      _replace(result[name], MAIN_SETTINGS[name], name, value)
    else:
      _replace(result, name, name, value)
  for name in [name for name in options if name not in parts]:
    section, leaf = _find_setting(result, name)
    setting = Setting(result[section].get(leaf))
    if section in COMPONENTS:
      constructor = pick(COMPONENTS[section], result[section]['name'], section)
      setting = settings_of(constructor).get(leaf, setting)
    check_setting(f'option {name}', options[name], setting)
    result[section][leaf] = options[name]
  build_task(result['task'])  # raises for an unknown task
  return result


def _replace(section: dict, leaf: str, option: str, value: Any) -> None:
  check_setting(f'option {option}', value, Setting(section.get(leaf)))
  section[leaf] = value


def _find_setting(sampling: Mapping, name: str) -> tuple[str, str]:
  """The section and the setting that the option `name` stands for."""
  settings = {
    f'{section}.{leaf}'
    for section, part in sampling.items()
    if isinstance(part, Mapping)
    for leaf in set(part) - {'name'}
  }
  # A component that an option has just named has no settings in the section yet.
  for section, table in COMPONENTS.items():
    constructor = pick(table, sampling[section]['name'], section)
    settings |= {f'{section}.{leaf}' for leaf in settings_of(constructor)}
  found = [setting for setting in settings if name in (setting, setting.split('.')[1])]
  if len(found) != 1:
    known = found or settings | set(sampling)
    raise ConfigError(f'unknown sampling option {name!r};{_owners(name)}{suggestion(name, known)}')
  section, leaf = found[0].split('.')
  return section, leaf


def _owners(name: str) -> str:
  """' eta belongs to sampler=ddim;' for a setting of other samplers or grids; '' for no setting."""
  owners = [
    f'{section}={owner}'
    for section, table in COMPONENTS.items()
    for owner, constructor in table.items()
    if name.rpartition('.')[2] in settings_of(constructor)
  ]
  return f' {name} belongs to {" or ".join(owners)};' if owners else ''
