"""From a request to samples: options, guidance and a compiled sampler."""

import functools
import json
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Key

from common.config import ConfigError, check_type, component, pick, settings_of, suggestion
from common.data.spec import DataSpec, from_unit, to_unit
from common.method import Request, Samples, example_keys
from diffusion.model import Model
from diffusion.predictions import Pair
from diffusion.processes.process import Process
from diffusion.sampling import guidance
from diffusion.sampling.driver import SAMPLERS, padded
from diffusion.sampling.grids import GRIDS, make_times
from diffusion.sampling.tasks import TASKS, Setting, Task, check_given

COMPONENTS = {'sampler': SAMPLERS, 'grid': GRIDS}
MAIN = {'guidance': 'weight', 'threshold': 'name', 'task': 'name'}  # what a bare value sets


def override(sampling: Mapping, options: Mapping[str, Any]) -> dict[str, Any]:
  """The sampling section of a config with options in their places.

  An option is 'steps'; a part of the section ('sampler=heun', 'grid=karras', 'guidance=2.0'); a
  path ('grid.rho'); or a setting that only one part has ('eta', 'rho'). Naming another sampler or
  grid takes that one's own defaults.

  Raises:
    ConfigError: for an option that is none of these, with those that are known; a value of another
      type than the one it replaces.
  """
  result = {k: dict(v) if isinstance(v, Mapping) else v for k, v in sampling.items()}
  whole = [name for name in options if name in result]
  for name in whole:
    value = options[name]
    if isinstance(value, Mapping):
      result[name] = dict(value)
    elif name in COMPONENTS:
      result[name] = {'name': value} | ({'end': result[name]['end']} if name == 'grid' else {})
    elif name in MAIN:
      _replace(result[name], MAIN[name], name, value)
    else:
      _replace(result, name, name, value)
  for name in options.keys() - set(whole):
    section, leaf = _place(result, name)
    _replace(result[section], leaf, name, options[name])
  return result


def _replace(section: dict, leaf: str, option: str, value: Any) -> None:
  check_type(f'option {option}', value, section.get(leaf))
  section[leaf] = value


def _place(sampling: Mapping, name: str) -> tuple[str, str]:
  """Where the option `name` belongs: (section, setting)."""
  places = {
    f'{section}.{leaf}'
    for section, part in sampling.items()
    if isinstance(part, Mapping)
    for leaf in set(part) - {'name'}
  }
  for section, table in COMPONENTS.items():
    constructor = pick(table, sampling[section]['name'], section)
    places |= {f'{section}.{leaf}' for leaf in settings_of(constructor)}
  found = [place for place in places if name in (place, place.split('.')[1])]
  if len(found) != 1:
    known = found or places | set(sampling)
    raise ConfigError(f'unknown sampling option {name!r};{suggestion(name, known)}')
  section, leaf = found[0].split('.')
  return section, leaf


def _clip_none(denoise, process, threshold):
  return denoise


def _clip_static(denoise, process, threshold):
  return guidance.static_threshold(denoise, process, threshold['bound'])


def _clip_dynamic(denoise, process, threshold):
  return guidance.dynamic_threshold(denoise, process, threshold['percentile'], threshold['bound'])


THRESHOLDS = {'none': _clip_none, 'static': _clip_static, 'dynamic': _clip_dynamic}


def guided(
  model: Model,
  process: Process,
  denoise: Callable[..., Pair],
  weak: Callable[..., Pair] | None,
  classify: Callable[[Array, Array], Array] | None,
  settings: Mapping,
  label: Array | None,
  weight: Array | None,
) -> guidance.Denoiser:
  """The denoiser of a class, with the guidance and thresholding of the settings.

  Of the parts that are asked for: by the null class or a weaker model, by a classifier on top,
  rescaled, within an interval of noise levels, thresholded.

  Args:
    model: gives the null class.
    process: the diffusion process.
    denoise: (x, t, label) -> Pair.
    weak: the same of a weaker model, which then guides in place of the null class; or None.
    classify: (x, t) -> log-probabilities [batch, classes], to guide by a classifier; or None.
    settings: the sampling section.
    label: [batch] classes, or None.
    weight: of the guidance, or None for none.
  """
  part = settings['guidance']
  told = label if model.num_classes else None
  result = guidance.as_denoiser(lambda x, t: denoise(x, t, told))
  if weight is not None and weak is not None:
    result = guidance.autoguidance(result, lambda x, t: weak(x, t, told), weight)
  elif weight is not None:
    null = jnp.full_like(label, model.num_classes)
    result = guidance.classifier_free(denoise, label, null, weight)
  if classify is not None:
    wanted = lambda x, t: jnp.take_along_axis(classify(x, t), label[:, None], axis=1)[:, 0]
    result = guidance.classifier_guidance(result, wanted, process, part['classifier'])
  if weight is not None or classify is not None:
    if part['rescale']:
      result = guidance.rescaled(result, process, part['rescale'])
    if part['low'] or part['high']:
      result = guidance.interval(result, process, part['low'], part['high'] or math.inf)
  threshold = settings['threshold']
  clip = pick(THRESHOLDS, threshold['name'], 'sampling.threshold')
  return clip(result, process, threshold)


class Inputs(NamedTuple):
  """What a compiled sampler is given; another value of the same shapes compiles nothing."""

  params: Any
  weak: Any
  key: Key[Array, '']
  label: Array | None
  times: Array | None
  num_steps: Array | None
  weight: Array
  past: Array | None
  mask: Array | None


def make_sampler(model: Model, config: Mapping, spec: DataSpec) -> Callable[..., Samples]:
  """`Method.sample` of a model.

  The compiled program is kept for each number of samples, bucket of steps and kind of sampler;
  steps within a bucket and the weight of guidance are inputs of it. Tasks that walk back and forth
  on the grid are compiled for each grid.
  """

  @functools.lru_cache(maxsize=32)
  def program(num: int, frozen: str, is_guided: bool, grid: tuple[float, ...] | None) -> Callable:
    settings = json.loads(frozen)
    sampler = component(SAMPLERS, settings['sampler'], 'sampler')

    def run(inputs: Inputs):
      process = model.process_at(inputs.params)
      weak = None if inputs.weak is None else model.denoiser(inputs.weak)
      weight = inputs.weight if is_guided else None
      classify = None
      if settings['guidance']['classifier']:
        classify = lambda x, t: model.class_log_probs(inputs.params, x, t)
      denoise = guided(
        model,
        process,
        model.denoiser(inputs.params),
        weak,
        classify,
        settings,
        inputs.label,
        weight,
      )
      first, second = jax.random.split(inputs.key)
      setting = Setting(
        process=process,
        sampler=sampler,
        denoise=denoise,
        times=inputs.times if grid is None else np.asarray(grid),
        num_steps=inputs.num_steps if grid is None else None,
        final_denoise=settings['final_denoise'],
        like=jnp.zeros((num, *spec.shape), jnp.float32),
        keys=example_keys(first, jnp.arange(num)),
        key=second,
        options=settings['task'],
      )
      past = None if inputs.past is None else to_unit(inputs.past, spec.levels)
      x, evaluations = TASKS[settings['task']['name']].run(setting, past, inputs.mask)
      return from_unit(x, spec.levels), evaluations

    return jax.jit(run)

  def draw(params: Any, key: Key[Array, ''], request: Request) -> Samples:
    options = dict(request.options)
    weak = options.pop('weak', None)
    settings = override(config['sampling'], options)
    task = _task(settings, request, spec)
    label, weight = _condition(model, config, settings, request, weak)
    times = make_times(settings['grid'], model.process_at(params), settings['steps'])
    static = {k: v for k, v in settings.items() if k not in ('grid', 'steps')}
    static['guidance'] = {k: v for k, v in static['guidance'].items() if k != 'weight'}
    run = program(
      request.num,
      json.dumps(static, sort_keys=True),
      weight != 1,
      tuple(times) if task.fixed_grid else None,
    )
    times, num_steps = padded(times)
    inputs = Inputs(
      params=params,
      weak=weak,
      key=key,
      label=label,
      times=None if task.fixed_grid else jnp.asarray(times, jnp.float32),
      num_steps=None if task.fixed_grid else jnp.asarray(num_steps),
      weight=jnp.float32(weight),
      past=request.past,
      mask=request.mask,
    )
    x, evaluations = run(inputs)
    return Samples(x, int(evaluations))

  return draw


def _task(settings: dict, request: Request, spec: DataSpec) -> Task:
  """The task, checked against what is given. A mask alone asks for inpainting."""
  if settings['task']['name'] == 'generate' and request.mask is not None:
    settings['task']['name'] = 'inpaint'
  name = settings['task']['name']
  task = pick(TASKS, name, 'sampling.task')
  check_given(name, task, (request.num, *spec.shape), request.past, request.mask)
  if task.reversible:
    settings['grid']['end'] = 't_min'
  return task


def _condition(model: Model, config: Mapping, settings: Mapping, request: Request, weak: Any):
  """The classes to sample and the weight of guidance, checked. Raises ConfigError."""
  weight, label = float(settings['guidance']['weight']), request.label
  by_classifier = settings['guidance']['classifier']
  if request.num < 1:
    raise ConfigError(f'cannot draw {request.num} samples; at least 1')
  if by_classifier and (model.classifier is None or label is None):
    raise ConfigError(
      'guidance.classifier needs a model trained with classifier.weight above 0, and a request with'
      ' labels'
    )
  if label is not None and not model.num_classes and model.classifier is None:
    raise ConfigError('samples of a class are asked for, but the model is unconditional')
  if label is not None and label.shape != (request.num,):
    raise ConfigError(f'{request.num} samples need as many labels, not an array {label.shape}')
  if weight == 1 and weak is not None:
    raise ConfigError('a weak model has no effect at guidance=1; set another weight, such as 2.0')
  if weight != 1 and weak is None:
    _check_classifier_free(model, config, label, weight)
  if label is None and model.num_classes:
    label = jnp.full(request.num, model.num_classes, jnp.int32)
  return label if label is None else jnp.asarray(label, jnp.int32), weight


def _check_classifier_free(model: Model, config: Mapping, label: Array | None, weight: float):
  if label is None or not model.num_classes:
    why = 'the request has no labels' if model.num_classes else 'the model is unconditional'
    raise ConfigError(f'guidance of weight {weight:g} needs classes to guide to: {why}')
  if not config['label_dropout']:
    raise ConfigError(
      f'guidance of weight {weight:g} needs a model that was trained without its label at times:'
      ' label_dropout is 0'
    )
