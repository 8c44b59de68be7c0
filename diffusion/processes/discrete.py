"""DDPM's process: discrete time, by a table of betas."""

import dataclasses
import functools
from typing import Annotated, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from common.config import ConfigError
from common.ranges import Interval, OneOf
from diffusion.processes.process import VariancePreserving, bisect


def linear_betas(steps: int, scaled: bool = True) -> np.ndarray:
  """β_1..β_T from 1e-4 to 0.02 (Ho et al. 2020), times 1000/T when scaled (iDDPM, for any T)."""
  scale = 1000 / steps if scaled else 1.0
  betas = np.linspace(scale * 1e-4, scale * 0.02, steps)
  if betas[-1] >= 1:
    raise ConfigError(
      f'process.steps must be above 20 so that linear betas stay below 1, got {steps}: the last'
      f' beta would reach {betas[-1]:.3g}'
    )
  return betas


def cosine_betas(steps: int, s: float = 0.008, largest: float = 0.999) -> np.ndarray:
  """β_1..β_T of the cosine schedule, clipped (Nichol & Dhariwal 2021, eq. 17)."""
  level = np.cos((np.arange(steps + 1) / steps + s) / (1 + s) * np.pi / 2) ** 2
  return np.minimum(1 - level[1:] / level[:-1], largest)


def _cosine_betas(steps: int, scaled: bool) -> np.ndarray:
  del scaled  # the cosine schedule is a function of k/T already
  return cosine_betas(steps)


SCHEDULES = {'linear': linear_betas, 'cosine': _cosine_betas}


class LogSNRTable(NamedTuple):
  """A discrete process's log-SNR.

  Attributes:
    entries: [T] log-SNR of steps 1..T.
    cubics: [T − 1, 4] coefficients, highest power first, of the cubic between entries k and k + 1.
  """

  entries: Float[np.ndarray, 'T']
  cubics: Float[np.ndarray, 'T-1 4']


def log_snr_table(betas: np.ndarray) -> LogSNRTable:
  """The log-SNR of a table of β_1..β_T, each in (0, 1)."""
  import scipy.interpolate  # imported here: only discrete processes need it, and it loads slowly

  log_signal = np.cumsum(np.log1p(-betas))  # log ᾱ_k = Σ log(1 − β)
  entries = log_signal - np.log(-np.expm1(log_signal))  # log ᾱ − log(1 − ᾱ)
  # A monotone cubic between entries k and k + 1: smooth enough for adaptive solvers.
  positions = np.arange(1, len(betas) + 1)
  return LogSNRTable(entries, scipy.interpolate.PchipInterpolator(positions, entries).c.T)


@dataclasses.dataclass(frozen=True)
class DDPM(VariancePreserving):
  """Discrete time: entry k = 1..T of a table at time k/T, a monotone log-SNR in between.

  Attributes:
    schedule: 'linear' (Ho et al. 2020) or 'cosine' (Nichol & Dhariwal 2021).
    steps: T. Sampling with fewer steps uses a grid over this table (`grids.Respaced`).
    scaled: whether linear betas grow as 1000/T, which keeps the terminal SNR.
  """

  name: ClassVar[str] = 'ddpm'
  t_max: ClassVar[float] = 1.0
  schedule: Annotated[str, OneOf(*SCHEDULES)] = 'linear'
  steps: Annotated[int, Interval(2, 100_000)] = 1000
  scaled: bool = True

  def __post_init__(self):
    self._betas()  # raises for betas that are too large

  @property
  def t_min(self) -> float:
    return 1 / self.steps

  def _betas(self) -> np.ndarray:
    return SCHEDULES[self.schedule](self.steps, self.scaled)

  @functools.cached_property
  def _table(self) -> LogSNRTable:
    return log_snr_table(self._betas())

  def _between(self, low: Int[Array, '*shape'], fraction: Float[Array, '*shape']) -> Array:
    """λ at entry low + fraction; low in 1..T−1."""
    cubics = jnp.asarray(self._table.cubics, fraction.dtype)
    a, b, c, d = jnp.moveaxis(cubics[low - 1], -1, 0)
    return ((a * fraction + b) * fraction + c) * fraction + d  # Horner's scheme

  def noisy_log_snr(self, t: Array) -> Array:
    position = t * self.steps
    # k/T is not exact in floating point: a time within the tolerance of an entry is that entry.
    entry = jnp.round(position)
    tolerance = 4 * self.steps * jnp.finfo(t.dtype).eps
    rounding = jnp.where(jnp.abs(position - entry) < tolerance, position - entry, 0)
    # Only the value is rounded: the derivative in t is still the cubic's.
    position = position - jax.lax.stop_gradient(rounding)
    low = jnp.clip(jnp.floor(position), 1, self.steps - 1)
    return self._between(low.astype(jnp.int32), position - low)

  def time_of(self, log_snr: Array) -> Array:
    # searchsorted needs rising values, and λ falls: both sides change sign.
    inner = jnp.asarray(-self._table.entries[1:-1], log_snr.dtype)
    low = jnp.searchsorted(inner, -log_snr, side='right') + 1
    between = functools.partial(self._between, low)
    return (low + bisect(between, log_snr, 0.0, 1.0)) / self.steps
