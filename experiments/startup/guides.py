"""A classifier of another run, which guides the samples of a diffusion model."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from absl import logging

from common.config import Config, ConfigError
from common.data.spec import DataSpec
from common.files import Path, to_path
from common.method import PyTree
from diffusion.classifier import Classifier
from experiments import families, runs
from experiments.startup.workdir import config_of

FLAG = '--classifier_from'
HELP = (
  'WORKDIR[@STEP] of a run of the family classifier, on the same data and process, that guides '
  'samples with --options=classifier=SCALE.'
)


class Guide(NamedTuple):
  """A trained classifier.

  Attributes:
    classifier: the network and what it is given.
    params: its parameters.
    name: 'WORKDIR@STEP', with the number of the step.
  """

  classifier: Classifier
  params: PyTree
  name: str


def check(config: Config, text: str, options: Mapping[str, Any]) -> tuple[Path, str | int]:
  """The folder and the step of a classifier; checks what needs no data.

  Args:
    config: that of the model.
    text: 'WORKDIR' or 'WORKDIR@STEP'.
    options: sampler options, which must name a scale.

  Raises:
    ConfigError: the folder holds no run, the families do not go together, or there is no scale.
  """
  name, by = config['family'], families.FAMILIES[config['family']].guided_by
  if not by:
    raise ConfigError(f'{FLAG}: the {name} family has no guidance by a classifier')
  folder, _, step = text.partition('@')
  workdir = to_path(folder)
  other = config_of(workdir)['family']
  if other != by:
    raise ConfigError(f'{FLAG}={text}: must be a run of the family {by}, got one of {other}')
  # A scale of 0 that the user asks for is the comparison without guidance.
  guidance = families.FAMILIES[name].with_options(config['sampling'], options)['guidance']
  if not (guidance['classifier'] or {'classifier', 'guidance.classifier'} & options.keys()):
    raise ConfigError(f'{FLAG} has no effect without a scale, such as --options=classifier=1.0')
  return workdir, runs.parse_step(step or 'last', f'{FLAG}={text}')


def load(run: runs.Run, text: str, options: Mapping[str, Any]) -> Guide:
  """The classifier of another run.

  Args:
    run: the model, which needs no parameters yet.
    text, options: see `check`.

  Raises:
    ConfigError: see `check`; or the classifier has other data or another process than the model.
    CheckpointError: the checkpoint does not exist, or it is damaged.
  """
  workdir, step = check(run.config, text, options)
  other = runs.open_run(workdir)
  if kind(run) != kind(other):
    named = map(described, (run.data.spec, other.data.spec))
    raise ConfigError(
      f'{FLAG}={text}: the classifier must know the data and classes of the model, got'
      f' {" and ".join(named)}: train it on the data of the model'
    )
  process, found = run.method.model.process, other.method.process
  if process != found:
    raise ConfigError(
      f'{FLAG}={text}: the classifier must be trained with the process of the model, {process}, got'
      f' {found}'
    )
  # Its parameters lie on the devices as those of the model do.
  other = other._replace(config=other.config | {'parallel': run.config['parallel']})
  other = runs.with_params(other, workdir, step)
  logging.info('classifier for guidance: step %d of %s', other.step, workdir)
  name = f'{workdir}@{other.step}'
  return Guide(other.method.classifier, other.params['network'], name)


def kind(run: runs.Run) -> tuple:
  """The properties of data that a model shares with a classifier of its samples."""
  spec = run.data.spec
  return spec.name, runs.data_format(spec), spec.class_names, spec.latents


def described(spec: DataSpec) -> str:
  """'digits (8, 8, 1) with 10 classes'."""
  return f'{spec.name} {spec.shape} with {spec.num_classes} classes'


def guided(run: runs.Run, guide: Guide) -> runs.Run:
  """The run with a classifier that can guide its samples, with its parameters if it has any."""
  build = families.FAMILIES[run.config['family']].build
  method = build(run.config, run.data.spec, classifier=guide.classifier)
  params = run.params and run.params | {'classifier': guide.params}
  return run._replace(method=method, params=params)
