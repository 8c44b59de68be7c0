"""Samples of a variational autoencoder: new images, reconstructions and interpolations."""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int, Key

from common.baselines.vae.model import Model
from common.config import ConfigError, check_setting, suggestion
from common.data.spec import from_unit
from common.devices.mesh import split_batch, whole
from common.method import Program, Request, Samples, example_keys
from common.ranges import ABOVE_ZERO, OneOf, Setting, settings_of

# {task: whether it is given images}
TASKS = {'generate': False, 'reconstruct': True, 'interpolate': True}


@dataclasses.dataclass(frozen=True)
class SamplingSettings:
  """The `sampling` section of a config, besides its task.

  Attributes:
    pixels: 'mean': the decoder's locations; 'draw': pixels drawn around them.
    temperature: factor of the prior's deviation.
  """

  pixels: Annotated[str, OneOf('mean', 'draw')] = 'mean'
  temperature: Annotated[float, ABOVE_ZERO] = 1.0


SETTINGS = settings_of(SamplingSettings)


class SamplerSettings(NamedTuple):
  """Everything that a compiled sampling program depends on, besides the model.

  Attributes:
    num: number of samples.
    task: a key of TASKS.
    pixels: 'mean': the decoder's locations; 'draw': pixels drawn around them.
    temperature: factor of the prior's deviation.
  """

  num: int
  task: str
  pixels: str
  temperature: float


class Inputs(NamedTuple):
  """The inputs of a compiled program; other values of the same shapes compile nothing."""

  params: Any
  key: Key[Array, '']
  label: Int[Array, 'num'] | None
  past: Array | None


@functools.partial(jax.jit, static_argnums=(0, 1))
def run_sampler(
  model: Model, settings: SamplerSettings, inputs: Inputs
) -> tuple[Array, Bool[Array, 'num']]:
  """Samples in data space, and which of them are finite."""
  label, past = split_batch((inputs.label, inputs.past))
  # One key for the latents and one for the pixels, so that both ways of `pixels` share latents.
  latent_key, pixel_key = jax.random.split(inputs.key)
  index = jnp.arange(settings.num)
  if settings.task == 'generate':
    keys = split_batch(example_keys(latent_key, index))
    z = model.latents.draw(inputs.params, keys, model.grid, settings.temperature)
  else:
    features = model.features(inputs.params, past, label)
    z = model.latents.from_data(inputs.params, model.latents.to_data(inputs.params, features))
    if settings.task == 'interpolate':
      weight = jnp.linspace(0, 1, settings.num)[:, None, None, None]
      z = z[:1] + weight * (z[-1:] - z[:1])
  outputs, own = model.outputs(inputs.params, z, label), inputs.params.get('pixels', {})
  if settings.pixels == 'mean':
    x = model.pixels.mean(own, outputs)
  else:
    x = model.pixels.draw(own, outputs, split_batch(example_keys(pixel_key, index)))
  # Before rounding, which turns NaN into a black pixel.
  finite = jnp.isfinite(x).all(axis=range(1, x.ndim))
  return whole((from_unit(x, model.spec.levels), finite))


@dataclasses.dataclass(frozen=True, eq=False)
class RequestSampler:
  """Answers requests for samples of a model; `defaults` is the sampling section of its config."""

  model: Model
  defaults: Mapping[str, Any]

  def sample(self, params: Any, key: Key[Array, ''], request: Request) -> Samples:
    """See `Method.sample`."""
    program = self.program(params, key, request)
    x, finite = program.run()
    given = TASKS[program.arguments[1].task]
    return Samples(x, evaluations=2 if given else 1, finite=finite)

  def check(self, params: Any, request: Request) -> None:
    """See `Method.check_request`."""
    program = self.program(params, jax.random.key(0), request)
    if params is not None:
      jax.eval_shape(
        functools.partial(program.function, *program.arguments[:2]), program.arguments[2]
      )

  def program(self, params: Any, key: Key[Array, ''], request: Request) -> Program:
    """See `Method.sampling_program`.

    Raises:
      ConfigError: for unknown options, a class that the model does not know, or a missing one.
    """
    section = with_options(self.defaults, request.options)
    task = section['task']['name']
    if TASKS[task] and request.past is None:
      raise ConfigError(f'task {task!r} needs given images: use twofold sample --task={task}')
    if request.past is not None and not TASKS[task]:
      raise ConfigError(f'task {task!r} takes no given images: leave past out')
    if TASKS[task] and 'temperature' in request.options:
      raise ConfigError(f'temperature has no effect on task {task!r}: leave the option out')
    if self.model.latents.exact and section['temperature'] != 1:
      raise ConfigError('temperature has no effect on codes, whose prior is uniform: set it to 1')
    if request.mask is not None:
      raise ConfigError('a VAE has no task with a mask: it cannot fill in a part of an image')
    settings = SamplerSettings(request.num, task, section['pixels'], section['temperature'])
    past = None if request.past is None else jnp.asarray(request.past)
    return Program(
      run_sampler, (self.model, settings, Inputs(params, key, self._label(request), past))
    )

  def _label(self, request: Request) -> Int[Array, 'num'] | None:
    known = self.model.num_classes
    if request.label is None:
      if known:
        raise ConfigError('this VAE always needs a class: leave --label=none out')
      return None
    if not known:
      raise ConfigError('this VAE knows no classes: set conditional=True to train one that does')
    label = np.asarray(request.label)
    if label.shape != (request.num,) or not np.isin(label, np.arange(known)).all():
      raise ConfigError(f'label must hold {request.num} classes in [0, {known}), got {label}')
    return jnp.asarray(label, jnp.int32)


def with_options(section: Mapping, options: Mapping[str, Any]) -> dict[str, Any]:
  """A config's `sampling` section with options in the place of its settings.

  Raises:
    ConfigError: for an option that is unknown, or out of its range.
  """
  chosen = {name: dict(v) if isinstance(v, Mapping) else v for name, v in section.items()}
  for name, value in options.items():
    if name == 'task':
      check_setting('option task', value, Setting('generate', OneOf(*TASKS)))
      chosen['task']['name'] = value
    elif name in SETTINGS:
      check_setting(f'option {name}', value, SETTINGS[name])
      chosen[name] = value
    else:
      known = suggestion(name, SETTINGS)
      raise ConfigError(f'unknown sampling option {name!r};{known}')
  return chosen
