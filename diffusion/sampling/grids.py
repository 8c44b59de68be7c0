"""Time discretisations: which times a sampler visits.

A grid of n steps is n + 1 decreasing times. The first n run from t_max to t_min, spaced as the
grid says, and the last is 0, clean data: the step to it is the final denoising. With `end='t_min'`
all n + 1 run from t_max to t_min, and what comes out still carries the noise of t_min.

Grids are computed on the host in float64 and given to the compiled sampler as arrays.
"""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from common.config import ConfigError, component, pick
from diffusion.processes.process import Process
from diffusion.sampling.driver import check_times

Times = Float[np.ndarray, 'times']
Grid = Callable[[Process, int], Times]

LEAST_LOG_SNR = -20.0  # where a process ends in log-SNR −∞, grids in log-SNR start from here


def _evaluate(function: Callable, values: np.ndarray) -> np.ndarray:
  with jax.enable_x64(True), jax.ensure_compile_time_eval():
    return np.array(function(jnp.asarray(values, jnp.float64)), np.float64)


def _fractions(number: int) -> np.ndarray:
  return np.linspace(0.0, 1.0, number) if number > 1 else np.zeros(1)


def _snapped(process: Process, times: np.ndarray) -> np.ndarray:
  """The nearest entries of a discrete process's table; continuous times as they are."""
  return np.round(times * process.steps) / process.steps if process.steps else times


def _between(process: Process, warp: Callable[[np.ndarray], np.ndarray], number: int):
  """`number` times from t_max to t_min; warp maps 0..1 to 0..1."""
  share = warp(1 - _fractions(number))
  return _snapped(process, process.t_min + (process.t_max - process.t_min) * share)


def _along_log_snr(process: Process, path: Callable, number: int) -> np.ndarray:
  """`number` times at path(first λ, last λ, fractions), with the ends exactly t_max and t_min."""
  first, last = _evaluate(process.log_snr, np.array([process.t_max, process.t_min]))
  values = path(max(first, LEAST_LOG_SNR), last, _fractions(number))
  times = _evaluate(process.time_of, values)
  times[0] = process.t_max
  if number > 1:
    times[-1] = process.t_min
  return times


def uniform() -> Grid:
  """Equal steps in time; on a discrete process rounded to its table."""
  return lambda process, number: _between(process, lambda u: u, number)


def quadratic() -> Grid:
  """Times that grow as a square (Song et al. 2020, DDIM, appendix D.2)."""
  return lambda process, number: _between(process, np.square, number)


def log_snr() -> Grid:
  """Equal steps in log-SNR (DPM-Solver: Lu et al. 2022)."""
  return lambda process, number: _along_log_snr(
    process, lambda first, last, u: first + (last - first) * u, number
  )


def karras(rho: float = 7.0) -> Grid:
  """Equal steps in (σ/α)^(1/ρ) (Karras et al. 2022, eq. 5).

  Raises:
    ConfigError: unless ρ is positive.
  """
  if not rho > 0:
    raise ConfigError(f'grid.rho={rho} must be positive')

  def path(first, last, fractions):
    high, low = np.exp(-0.5 * first) ** (1 / rho), np.exp(-0.5 * last) ** (1 / rho)
    return -2 * rho * np.log(high + (low - high) * fractions)

  return lambda process, number: _along_log_snr(process, path, number)


def adm_timesteps(total: int, sections: tuple[int, ...]) -> list[int]:
  """Timesteps 0..total−1 that are kept: the range cut in equal sections, each with its number.

  Dhariwal & Nichol 2021 (their code's `space_timesteps`).
  """
  kept, start = [], 0
  for i, number in enumerate(sections):
    size = total // len(sections) + (i < total % len(sections))
    if number > size or number < 1:
      raise ConfigError(f'grid.sections: cannot keep {number} of the {size} steps of section {i}')
    stride = (size - 1) / (number - 1) if number > 1 else 1
    kept += [start + round(stride * j) for j in range(number)]
    start += size
  return kept


def _respacings(total: int, number: int, sections: tuple[int, ...]) -> dict[str, Callable]:
  return {
    'adm': lambda: adm_timesteps(total, sections or (number,)),
    'stride': lambda: list(range(0, total, total // number))[:number],
    'trailing': lambda: [round(total - i * total / number) - 1 for i in reversed(range(number))],
  }


def respaced(spacing: str = 'adm', sections: tuple[int, ...] = ()) -> Grid:
  """A subset of a discrete process's times.

  Args:
    spacing: 'adm' includes the first and the last (Dhariwal & Nichol 2021); 'stride' is every
      T/n-th from the first (DDIM's), which leaves out the noisiest; 'trailing' is every T/n-th
      from the last (Lin et al. 2023, table 2).
    sections: 'adm' only: the number of steps to keep in each of several equal parts of the
      times, cleanest first; their sum is the number of steps.
  """

  def grid(process, number):
    if not process.steps:
      raise ConfigError(f"grid 'respaced' needs a discrete process (ddpm), not {process.name!r}")
    if number > process.steps or (sections and sum(sections) != number):
      raise ConfigError(
        f'grid: {number} steps of {process.steps}'
        + (f' in sections {sections}: they sum to {sum(sections)}' if sections else ' are too many')
      )
    kept = pick(_respacings(process.steps, number, sections), spacing, 'grid.spacing')()
    return (np.array(kept[::-1]) + 1.0) / process.steps

  return grid


def given(times: tuple[float, ...] = ()) -> Grid:
  """Times listed in the config; the number of steps must agree."""

  def grid(process, number):
    if len(times) != number:
      raise ConfigError(f'grid.times lists {len(times)} times, but {number} are needed')
    return np.asarray(times, np.float64)

  return grid


GRIDS = {
  'uniform': uniform,
  'quadratic': quadratic,
  'log_snr': log_snr,
  'karras': karras,
  'respaced': respaced,
  'given': given,
}

ENDS = {'clean': 0, 't_min': 1}


def make_times(settings: Mapping, process: Process, steps: int) -> Times:
  """The [steps + 1] times of a config's grid.

  Args:
    settings: `name` and settings of a grid, and `end`: 'clean' or 't_min'.
    process: what the times are of.
    steps: sampler steps, at least 1.

  Raises:
    ValueError: for unknown names or settings, fewer than one step, or times that do not decrease
      strictly within [0, t_max].
  """
  if steps < 1:
    raise ConfigError(f'sampling.steps={steps}: at least 1')
  settings = dict(settings)
  more = pick(ENDS, settings.pop('end', 'clean'), 'grid.end')
  times = component(GRIDS, settings, 'grid')(process, steps + more)
  times = times if more else np.append(times, 0.0)
  check_times(times)
  if times[0] > process.t_max * (1 + 1e-6):
    raise ConfigError(f'grid: times must not pass t_max = {process.t_max:g}, as {times[0]:g} does')
  return times
