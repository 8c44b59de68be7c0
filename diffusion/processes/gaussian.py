"""Gaussian processes in closed form, each with the equation that it is made from."""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array

from diffusion.processes.process import Process, variance_preserving, where_noisy


def _linear_time(integral: Array, beta_min: float, beta_max: float) -> Array:
  """t such that ∫₀ᵗ β = `integral`, for β rising linearly from beta_min to beta_max."""
  slope = beta_max - beta_min
  return 2 * integral / (beta_min + jnp.sqrt(beta_min**2 + 2 * slope * integral))


def vp_linear(
  beta_min: float = 0.1, beta_max: float = 20.0, t_min: float = 1e-5, t_max: float = 1.0
) -> Process:
  """Variance preserving with β(t) linear in t (Song et al. 2021, eq. 32-33)."""

  def log_snr(t):
    integral = t * (beta_min + 0.5 * t * (beta_max - beta_min))
    return -integral - jnp.log(-jnp.expm1(-integral))

  def time_of(value):
    return _linear_time(-jax.nn.log_sigmoid(value), beta_min, beta_max)

  return variance_preserving('vp_linear', log_snr, time_of, t_min, t_max)


def cosine(s: float = 0.008, t_min: float = 1e-4, t_max: float = 0.999) -> Process:
  """Variance preserving with ᾱ = f(t)/f(0), f = cos²(π/2·(t+s)/(1+s)) (Nichol & Dhariwal, eq. 17).

  ᾱ is 0 at t = 1, hence t_max below 1.
  """
  start = 0.5 * math.pi * s / (1 + s)
  slope = 0.5 * math.pi / (1 + s)

  def log_snr(t):
    angle = slope * t  # 1 − ᾱ = (cos² start − cos² (start + angle)) / cos² start
    noise = jnp.sin(angle) * jnp.sin(angle + 2 * start)
    return 2 * jnp.log(jnp.cos(angle + start)) - jnp.log(noise)

  def time_of(value):
    signal, noise = jax.nn.sigmoid(value), jax.nn.sigmoid(-value)
    angle = jnp.arctan2(
      jnp.sqrt(noise + signal * math.sin(start) ** 2), jnp.sqrt(signal) * math.cos(start)
    )
    return (angle - start) / slope

  return variance_preserving('cosine', log_snr, time_of, t_min, t_max)


def sigmoid(
  start: float = -3.0, end: float = 3.0, tau: float = 1.0, t_min: float = 1e-4, t_max: float = 0.999
) -> Process:
  """Variance preserving with ᾱ falling as a sigmoid of time (Jabri et al. 2022, algorithm 1).

  ᾱ = (S(e) − S(u)) / (S(e) − S(b)), u = b + t·(e − b), b = start/τ, e = end/τ, S the logistic
  function. Differences of S are written with sinh, so that they do not cancel.
  """
  low, high = start / tau, end / tau
  ratio = math.cosh(low / 2) / math.cosh(high / 2)

  def log_snr(t):
    half = 0.5 * (high - low)
    return jnp.log(ratio * jnp.sinh(half * (1 - t)) / jnp.sinh(half * t))

  def time_of(value):
    half = 0.5 * (high - low)
    return jnp.arctanh(math.sinh(half) / (jnp.exp(value) / ratio + math.cosh(half))) / half

  return variance_preserving('sigmoid', log_snr, time_of, t_min, t_max)


def shifted(
  log_snr_max: float = 15.0,
  log_snr_min: float = -15.0,
  resolution: int = 64,
  base_resolution: int = 64,
  t_min: float = 1e-5,
  t_max: float = 1.0,
) -> Process:
  """Cosine log-SNR between two bounds, shifted by resolution (Hoogeboom et al. 2023).

  λ(t) = −2·log tan(b + a·t) + 2·log(base_resolution/resolution). Bounds ±20 and no shift are the
  schedule of Salimans & Ho (2022).
  """
  shift = 2 * math.log(base_resolution / resolution)
  first = math.atan(math.exp(-0.5 * log_snr_max))
  slope = math.atan(math.exp(-0.5 * log_snr_min)) - first

  def log_snr(t):
    return shift - 2 * jnp.log(jnp.tan(first + slope * t))

  def time_of(value):
    return (jnp.arctan(jnp.exp(0.5 * (shift - value))) - first) / slope

  return variance_preserving('shifted', log_snr, time_of, t_min, t_max)


def sub_vp(
  beta_min: float = 0.1, beta_max: float = 20.0, t_min: float = 1e-3, t_max: float = 1.0
) -> Process:
  """Sub-VP: the mean of VP with the smaller noise σ = 1 − α² (Song et al. 2021, eq. 29)."""

  def log_alpha(t):
    return -0.5 * t * (beta_min + 0.5 * t * (beta_max - beta_min))

  def log_snr(t):
    return 2 * log_alpha(t) - 2 * jnp.log(-jnp.expm1(2 * log_alpha(t)))

  def time_of(value):  # α/(1 − α²) = exp(λ/2) solved for log α
    return _linear_time(2 * jnp.arcsinh(0.5 * jnp.exp(-0.5 * value)), beta_min, beta_max)

  return Process(
    name='sub_vp',
    log_snr=log_snr,
    time_of=time_of,
    alpha=lambda t: jnp.exp(log_alpha(t)),
    sigma=lambda t: -jnp.expm1(2 * log_alpha(t)),
    t_min=t_min,
    t_max=t_max,
  )


def ve(
  sigma_min: float = 0.01, sigma_max: float = 50.0, t_min: float = 1e-5, t_max: float = 1.0
) -> Process:
  """Variance exploding: σ(t) geometric between two bounds (Song et al. 2021, eq. 30)."""
  growth = math.log(sigma_max / sigma_min)

  def log_sigma(t):
    return math.log(sigma_min) + growth * t

  return Process(
    name='ve',
    log_snr=lambda t: where_noisy(t, -2 * log_sigma(t), jnp.inf),
    time_of=lambda value: (-0.5 * value - math.log(sigma_min)) / growth,
    alpha=jnp.ones_like,
    sigma=lambda t: where_noisy(t, jnp.exp(log_sigma(t)), 0.0),
    t_min=t_min,
    t_max=t_max,
    prior_std=sigma_min ** (1 - t_max) * sigma_max**t_max,
  )


def edm(sigma_min: float = 0.002, sigma_max: float = 80.0) -> Process:
  """Time is the noise level: α = 1, σ(t) = t (Karras et al. 2022, table 1)."""
  return Process(
    name='edm',
    log_snr=lambda t: -2 * jnp.log(t),
    time_of=lambda value: jnp.exp(-0.5 * value),
    alpha=jnp.ones_like,
    sigma=lambda t: t,
    t_min=sigma_min,
    t_max=sigma_max,
    prior_std=sigma_max,
  )


def rectified_flow(t_min: float = 1e-3, t_max: float = 1.0) -> Process:
  """The straight line from data to noise: α = 1 − t, σ = t (Lipman et al. 2022)."""
  return Process(
    name='rectified_flow',
    log_snr=lambda t: 2 * (jnp.log1p(-t) - jnp.log(t)),
    time_of=lambda value: jax.nn.sigmoid(-0.5 * value),
    alpha=lambda t: 1 - t,
    sigma=lambda t: t,
    t_min=t_min,
    t_max=t_max,
  )


def gvp(t_min: float = 1e-3, t_max: float = 1.0) -> Process:
  """The trigonometric interpolant: α = cos(πt/2), σ = sin(πt/2) (Albergo et al. 2023)."""

  def alpha(t):  # as a sine: exactly 0 at t = 1
    return jnp.sin(0.5 * math.pi * (1 - t))

  def sigma(t):
    return jnp.sin(0.5 * math.pi * t)

  return Process(
    name='gvp',
    log_snr=lambda t: 2 * (jnp.log(alpha(t)) - jnp.log(sigma(t))),
    time_of=lambda value: 2 / math.pi * jnp.arctan(jnp.exp(-0.5 * value)),
    alpha=alpha,
    sigma=sigma,
    t_min=t_min,
    t_max=t_max,
  )


def vp_interpolant(t_min: float = 1e-3, t_max: float = 0.9999) -> Process:
  """Variance-preserving with linear noise: α = √(1 − t²), σ = t.

  α′ is infinite at t = 1, hence t_max below 1.
  """
  return Process(
    name='vp_interpolant',
    log_snr=lambda t: jnp.log1p(-t) + jnp.log1p(t) - 2 * jnp.log(t),
    time_of=lambda value: jnp.exp(0.5 * jax.nn.log_sigmoid(-value)),
    alpha=lambda t: jnp.sqrt((1 - t) * (1 + t)),
    sigma=lambda t: t,
    t_min=t_min,
    t_max=t_max,
  )
