"""Processes that are not a formula: discrete tables, and a learned log-SNR."""

import jax
import jax.numpy as jnp
import numpy as np

from common.config import ConfigError, pick
from diffusion.processes.process import Process, bisect, variance_preserving


def linear_betas(steps: int, scaled: bool = True) -> np.ndarray:
  """β_1..β_T from 1e-4 to 0.02 (Ho et al. 2020), times 1000/T when scaled (iDDPM's any T)."""
  scale = 1000 / steps if scaled else 1.0
  betas = np.linspace(scale * 1e-4, scale * 0.02, steps)
  if betas[-1] >= 1:
    raise ConfigError(f'process.steps={steps}: a linear beta would reach {betas[-1]:.3g}; use > 20')
  return betas


def cosine_betas(steps: int, s: float = 0.008, largest: float = 0.999) -> np.ndarray:
  """β_1..β_T of the cosine schedule, clipped (Nichol & Dhariwal 2021, eq. 17)."""
  level = np.cos((np.arange(steps + 1) / steps + s) / (1 + s) * np.pi / 2) ** 2
  return np.minimum(1 - level[1:] / level[:-1], largest)


def ddpm(schedule: str = 'linear', steps: int = 1000, scaled: bool = True) -> Process:
  """Discrete time: entry k = 1..T of a table at time k/T, a monotone log-SNR in between.

  Args:
    schedule: 'linear' (Ho et al. 2020) or 'cosine' (Nichol & Dhariwal 2021).
    steps: T. Fewer steps at sampling are a grid over this table (`grids.respaced`).
    scaled: whether linear betas grow as 1000/T, which keeps the terminal SNR.
  """
  tables = {'linear': lambda: linear_betas(steps, scaled), 'cosine': lambda: cosine_betas(steps)}
  if steps < 2:
    raise ConfigError(f'process.steps={steps}: a discrete process needs at least 2')
  return from_betas(pick(tables, schedule, 'process.schedule')())


def from_betas(betas: np.ndarray) -> Process:
  """The discrete process of a table of β_1..β_T, each in (0, 1)."""
  import scipy.interpolate  # here: only discrete processes wait for it

  steps = len(betas)
  log_signal = np.cumsum(np.log1p(-betas))
  entries = log_signal - np.log(-np.expm1(log_signal))
  # A monotone cubic between entries k and k + 1: smooth enough for adaptive solvers.
  cubics = scipy.interpolate.PchipInterpolator(np.arange(1, steps + 1), entries).c.T

  def between(low, fraction):
    """λ at entry low + fraction; low in 1..T−1."""
    a, b, c, d = jnp.moveaxis(jnp.asarray(cubics, fraction.dtype)[low - 1], -1, 0)
    return ((a * fraction + b) * fraction + c) * fraction + d

  def log_snr(t):
    position = t * steps
    entry = jnp.round(position)  # k/T is not exact in floats: a time that close is an entry
    tolerance = 4 * steps * jnp.finfo(t.dtype).eps
    off = jnp.where(jnp.abs(position - entry) < tolerance, position - entry, 0)
    position = position - jax.lax.stop_gradient(off)
    low = jnp.clip(jnp.floor(position), 1, steps - 1)
    return between(low.astype(jnp.int32), position - low)

  def time_of(value):
    low = jnp.searchsorted(jnp.asarray(-entries[1:-1], value.dtype), -value, side='right') + 1
    return (low + bisect(lambda part: between(low, part), 0.0, 1.0)(value)) / steps

  return variance_preserving('ddpm', log_snr, time_of, 1 / steps, 1.0, steps=steps)
