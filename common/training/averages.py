"""Moving averages of parameters: how fast they forget, and power-function averages of any width.

A power-function average (EDM2: Karras et al. 2024, section 3.1) weighs the parameters of step τ of
t by the profile p_γ(τ; t) = (γ + 1)·τ^γ / t^(γ + 1). Its width is a fixed fraction of the run,
however long the run is. A run regularly stores averages of one or two widths; a weighted sum of
them approximates the average of any other width (section 3.2), which can thus be chosen after
training.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from common.config import ConfigError, parse_steps

MAX_WIDTH = 1 / math.sqrt(12)  # at gamma = 0, the plain mean of all steps


def ema_decay(step: Int[Array, ''], decay: float, warmup: bool) -> Float[Array, '']:
  """Decay of the moving average at `step`; with warm-up min(decay, (1 + n)/(10 + n)).

  Without the warm-up, the average of a short run consists mostly of the random initial parameters.
  """
  n = step.astype(jnp.float32)
  return jnp.minimum(decay, (1.0 + n) / (10.0 + n)) if warmup else jnp.asarray(decay, jnp.float32)


def half_life_decay(step: Int[Array, ''], half_life: float, ramp_up: float) -> Float[Array, '']:
  """Decay that halves the weight of a step after `half_life` steps (Karras et al. 2022, EDM).

  Args:
    step: steps taken before this one.
    half_life: in steps.
    ramp_up: the half-life is at most this fraction of the steps taken; 0: no ramp.
  """
  n = step.astype(jnp.float32)
  steps = jnp.minimum(half_life, n * ramp_up) if ramp_up else jnp.asarray(half_life, jnp.float32)
  # The inner `where` keeps 1/0 out of the branch that is not taken.
  return jnp.where(steps > 0, 0.5 ** (1 / jnp.where(steps > 0, steps, 1)), 0.0)


class Averaging(NamedTuple):
  """How a run averages its parameters: the `ema` section of a config, with lengths in steps.

  Attributes:
    decay: of the exponential average that is evaluated, where there is no half-life.
    warmup: whether the decay is lower in the first steps (`ema_decay`).
    half_life: of the exponential average, in place of `decay`; 0: none.
    ramp_up: see `half_life_decay`.
    widths: the width of each power-function average.
  """

  decay: float
  warmup: bool
  half_life: float = 0.0
  ramp_up: float = 0.0
  widths: tuple[float, ...] = ()

  @property
  def gammas(self) -> tuple[float, ...]:
    """The exponent γ of each power-function average."""
    return tuple(gamma_of(width) for width in self.widths)

  def decay_at(self, step: Int[Array, '']) -> Float[Array, '']:
    """Decay of the exponential average at `step`."""
    if self.half_life:
      return half_life_decay(step, self.half_life, self.ramp_up)
    return ema_decay(step, self.decay, self.warmup)


def make_averaging(section: Mapping[str, Any], epoch: int, total: int) -> Averaging:
  """Checks the `ema` section of a config, and converts its lengths to steps.

  Args:
    section: see configs/base.py.
    epoch: steps in an epoch.
    total: steps in the run.

  Raises:
    ConfigError: for a decay outside [0, 1), a negative ramp, or an invalid width.
  """
  if not 0 <= section['decay'] < 1:
    raise ConfigError(f'ema.decay must be in [0, 1), got {section["decay"]}')
  if section['ramp_up'] < 0:
    raise ConfigError(f'ema.ramp_up must be 0 (off) or more, got {section["ramp_up"]}')
  if section['keep'] < 1:
    raise ConfigError(f'ema.keep must be at least 1, got {section["keep"]}')
  half_life = float(parse_steps(section['half_life'], 'ema.half_life', epoch, total))
  widths = tuple(section['widths'])
  averaging = Averaging(section['decay'], section['warmup'], half_life, section['ramp_up'], widths)
  _ = averaging.gammas  # raises for an invalid width
  return averaging


def width_of(gamma: float) -> float:
  """Relative standard deviation σ_rel of the profile of γ (EDM2, eq. 123)."""
  # The standard deviation of the Beta(γ + 1, 1) distribution.
  return math.sqrt((gamma + 1) / ((gamma + 2) ** 2 * (gamma + 3)))


def gamma_of(width: float) -> float:
  """The γ whose profile has a relative standard deviation of `width` (EDM2, algorithm 2).

  The largest root of γ³ + 7γ² + (16 − σ⁻²)·γ + (12 − σ⁻²), where σ = `width`.

  Raises:
    ConfigError: for a width outside (0, 1/√12).
  """
  if not 0 < width < MAX_WIDTH:
    raise ConfigError(
      f'the width of an average must be in (0, {MAX_WIDTH:.4f}), a fraction of the run, got {width}'
    )
  square = width**-2
  return float(np.roots([1, 7, 16 - square, 12 - square]).real.max())


def power_share(step: Int[Array, ''], gamma: float) -> Float[Array, '']:
  """1 − β at `step`, the t-th for t = step + 1: β = (1 − 1/t)^(γ + 1) (EDM2, eq. 127)."""
  t = step.astype(jnp.float32) + 1
  # By expm1 and log1p: late in a run β is within float32's rounding of 1. At t = 1 the share is 1,
  # so the initial parameters have no weight.
  return -jnp.expm1((gamma + 1) * jnp.log1p(-1 / t))


def inner_products(
  times: Float[np.ndarray, 'n'],
  gammas: Float[np.ndarray, 'n'],
  other_times: Float[np.ndarray, 'm'],
  other_gammas: Float[np.ndarray, 'm'],
) -> Float[np.ndarray, 'n m']:
  """∫ p_γ(τ; t)·p_γ'(τ; t') dτ for each pair, in closed form (EDM2, eq. 151).

  (γ+1)·(γ'+1) · min(t, t')^(γ+γ'+1) / ((γ+γ'+1) · t^(γ+1) · t'^(γ'+1)), in logarithms: the powers
  alone overflow.
  """
  # Rows are (t, γ), columns (t', γ').
  t, g = times[:, None], gammas[:, None]
  u, h = other_times[None], other_gammas[None]
  both = g + h + 1
  exponent = both * np.log(np.minimum(t, u)) - (g + 1) * np.log(t) - (h + 1) * np.log(u)
  return (g + 1) * (h + 1) / both * np.exp(exponent)


def weights(
  stored: Sequence[tuple[int, float]], step: int, width: float
) -> Float[np.ndarray, 'stored']:
  """Weights with which stored averages sum to the best approximation of `width` at `step`.

  The least-squares fit of the profiles, in float64 (EDM2, algorithm 3), among weights that sum to
  1. The authors' code fits without that constraint and divides by the sum, which is nearly always
  less accurate.

  Args:
    stored: (step, width) of each average, none later than `step`.
    step: the step at which the average ends.
    width: the width to approximate.
  """
  times = np.array([t for t, _ in stored], np.float64)
  gammas = np.array([gamma_of(w) for _, w in stored], np.float64)
  goal = np.array([step], np.float64), np.array([gamma_of(width)], np.float64)
  # Steps as fractions of the run, so that all entries of the system are of size 1.
  scale = 1 / step
  among = inner_products(times * scale, gammas, times * scale, gammas)
  # The normal equations, with a Lagrange multiplier for the constraint that the weights sum to 1.
  system = np.block([[among, np.ones((len(times), 1))], [np.ones(len(times)), 0.0]])
  # The right-hand side: inner products of the stored profiles with the wanted one.
  wanted = inner_products(times * scale, gammas, goal[0] * scale, goal[1])[:, 0]
  # `lstsq`, because averages that are nearly alike make the system singular.
  return np.linalg.lstsq(system, np.append(wanted, 1.0), rcond=None)[0][:-1]
