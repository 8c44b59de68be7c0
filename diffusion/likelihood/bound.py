"""The variational bound on the likelihood, term by term, in nats per example.

−log p(x) <= KL(q(z_T | x) ‖ p(z_T)) + Σ over times of the cost of each reverse step
             + E[−log p(x | z at t_min)]

In continuous time the middle term is ½·∫ E‖ε − ε̂‖² dλ over log-SNR (Kingma et al. 2021, eq. 15-18):
the same for every process between the same ends, so its integral is taken over λ, stratified. For
discrete time it is a sum of KLs between Gaussians (Ho et al. 2020, eq. 5).
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from common.config import ConfigError
from common.method import Likelihood
from diffusion.predictions import Denoise, Pair, expand, normal_like
from diffusion.processes.process import Process

# A process may end in log-SNR −∞. The bound then starts here, where for data in [-1, 1] the prior
# term is below 2e-7 nats per dimension; it is a bound from wherever it starts.
LEAST_LOG_SNR = -15.0

Estimator = Callable[..., Likelihood]  # (process, denoise, x0, levels, keys, variance)


class Terms(NamedTuple):
  """The parts of the bound, in nats per example, and the standard error of their sum.

  Attributes:
    prior: L_T, the KL at the noisy end.
    diffusion: what each stretch of the way costs, from clean to noisy: in discrete time the steps
      L_1 .. L_(T−1), or a stratum of them each; in continuous time a stratum of log-SNR each.
    reconstruction: L_0, of the data given what is seen of it at the clean end.
    standard_error: of the total.
  """

  prior: Float[Array, 'batch']
  diffusion: Float[Array, 'batch terms']
  reconstruction: Float[Array, 'batch']
  standard_error: Float[Array, 'batch']

  @property
  def total(self) -> Float[Array, 'batch']:
    return self.prior + self.diffusion.sum(axis=1) + self.reconstruction


def sum_dims(x: Float[Array, 'batch *dims']) -> Float[Array, 'batch']:
  """Sums over everything but the first axis."""
  return x.reshape(x.shape[0], -1).sum(axis=-1)


def prior_nats(
  process: Process, x0: Float[Array, 'batch *dims'], t: Float[Array, '']
) -> Float[Array, 'batch']:
  """KL(N(α·x0, σ²) ‖ N(0, prior_std²)) at time t."""
  alpha, sigma = process.alpha(t), process.sigma(t)
  ratio = (sigma / process.prior_std) ** 2
  mean = alpha * x0 / process.prior_std
  return 0.5 * sum_dims(ratio + mean**2 - 1 - jnp.log(ratio))


def categorical_nats(
  process: Process,
  x0: Float[Array, 'batch *dims'],
  z: Float[Array, 'batch *dims'],
  t: Float[Array, ''],
  levels: int,
) -> Float[Array, 'batch']:
  """−log p(x0 | z) with p(x0 | z) ∝ q(z | x0) over the levels (Kingma et al. 2021, section 3.3).

  Args:
    process: the diffusion process.
    x0: data, on the grid of `levels` values in [-1, 1].
    z: x0 with the noise of time t.
    t: the time, a scalar.
    levels: number of values of each dimension.
  """
  scale = 0.5 * jnp.exp(process.log_snr(t))
  seen = z / process.alpha(t)
  width = 2.0 / (levels - 1)
  nearest = jnp.clip(jnp.round((seen + 1) / width), 0, levels - 1) * width - 1
  top = -scale * (seen - nearest) ** 2  # the largest logit: the sum below cannot overflow

  def add(level, total):
    return total + jnp.exp(-scale * (seen - (level * width - 1)) ** 2 - top)

  total = jax.lax.fori_loop(0, levels, add, jnp.zeros_like(z))
  return sum_dims(jnp.log(total) + top + scale * (seen - x0) ** 2)


def ends_nats(
  process: Process,
  x0: Float[Array, 'batch *dims'],
  eps: Float[Array, 'batch *dims'],
  levels: int,
) -> Float[Array, 'batch']:
  """What the bound charges at its two ends, given the noise at t_min: what learned ends move."""
  t_min, t_max = jnp.asarray([process.t_min, process.t_max], x0.dtype)
  z = process.alpha(t_min) * x0 + process.sigma(t_min) * eps
  return prior_nats(process, x0, t_max) + categorical_nats(process, x0, z, t_min, levels)


def discretized_normal_nats(
  x0: Float[Array, 'batch *dims'],
  mean: Float[Array, 'batch *dims'],
  log_std: float | Float[Array, '...'],
  levels: int,
) -> Float[Array, 'batch *dims']:
  """−log of the mass a normal puts on each value's cell (Ho et al. 2020, eq. 13), per dimension.

  The first and the last of the `levels` cells of [-1, 1] reach to infinity.
  """
  half = 1.0 / (levels - 1)
  upper = (x0 - mean + half) * jnp.exp(-log_std)
  lower = (x0 - mean - half) * jnp.exp(-log_std)
  upper = jnp.where(x0 > 1 - half, jnp.inf, upper)
  lower = jnp.where(x0 < half - 1, -jnp.inf, lower)
  # On the far side of the mean the difference of two numbers close to 1 would be lost.
  flip = (lower > 0) & jnp.isfinite(lower)
  low, high = jnp.where(flip, -upper, lower), jnp.where(flip, -lower, upper)
  cdf = jax.scipy.special.log_ndtr
  return -(cdf(high) + jnp.log1p(-jnp.exp(jnp.minimum(cdf(low) - cdf(high), -1e-7))))


def reverse_step(
  process: Process,
  x: Float[Array, 'batch *dims'],
  x0: Float[Array, 'batch *dims'],
  t: Float[Array, 'batch'],
  s: Float[Array, 'batch'],
) -> tuple[Array, Array]:
  """Mean and log-variance of q(x_s | x_t, x0), s < t (Ho et al. 2020, eq. 6-7); s may be 0."""
  share = process.lost(t, s)
  old = process.alpha(t) / process.alpha(s) * (process.sigma(s) / process.sigma(t)) ** 2
  mean = expand(old, x) * x + expand(process.alpha(s) * share, x) * x0
  return mean, jnp.log(share) + 2 * jnp.log(process.sigma(s))


def reverse_log_variance(
  process: Process, t: Float[Array, 'batch'], s: Float[Array, 'batch'], variance: str, range_: Array
) -> Array:
  """Log-variance of the model's reverse step on a discrete process, [batch, 1, ...] or like x.

  Args:
    process: a discrete process.
    t: times k/T.
    s: (k − 1)/T. Where that is 0, the smallest variance is that of the step before (iDDPM).
    variance: 'fixed_small', 'fixed_large' or 'learned'.
    range_: of 'learned', what the network says, in [0, 1]; else any array of the shape of x.
  """
  first = 1 / process.steps
  after, before = jnp.maximum(t, 2 * first), jnp.maximum(s, first)
  small = jnp.log(process.lost(after, before)) + 2 * jnp.log(process.sigma(before))
  large = jnp.log(process.lost(t, s)) + 2 * jnp.log(process.sigma(t))
  if variance == 'learned':
    return expand(small, range_) + range_ * expand(large - small, range_)
  if variance == 'fixed_large':  # DDPM's code: the last step's variance is the small one's
    return expand(jnp.where(s > 0, large, small), range_)
  return expand(small, range_)


def step_nats(
  process: Process,
  estimate: Pair,
  x: Float[Array, 'batch *dims'],
  x0: Float[Array, 'batch *dims'],
  t: Float[Array, 'batch'],
  levels: int,
  variance: str,
) -> Float[Array, 'batch']:
  """The cost of one reverse step of a discrete process: L_{t−1} of Ho et al. 2020, eq. 5.

  For the last step (t = 1/T) that is L_0, the discretised normal's; for any other the KL between
  the true reverse step and the model's.
  """
  s = jnp.round(t * process.steps - 1) / process.steps
  spread = estimate.range if variance == 'learned' else x
  log_variance = reverse_log_variance(process, t, s, variance, spread)
  last = s <= 0
  safe = jnp.where(last, t / 2, s)  # keeps the branch that is not taken finite
  true_mean, true_log_variance = reverse_step(process, x, x0, t, safe)
  model_mean, _ = reverse_step(process, x, estimate.x0, t, safe)
  ratio = expand(true_log_variance, x) - log_variance
  error = (true_mean - model_mean) ** 2 * jnp.exp(-log_variance)
  kl = sum_dims(0.5 * (jnp.exp(ratio) - 1 - ratio + error))
  decoded = sum_dims(discretized_normal_nats(x0, estimate.x0, 0.5 * log_variance, levels))
  return jnp.where(last, decoded, kl)


def stratified(
  value: Callable[[Array, Key[Array, 'batch']], Float[Array, 'batch']],
  keys: Key[Array, 'batch'],
  number: int,
) -> tuple[Float[Array, 'batch strata'], Float[Array, 'batch']]:
  """Mean of value(u, keys) over u in [0, 1), one draw in each of `number` equal strata.

  Args:
    value: called with u [batch] and one key per example.
    keys: one per example.
    number: strata, at least 2.

  Returns:
    Each stratum's share of the mean, which is their sum; and the mean's standard error from the
    differences of neighbouring strata: an estimate from above, by how much the value changes from
    one stratum to the next.
  """

  def one(_, stratum):
    now = jax.vmap(jax.random.fold_in, (0, None))(keys, stratum)
    first, second = jax.vmap(jax.random.split, out_axes=1)(now)
    u = (stratum + jax.vmap(jax.random.uniform)(first)) / number
    return None, value(u, second)

  values = jax.lax.scan(one, None, jnp.arange(number))[1]
  even = number // 2 * 2  # an odd last stratum counts as the average pair does
  difference = values[0:even:2] - values[1:even:2]
  variance = jnp.sum(difference**2, axis=0) / (even * number)
  return values.T / number, jnp.sqrt(variance)


def continuous_bound(
  process: Process,
  denoise: Denoise,
  x0: Float[Array, 'batch *dims'],
  levels: int,
  keys: Key[Array, 'batch'],
  *,
  terms: int,
) -> Terms:
  """The bound in continuous time; `terms` (at least 2) network evaluations per example."""
  ends = jnp.asarray([process.t_min, process.t_max], x0.dtype)
  high, low = process.log_snr(ends)
  cut = low < LEAST_LOG_SNR
  low = jnp.maximum(low, LEAST_LOG_SNR)
  t_min, t_max = ends[0], jnp.where(cut, process.time_of(low), ends[1])

  def diffusion(u, keys):
    t = jnp.clip(process.time_of(high + (low - high) * u.astype(x0.dtype)), t_min, t_max)
    eps = normal_like(keys, x0)
    x = expand(process.alpha(t), x0) * x0 + expand(process.sigma(t), x0) * eps
    return 0.5 * (high - low) * sum_dims((eps - denoise(x, t).eps) ** 2)

  def reconstruction(u, keys):
    z = process.alpha(t_min) * x0 + process.sigma(t_min) * normal_like(keys, x0)
    return categorical_nats(process, x0, z, t_min, levels)

  first, second = jax.vmap(jax.random.split, out_axes=1)(keys)
  middle, error = stratified(diffusion, first, terms)
  last, error_last = stratified(reconstruction, second, 4)
  prior = prior_nats(process, x0, t_max)
  return Terms(prior, middle, last.sum(axis=1), jnp.hypot(error, error_last))


def discrete_bound(
  process: Process,
  denoise: Denoise,
  x0: Float[Array, 'batch *dims'],
  levels: int,
  keys: Key[Array, 'batch'],
  *,
  terms: int,
  variance: str,
) -> Terms:
  """The bound of a discrete process: L_T + Σ L_{t−1} + L_0.

  L_0 is evaluated at several noises; of the T − 1 steps before it, each once if `terms` is at least
  T − 1 (the exact sum), else a stratified sample of `terms`, at least 2.
  """
  middle_steps = process.steps - 1
  number = min(terms, middle_steps)

  def cost(t, keys):
    x = expand(process.alpha(t), x0) * x0
    x = x + expand(process.sigma(t), x0) * normal_like(keys, x0)
    return step_nats(process, denoise(x, t), x, x0, t, levels, variance)

  def middle(u, keys):
    step = jnp.clip(jnp.floor(u * middle_steps), 0, middle_steps - 1)
    return middle_steps * cost(((step + 2) / process.steps).astype(x0.dtype), keys)

  def last(u, keys):
    return cost(jnp.full(x0.shape[0], 1 / process.steps, x0.dtype), keys)

  first, second = jax.vmap(jax.random.split, out_axes=1)(keys)
  diffusion, error = stratified(middle, first, number)
  reconstruction, error_last = stratified(last, second, 4)
  prior = prior_nats(process, x0, jnp.asarray(process.t_max, x0.dtype))
  return Terms(prior, diffusion, reconstruction.sum(axis=1), jnp.hypot(error, error_last))


def variational_bound(
  process: Process,
  denoise: Denoise,
  x0: Float[Array, 'batch *dims'],
  levels: int,
  keys: Key[Array, 'batch'],
  variance: str,
  *,
  terms: int,
) -> Terms:
  """The variational bound, term by term: exact steps of a discrete process, else continuous time.

  Args:
    process: the diffusion process.
    denoise: (x, t [batch]) -> Pair.
    x0: data, on the grid of `levels` values in [-1, 1].
    levels: number of values of each dimension.
    keys: one per example.
    variance: of the reverse step of a discrete process.
    terms: network evaluations to spend per example on the middle term.
  """
  if process.steps:
    return discrete_bound(process, denoise, x0, levels, keys, terms=terms, variance=variance)
  return continuous_bound(process, denoise, x0, levels, keys, terms=terms)


def vlb(terms: int = 32) -> Estimator:
  if terms < 2:
    raise ConfigError(f'likelihood.terms={terms}: at least 2, for a standard error')

  def estimate(process, denoise, x0, levels, keys, variance):
    found = variational_bound(process, denoise, x0, levels, keys, variance, terms=terms)
    parts = {
      'prior': found.prior[:, None],
      'diffusion': found.diffusion,
      'reconstruction': found.reconstruction[:, None],
    }
    return Likelihood(found.total, found.standard_error, parts=parts)

  return estimate
