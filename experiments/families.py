"""The families of methods, by the name that a config gives in `family`."""

import contextlib
import dataclasses
import functools
import pathlib
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import autoregressive
import diffusion
from autoregressive.interop import weights
from common import config as configs_lib
from common import config_files, finetuning
from common.baselines import gan, vae
from common.config import (
  Config,
  ConfigError,
  Tables,
  check_setting,
  flatten,
  nearby_settings,
  pick,
  plain_defaults,
)
from common.data.spec import DataSpec
from common.domains.base import ImageTask, SampleFlags
from common.files import Path
from common.finetuning import Weights
from common.method import Method, PyTree
from common.precision import LossScaling
from common.ranges import Setting
from configs.autoregressive import base as autoregressive_base
from configs.classifier import base as classifier_base
from configs.diffusion import base as diffusion_base
from configs.gan import base as gan_base
from configs.vae import base as vae_base
from diffusion import classifier_method as classifier
from diffusion.sampling.tasks import TASKS

# Flags of `sample` and `evaluate` that are not settings of sampling, in any family.
SETTINGS_TOO = {'task', 'length', 'slide', 'stop'}
OTHER_FLAGS = {'weak', 'classifier_from', 'draft', 'seed', 'step', 'out', 'ema'}
OTHER_FLAGS |= {'metrics', 'num_samples', 'sample_sets', 'reference'}
NO_OPTIONS = {f.name for f in dataclasses.fields(SampleFlags)} - SETTINGS_TOO | OTHER_FLAGS


def _as_they_are(config: Mapping, params: PyTree) -> PyTree:
  del config
  return params


# Sections of every family, in addition to its own, whose settings are those of a constructor.
SECTIONS = {'train.loss_scale': LossScaling}


class Family(NamedTuple):
  """A family of methods: how it builds a method, its default config, and its tasks on images.

  Attributes:
    build: (config, spec) -> Method. A family with `draft` also accepts an argument `draft`, and one
      with `guided_by` an argument `classifier`.
    settings: the sections of the family's configs, without the settings in `tables`.
    tables: the constructors whose signatures have the other settings, their defaults and ranges.
    tasks: its tasks on given images, by name.
    with_options: (sampling section, options) -> the section with the options in their places.
    takes_weak: whether a weaker model can guide its samples.
    guided_by: the family whose runs can guide its samples; '': none.
    draft: (config, spec, params) -> a trained model that drafts in speculative decoding; None: not
      supported.
    read_published: reads published weights; None: not supported.
    published_sections: the sections of a config of published weights.
    keep_files: copies what comes with weights from their place to the folder of a run.
    arrange: (config, parameters of the same model) -> layers stacked or apart, as in the config.
    loss_is_quality: whether a lower validation loss is a better model; not so for a game.
  """

  build: Callable[..., Method]
  settings: Mapping[str, Any]
  tables: Tables
  tasks: Mapping[str, ImageTask]
  with_options: Callable[[Mapping, Mapping], dict[str, Any]]
  takes_weak: bool = False
  guided_by: str = ''
  draft: Callable[[Mapping, DataSpec, PyTree], Any] | None = None
  read_published: Callable[[pathlib.Path], Weights] | None = None
  published_sections: Callable[[pathlib.Path], dict[str, Any]] | None = None
  keep_files: Callable[[pathlib.Path, Path], None] | None = None
  arrange: Callable[[Mapping, PyTree], PyTree] = _as_they_are
  loss_is_quality: bool = True


def _published_weights(path: pathlib.Path) -> Weights:
  made = weights.read_published(path)
  return Weights(made.params, made.companions.tokenizer)


def _published_sections(path: pathlib.Path) -> dict[str, Any]:
  return weights.sections(weights.describe(path))


FAMILIES = {
  'diffusion': Family(
    diffusion.build,
    diffusion_base.SETTINGS,
    Tables(diffusion.COMPONENTS, diffusion.SECTIONS | SECTIONS, diffusion.GIVEN),
    {
      name: ImageTask(task.needs, {'task': name}, random=not task.reversible)
      for name, task in TASKS.items()
      if name != 'generate'
    },
    diffusion.with_options,
    takes_weak=True,
    guided_by='classifier',
  ),
  'autoregressive': Family(
    autoregressive.build,
    autoregressive_base.SETTINGS,
    Tables(autoregressive.COMPONENTS, autoregressive.SECTIONS | SECTIONS, autoregressive.GIVEN),
    {'complete': ImageTask(('past', 'mask'), {}, mask='bottom')},
    autoregressive.with_options,
    draft=autoregressive.build_draft,
    read_published=_published_weights,
    published_sections=_published_sections,
    keep_files=weights.keep_files,
    arrange=autoregressive.arrange,
  ),
  'vae': Family(
    vae.build,
    vae_base.SETTINGS,
    Tables(vae.COMPONENTS, vae.SECTIONS | SECTIONS, vae.GIVEN),
    {
      name: ImageTask(('past',), {'task': name}, random=False)
      for name in ('reconstruct', 'interpolate')
    },
    vae.with_options,
  ),
  'gan': Family(
    gan.build,
    gan_base.SETTINGS,
    Tables(gan.COMPONENTS, gan.SECTIONS | SECTIONS, gan.GIVEN),
    {},
    gan.with_options,
    loss_is_quality=False,
  ),
  'classifier': Family(
    classifier.build,
    classifier_base.SETTINGS,
    Tables(classifier.COMPONENTS, classifier.SECTIONS | SECTIONS, classifier.GIVEN),
    {},
    classifier.with_options,
  ),
}


def build(config: Mapping, spec: DataSpec) -> Method:
  """The method of a config, for the data that `spec` describes."""
  return pick(FAMILIES, config['family'], 'family').build(config, spec)


def read_source(config: Mapping) -> Weights:
  """The weights of `finetune.source`. Raises ConfigError for one that cannot be read."""
  family = pick(FAMILIES, config['family'], 'family')
  return finetuning.read_source(finetuning.build_finetune(config), family.read_published)


def initial_params(config: Mapping, spec: DataSpec, params: PyTree, source: Weights) -> PyTree:
  """The parameters at the start of training, those of `finetune.source`.

  Raises:
    ConfigError: for a source that does not fit.
  """
  finetune = finetuning.build_finetune(config)
  source = source._replace(params=stacked(config, source.params))
  return finetuning.initial_params(params, finetune, source, spec.tokenizer)


def keep_files(config: Mapping, workdir: Path) -> None:
  """Copies the files that come with published weights from `finetune.source` to a new run."""
  keep = pick(FAMILIES, config['family'], 'family').keep_files
  if keep is not None and not config['finetune']['fresh']:
    keep(pathlib.Path(config['finetune']['source']).expanduser(), workdir)


def stacked(config: Mapping, params: PyTree) -> PyTree:
  """Parameters with their layers stacked or apart, as the network of a config has them."""
  arrange = pick(FAMILIES, config['family'], 'family').arrange
  return arrange(config, params)


def complete(config: Config, strict: bool = False) -> dict[str, Any]:
  """The config with a value for every setting that it leaves out; see `common.config.complete`.

  Args:
    config: the settings that differ from their defaults.
    strict: whether to refuse unknown settings.

  Raises:
    ConfigError: for an unknown family or component, or an unknown setting of a component.
  """
  family = pick(FAMILIES, config.get('family', ''), 'family')
  return configs_lib.complete(config, family.settings, family.tables, strict)


def defaults(family: str) -> dict[str, Any]:
  """Every setting of a family's configs, with its default."""
  return complete(plain_defaults(pick(FAMILIES, family, 'family').settings))


def declared_settings(config: Config) -> dict[str, Setting]:
  """{dotted name: setting} for all settings of a complete config."""
  family = pick(FAMILIES, config['family'], 'family')
  return configs_lib.declared_settings(config, family.settings, family.tables)


def check_options(config: Config, options: Mapping[str, Any]) -> None:
  """Checks sampler options, which replace settings of a config's `sampling` section.

  Raises:
    ConfigError: for an option that is unknown, of another type than its setting, or out of range.
  """
  family = pick(FAMILIES, config['family'], 'family')
  for name in options.keys() & NO_OPTIONS:
    flag = f'--{name}={options[name]}'
    # A setting may be meant, such as 'steps' by 'step'.
    meant = ''.join(f', or option {key}' for key in config['sampling'] if key.startswith(name))
    raise ConfigError(f'option {name} is a flag of its own: write {flag}{meant}')
  own = config['sampling']
  for other in FAMILIES.keys() - {config['family']}:
    if foreign := options.keys() & defaults(other)['sampling'].keys() - own.keys():
      raise ConfigError(f'option {min(foreign)} is for runs of the {other} family only')
  with naming_options(options):
    changed = dict(config) | {'sampling': family.with_options(own, options)}
    if 'task' in options:
      task = changed['sampling']['task']['name']
      raise ConfigError(f'option task: an edit needs images: twofold sample --task={task}')
    declared = declared_settings(changed)
    for name, value in flatten({'sampling': changed['sampling']}).items():
      if name in declared:
        check_setting(name, value, declared[name])
      elif name not in flatten(config):  # an older run may have settings that are gone
        raise ConfigError(f'there is no setting {name}{nearby_settings(name, changed)}')


@contextlib.contextmanager
def naming_options(options: Mapping[str, Any]) -> Iterator[None]:
  """Errors about settings of `sampling` name the options that set them, as the user wrote them."""
  try:
    yield
  except ConfigError as error:
    text = str(error)
    for name in options:
      # 'steps' is sampling.steps; 'guidance' may be sampling.guidance.weight, and 'rho' a setting
      # of the grid.
      own = rf'(\bsetting )?\bsampling(\.\w+)*?\.{re.escape(name)}\b(\.(weight|name)\b)?'
      text = re.sub(own, f'option {name}', text)
    raise ConfigError(text) from error


def load_config(spec: str, overrides: Mapping[str, Any]) -> dict[str, Any]:
  """The complete config of a file, with settings replaced; see `common.config_files`."""
  return config_files.load_config(spec, overrides, functools.partial(complete, strict=True))


def components(config: Config) -> tuple[str, ...]:
  """The paths in a config at which a `name` chooses a component."""
  return tuple(pick(FAMILIES, config['family'], 'family').tables.components)


def options_help() -> str:
  """The help of --options, with the main options of each family."""
  names = {family: ', '.join(defaults(family)['sampling']) for family in FAMILIES}
  return "Sampler settings that replace the config's: name=value, separated by commas. " + ' '.join(
    f'{family}: {known}.' for family, known in names.items()
  )
