"""Samples of a generator: checks a request, and runs the compiled program that it needs."""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from common.baselines.gan.players import Players
from common.config import ConfigError, check_settings
from common.devices.mesh import split_batch, whole
from common.method import Program, PyTree, Request, Samples, example_keys
from common.ranges import ZERO_IS_OFF, settings_of, suggestion

DRAW_NOISE, DRAW_CLASS = 1, 2  # uses of a sample's key


@dataclasses.dataclass(frozen=True)
class SamplingSettings:
  """The `sampling` section of a config.

  Attributes:
    truncation: noise beyond this size is drawn again: less variety, more typical samples (Brock et
      al. 2019).
  """

  truncation: Annotated[float, ZERO_IS_OFF] = 0.0


class ProgramInputs(NamedTuple):
  """The inputs of a compiled program; other values of the same shapes compile nothing.

  Attributes:
    params: the parameters.
    key: the key of all random numbers.
    label: [num] classes; None: of a conditional generator, each class is equally likely.
    truncation: threshold of the noise, or None.
  """

  params: PyTree
  key: Key[Array, '']
  label: Int[Array, 'num'] | None
  truncation: Float[Array, ''] | None


@functools.partial(jax.jit, static_argnames=('players', 'num'))
def run_generator(
  players: Players, num: int, inputs: ProgramInputs
) -> tuple[Array, Bool[Array, 'num']]:
  """Samples in data space, and which of them were finite before they were rounded."""
  # One key per sample: the first samples do not depend on the number of all.
  keys = split_batch(example_keys(inputs.key, jnp.arange(num)))
  label = split_batch(inputs.label)
  if label is None and players.num_classes:
    own = _keys_of(DRAW_CLASS, keys)
    label = jax.vmap(lambda key: jax.random.randint(key, (), 0, players.num_classes))(own)
  z = players.noise(_keys_of(DRAW_NOISE, keys), inputs.truncation)
  x = players.generate(inputs.params, z, label)
  # Before rounding, which turns NaN into a black pixel.
  finite = jnp.isfinite(x).all(axis=range(1, x.ndim))
  return whole((players.as_data(x), finite))


def _keys_of(use: int, keys: Key[Array, 'num']) -> Key[Array, 'num']:
  return jax.vmap(jax.random.fold_in, (0, None))(keys, use)


@dataclasses.dataclass(frozen=True, eq=False)
class RequestSampler:
  """Answers requests for samples of a generator.

  Attributes:
    players: the networks.
    defaults: the sampling section of the config.
  """

  players: Players
  defaults: Mapping[str, Any]

  def sample(self, params: PyTree, key: Key[Array, ''], request: Request) -> Samples:
    """See `Method.sample`.

    Raises:
      ConfigError: for a request that this model cannot answer.
    """
    x, finite = self._program(params, key, request).run()
    return Samples(x, 1, finite=finite)

  def check(self, params: PyTree | None, request: Request) -> None:
    """See `Method.check_request`; with `params`, traces the program for its shapes."""
    program = self.program(params, request)
    if params is not None:
      players, num, inputs = program.arguments
      jax.eval_shape(functools.partial(program.function, players, num), inputs)

  def program(self, params: PyTree, request: Request) -> Program:
    """See `Method.sampling_program`."""
    return self._program(params, jax.random.key(0), request)

  def _program(self, params: PyTree, key: Key[Array, ''], request: Request) -> Program:
    truncation = with_options(self.defaults, request.options)['truncation']
    inputs = ProgramInputs(
      params, key, self._label(request), jnp.float32(truncation) if truncation else None
    )
    return Program(run_generator, (self.players, request.num, inputs))

  def _label(self, request: Request) -> Int[Array, 'num'] | None:
    """The classes of a request, checked. Raises ConfigError."""
    if request.num < 1:
      raise ConfigError(f'the number of samples must be at least 1, got {request.num}')
    if request.past is not None or request.mask is not None:
      raise ConfigError('a GAN draws whole images and cannot complete or edit given ones')
    label = request.label
    if label is None:
      return None
    if not self.players.num_classes:
      raise ConfigError(
        'the request has labels, but the model is unconditional: leave the labels out, or train a'
        ' model with conditional=True'
      )
    if label.shape != (request.num,):
      raise ConfigError(
        f'{request.num} samples need {request.num} labels, got an array of shape {label.shape}'
      )
    return jnp.asarray(label, jnp.int32)


def with_options(sampling: Mapping, options: Mapping[str, Any]) -> dict[str, Any]:
  """The sampling section of a config with options in their places.

  Raises:
    ConfigError: for an unknown option, with the known ones; for a value of another type or out of
      its range.
  """
  known = settings_of(SamplingSettings)
  for name in options:
    if name not in known:
      raise ConfigError(f'unknown sampling option {name!r};{suggestion(name, known)}')
  chosen = dict(sampling) | dict(options)
  check_settings('sampling', chosen, known)
  return chosen
