"""Moving averages of parameters: exponential decay, and power-function averages of any width.

A power-function average (EDM2: Karras et al. 2024, section 3.1) at step t weights the parameters of
step τ by the profile p_γ(τ; t) = (γ + 1)·τ^γ / t^(γ + 1). Its width, the standard deviation of the
profile divided by t (σ_rel), does not depend on the length of the run. A run regularly stores
averages of one or two widths. A weighted sum of them approximates the average of any other width
(section 3.2), which can thus be chosen after training.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from common.config import ConfigError
from common.training.schedule import parse_steps

MAX_WIDTH = 1 / math.sqrt(12)  # the width at γ = 0, which is the plain mean of all steps


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
  # The inner `where` avoids 1/0 in the branch that is not taken.
  return jnp.where(steps > 0, 0.5 ** (1 / jnp.where(steps > 0, steps, 1)), 0.0)


class Averaging(NamedTuple):
  """How a run averages its parameters: the `ema` section of a config, with lengths in steps.

  Attributes:
    decay: the decay of the exponential average `TrainState.ema`; ignored if there is a half-life.
    warmup: whether the decay is lower in the first steps (`ema_decay`).
    half_life: the half-life of the exponential average, in steps; 0: use `decay`.
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
    """The decay of the exponential average at `step`."""
    if self.half_life:
      return half_life_decay(step, self.half_life, self.ramp_up)
    return ema_decay(step, self.decay, self.warmup)


def make_averaging(
  section: Mapping[str, Any], epoch: int, total: int, batch_size: int | None = None
) -> Averaging:
  """The `ema` section of a config, with its lengths in steps.

  Args:
    section: see configs/base.py.
    epoch: steps in an epoch.
    total: steps in the run.
    batch_size: examples in a step, for a half-life in examples.

  Raises:
    ConfigError: for an invalid half-life or width.
  """
  half_life = float(parse_steps(section['half_life'], 'ema.half_life', epoch, total, batch_size))
  widths = tuple(section['widths'])
  averaging = Averaging(section['decay'], section['warmup'], half_life, section['ramp_up'], widths)
  _ = averaging.gammas  # raises an error for an invalid width
  return averaging


def width_of(gamma: float) -> float:
  """The width σ_rel of the profile with exponent γ (EDM2, eq. 123)."""
  # On [0, 1] the profile is the density of Beta(γ + 1, 1); this is its standard deviation.
  return math.sqrt((gamma + 1) / ((gamma + 2) ** 2 * (gamma + 3)))


def gamma_of(width: float) -> float:
  """The exponent γ whose profile has the given width (EDM2, algorithm 2).

  It is the largest root of γ³ + 7γ² + (16 − σ⁻²)·γ + (12 − σ⁻²), where σ = `width`.

  Raises:
    ConfigError: for a width outside (0, 1/√12).
  """
  if not 0 < width < MAX_WIDTH:
    raise ConfigError(
      f'the width of an average is a fraction of the run in (0, {MAX_WIDTH:.4f}), got {width}'
    )
  inverse_square = width**-2
  return float(np.roots([1, 7, 16 - inverse_square, 12 - inverse_square]).real.max())


def power_update_weight(step: Int[Array, ''], gamma: float) -> Float[Array, '']:
  """The weight 1 − β of the new parameters, where β = (1 − 1/t)^(γ + 1) (EDM2, eq. 127)."""
  t = step.astype(jnp.float32) + 1  # the paper counts steps from 1
  # expm1 and log1p keep precision late in a run, where float32 would round β to 1. At t = 1 the
  # weight is 1, so the initial parameters do not count.
  return -jnp.expm1((gamma + 1) * jnp.log1p(-1 / t))


def inner_products(
  times: Float[np.ndarray, 'n'],
  gammas: Float[np.ndarray, 'n'],
  other_times: Float[np.ndarray, 'm'],
  other_gammas: Float[np.ndarray, 'm'],
) -> Float[np.ndarray, 'n m']:
  """∫ p_γ(τ; t)·p_γ'(τ; t') dτ for each pair, in closed form (EDM2, eq. 151).

  (γ+1)·(γ'+1) · min(t, t')^(γ+γ'+1) / ((γ+γ'+1) · t^(γ+1) · t'^(γ'+1)), computed in logarithms,
  because the single powers would overflow.
  """
  # Rows are (t, γ), columns (t', γ').
  t, g = times[:, None], gammas[:, None]
  u, h = other_times[None], other_gammas[None]
  power = g + h + 1
  exponent = power * np.log(np.minimum(t, u)) - (g + 1) * np.log(t) - (h + 1) * np.log(u)
  return (g + 1) * (h + 1) / power * np.exp(exponent)


def posthoc_weights(
  stored: Sequence[tuple[int, float]], step: int, width: float
) -> Float[np.ndarray, 'stored']:
  """The weights of stored averages whose sum best approximates the average of `width` at `step`.

  A least-squares fit of the profiles in float64 (EDM2, algorithm 3), with the constraint that the
  weights sum to 1. The authors' code fits without the constraint and divides by the sum, which is
  nearly always less accurate.

  Args:
    stored: (step, width) of each average, none later than `step`.
    step: the step at which the average ends.
    width: the width to approximate.
  """
  times = np.array([t for t, _ in stored], np.float64)
  gammas = np.array([gamma_of(w) for _, w in stored], np.float64)
  goal = np.array([step], np.float64), np.array([gamma_of(width)], np.float64)
  # Steps as fractions of the run: all entries of the system are then of order 1.
  scale = 1 / step
  gram = inner_products(times * scale, gammas, times * scale, gammas)
  # The normal equations, with a Lagrange multiplier for the constraint that the weights sum to 1.
  system = np.block([[gram, np.ones((len(times), 1))], [np.ones(len(times)), 0.0]])
  # The right-hand side: inner products of the stored profiles with the wanted profile.
  wanted = inner_products(times * scale, gammas, goal[0] * scale, goal[1])[:, 0]
  # `lstsq` and not `solve`: the system is singular if two stored averages are nearly equal.
  return np.linalg.lstsq(system, np.append(wanted, 1.0), rcond=None)[0][:-1]
