"""What a network predicts, as a pair of coefficients.

A target y = a·x₀ + b·ε is the pair (a, b). Together with x_t = α·x₀ + σ·ε it is one 2×2 linear map,
so every target gives (x₀, ε), and through them every other target, without pairwise converters.

  target     a            b            source
  x0         1            0
  eps        0            1            Ho et al. 2020
  v          −σ           α            Salimans & Ho 2022
  velocity   α′           σ′           Lipman et al. 2022
  score      0            −1/σ         Song et al. 2021
  edm        (1 − c_skip·α)/c_out, −c_skip·σ/c_out     Karras et al. 2022, table 1
  posterior_mean   the mean of q(x_s | x_t, x₀)        Ho et al. 2020, eq. 7

EDM's table is for α = 1. Its principle (network input and target of unit variance, with errors
amplified as little as possible) gives, for any α and data of standard deviation σ_d, with
s² = α²σ_d² + σ²:
c_in = 1/s, c_skip = α·σ_d²/s², c_out = σ·σ_d/s.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

from common.config import ConfigError, pick
from diffusion.processes.process import Process, rate


class Pair(NamedTuple):
  """A clean part and a noise part: coefficients of a target, or the two estimates of a denoiser.

  Attributes:
    x0: coefficient of the data, or its estimate.
    eps: coefficient of the noise, or its estimate.
    variance_fraction: v of a denoiser with learned variance (Nichol & Dhariwal 2021, eq. 15): the
      reverse step's log-variance lies v of the way from the smallest (0) to the largest (1)
      choice. None for a denoiser without a learned variance.
  """

  x0: Any
  eps: Any
  variance_fraction: Any = None


POSTERIOR_STEPS = 1000  # of a continuous process, for the target `posterior_mean`

Denoise = Callable[[Float[Array, 'batch ...'], Float[Array, 'batch']], Pair]


class Preconditioning(NamedTuple):
  """EDM's coefficients at one time (Karras et al. 2022, table 1, for any α)."""

  c_in: Array
  c_skip: Array
  c_out: Array


def preconditioning(alpha: Array, sigma: Array, sigma_data: float) -> Preconditioning:
  """c_in, c_skip, c_out for x = alpha·x0 + sigma·eps and data of this standard deviation."""
  variance = (alpha * sigma_data) ** 2 + sigma**2  # s², the variance of x
  scale = jnp.sqrt(variance)
  return Preconditioning(1 / scale, alpha * sigma_data**2 / variance, sigma * sigma_data / scale)


def x0_pair(process: Process, t: Array, sigma_data: float) -> Pair:
  """The clean data x0."""
  return Pair(jnp.ones_like(t), jnp.zeros_like(t))


def eps_pair(process: Process, t: Array, sigma_data: float) -> Pair:
  """The noise eps (Ho et al. 2020)."""
  return Pair(jnp.zeros_like(t), jnp.ones_like(t))


def v_pair(process: Process, t: Array, sigma_data: float) -> Pair:
  """v = alpha·eps − sigma·x0 (Salimans & Ho 2022)."""
  return Pair(-process.sigma(t), process.alpha(t))


def velocity_pair(process: Process, t: Array, sigma_data: float) -> Pair:
  """The velocity dx/dt of flow matching (Lipman et al. 2022)."""
  # dx/dt at fixed (x0, eps): (−1, 1) on the straight line of rectified flow.
  return Pair(rate(process.alpha, t), rate(process.sigma, t))


def score_pair(process: Process, t: Array, sigma_data: float) -> Pair:
  """The score ∇ log q(x_t | x0) = −eps/sigma (Song et al. 2021)."""
  # ∇ log q(x_t | x0) = −(x − α·x0)/σ² = −eps/σ.
  return Pair(jnp.zeros_like(t), -1 / process.sigma(t))


def edm_pair(process: Process, t: Array, sigma_data: float) -> Pair:
  """EDM's F, in x0 = c_skip·x + c_out·F (Karras et al. 2022, eq. 7)."""
  alpha, sigma = process.alpha(t), process.sigma(t)
  _, c_skip, c_out = preconditioning(alpha, sigma, sigma_data)
  # The network's own target F of x0 = c_skip·x + c_out·F, with x = α·x0 + σ·eps put in.
  return Pair((1 - c_skip * alpha) / c_out, -c_skip * sigma / c_out)


def posterior_mean_pair(process: Process, t: Array, sigma_data: float) -> Pair:
  """The mean μ̃ of q(x_s | x_t, x0), s one of the process's steps before t (Ho et al. 2020, eq. 7).

  A continuous process counts as one of 1,000 equal steps in time.
  """
  s = jnp.maximum(t - process.t_max / (process.steps or POSTERIOR_STEPS), 0)
  alpha, sigma = process.alpha(t), process.sigma(t)
  # μ̃ = scale·x_t + α_s·share·x0, with x_t = α·x0 + σ·eps put in. At the first step s is clean data,
  # and μ̃ is x0.
  scale = alpha / process.alpha(s) * (process.sigma(s) / sigma) ** 2
  share = process.added_noise_share(t, s)
  return Pair(scale * alpha + process.alpha(s) * share, scale * sigma)


TARGETS = {
  'x0': x0_pair,
  'eps': eps_pair,
  'v': v_pair,
  'velocity': velocity_pair,
  'score': score_pair,
  'edm': edm_pair,
  'posterior_mean': posterior_mean_pair,
}


def target_pair(
  target: str, process: Process, t: Float[Array, '*shape'], sigma_data: float = 0.5
) -> Pair:
  """Coefficients (a, b) of y = a·x0 + b·eps at time t, each of t's shape.

  Args:
    target: a key of `TARGETS`.
    process: the diffusion process; its α, σ and their rates are used.
    t: times, positive.
    sigma_data: standard deviation of the data; only 'edm' uses it.

  Raises:
    ConfigError: for an unknown target.
  """
  return pick(TARGETS, target, 'prediction.target')(process, t, sigma_data)


def determinant(pair: Pair, alpha: Array, sigma: Array) -> Array:
  """Determinant Δ of the map (x0, eps) → (x, y): zero where y is a multiple of x."""
  return alpha * pair.eps - sigma * pair.x0


def split(y: Array, x: Array, pair: Pair, alpha: Array, sigma: Array) -> Pair:
  """Solves x = alpha·x0 + sigma·eps and y = a·x0 + b·eps for (x0, eps): the only conversion.

  Arguments broadcast; coefficients of a batch come as [batch, 1, ...] (see `expand`).
  """
  # Cramer's rule for the 2×2 system.
  det = determinant(pair, alpha, sigma)
  return Pair((pair.eps * x - sigma * y) / det, (alpha * y - pair.x0 * x) / det)


def combine(pair: Pair, x0: Array, eps: Array) -> Array:
  """y = a·x0 + b·eps: the target of a clean image and its noise."""
  return pair.x0 * x0 + pair.eps * eps


def expand(t: Float[Array, 'batch'], like: Float[Array, 'batch ...']) -> Float[Array, 'batch ...']:
  """[batch] as [batch, 1, ...], which broadcasts with an array of images."""
  return t.reshape(t.shape + (1,) * (like.ndim - t.ndim))


def check_target(target: str, process: Process, sigma_data: float = 0.5) -> None:
  """Refuses a target that is singular at one end of the process.

  Raises:
    ConfigError: if, at t_min or t_max, (x, y) do not determine (x0, eps) or y is infinite.
  """
  # Concrete numbers even while tracing: a config is checked when its model is built.
  with jax.ensure_compile_time_eval():
    t = jnp.asarray([process.t_min, process.t_max])
    alpha, sigma = process.alpha(t), process.sigma(t)
    pair = target_pair(target, process, t, sigma_data)
    det = np.asarray(determinant(pair, alpha, sigma))
    size = np.asarray(jnp.hypot(pair.x0, pair.eps))
    times = np.asarray(t)
  for time, value, norm in zip(times, det, size, strict=True):
    # Relative to the size of the target's coefficients; NaN and infinity fail the test too.
    if not (np.isfinite(norm) and abs(value) > 1e-6 * norm):
      raise ConfigError(
        f'target {target!r} is singular at t = {time:g} of process {process.name!r}; keep'
        ' process.t_min and process.t_max away from that time, or choose another target (x0, v,'
        ' velocity)'
      )


def velocity(process: Process, pair: Pair, t: Array) -> Array:
  """dx/dt of the probability flow, α′·x0 + σ′·eps (Song et al. 2021, eq. 13, in α and σ)."""
  # f·x − ½·g²·score with f = α′/α, g² = 2σ·(σ′ − σ·α′/α) and score = −eps/σ: the terms in f cancel,
  # and nothing is divided by α or σ.
  return rate(process.alpha, t) * pair.x0 + rate(process.sigma, t) * pair.eps


def normal_like(
  keys: Key[Array, 'batch'], x: Float[Array, 'batch *dims']
) -> Float[Array, 'batch *dims']:
  """Standard normal noise, drawn for each example from its own key."""
  return jax.vmap(lambda key: jax.random.normal(key, x.shape[1:], x.dtype))(keys)


def fold_in_each(keys: Key[Array, 'batch'], number: int | Int[Array, '']) -> Key[Array, 'batch']:
  """One key per example for one of several uses: a step, a stratum, a sample, ..."""
  return jax.vmap(jax.random.fold_in, (0, None))(keys, number)


def add_noise(
  process: Process,
  x0: Float[Array, 'batch *dims'],
  t: Float[Array, 'batch'],
  keys: Key[Array, 'batch'],
) -> tuple[Float[Array, 'batch *dims'], Float[Array, 'batch *dims']]:
  """A draw of x = α(t)·x0 + σ(t)·eps from q(x_t | x0), and its eps."""
  eps = normal_like(keys, x0)
  return expand(process.alpha(t), x0) * x0 + expand(process.sigma(t), x0) * eps, eps
