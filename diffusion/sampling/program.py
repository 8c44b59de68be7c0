"""The compiled sampling program: one jitted function of a model, settings and inputs."""

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key

from common.config import pick
from common.data.spec import from_unit, to_unit
from common.devices.mesh import split_batch, whole
from common.method import example_keys
from diffusion.model import Model
from diffusion.processes.process import Process
from diffusion.sampling import guidance
from diffusion.sampling.driver import ReverseChain
from diffusion.sampling.guidance import Denoiser
from diffusion.sampling.settings import SamplerSettings, ThresholdSettings
from diffusion.sampling.tasks import TaskInputs


class ProgramInputs(NamedTuple):
  """The inputs of a compiled program; other values of the same shapes compile nothing.

  Attributes:
    params: the model's parameters.
    weak: the parameters of a weaker model to guide with, or None.
    key: the key of all random numbers.
    label: [num] classes, or None.
    times: the padded grid; None for a task whose grid is one of the settings.
    num_steps: number of steps of the grid without padding; None if `times` is None.
    weight: weight of the guidance.
    past: the given data, or None.
    mask: where it holds, or None.
    given: a condition that the network sees, or None.
  """

  params: Any
  weak: Any
  key: Key[Array, '']
  label: Int[Array, 'num'] | None
  times: Float[Array, 'times'] | None
  num_steps: Int[Array, ''] | None
  weight: Float[Array, '']
  past: Array | None
  mask: Array | None
  given: Array | None = None


@functools.partial(jax.jit, static_argnames=('model', 'settings'))
def run_sampler(
  model: Model, settings: SamplerSettings, inputs: ProgramInputs
) -> tuple[Array, Int[Array, ''], Bool[Array, 'num']]:
  """Samples in data space, network evaluations per sample, and which samples were finite.

  Compiled once for each model, settings, and structure and shapes of the inputs: steps within a
  bucket and the weight of the guidance share a program. Tasks that walk back and forth on the grid
  are compiled for each grid.
  """
  process = model.process_at(inputs.params)
  label, past, given = split_batch((inputs.label, inputs.past, inputs.given))
  # A mask may be that of all samples.
  inputs = inputs._replace(label=label, past=past, mask=whole(inputs.mask), given=given)
  denoise = guided_denoiser(model, process, settings, inputs)
  # One key for the initial noise and one for the sampler, so that another sampler starts from the
  # same noise.
  start, sampler = jax.random.split(inputs.key)
  padded = settings.grid is None
  task_inputs = TaskInputs(
    chain=ReverseChain(settings.sampler, process, denoise),
    times=inputs.times if padded else np.asarray(settings.grid),
    num_steps=inputs.num_steps if padded else None,
    final_denoise=settings.final_denoise,
    like=jnp.zeros(settings.shape, jnp.float32),
    keys=split_batch(example_keys(start, jnp.arange(settings.shape[0]))),
    key=sampler,
    past=None if inputs.past is None else to_unit(inputs.past, settings.levels),
    mask=inputs.mask,
  )
  x, evaluations = settings.task.run(task_inputs)
  # Before rounding, which turns NaN into a black pixel.
  finite = jnp.isfinite(x).all(axis=range(1, x.ndim))
  return whole((from_unit(x, settings.levels), evaluations, finite))


def guided_denoiser(
  model: Model, process: Process, settings: SamplerSettings, inputs: ProgramInputs
) -> Denoiser:
  """The denoiser of the requested classes, with the guidance and thresholding of the settings.

  Applies the requested parts in this order: guidance by the null class or a weaker model, then by a
  classifier; rescaling; the interval of noise levels; thresholding.
  """
  part, label = settings.guidance, inputs.label
  # A network without classes takes no label, but a classifier may still guide to the label.
  condition = label if model.num_classes else None
  estimate = functools.partial(model.estimate, label=condition, given=inputs.given)
  result = guidance.as_denoiser(functools.partial(estimate, inputs.params))
  if part.weighted and inputs.weak is not None:
    weak = functools.partial(estimate, inputs.weak)
    result = guidance.Autoguidance(result, weak, inputs.weight)
  elif part.weighted:
    null = jnp.full_like(label, model.num_classes)
    denoise = model.denoiser(inputs.params)
    result = guidance.ClassifierFree(denoise, label, null, inputs.weight)
  if part.classifier:
    wanted = functools.partial(_wanted_log_prob, model, inputs.params, label)
    result = guidance.ClassifierGuidance(result, wanted, process, part.classifier)
  if part.weighted or part.classifier:
    if part.rescale:
      result = guidance.Rescaled(result, process, part.rescale)
    # The interval comes last, so that outside it only the plain model runs.
    if part.low or part.high:
      result = guidance.Interval(result, process, part.low, part.high or math.inf)
  return pick(THRESHOLDS, settings.threshold.name, 'sampling.threshold')(
    result, process, settings.threshold
  )


def _wanted_log_prob(
  model: Model, params: Any, label: Int[Array, 'num'], x: Array, t: Float[Array, 'num']
) -> Float[Array, 'num']:
  """log p(label | x, t) by the classifier."""
  log_probs = model.class_log_probs(params, x, t)
  return jnp.take_along_axis(log_probs, label[:, None], axis=1)[:, 0]


def no_threshold(denoise: Denoiser, process: Process, settings: ThresholdSettings) -> Denoiser:
  """Clean estimates stay as they are."""
  return denoise


def static_threshold(denoise: Denoiser, process: Process, settings: ThresholdSettings) -> Denoiser:
  """Clips clean estimates to [-bound, bound] (Ho et al. 2020)."""
  return guidance.StaticThreshold(denoise, process, settings.bound)


def dynamic_threshold(denoise: Denoiser, process: Process, settings: ThresholdSettings) -> Denoiser:
  """Clips each to a percentile of its own size and rescales it (Saharia et al. 2022)."""
  return guidance.DynamicThreshold(denoise, process, settings.percentile, settings.bound)


THRESHOLDS = {'none': no_threshold, 'static': static_threshold, 'dynamic': dynamic_threshold}
