"""Time discretisations: which times a sampler visits.

A grid of n steps is n + 1 decreasing times. The first n run from t_max to t_min, spaced by the
grid, and the last is 0, clean data: the step to it is the final denoising. With `end='t_min'` all
n + 1 run from t_max to t_min, and the result still carries the noise of t_min.

On a discrete process every time is an entry of its table, because the network has seen no others:
each grid takes the entries nearest to its times. Where several times have the same nearest entry,
all but one move up to the next entries that are free.

Grids are computed on the host in float64 and given to the compiled sampler as arrays.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Annotated

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from common.config import ConfigError, component, pick
from common.ranges import ABOVE_ZERO, AT_LEAST_ONE, AT_LEAST_ZERO, Each, Interval, OneOf
from diffusion.processes.process import MIN_LOG_SNR, Process
from diffusion.sampling.driver import check_times

TimeArray = Float[np.ndarray, 'times']


class Grid:
  """A spacing of times. Each grid is a frozen dataclass of its settings."""

  def discretise(self, process: Process, number: int) -> TimeArray:
    """`number` decreasing times, from t_max to t_min."""
    raise NotImplementedError


def _evaluate(function: Callable, values: np.ndarray) -> np.ndarray:
  """A function of the process in float64, as concrete numbers even while something is traced."""
  with jax.enable_x64(True), jax.ensure_compile_time_eval():
    return np.array(function(jnp.asarray(values, jnp.float64)), np.float64)


def _fractions(number: int) -> np.ndarray:
  """`number` equally spaced values from 0 to 1; a single value is 0."""
  return np.linspace(0.0, 1.0, number) if number > 1 else np.zeros(1)


def _table_times(process: Process, entries: np.ndarray) -> TimeArray:
  """The times of these falling entries k of a discrete process's table, all made different."""
  number, rising = len(entries), entries[::-1].astype(int)
  # Up to the next free entry; then down again from the top, for those pushed beyond it.
  rank = np.arange(number)
  rising = np.maximum.accumulate(rising - rank) + rank
  highest = max(int(entries[0]), number)
  rising = np.minimum(rising, highest - number + 1 + rank)
  return rising[::-1] / process.steps


def _between(process: Process, share: np.ndarray) -> TimeArray:
  """Times at these shares of the way from t_min (0) to t_max (1)."""
  times = process.t_min + (process.t_max - process.t_min) * share
  return _table_times(process, np.round(times * process.steps)) if process.steps else times


def _log_snr_ends(process: Process) -> tuple[float, float]:
  """λ at t_max, but at least MIN_LOG_SNR, and λ at t_min."""
  first, last = _evaluate(process.log_snr, np.array([process.t_max, process.t_min]))
  return max(first, MIN_LOG_SNR), last


def _times_at(process: Process, log_snr: np.ndarray) -> TimeArray:
  """Times at these log-SNRs, with the ends exactly t_max and t_min."""
  if process.steps:
    return _table_times(process, _nearest_entries(process, log_snr))
  times = _evaluate(process.time_of, log_snr)
  # The inverse is not exact, and where λ was cut off it is far from t_max.
  times[0] = process.t_max
  if len(times) > 1:
    times[-1] = process.t_min
  return times


def _nearest_entries(process: Process, log_snr: np.ndarray) -> np.ndarray:
  """The entries 1..T of the table that are nearest to these log-SNRs, in log-SNR."""
  table = _evaluate(process.log_snr, np.arange(1, process.steps + 1) / process.steps)
  # The table falls, and searchsorted needs rising values: both sides change sign.
  middles = -0.5 * (table[1:] + table[:-1])
  return 1 + np.searchsorted(middles, -log_snr)


@dataclasses.dataclass(frozen=True)
class Uniform(Grid):
  """Equal steps in time.

  Attributes:
    last: the last time above 0, where sampling ends earlier than training begins; 0: t_min.
  """

  last: Annotated[float, AT_LEAST_ZERO] = 0.0

  def discretise(self, process: Process, number: int) -> TimeArray:
    # The share of the way from t_min to t_max at which `last` lies.
    low = max(self.last - process.t_min, 0.0) / (process.t_max - process.t_min)
    return _between(process, 1 - (1 - low) * _fractions(number))


@dataclasses.dataclass(frozen=True)
class Quadratic(Grid):
  """Times that grow quadratically (Song et al. 2020, DDIM, appendix D.2).

  On a continuous process τ_i = c·i² between t_min and t_max.

  Attributes:
    span: on a discrete process, the share of the table that the times cover. 0.8 is that of the
      authors' code, whose timesteps of 0..T−1 are the whole parts of i²·0.8·T/(n − 1)². (It repeats
      timestep 0 at 50 and 100 steps of 1000.)
  """

  span: Annotated[float, Interval(0, 1, above=True)] = 0.8

  def discretise(self, process: Process, number: int) -> TimeArray:
    if not process.steps:
      return _between(process, np.square(1 - _fractions(number)))
    # A single step starts at the noisiest time, so the roots fall.
    roots = np.linspace(np.sqrt(process.steps * self.span), 0, number)
    # Timestep k of 0..T−1 is entry k + 1; 1e-9 keeps whole numbers whole.
    entries = np.floor(np.square(roots) + 1e-9) + 1
    return _table_times(process, np.minimum(entries, process.steps))


@dataclasses.dataclass(frozen=True)
class LogSNR(Grid):
  """Equal steps in log-SNR (DPM-Solver: Lu et al. 2022)."""

  def discretise(self, process: Process, number: int) -> TimeArray:
    first, last = _log_snr_ends(process)
    return _times_at(process, first + (last - first) * _fractions(number))


@dataclasses.dataclass(frozen=True)
class Karras(Grid):
  """Equal steps in (σ/α)^(1/ρ) (Karras et al. 2022, eq. 5).

  Attributes:
    rho: ρ; the larger it is, the more times have little noise.
  """

  rho: Annotated[float, ABOVE_ZERO] = 7.0

  def discretise(self, process: Process, number: int) -> TimeArray:
    rho = self.rho
    first, last = _log_snr_ends(process)
    # σ/α = exp(−λ/2), and back: λ = −2·log(σ/α).
    high, low = np.exp(-0.5 * first) ** (1 / rho), np.exp(-0.5 * last) ** (1 / rho)
    log_snr = -2 * rho * np.log(high + (low - high) * _fractions(number))
    return _times_at(process, log_snr)


def adm_timesteps(total: int, sections: tuple[int, ...]) -> list[int]:
  """Keeps the given number of timesteps in each of several equal sections of 0..total−1.

  Dhariwal & Nichol 2021 (`space_timesteps` in their code).
  """
  kept, start = [], 0
  for i, number in enumerate(sections):
    size = total // len(sections) + (i < total % len(sections))
    if number > size or number < 1:
      raise ConfigError(
        f'grid.sections: section {i} of {size} steps can keep 1 to {size} of them, got {number}'
      )
    # Both ends of a section are kept, and the rest is spread between them.
    stride = (size - 1) / (number - 1) if number > 1 else 1
    # Sums, as in the original, whose rounding errors decide which way a half goes.
    position = 0.0
    for _ in range(number):
      kept.append(start + round(position))
      position += stride
    start += size
  return kept


def stride_timesteps(total: int, number: int) -> list[int]:
  """Every T/n-th timestep, from the first (Song et al. 2020); leaves out the noisiest."""
  return list(range(0, total, total // number))[:number]


def trailing_timesteps(total: int, number: int) -> list[int]:
  """Every T/n-th timestep, from the last (Lin et al. 2023, table 2)."""
  return [round(total - i * total / number) - 1 for i in reversed(range(number))]


SPACINGS = ('adm', 'stride', 'trailing')


@dataclasses.dataclass(frozen=True)
class Respaced(Grid):
  """A subset of a discrete process's times.

  Attributes:
    spacing: 'adm' includes the first and the last (Dhariwal & Nichol 2021); 'stride' is every
      T/n-th from the first (DDIM's), which leaves out the noisiest; 'trailing' is every T/n-th
      from the last (Lin et al. 2023, table 2).
    sections: 'adm' only: the number of steps to keep in each of several equal parts of the
      times, cleanest first; their sum is the number of steps.
  """

  spacing: Annotated[str, OneOf(*SPACINGS)] = 'adm'
  sections: Annotated[tuple[int, ...], Each(AT_LEAST_ONE, int)] = ()

  def discretise(self, process: Process, number: int) -> TimeArray:
    if not process.steps:
      raise ConfigError(f"grid 'respaced' needs a discrete process (ddpm), got {process.name!r}")
    if self.sections and sum(self.sections) != number:
      raise ConfigError(
        f'grid.sections must add up to the {number} steps of the sampler, but {self.sections} sum'
        f' to {sum(self.sections)}'
      )
    # Timestep k of 0..T−1, as the papers count them, is entry k + 1 here.
    return _table_times(process, np.array(self._kept(process.steps, number)[::-1]) + 1)

  def _kept(self, total: int, number: int) -> list[int]:
    if self.spacing == 'adm':
      return adm_timesteps(total, self.sections or (number,))
    spaced = stride_timesteps if self.spacing == 'stride' else trailing_timesteps
    return spaced(total, number)


@dataclasses.dataclass(frozen=True)
class Given(Grid):
  """Times listed in the config; the number of steps must agree.

  Attributes:
    times: from noise to data, without the 0 that ends a clean grid.
  """

  times: Annotated[tuple[float, ...], Each(AT_LEAST_ZERO, float)] = ()

  def discretise(self, process: Process, number: int) -> TimeArray:
    if len(self.times) != number:
      raise ConfigError(f'grid.times lists {len(self.times)} times, but {number} are needed')
    times = np.asarray(self.times, np.float64)
    entries = times * process.steps
    if not np.allclose(entries, np.round(entries), rtol=0, atol=1e-6):
      raise ConfigError(
        f'grid.times on process {process.name!r} must be multiples of 1/{process.steps}, the'
        f' entries of its table, got {self.times}'
      )
    return times


GRIDS = {
  'uniform': Uniform,
  'quadratic': Quadratic,
  'log_snr': LogSNR,
  'karras': Karras,
  'respaced': Respaced,
  'given': Given,
}

# A sampler needs steps + 1 times: the grid gives `steps` plus this number, and 'clean' appends 0.
ENDS = {'clean': 0, 't_min': 1}


def make_times(settings: Mapping, process: Process, steps: int) -> TimeArray:
  """The [steps + 1] times of a config's grid.

  Args:
    settings: `name` and settings of a grid, and `end`: 'clean' or 't_min'.
    process: the diffusion process.
    steps: number of sampler steps, at least 1.

  Raises:
    ValueError: for unknown names or settings, fewer than one step, or times that do not decrease
      strictly within [0, t_max].
  """
  if steps < 1:
    raise ConfigError(f'sampling.steps must be at least 1, got {steps}')
  settings = dict(settings)
  more = pick(ENDS, settings.pop('end', 'clean'), 'grid.end')
  if 0 < process.steps < steps + more:
    raise ConfigError(
      f'sampling.steps must be at most {process.steps - more} on process {process.name!r}, whose'
      f' table has {process.steps} entries, got {steps}'
    )
  times = component(GRIDS, settings, 'grid').discretise(process, steps + more)
  # The step to time 0 is the final denoising.
  times = times if more else np.append(times, 0.0)
  check_times(times)
  if times[0] > process.t_max * (1 + 1e-6):
    raise ConfigError(f'grid: times must not pass t_max = {process.t_max:g}, got {times[0]:g}')
  return times
