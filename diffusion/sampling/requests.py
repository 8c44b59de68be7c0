"""From a request to samples: checks it, and runs the compiled program that it needs."""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, Key

from common.config import ConfigError
from common.data.spec import DataSpec
from common.method import Program, Request, Samples
from diffusion.model import Model
from diffusion.processes.process import Process
from diffusion.sampling.driver import padded
from diffusion.sampling.grids import make_times
from diffusion.sampling.program import ProgramInputs, run_sampler
from diffusion.sampling.settings import SamplerSettings, build_settings, with_options
from diffusion.sampling.tasks import TASKS, build_task, check_given

# {setting of a task: the task}
SETTINGS_OF_TASKS = {
  field.name: name for name, task in TASKS.items() for field in dataclasses.fields(task)
}


@dataclasses.dataclass(frozen=True, eq=False)
class RequestSampler:
  """Answers requests for samples of a model.

  Attributes:
    model: the model.
    spec: describes the data.
    defaults: the sampling section of the config.
    label_dropout: share of the training examples whose class was hidden.
  """

  model: Model
  spec: DataSpec
  defaults: Mapping[str, Any]
  label_dropout: float

  def sample(
    self, params: Any, key: Key[Array, ''], request: Request, given: Array | None = None
  ) -> Samples:
    """See `Method.sample`. The option 'weak' gives the parameters of a weaker model.

    Args:
      params: the parameters.
      key: the key of all random numbers.
      request: what to sample.
      given: what else the network is given of each sample (`Model.predict`), or None.

    Raises:
      ConfigError: for a request that this model cannot answer.
      ValueError: for settings out of range, or given data that the task cannot use.
    """
    settings, inputs = self._prepare(self.model.process_at(params), params, key, request)
    inputs = self._with_given(settings, inputs, given)
    x, evaluations, finite = run_sampler(self.model, settings, inputs)
    # int() waits for the samples.
    return Samples(x, int(evaluations), finite=finite)

  def check(self, params: Any, request: Request, given: Array | None = None) -> None:
    """See `Method.check_request`: prepares the program; with `params`, traces it for its shapes.

    Options without an effect are refused.
    """
    program = self.program(params, request, given)
    _, settings, inputs = program.arguments
    _check_effect(request.options, settings)
    if params is not None:
      jax.eval_shape(functools.partial(program.function, self.model, settings), inputs)

  def program(self, params: Any, request: Request, given: Array | None = None) -> Program:
    """See `Method.sampling_program`."""
    # A learned process has no values yet: its grid is the one at its initial values.
    key = jax.random.key(0)
    process = self.model.process_at({'process': self.model.process.init(key)})
    settings, inputs = self._prepare(process, params, key, request)
    inputs = self._with_given(settings, inputs, given)
    return Program(run_sampler, (self.model, settings, inputs))

  def _with_given(
    self, settings: SamplerSettings, inputs: ProgramInputs, given: Array | None
  ) -> ProgramInputs:
    """The inputs with a condition. Raises ConfigError for guidance, which would need it twice."""
    if given is not None and (settings.guidance.weighted or settings.guidance.classifier):
      raise ConfigError('forecasts have no guidance: set guidance=1')
    return inputs._replace(given=given)

  def _prepare(
    self, process: Process, params: Any, key: Key[Array, ''], request: Request
  ) -> tuple[SamplerSettings, ProgramInputs]:
    """The program of a request, and its inputs; `process` gives the times of the grid."""
    options = dict(request.options)
    weak = options.pop('weak', None)
    section = with_options(self.defaults, options)
    self._complete_task(section, request)
    label, weight = self._condition(section['guidance'], request, weak)
    # Computed on the host in float64; a learned process's grid depends on its parameters.
    times = make_times(section['grid'], process, section['steps'])
    shape = (request.num, *self.spec.shape)
    settings = build_settings(
      section, shape, self.spec.levels, weight != 1, tuple(times), self.model.variance
    )
    # Padded to a bucket, so that other numbers of steps share the program.
    times, num_steps = padded(times)
    traced_grid = settings.grid is None
    inputs = ProgramInputs(
      params=params,
      weak=weak,
      key=key,
      label=label,
      times=jnp.asarray(times, jnp.float32) if traced_grid else None,
      num_steps=jnp.asarray(num_steps) if traced_grid else None,
      weight=jnp.float32(weight),
      past=request.past,
      mask=request.mask,
    )
    return settings, inputs

  def _complete_task(self, section: dict, request: Request) -> None:
    """Completes the section for the request's task, and checks the inputs of the task.

    A mask without a task asks for inpainting; a reversible task needs a grid that ends at t_min.
    """
    if section['task']['name'] == 'generate' and request.mask is not None:
      section['task']['name'] = 'inpaint'
    name = section['task']['name']
    task = build_task(section['task'])
    check_given(name, task, (request.num, *self.spec.shape), request.past, request.mask)
    if task.reversible:
      section['grid']['end'] = 't_min'
    if section['final_denoise'] and not task.can_denoise:
      raise ConfigError(f'task {name!r} has no final denoising: set final_denoise=False')

  def _condition(
    self, guidance: Mapping, request: Request, weak: Any
  ) -> tuple[Int[Array, 'num'] | None, float]:
    """The classes to sample and the weight of the guidance, checked. Raises ConfigError."""
    model, weight, label = self.model, float(guidance['weight']), request.label
    if request.num < 1:
      raise ConfigError(f'the number of samples must be at least 1, got {request.num}')
    if guidance['classifier'] and (model.classifier is None or label is None):
      raise ConfigError(
        'guidance.classifier needs a request with labels, and a classifier: another run'
        ' (--classifier_from=WORKDIR), or that of a model trained with classifier.weight above 0'
      )
    if label is not None and not model.num_classes and model.classifier is None:
      raise ConfigError(
        'the request has labels, but the model is unconditional: leave the labels out, or train a'
        ' model with conditional=True'
      )
    if label is not None and label.shape != (request.num,):
      raise ConfigError(
        f'{request.num} samples need {request.num} labels, got an array of shape {label.shape}'
      )
    if weight == 1 and weak is not None:
      raise ConfigError('a weak model has no effect at guidance=1; set another weight, such as 2.0')
    if weight != 1 and weak is None:
      self._check_classifier_free(label, weight)
    if label is None and model.num_classes:
      label = jnp.full(request.num, model.num_classes, jnp.int32)  # the null class
    return label if label is None else jnp.asarray(label, jnp.int32), weight

  def _check_classifier_free(self, label: Int[Array, 'num'] | None, weight: float) -> None:
    if label is None or not self.model.num_classes:
      classes = self.model.num_classes
      why = 'the request has no labels' if classes else 'the model is unconditional'
      other = ', or request a class (--label=NAME)' if classes else ''
      raise ConfigError(
        f'guidance of weight {weight:g} needs classes to guide to, but {why}; set guidance=1{other}'
      )
    if not self.label_dropout:
      raise ConfigError(
        f'guidance of weight {weight:g} needs a model that sometimes saw no label in training, but'
        ' label_dropout is 0; set guidance=1, or train with label_dropout=0.1'
      )


def _check_effect(options: Mapping[str, Any], settings: SamplerSettings) -> None:
  """Raises ConfigError for an option that changes nothing."""
  guidance, threshold = settings.guidance, settings.threshold.name
  owners = {  # settings, and what must be chosen for them to have an effect
    ('low', 'high', 'rescale'): (guidance.weighted or guidance.classifier, 'guidance, such as 2.0'),
    ('percentile',): (threshold == 'dynamic', 'threshold=dynamic'),
    ('bound',): (threshold != 'none', 'threshold=static or dynamic'),
  }
  for setting, owner in SETTINGS_OF_TASKS.items():
    owners[(setting,)] = (isinstance(settings.task, TASKS[owner]), f'--task={owner}')
  for name in options:
    for leaves, (used, needed) in owners.items():
      if name.rpartition('.')[2] in leaves and not used:
        raise ConfigError(f'option {name} has no effect without {needed}')
