"""Everything that a flag can name, by kind, read from the tables that the code itself uses."""

import functools
import types
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import experiments
from common import config_files
from common.attention import IMPLEMENTATIONS
from common.config import flatten
from common.data.builders import BUILDERS
from common.data.tokenizers import TOKENIZERS
from common.domains import DOMAINS
from common.domains.masks import HIDDEN
from common.evaluation.images.features import EXTRACTORS
from common.evaluation.metrics import METRICS
from common.ranges import Setting
from common.studies.plans import Study
from common.training.optimizers import LR_SCHEDULES, OPTIMIZERS
from configs import base
from diffusion.model import NOISE_CONDITIONINGS
from diffusion.predictions import TARGETS
from diffusion.sampling.program import THRESHOLDS
from diffusion.sampling.tasks import TASKS
from experiments import families
from experiments.benchmarks import SUITES
from experiments.list.describe import Entry, comments, describe, explain, first_line
from experiments.list.show import BASES

TOP, ABOUT_TOP = 'top level', 'settings outside all sections'


# Tasks without a class of their own: (name, what it does, settings, family).
OTHER_TASKS = (
  ('complete', 'Generates the rest of an image, in the order of the model.', (), 'autoregressive'),
  ('reconstruct', 'Encodes the given images and decodes the means of their posterior.', (), 'vae'),
  ('interpolate', 'Images between the first given one and the last: a line of latents.', (), 'vae'),
)


class Kind(NamedTuple):
  """A kind of thing that a flag can name.

  Attributes:
    about: what these things are.
    flag: the flags that name one; empty if none does.
    read: returns the entries, in the order of their table.
  """

  about: str
  flag: str
  read: Callable[[], list[Entry]]


def _table(table: Mapping[str, Any]) -> list[Entry]:
  return [describe(name, thing) for name, thing in table.items()]


def _components(path: str) -> list[Entry]:
  """The constructors that a config can name at a path, each with the first family that has it."""
  found = {}
  for family_name, family in families.FAMILIES.items():
    for name, thing in family.tables.components.get(path, {}).items():
      entry = describe(name, thing, family.tables.given.get(path, ()), family_name)
      found.setdefault((name, thing), entry)
  return list(found.values())


def _metrics() -> list[Entry]:
  return [
    Entry(name, metric.about) if metric.about else describe(name, metric.measure)
    for name, metric in METRICS.items()
  ]


def _tasks() -> list[Entry]:
  # Without --task, samples are generated: it is the only task that is given nothing.
  given = {name: task for name, task in TASKS.items() if name != 'generate'}
  ours = [describe(name, task, family='diffusion') for name, task in given.items()]
  return [*ours, *(Entry(*task) for task in OTHER_TASKS)]


def _sections() -> list[Entry]:
  """The sections of configs whose settings have their defaults in a base config."""
  entries = _sections_of(base, '')
  entries += [describe(path, thing) for path, thing in families.SECTIONS.items()]
  shared = {entry.name for entry in entries} - {TOP}
  for name, family in families.FAMILIES.items():
    entries += [entry for entry in _sections_of(BASES[name], name) if entry.name not in shared]
    for path, thing in family.tables.sections.items():
      if path not in families.SECTIONS:
        entries.append(describe(path, thing, family.tables.given.get(path, ()), name))
  return entries


def _sections_of(module: types.ModuleType, family: str) -> list[Entry]:
  """The sections of a base config, with the comments in its source."""
  declared, meant, found = flatten(module.SETTINGS), comments(module), {}
  declared |= {'optimizer.groups': {}}  # empty, so that it has no leaves
  inherited = set() if module is base else set(flatten(base.SETTINGS))
  for path in (path for path in meant if path in declared.keys() - inherited):
    section, _, key = path.rpartition('.')
    value = declared[path]
    setting = value if isinstance(value, Setting) else Setting(value)
    found.setdefault(section, []).append(explain(key, setting, meant[path]))
  return [
    Entry(section or TOP, meant.get(section, ABOUT_TOP), tuple(settings), family)
    for section, settings in found.items()
  ]


def _configs() -> list[Entry]:
  return [
    Entry(file, first_line(config_files.load_module(file).__doc__))
    for file in config_files.shipped_files('get_config')
  ]


@functools.cache  # reads every config
def _variants() -> list[Entry]:
  return [
    _variant(f'{file}:{variant}')
    for file in config_files.shipped_files('get_config')
    for variant in config_files.load_module(file).VARIANTS
  ]


def _variant(spec: str) -> Entry:
  """A variant, described by its dataset, its components and its length."""
  config = families.load_config(spec, {})
  paths = ('process', 'ordering', 'network', 'head', 'generator', 'discriminator')
  names = [config[path]['name'] for path in paths if path in config]
  steps = config['train']['steps']  # '2000', or with a unit: '200 Mimg'
  length = f'{steps} steps' if steps.isdecimal() else steps
  line = f'{config["data"]["name"]}: {", ".join(names)}; {length}'
  return Entry(spec, line)


@functools.cache  # builds every study
def _studies() -> list[Entry]:
  entries = []
  for file in config_files.shipped_files('get_study'):
    for scale in config_files.load_module(file).SCALES:
      study = config_files.call(f'{file}:{scale}', 'get_study', Study)
      size = f'{len(study.rows)} rows, {len(study.metrics)} metrics, {len(study.claims)} claims'
      entries.append(Entry(f'{file}:{scale}', f'{study.title} ({size})'))
  return entries


def _commands() -> list[Entry]:
  return [Entry(name, line) for name, line in experiments.command_lines().items()]


def _components_at(path: str) -> Callable[[], list[Entry]]:
  return functools.partial(_components, path)


def _of(table: Mapping[str, Any]) -> Callable[[], list[Entry]]:
  return functools.partial(_table, table)


KINDS = {
  'commands': Kind('What you can do', 'twofold COMMAND', _commands),
  'configs': Kind('Files of experiments', '--config=FILE', _configs),
  'variants': Kind('Experiments: a config file and a variant', '--config=', _variants),
  'studies': Kind('Tables that are trained, measured and judged', '--study=', _studies),
  'datasets': Kind(
    'Data to train on',
    '--config.data.name=, prepare_data --dataset=, evaluate --on=',
    _of(BUILDERS),
  ),
  'domains': Kind('Kinds of data, each with its own samples, files and metrics', '', _of(DOMAINS)),
  'tokenizers': Kind('How a text becomes tokens', '--config.data.tokenizer=', _of(TOKENIZERS)),
  'networks': Kind(
    'Networks',
    '--config.network.name=, --config.classifier.network.name=',
    _components_at('network'),
  ),
  'generators': Kind(
    'Generators of a GAN', '--config.generator.name=', _components_at('generator')
  ),
  'discriminators': Kind(
    'Discriminators of a GAN', '--config.discriminator.name=', _components_at('discriminator')
  ),
  'losses': Kind(
    'Losses of the two players of a GAN',
    '--config.objective.loss.name=',
    _components_at('objective.loss'),
  ),
  'latents': Kind('Latents of an autoencoder', '--config.latent.name=', _components_at('latent')),
  'pixels': Kind(
    "Distributions of pixels around a decoder's output",
    '--config.pixels.name=',
    _components_at('pixels'),
  ),
  'processes': Kind('Ways from data to noise', '--config.process.name=', _components_at('process')),
  'targets': Kind('What the network predicts', '--config.prediction.target=', _of(TARGETS)),
  'noise': Kind(
    'How the network is told the noise level',
    '--config.prediction.noise=',
    _of(NOISE_CONDITIONINGS),
  ),
  'weightings': Kind(
    'Weights of the squared error in x0, by noise level',
    '--config.objective.weighting.name=',
    _components_at('objective.weighting'),
  ),
  'times': Kind(
    'Distributions of the times trained on',
    '--config.objective.times.name=',
    _components_at('objective.times'),
  ),
  'samplers': Kind(
    'Ways from noise to data',
    '--config.sampling.sampler.name=, --options=sampler=',
    _components_at('sampling.sampler'),
  ),
  'grids': Kind(
    'Times at which a sampler stops',
    '--config.sampling.grid.name=, --options=grid=',
    _components_at('sampling.grid'),
  ),
  'thresholds': Kind(
    'How clean estimates are clipped',
    '--config.sampling.threshold.name=, --options=threshold=',
    _of(THRESHOLDS),
  ),
  'tasks': Kind('What is done with given images', 'sample --task=', _tasks),
  'masks': Kind('Which pixels a task fills in', 'sample --mask=', _of(HIDDEN)),
  'likelihoods': Kind(
    'Estimators of the likelihood of diffusion',
    '--config.likelihood.name=, evaluate --likelihood=',
    _components_at('likelihood'),
  ),
  'orderings': Kind(
    'How data becomes a sequence', '--config.ordering.name=', _components_at('ordering')
  ),
  'heads': Kind(
    'Distributions of the next emission', '--config.head.name=', _components_at('head')
  ),
  'optimizers': Kind('Optimisers', '--config.optimizer.name=', _of(OPTIMIZERS)),
  'schedules': Kind(
    'Learning rates after the warm-up', '--config.optimizer.schedule=', _of(LR_SCHEDULES)
  ),
  'attention': Kind(
    'Implementations of attention', '--config.network.attention=', _of(IMPLEMENTATIONS)
  ),
  'metrics': Kind('What can be measured', 'evaluate --metrics=', _metrics),
  'extractors': Kind(
    'Features for the Fréchet distance', '--config.evaluation.extractor=', _of(EXTRACTORS)
  ),
  'suites': Kind('Races against other libraries', 'benchmark --suite=', _of(SUITES)),
  'settings': Kind('Sections of a config', '--config.SECTION.SETTING=', _sections),
}
