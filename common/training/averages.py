"""Moving averages of parameters: how fast they forget, and power-function averages of any length.

A power-function average (EDM2: Karras et al. 2024, section 3.1) weighs the parameters of step τ of
t by the profile p_γ(τ; t) = (γ + 1)·τ^γ / t^(γ + 1): its width stays the same share of the run
however long that is. A run stores averages of one or two widths now and then; a weighted sum of
them comes close to the average of any other width (section 3.2), to be chosen after training.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from common.config import ConfigError, length

WIDEST = 1 / math.sqrt(12)  # of gamma = 0, the plain mean of all steps


def ema_decay(step: Int[Array, ''], decay: float, warmup: bool) -> Float[Array, '']:
  """Decay of the moving average at `step`; with warm-up min(decay, (1 + n)/(10 + n)).

  Without it the average of a short run is mostly the initial noise.
  """
  n = step.astype(jnp.float32)
  return jnp.minimum(decay, (1.0 + n) / (10.0 + n)) if warmup else jnp.asarray(decay, jnp.float32)


def half_life_decay(step: Int[Array, ''], half_life: float, ramp_up: float) -> Float[Array, '']:
  """Decay that halves the weight of a step after `half_life` steps (Karras et al. 2022, EDM).

  Args:
    step: steps taken before this one.
    half_life: in steps.
    ramp_up: the half-life is at most this share of the steps taken; 0: no ramp.
  """
  n = step.astype(jnp.float32)
  steps = jnp.minimum(half_life, n * ramp_up) if ramp_up else jnp.asarray(half_life, jnp.float32)
  return jnp.where(steps > 0, 0.5 ** (1 / jnp.where(steps > 0, steps, 1)), 0.0)


def decay_at(step: Int[Array, ''], settings: Mapping[str, Any]) -> Float[Array, '']:
  """Decay of the average that is evaluated, by the `ema` section as `in_steps` gives it."""
  if settings.get('half_life'):
    return half_life_decay(step, settings['half_life'], settings['ramp_up'])
  return ema_decay(step, settings['decay'], settings['warmup'])


def in_steps(section: Mapping[str, Any], epoch: int, total: int) -> dict[str, Any]:
  """The `ema` section of a config with lengths in steps, checked.

  Args:
    section: see configs/base.py.
    epoch: steps in an epoch.
    total: steps in the run.

  Raises:
    ConfigError: for a decay outside [0, 1), a negative ramp, or a width that is none.
  """
  if not 0 <= section['decay'] < 1:
    raise ConfigError(f'ema.decay={section["decay"]} must be in [0, 1)')
  if section['ramp_up'] < 0:
    raise ConfigError(f'ema.ramp_up={section["ramp_up"]} must be 0 (off) or more')
  if section['keep'] < 1:
    raise ConfigError(f'ema.keep={section["keep"]} must be at least 1')
  widths = tuple(section['widths'])
  for width in widths:
    gamma_of(width)
  half_life = float(length(section['half_life'], 'ema.half_life', epoch, total))
  every = length(section['snapshot_every'], 'ema.snapshot_every', epoch, total) if widths else 0
  return dict(section) | {'half_life': half_life, 'widths': widths, 'snapshot_every': every}


def width_of(gamma: float) -> float:
  """Relative standard deviation σ_rel of the profile of γ (EDM2, eq. 123)."""
  return math.sqrt((gamma + 1) / ((gamma + 2) ** 2 * (gamma + 3)))


def gamma_of(width: float) -> float:
  """The γ whose profile has a relative standard deviation of `width` (EDM2, algorithm 2).

  The root of a cubic that is greatest.

  Raises:
    ConfigError: for a width outside (0, 1/√12).
  """
  if not 0 < width < WIDEST:
    raise ConfigError(
      f'ema: width {width} of an average must be in (0, {WIDEST:.4f}), a share of the run'
    )
  square = width**-2
  return float(np.roots([1, 7, 16 - square, 12 - square]).real.max())


def power_share(step: Int[Array, ''], gamma: float) -> Float[Array, '']:
  """1 − β at `step`, the t-th for t = step + 1: β = (1 − 1/t)^(γ + 1) (EDM2, eq. 127)."""
  t = step.astype(jnp.float32) + 1
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
  t, g = times[:, None], gammas[:, None]
  u, h = other_times[None], other_gammas[None]
  both = g + h + 1
  exponent = both * np.log(np.minimum(t, u)) - (g + 1) * np.log(t) - (h + 1) * np.log(u)
  return (g + 1) * (h + 1) / both * np.exp(exponent)


def weights(
  stored: Sequence[tuple[int, float]], step: int, width: float
) -> Float[np.ndarray, 'stored']:
  """Weights of stored averages whose sum is nearest to the average of `width` at `step`.

  The least-squares fit of the profiles, in float64 (EDM2, algorithm 3), among weights that sum to
  1. The authors' code fits freely and divides by the sum, which is nearly always less accurate.

  Args:
    stored: (step, width) of each average, none later than `step`.
    step: when the average ends.
    width: the width that is wanted.
  """
  times = np.array([t for t, _ in stored], np.float64)
  gammas = np.array([gamma_of(w) for _, w in stored], np.float64)
  goal = np.array([step], np.float64), np.array([gamma_of(width)], np.float64)
  scale = 1 / step  # of inner products over [0, 1], so that both parts of the system are of size 1
  among = inner_products(times * scale, gammas, times * scale, gammas)
  system = np.block([[among, np.ones((len(times), 1))], [np.ones(len(times)), 0.0]])
  wanted = inner_products(times * scale, gammas, goal[0] * scale, goal[1])[:, 0]
  return np.linalg.lstsq(system, np.append(wanted, 1.0), rcond=None)[0][:-1]
