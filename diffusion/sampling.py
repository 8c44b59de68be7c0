"""From a request to samples: options, guidance and a compiled sampler."""

import functools
import json
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Key

from common.config import ConfigError, component, pick, settings_of, suggestion
from common.data.spec import DataSpec, from_unit
from common.method import Request, Samples, example_keys
from diffusion import guidance
from diffusion.bound import normal_like
from diffusion.grids import GRIDS, make_times
from diffusion.model import Model
from diffusion.predictions import Pair
from diffusion.processes import Process
from diffusion.samplers import SAMPLERS, padded, sample

COMPONENTS = {'sampler': SAMPLERS, 'grid': GRIDS}
MAIN = {'guidance': 'weight', 'threshold': 'name', 'sampler': 'name', 'grid': 'name'}


def override(sampling: Mapping, options: Mapping[str, Any]) -> dict[str, Any]:
  """The sampling section of a config with options in their places.

  An option is 'steps'; a part of the section ('sampler=heun', 'grid=karras', 'guidance=2.0'); a
  path ('grid.rho'); or a setting that only one part has ('eta', 'rho'). Naming another sampler or
  grid takes that one's own defaults.

  Raises:
    ConfigError: for an option that is none of these, with those that are known.
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
      result[name][MAIN[name]] = value
    else:
      result[name] = value
  for name in options.keys() - set(whole):
    section, leaf = _place(result, name)
    result[section][leaf] = options[name]
  return result


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
  settings: Mapping,
  label: Array | None,
  weight: Array | None,
) -> guidance.Denoiser:
  """The denoiser of a class, with the guidance and thresholding of the settings.

  Args:
    model: gives the null class.
    process: the diffusion process.
    denoise: (x, t, label) -> Pair.
    settings: the sampling section.
    label: [batch] classes, or None.
    weight: of classifier-free guidance, or None for none.
  """
  part = settings['guidance']
  if weight is None:
    plain = guidance.as_denoiser(lambda x, t: denoise(x, t, label))
  else:
    null = jnp.full_like(label, model.num_classes)
    plain = guidance.classifier_free(denoise, label, null, weight)
    if part['rescale']:
      plain = guidance.rescaled(plain, process, part['rescale'])
    if part['low'] or part['high']:
      plain = guidance.interval(plain, process, part['low'], part['high'] or math.inf)
  threshold = settings['threshold']
  clip = pick(THRESHOLDS, threshold['name'], 'sampling.threshold')
  return clip(plain, process, threshold)


def make_sampler(model: Model, config: Mapping, spec: DataSpec) -> Callable[..., Samples]:
  """`Method.sample` of a model.

  The compiled program is kept for each number of samples, bucket of steps and kind of sampler;
  steps within a bucket and the weight of guidance are inputs of it.
  """

  @functools.lru_cache(maxsize=32)
  def program(num: int, frozen: str, is_guided: bool) -> Callable:
    settings = json.loads(frozen)
    sampler = component(SAMPLERS, settings['sampler'], 'sampler')

    def run(params, key, label, times, num_steps, weight):
      process = model.process_at(params)
      denoise = guided(
        model, process, model.denoiser(params), settings, label, weight if is_guided else None
      )
      first, second = jax.random.split(key)
      like = jnp.zeros((num, *spec.shape), jnp.float32)
      x = process.prior_std * normal_like(example_keys(first, jnp.arange(num)), like)
      x, evaluations = sample(
        sampler,
        process,
        denoise,
        times,
        x,
        second,
        num_steps=num_steps,
        final_denoise=settings['final_denoise'],
      )
      return from_unit(x, spec.levels), evaluations

    return jax.jit(run)

  def draw(params: Any, key: Key[Array, ''], request: Request) -> Samples:
    settings = override(config['sampling'], request.options)
    label, weight = _condition(model, config, settings, request)
    times = make_times(settings['grid'], model.process_at(params), settings['steps'])
    times, num_steps = padded(times)
    static = {k: v for k, v in settings.items() if k not in ('grid', 'steps')}
    static['guidance'] = {k: v for k, v in static['guidance'].items() if k != 'weight'}
    run = program(request.num, json.dumps(static, sort_keys=True), weight != 1)
    x, evaluations = run(
      params, key, label, jnp.asarray(times, jnp.float32), num_steps, jnp.float32(weight)
    )
    return Samples(x, int(evaluations))

  return draw


def _condition(model: Model, config: Mapping, settings: Mapping, request: Request):
  """The classes to sample and the weight of guidance, checked. Raises ConfigError."""
  weight, label = float(settings['guidance']['weight']), request.label
  if request.num < 1:
    raise ConfigError(f'cannot draw {request.num} samples; at least 1')
  if label is not None and not model.num_classes:
    raise ConfigError('samples of a class are asked for, but the model is unconditional')
  if label is not None and label.shape != (request.num,):
    raise ConfigError(f'{request.num} samples need as many labels, not an array {label.shape}')
  if weight != 1 and label is None:
    why = 'the request has no labels' if model.num_classes else 'the model is unconditional'
    raise ConfigError(f'guidance of weight {weight:g} needs classes to guide to: {why}')
  if weight != 1 and not config['label_dropout']:
    raise ConfigError(
      f'guidance of weight {weight:g} needs a model that was trained without its label at times:'
      ' label_dropout is 0'
    )
  if label is None and model.num_classes:
    label = jnp.full(request.num, model.num_classes, jnp.int32)
  return label if label is None else jnp.asarray(label, jnp.int32), weight
