"""A run is a folder: its config, checkpoints, metrics, samples and evaluations."""

import contextlib
import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from absl import logging

from common.checkpoints.checkpoints import Restored
from common.config import Config, ConfigError, check_setting, flatten
from common.data import pipeline, tokenizers
from common.data.builders.text import read_text
from common.data.sources import given_examples
from common.data.spec import DataSpec
from common.devices.limits import out_of_memory
from common.domains import domain_of
from common.domains.base import SampleFlags, SampleSettings, TrainedModel
from common.evaluation.evaluate import Member, evaluate, evaluate_ensemble
from common.evaluation.likelihood import BitsPerDim, bits_per_dim
from common.evaluation.measures import Evaluation
from common.evaluation.texts import windows
from common.files import Path, atomic_write, to_path
from common.finetuning import open_checkpoints
from common.method import Method, PyTree
from common.training import loop
from common.training.parallel import make_mesh, mesh_for_reading
from common.training.program import TrainProgram, build_program
from common.training.sharding import abstract_params
from common.training.snapshots import Snapshots
from common.training.state import EVALUATION_STREAM, stream_key
from experiments import families
from experiments.startup import checks, contexts, datasets, finetune, sources, summary
from experiments.startup import workdir as folders

FLAG_NAMES = frozenset(field.name for field in dataclasses.fields(SampleFlags))


class Run(NamedTuple):
  """A trained model, read back from its folder.

  Attributes:
    config: the config of the run.
    data: the data of the run.
    method: the method of the run.
    params: the moving average of its parameters.
    step: the step of the checkpoint with these parameters.
    about: a line that says which step it is, and which is best.
  """

  config: dict[str, Any]
  data: pipeline.Data
  method: Method
  params: PyTree
  step: int
  about: str = ''

  @property
  def trained(self) -> TrainedModel:
    """The model as the domain of its data samples from it."""
    family = self.config['family']
    tasks = families.FAMILIES[family].tasks
    return TrainedModel(self.method, self.params, self.data, self.step, family, tasks)

  def sample(self, seed: int = 0, **settings: Any) -> Any:
    """Draws the samples that `twofold sample` draws with the same flags, options and seed.

    Args:
      seed: determines all random numbers.
      **settings: flags of `twofold sample` that depend on the data (`num`, `label`, `prompt`, ...),
        and sampler options (`steps`, `temperature`, ...).

    Returns:
      For images and music an array of raw values [num, ...]; for text a list of texts; for time
      series `common.domains.forecasts.draws.Forecasts`.

    Raises:
      ValueError: for a setting that is unknown, does not apply to the data, or is out of its range.
    """
    given = {name: settings.pop(name) for name in list(settings) if name in FLAG_NAMES}
    if given.get('label') is not None:
      given['label'] = str(given['label'])
    request = SampleSettings(SampleFlags(**given), seed, settings)
    domain = domain_of(self.data.spec)
    self._check_options(settings)
    with families.naming_options(settings):
      domain.check(self.trained, request, None)
    with self.sampling_memory():
      return domain.draw(self.trained, request)

  def sampling_memory(self) -> contextlib.AbstractContextManager[None]:
    """Says which flags to lower if sampling exhausts the memory of the device."""
    known = domain_of(self.data.spec).flags
    lower = ' or '.join(f'--{name}' for name in ('num', 'draws', 'length') if name in known)
    return out_of_memory('sampling', f'lower {lower}')

  def evaluate(
    self,
    metrics: Sequence[str] | None = None,
    num_samples: int | None = None,
    members: Sequence['Run'] = (),
    **options: Any,
  ) -> Evaluation:
    """Measures the model as `twofold evaluate` does, with the seed of the run's config.

    Args:
      metrics: names of metrics; None for all.
      num_samples: number of samples; None: the config's.
      members: other runs, of which and this one the forecasts are pooled (time series).
      **options: sampler settings that replace those of the config.

    Raises:
      ValueError: for a metric or option that is unknown, or an option out of its range.
    """
    self._check_options(options)
    settings = dict(self.config['evaluation'])
    if num_samples is not None:
      declared = families.declared_settings(self.config)['evaluation.num_samples']
      check_setting('num_samples', num_samples, declared)
      settings['num_samples'] = num_samples
    key = stream_key(self.config['seed'], EVALUATION_STREAM)
    # Of a finished run, the training command only changes the settings.
    lower = f'lower evaluation.batch_size (now {settings["batch_size"]})'
    with out_of_memory('evaluating', f'{lower} by the training command'):
      if members:
        pool = [Member(run.method, run.params, run.data) for run in (self, *members)]
        return evaluate_ensemble(pool, settings, key, metrics, options)
      method, data = contexts.at_context(self.config, self.method, self.data, self.params)
      return evaluate(method, self.params, data, settings, key, metrics, options)

  def bits_per_dim(self, x: np.ndarray, label: np.ndarray | None = None) -> BitsPerDim:
    """Negative log-likelihood of given examples, in bits per dimension.

    Args:
      x: examples as in the data [num, *shape], in the values of the data.
      label: their classes [num], if the data have classes.

    Raises:
      ValueError: the method has no likelihood, or the examples are not like those of the data.
    """
    spec, size = self.data.spec, self.config['evaluation']['batch_size']
    if not self.method.has_likelihood:
      raise ValueError('bits_per_dim needs a method with a likelihood, and this one has none')
    batches = pipeline.evaluation_batches(given_examples(spec, x, label), size)
    key = stream_key(self.config['seed'], EVALUATION_STREAM)
    return bits_per_dim(self.method, self.params, batches, spec.num_dims, key)

  def _check_options(self, options: Mapping) -> None:
    # A weaker model for guidance is no setting of the config.
    families.check_options(self.config, {k: v for k, v in options.items() if k != 'weak'})


# Training.


def train(
  config: Config,
  workdir: str | os.PathLike,
  *,
  fresh: bool = False,
  extend: bool = False,
  stop: Callable[[], bool] = loop.never_stop,
) -> bool:
  """Trains a config in a folder, or resumes the run there; returns whether it is finished.

  Args:
    config: a complete config.
    workdir: the folder of the run.
    fresh: whether to rename an existing run in the folder, and to start a new one.
    extend: whether the run in the folder may get another number of steps.
    stop: called after every compiled call; if it returns True, the run saves and returns.

  Raises:
    ConfigError: the config cannot be run to its end; the folder holds a run of another config; or
      another process trains in it.
  """
  path, config = folders.check_path(workdir), families.complete(config, strict=True)
  config = sources.with_source(config, flatten(config).keys())
  started = folders.is_started(path)
  if extend and not (path / 'config.json').exists() and not started:
    raise ConfigError(f'--extend: {path} holds no run; remove the flag to start one')
  # Everything that may reject the config comes before the first write.
  with folders.starting():
    data = datasets.load(folders.data_section(config, path))
    method = families.build(config, data.spec)
    program = build_program(config, method, data.spec, make_mesh(config['parallel']))
    checks.check(config, method, data, program)
  folders.check_processes(path, config, data, {'--fresh': fresh, '--extend': extend})
  initial_state = None
  if config['finetune']['source'] and (fresh or not started):
    initial_state = finetune.initial_state(config, data, program)
  # After all checks, so that a rejected config leaves no folder behind.
  if fresh:
    folders.move_aside(path)
  with folders.locked(path):
    with folders.starting():
      if jax.process_index() == 0:
        folders.reserve(path, config, data, program.schedule.total if extend else None)
        if data.spec.tokenizer is not None:
          atomic_write(path / 'tokenizer.json', tokenizers.to_json(data.spec.tokenizer))
    if extend:
      _say_what_extending_means(path, program)
    if initial_state is not None:
      finetune.save_initial_state(config, method, data, program, initial_state, path)
    for line in summary.opening(config, data.spec, program):
      logging.info('%s', line)
    return loop.train(config, method, data, program, path, stop)


def _say_what_extending_means(workdir: Path, program: TrainProgram) -> None:
  """Logs how the schedule of a longer run continues that of the shorter one in the folder."""
  done, total = folders.last_step(workdir), program.schedule.total
  logging.info(
    'extending the run from step %d to %d: durations in %% and the schedule of the learning rate '
    'now refer to %d steps, so the learning rate continues at %.3g. A run of %d steps from the '
    'start would have followed this schedule from its first step, and have other parameters',
    *(done, total, total, float(program.lr_schedule(done)), total),
  )


# Reading a trained model back.


def load(
  workdir: str | os.PathLike,
  step: str | int = 'last',
  likelihood: Mapping[str, Any] | None = None,
) -> Run:
  """Reads a trained model back.

  Args:
    workdir: the folder of the run.
    step: 'last', 'best' or a number.
    likelihood: a component that replaces the `likelihood` section of the config.

  Raises:
    ConfigError: the folder holds no run, or its family has only one likelihood.
    CheckpointError: the checkpoint does not exist, or it is damaged.
  """
  return with_params(open_run(workdir, likelihood), workdir, step)


def open_run(workdir: str | os.PathLike, likelihood: Mapping[str, Any] | None = None) -> Run:
  """A run without its parameters, which are None: enough to check a request; see `load`."""
  workdir = to_path(workdir)
  config = folders.config_of(workdir)
  if likelihood is not None:
    if 'likelihood' not in config:
      raise ConfigError(
        f'--likelihood: the {config["family"]} family has only an exact one; remove the flag'
      )
    config['likelihood'] = dict(likelihood)
  config['data'] = folders.data_section(config, workdir)
  data = datasets.load(config['data'])
  datasets.check_first_stage(workdir, data, datasets.remembered(workdir))
  return Run(config, data, families.build(config, data.spec), params=None, step=0)


def with_params(run: Run, workdir: str | os.PathLike, step: str | int) -> Run:
  """The run with the parameters of a checkpoint; see `load`."""
  workdir = to_path(workdir)
  restored = _restore(workdir, run.config, _param_shapes(run), step)
  return run._replace(params=restored.state['ema'], step=restored.step, about=restored.about)


def _param_shapes(run: Run) -> PyTree:
  """Shapes and types of the parameters, on all devices of this machine."""
  mesh = mesh_for_reading(run.config['parallel'])
  return abstract_params(run.method, run.data.spec, mesh)


def _restore(workdir: Path, config: Mapping, shapes: PyTree, step: str | int) -> Restored:
  """Restores only the averaged parameters: the optimiser's state would take twice their memory."""
  with open_checkpoints(config, workdir, read_only=True) as checkpoints:
    return checkpoints.restore({'ema': shapes}, step, partial=True)


def load_weak(run: Run, text: str) -> PyTree:
  """The parameters of a weaker version of a run's model, for autoguidance (Karras et al. 2024).

  Args:
    run: the model.
    text: 'WORKDIR' or 'WORKDIR@STEP': a run with the same network and data.

  Raises:
    ConfigError: the folder holds no run.
    CheckpointError: the checkpoint does not exist, or it has another network.
  """
  workdir, step, config = check_weak(run.config, text)
  found = _restore(workdir, config, _param_shapes(run), step)
  logging.info('weak model for guidance: step %d of %s', found.step, workdir)
  return found.state['ema']


def check_weak(config: Config, text: str) -> tuple[Path, str | int, dict[str, Any]]:
  """The folder, the step and the config of a weaker model; reads no parameters; see `load_weak`."""
  family = config['family']
  if not families.FAMILIES[family].takes_weak:
    raise ConfigError(f'--weak: the {family} family has no guidance by a weaker model')
  folder, _, step = text.partition('@')
  workdir = to_path(folder)
  return workdir, parse_step(step or 'last', f'--weak={text}'), folders.config_of(workdir)


def parse_step(text: str, what: str = '--step') -> str | int:
  """A checkpoint: 'last', 'best' or a number. Raises ConfigError for any other text."""
  if text in ('last', 'best'):
    return text
  if text.isascii() and text.isdecimal():
    return int(text)
  raise ConfigError(f"{what}: the checkpoint must be 'last', 'best' or a number, got {text!r}")


def with_average(run: Run, workdir: str | os.PathLike, width: float) -> Run:
  """The run with the power-function average of a width instead of its moving average.

  Raises:
    ConfigError: the width is outside (0, 1/√12).
    CheckpointError: the run stored no power-function averages.
  """
  with Snapshots(to_path(workdir), read_only=True) as snapshots:
    params = snapshots.reconstruct(
      _param_shapes(run), run.config['ema'].get('widths', ()), run.step, width
    )
  return run._replace(params=params)


def with_draft(run: Run, draft: Run) -> Run:
  """The run with speculative decoding: `draft` is the smaller model that drafts.

  Raises:
    ConfigError: the family has no drafts, or the two models have different families.
  """
  check_draft(run.config, draft.config)
  family = families.FAMILIES[run.config['family']]
  # Only sampling changes: parameters, likelihood and data stay those of the run.
  small = family.draft(draft.config, draft.data.spec, draft.params)
  return run._replace(method=family.build(run.config, run.data.spec, draft=small))


def check_draft(config: Config, draft: Config) -> None:
  """Raises ConfigError unless a run of one config can have a draft of another."""
  name, other = config['family'], draft['family']
  if families.FAMILIES[name].draft is None or other != name:
    able = ', '.join(name for name, family in families.FAMILIES.items() if family.draft)
    raise ConfigError(
      f'run and draft must both be of one family that has drafts ({able}), got {name} and {other}'
    )


def with_dataset(run: Run, name: str) -> Run:
  """The run with another dataset, read with the same settings.

  Raises:
    ConfigError: the dataset has another kind of examples.
  """
  if name == run.config['data']['name']:
    raise ConfigError(f'--on={name} is the data of the run itself: remove the flag')
  if run.data.spec.latents is not None:
    raise ConfigError(f'--on={name}: the run models latents, which belong to its own data')
  try:
    data = datasets.load(datasets.of_another(run.config['data'], name))
  except ConfigError as error:
    raise ConfigError(f'--on={name}: {error}') from error
  if data_format(data.spec) != data_format(run.data.spec):
    raise ConfigError(
      f'{name} must be of the same kind as {run.data.spec.name}, got {data.spec.domain} '
      f'{data.spec.shape} of {data.spec.levels} values, or another vocabulary or palette'
    )
  return run._replace(data=data)


def with_text(run: Run, path: str, stride: int | None = None) -> Run:
  """The run with the windows of a text file as all splits of its data.

  Args:
    run: a model of text.
    path: the file.
    stride: see `common.data.windows.cut`.

  Raises:
    ConfigError: the model is not one of text, or the file cannot be read or encoded.
  """
  if run.data.spec.tokenizer is None:
    raise ConfigError(f'--on={path}: a file is for models of text, not of {run.data.spec.name}')
  try:
    text = read_text(to_path(path))
    return run._replace(data=windows.text_data(run.data, path, text, stride))
  except (OSError, ValueError) as error:
    raise ConfigError(f'--on={path}: {error}') from error


def data_format(spec: DataSpec) -> tuple:
  """The properties that two datasets must share for one model to work on both."""
  meaning_of_values = (spec.tokenizer, spec.pitches, spec.palette)
  return (spec.domain, spec.shape, spec.levels, spec.num_classes, *meaning_of_values)
