"""The variational bound on the likelihood, term by term, in nats per example.

−log p(x) <= KL(q(z_T | x) ‖ p(z_T)) + Σ over reverse steps of the cost of a step
             + E[−log p(x | z at t_min)]

In continuous time the middle term is ½·∫ E‖ε − ε̂‖² dλ over log-SNR (Kingma et al. 2021, eq. 15-18).
It depends on the process only through the ends of λ, so the integral is taken over λ, in strata.
In discrete time it is a sum of KLs between Gaussians (Ho et al. 2020, eq. 5).
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from common.method import Likelihood
from common.ranges import Interval
from diffusion.likelihood.terms import categorical_nats, prior_nats, step_nats, sum_dims
from diffusion.predictions import Denoise, add_noise, fold_in_each, normal_like
from diffusion.processes.process import MIN_LOG_SNR, Process

RECONSTRUCTION_DRAWS = 4  # noises that the reconstruction term is averaged over


class Estimator:
  """An estimator of the likelihood. Each is a frozen dataclass of its settings."""

  def estimate(
    self,
    process: Process,
    denoise: Denoise,
    x0: Float[Array, 'batch *dims'],
    levels: int,
    keys: Key[Array, 'batch'],
    variance: str,
  ) -> Likelihood:
    """Negative log-likelihood of each example.

    Args:
      process: the diffusion process.
      denoise: (x, t [batch]) -> Pair.
      x0: data, on the grid of `levels` values in [-1, 1].
      levels: number of values of each dimension.
      keys: one key per example.
      variance: variance of the reverse step of a discrete process.
    """
    raise NotImplementedError


class BoundTerms(NamedTuple):
  """The parts of the bound, in nats per example, and the standard error of their sum.

  Attributes:
    prior: L_T, the KL at the noisy end.
    diffusion: the cost of each part of the reverse process, from clean to noisy. In discrete time
      a part is one of the steps L_1 .. L_(T−1), or a stratum of them; in continuous time it is a
      stratum of log-SNR.
    reconstruction: L_0, the cost of the data given its noisy version at the clean end.
    standard_error: the standard error of the total.
  """

  prior: Float[Array, 'batch']
  diffusion: Float[Array, 'batch terms']
  reconstruction: Float[Array, 'batch']
  standard_error: Float[Array, 'batch']

  @property
  def total(self) -> Float[Array, 'batch']:
    return self.prior + self.diffusion.sum(axis=1) + self.reconstruction


Integrand = Callable[[Float[Array, 'batch'], Key[Array, 'batch']], Float[Array, 'batch']]


def stratified_mean(
  integrand: Integrand, keys: Key[Array, 'batch'], number: int
) -> tuple[Float[Array, 'batch strata'], Float[Array, 'batch']]:
  """Mean of integrand(u, keys) over u in [0, 1), with one draw in each of `number` equal strata.

  Args:
    integrand: called with u [batch] and one key per example.
    keys: one key per example.
    number: number of strata, at least 2.

  Returns:
    The contribution of each stratum, whose sum is the mean; and the standard error of the mean,
    estimated from the differences of neighbouring strata. The estimate tends to be too large,
    because the integrand also changes from one stratum to the next.
  """
  # One stratum after the other: each is a network evaluation of the whole batch.
  draw = functools.partial(_one_stratum, integrand, keys, number)
  values = jax.lax.map(draw, jnp.arange(number))
  even = number // 2 * 2  # an odd last stratum counts like the average pair
  # A difference of two draws has twice the variance of one: each draw counts half of its square.
  difference = values[0:even:2] - values[1:even:2]
  variance = jnp.sum(difference**2, axis=0) / (even * number)
  return values.T / number, jnp.sqrt(variance)


def _one_stratum(
  integrand: Integrand, keys: Key[Array, 'batch'], number: int, stratum: Array
) -> Float[Array, 'batch']:
  # One key for the place within the stratum, one for the integrand's own noise.
  now = fold_in_each(keys, stratum)
  place, noise = split_keys(now)
  u = (stratum + jax.vmap(jax.random.uniform)(place)) / number
  return integrand(u, noise)


def split_keys(keys: Key[Array, 'batch']) -> tuple[Key[Array, 'batch'], Key[Array, 'batch']]:
  """Two independent keys for each key."""
  first, second = jax.vmap(jax.random.split, out_axes=1)(keys)
  return first, second


class Ends(NamedTuple):
  """The times between which the bound integrates, and their log-SNR."""

  t_min: Float[Array, '']
  t_max: Float[Array, '']
  log_snr_max: Float[Array, '']
  log_snr_min: Float[Array, '']


def ends_of(process: Process, dtype: Any) -> Ends:
  """The ends of a process; its log-SNR is cut off at MIN_LOG_SNR (any start gives a bound)."""
  times = jnp.asarray([process.t_min, process.t_max], dtype)
  # λ falls with time: the first of the two is the larger.
  high, low = process.log_snr(times)
  cut = low < MIN_LOG_SNR
  low = jnp.maximum(low, MIN_LOG_SNR)
  return Ends(times[0], jnp.where(cut, process.time_of(low), times[1]), high, low)


@dataclasses.dataclass(frozen=True, eq=False)
class ContinuousBound:
  """The continuous-time bound for given data and a given model."""

  process: Process
  denoise: Denoise
  x0: Float[Array, 'batch *dims']
  levels: int
  ends: Ends

  def diffusion(self, u: Float[Array, 'batch'], keys: Key[Array, 'batch']) -> Float[Array, 'batch']:
    """½·(λ_max − λ_min)·‖ε − ε̂‖² at λ = λ_max + (λ_min − λ_max)·u."""
    t_min, t_max, high, low = self.ends
    t = self.process.time_of(high + (low - high) * u.astype(self.x0.dtype))
    # time_of is not exact at the ends.
    t = jnp.clip(t, t_min, t_max)
    x, eps = add_noise(self.process, self.x0, t, keys)
    # Kingma et al. 2021, eq. 17 with the integral over λ: its density under u is 1/(high − low).
    return 0.5 * (high - low) * sum_dims((eps - self.denoise(x, t).eps) ** 2)

  def reconstruction(
    self, u: Float[Array, 'batch'], keys: Key[Array, 'batch']
  ) -> Float[Array, 'batch']:
    """−log p(x0 | z) at t_min; the same for every u."""
    t = self.ends.t_min
    z = self.process.alpha(t) * self.x0 + self.process.sigma(t) * normal_like(keys, self.x0)
    return categorical_nats(self.process, self.x0, z, t, self.levels)

  def terms(self, keys: Key[Array, 'batch'], number: int) -> BoundTerms:
    """The bound, with `number` (at least 2) network evaluations per example."""
    # Separate keys for the two estimates, which makes their errors independent.
    first, second = split_keys(keys)
    diffusion, error = stratified_mean(self.diffusion, first, number)
    reconstruction, error_last = stratified_mean(self.reconstruction, second, RECONSTRUCTION_DRAWS)
    prior = prior_nats(self.process, self.x0, self.ends.t_max)
    # Independent draws: the squares of the standard errors add up.
    error = jnp.hypot(error, error_last)
    return BoundTerms(prior, diffusion, reconstruction.sum(axis=1), error)


@dataclasses.dataclass(frozen=True, eq=False)
class DiscreteBound:
  """The bound of a discrete process, L_T + Σ L_{t−1} + L_0, for given data and a given model."""

  process: Process
  denoise: Denoise
  x0: Float[Array, 'batch *dims']
  levels: int
  variance: str

  def _cost(self, t: Float[Array, 'batch'], keys: Key[Array, 'batch']) -> Float[Array, 'batch']:
    """L_{t−1} at one draw of the noise."""
    x, _ = add_noise(self.process, self.x0, t, keys)
    estimate = self.denoise(x, t)
    return step_nats(self.process, estimate, x, self.x0, t, self.levels, self.variance)

  def diffusion(self, u: Float[Array, 'batch'], keys: Key[Array, 'batch']) -> Float[Array, 'batch']:
    """(T − 1)·L_{t−1} at the step t that lies the fraction u of the way from 2 to T."""
    number = self.process.steps - 1
    # Uniform over the T − 1 steps; the factor T − 1 turns the mean over steps into their sum. With
    # as many strata as steps, each stratum is one step, and the sum is exact.
    step = jnp.clip(jnp.floor(u * number), 0, number - 1)
    return number * self._cost(((step + 2) / self.process.steps).astype(self.x0.dtype), keys)

  def reconstruction(
    self, u: Float[Array, 'batch'], keys: Key[Array, 'batch']
  ) -> Float[Array, 'batch']:
    """L_0, of the step from t = 1/T to the data; the same for every u."""
    return self._cost(jnp.full(self.x0.shape[0], 1 / self.process.steps, self.x0.dtype), keys)

  def terms(self, keys: Key[Array, 'batch'], number: int) -> BoundTerms:
    """The bound, with `number` network evaluations per example for the steps L_1 .. L_(T−1).

    If `number` is at least T − 1, each step is evaluated once (the exact sum); else a stratified
    sample of `number` steps, at least 2.
    """
    first, second = split_keys(keys)
    # At least two strata, for the standard error: T = 2 has one such step, drawn twice then.
    strata = max(2, min(number, self.process.steps - 1))
    diffusion, error = stratified_mean(self.diffusion, first, strata)
    reconstruction, error_last = stratified_mean(self.reconstruction, second, RECONSTRUCTION_DRAWS)
    prior = prior_nats(self.process, self.x0, jnp.asarray(self.process.t_max, self.x0.dtype))
    error = jnp.hypot(error, error_last)
    return BoundTerms(prior, diffusion, reconstruction.sum(axis=1), error)


def variational_bound(
  process: Process,
  denoise: Denoise,
  x0: Float[Array, 'batch *dims'],
  levels: int,
  keys: Key[Array, 'batch'],
  variance: str,
  *,
  terms: int,
) -> BoundTerms:
  """The variational bound, term by term: in exact steps if the process is discrete.

  Args:
    process, denoise, x0, levels, keys, variance: as in `Estimator.estimate`.
    terms: number of network evaluations per example for the middle term.
  """
  if process.steps:
    return DiscreteBound(process, denoise, x0, levels, variance).terms(keys, terms)
  # The ends are computed once, outside the loop over strata.
  ends = ends_of(process, x0.dtype)
  return ContinuousBound(process, denoise, x0, levels, ends).terms(keys, terms)


@dataclasses.dataclass(frozen=True)
class VLB(Estimator):
  """The variational bound.

  Attributes:
    terms: number of network evaluations per example for the middle term, at least 2.
  """

  terms: Annotated[int, Interval(2, 100_000)] = 32

  def estimate(
    self,
    process: Process,
    denoise: Denoise,
    x0: Float[Array, 'batch *dims'],
    levels: int,
    keys: Key[Array, 'batch'],
    variance: str,
  ) -> Likelihood:
    found = variational_bound(process, denoise, x0, levels, keys, variance, terms=self.terms)
    parts = {
      'prior': found.prior[:, None],
      'diffusion': found.diffusion,
      'reconstruction': found.reconstruction[:, None],
    }
    return Likelihood(found.total, found.standard_error, parts=parts)
