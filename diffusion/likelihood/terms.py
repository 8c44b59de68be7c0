"""The terms of the variational bound, each by its formula, in nats."""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from diffusion.predictions import Pair, expand
from diffusion.processes.process import Process


def sum_dims(x: Float[Array, 'batch *dims']) -> Float[Array, 'batch']:
  """Sums over all axes except the first."""
  return x.reshape(x.shape[0], -1).sum(axis=-1)


def prior_nats(
  process: Process, x0: Float[Array, 'batch *dims'], t: Float[Array, '']
) -> Float[Array, 'batch']:
  """KL(N(α·x0, σ²) ‖ N(0, prior_std²)) at time t: L_T."""
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
  # log q(z | level) = −½·SNR·(z/α − level)² + constant.
  scale = 0.5 * jnp.exp(process.log_snr(t))
  scaled = z / process.alpha(t)
  width = 2.0 / (levels - 1)
  nearest = jnp.clip(jnp.round((scaled + 1) / width), 0, levels - 1) * width - 1
  top = -scale * (scaled - nearest) ** 2  # the largest logit: the sum below cannot overflow
  # A loop over the levels: all logits at once would take `levels` times the memory of an image.
  add = functools.partial(_add_level, scale=scale, scaled=scaled, width=width, top=top)
  total = jax.lax.fori_loop(0, levels, add, jnp.zeros_like(z))
  return sum_dims(jnp.log(total) + top + scale * (scaled - x0) ** 2)


def _add_level(
  level: Array, total: Array, *, scale: Array, scaled: Array, width: float, top: Array
) -> Array:
  """The softmax's denominator with one more level."""
  return total + jnp.exp(-scale * (scaled - (level * width - 1)) ** 2 - top)


def endpoint_nats(
  process: Process,
  x0: Float[Array, 'batch *dims'],
  eps: Float[Array, 'batch *dims'],
  levels: int,
) -> Float[Array, 'batch']:
  """The bound's prior and reconstruction terms, given the noise at t_min.

  They depend on the ends of the process, which a learned process adapts.
  """
  t_min, t_max = jnp.asarray([process.t_min, process.t_max], x0.dtype)
  z = process.alpha(t_min) * x0 + process.sigma(t_min) * eps
  return prior_nats(process, x0, t_max) + categorical_nats(process, x0, z, t_min, levels)


def discretized_normal_nats(
  x0: Float[Array, 'batch *dims'],
  mean: Float[Array, 'batch *dims'],
  log_std: float | Float[Array, '...'],
  levels: int,
) -> Float[Array, 'batch *dims']:
  """−log of a normal's mass on the cell of each value (Ho et al. 2020, eq. 13), per dimension.

  The first and the last of the `levels` cells of [-1, 1] extend to infinity.
  """
  half = 1.0 / (levels - 1)
  upper = (x0 - mean + half) * jnp.exp(-log_std)
  lower = (x0 - mean - half) * jnp.exp(-log_std)
  upper = jnp.where(x0 > 1 - half, jnp.inf, upper)
  lower = jnp.where(x0 < half - 1, -jnp.inf, lower)
  # Above the mean both values of the distribution function are close to 1, and their difference
  # would be rounding error: there the mirrored cell is used, which has the same mass.
  flip = (lower > 0) & jnp.isfinite(lower)
  low, high = jnp.where(flip, -upper, lower), jnp.where(flip, -lower, upper)
  # log(Φ(high) − Φ(low)) from the logarithms of both, finite in the far tails too; −1e-7 keeps
  # log1p finite if rounding makes the two equal.
  log_cdf = jax.scipy.special.log_ndtr
  difference = jnp.minimum(log_cdf(low) - log_cdf(high), -1e-7)
  return -(log_cdf(high) + jnp.log1p(-jnp.exp(difference)))


def reverse_step(
  process: Process,
  x: Float[Array, 'batch *dims'],
  x0: Float[Array, 'batch *dims'],
  t: Float[Array, 'batch'],
  s: Float[Array, 'batch'],
) -> tuple[Array, Array]:
  """Mean and log-variance of q(x_s | x_t, x0), s < t (Ho et al. 2020, eq. 6-7); s may be 0."""
  share = process.added_noise_share(t, s)
  # Ho et al.'s eq. 7 in α and σ: mean = α_t/α_s·(σ_s/σ_t)²·x + α_s·(1 − SNR_t/SNR_s)·x0, and
  # variance β̃ = (1 − SNR_t/SNR_s)·σ_s².
  scale = process.alpha(t) / process.alpha(s) * (process.sigma(s) / process.sigma(t)) ** 2
  mean = expand(scale, x) * x + expand(process.alpha(s) * share, x) * x0
  return mean, jnp.log(share) + 2 * jnp.log(process.sigma(s))


def reverse_log_variance(
  process: Process,
  t: Float[Array, 'batch'],
  s: Float[Array, 'batch'],
  variance: str,
  fraction: Array,
) -> Array:
  """Log-variance of the model's reverse step on a discrete process, [batch, 1, ...] or like x.

  Args:
    process: a discrete process.
    t: times k/T.
    s: times (k − 1)/T. For k = 1 the small variance would be 0: that of k = 2 replaces it (iDDPM).
    variance: 'fixed_small', 'fixed_large' or 'learned'.
    fraction: for 'learned', the network's fraction in [0, 1]; else any array of x's shape.
  """
  first = 1 / process.steps
  # β̃_1 is 0, whose logarithm is infinite: β̃_2 stands in (Nichol & Dhariwal 2021's code).
  after, before = jnp.maximum(t, 2 * first), jnp.maximum(s, first)
  small = jnp.log(process.added_noise_share(after, before)) + 2 * jnp.log(process.sigma(before))
  large = jnp.log(process.added_noise_share(t, s)) + 2 * jnp.log(process.sigma(t))
  if variance == 'learned':
    # v·log β + (1 − v)·log β̃ (Nichol & Dhariwal 2021, eq. 15).
    return expand(small, fraction) + fraction * expand(large - small, fraction)
  if variance == 'fixed_large':  # as in DDPM's code, the last step takes the small variance
    return expand(jnp.where(s > 0, large, small), fraction)
  return expand(small, fraction)


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

  The last step (t = 1/T) costs L_0, by the discretised normal; every other step costs the KL
  between the true reverse step and the model's.
  """
  s = jnp.round(t * process.steps - 1) / process.steps  # (k − 1)/T, exact for k = 1 too
  fraction = estimate.variance_fraction if variance == 'learned' else x
  log_variance = reverse_log_variance(process, t, s, variance, fraction)
  last = s <= 0
  # Both costs are computed and one is selected: a positive s keeps the unselected KL finite, and
  # with it the gradient.
  safe = jnp.where(last, t / 2, s)
  true_mean, true_log_variance = reverse_step(process, x, x0, t, safe)
  model_mean, _ = reverse_step(process, x, estimate.x0, t, safe)
  # KL of two normals: ½·(σ²/σ_θ² − 1 − log(σ²/σ_θ²) + (μ − μ_θ)²/σ_θ²), per dimension.
  ratio = expand(true_log_variance, x) - log_variance
  error = (true_mean - model_mean) ** 2 * jnp.exp(-log_variance)
  kl = sum_dims(0.5 * (jnp.exp(ratio) - 1 - ratio + error))
  decoded = sum_dims(discretized_normal_nats(x0, estimate.x0, 0.5 * log_variance, levels))
  return jnp.where(last, decoded, kl)
