"""Gaussian diffusion processes in closed form, each with the equation that defines it."""

import dataclasses
import functools
import math
from typing import Annotated, ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array

from common.ranges import ABOVE_ZERO, AT_LEAST_ONE, AT_LEAST_ZERO, FINITE
from diffusion.processes.process import Process, VariancePreserving, where_noisy


def _linear_time(integral: Array, beta_min: float, beta_max: float) -> Array:
  """t such that ∫₀ᵗ β = `integral`, for β rising linearly from beta_min to beta_max."""
  slope = beta_max - beta_min
  # The quadratic formula, multiplied by its conjugate: no cancellation for small integrals.
  return 2 * integral / (beta_min + jnp.sqrt(beta_min**2 + 2 * slope * integral))


@dataclasses.dataclass(frozen=True)
class VPLinear(VariancePreserving):
  """Variance preserving with β(t) linear in t (Song et al. 2021, eq. 32-33).

  Attributes:
    beta_min, beta_max: β at time 0 and at time 1.
  """

  name: ClassVar[str] = 'vp_linear'
  beta_min: Annotated[float, AT_LEAST_ZERO] = 0.1
  beta_max: Annotated[float, ABOVE_ZERO] = 20.0
  t_min: Annotated[float, ABOVE_ZERO] = 1e-5
  t_max: Annotated[float, ABOVE_ZERO] = 1.0

  def noisy_log_snr(self, t: Array) -> Array:
    # ∫₀ᵗ β; then α² = exp(−∫β) and σ² = 1 − exp(−∫β) (Song et al. 2021, eq. 33).
    integral = t * (self.beta_min + 0.5 * t * (self.beta_max - self.beta_min))
    return -integral - jnp.log(-jnp.expm1(-integral))

  def time_of(self, log_snr: Array) -> Array:
    # ∫β = −log α² = −log sigmoid(λ).
    return _linear_time(-jax.nn.log_sigmoid(log_snr), self.beta_min, self.beta_max)


@dataclasses.dataclass(frozen=True)
class Cosine(VariancePreserving):
  """Variance preserving with ᾱ = f(t)/f(0), f = cos²(π/2·(t+s)/(1+s)) (Nichol & Dhariwal, eq. 17).

  ᾱ is 0 at t = 1, so t_max stays below 1.

  Attributes:
    s: keeps the noise of the first steps above 0.
  """

  name: ClassVar[str] = 'cosine'
  s: Annotated[float, AT_LEAST_ZERO] = 0.008
  t_min: Annotated[float, ABOVE_ZERO] = 1e-4
  t_max: Annotated[float, ABOVE_ZERO] = 0.999

  @property
  def _start(self) -> float:
    return 0.5 * math.pi * self.s / (1 + self.s)

  @property
  def _slope(self) -> float:
    return 0.5 * math.pi / (1 + self.s)

  def noisy_log_snr(self, t: Array) -> Array:
    start = self._start
    angle = self._slope * t
    # 1 − ᾱ = (cos² start − cos² (start + angle)) / cos² start, as a product: it does not cancel.
    noise = jnp.sin(angle) * jnp.sin(angle + 2 * start)
    return 2 * jnp.log(jnp.cos(angle + start)) - jnp.log(noise)

  def time_of(self, log_snr: Array) -> Array:
    signal, noise = jax.nn.sigmoid(log_snr), jax.nn.sigmoid(-log_snr)
    start = self._start
    # tan² (start + angle) = (1 − ᾱ·cos² start)/(ᾱ·cos² start), with 1 = signal + noise.
    angle = jnp.arctan2(
      jnp.sqrt(noise + signal * math.sin(start) ** 2), jnp.sqrt(signal) * math.cos(start)
    )
    return (angle - start) / self._slope


@dataclasses.dataclass(frozen=True)
class Sigmoid(VariancePreserving):
  """Variance preserving with ᾱ falling as a sigmoid of time (Jabri et al. 2022; Chen 2023).

  ᾱ = (S(e) − S(u)) / (S(e) − S(b)), u = b + t·(e − b), b = start/τ, e = end/τ, S the logistic
  function. Differences of S are written with sinh, so that they do not cancel.

  Attributes:
    start, end: the part of the logistic function that is used.
    tau: τ; the smaller it is, the faster the signal falls in the middle.
  """

  name: ClassVar[str] = 'sigmoid'
  start: Annotated[float, FINITE] = -3.0
  end: Annotated[float, FINITE] = 3.0
  tau: Annotated[float, ABOVE_ZERO] = 1.0
  t_min: Annotated[float, ABOVE_ZERO] = 1e-4
  t_max: Annotated[float, ABOVE_ZERO] = 0.999

  @functools.cached_property
  def _half(self) -> float:
    low, high = self.start / self.tau, self.end / self.tau
    return 0.5 * (high - low)

  @functools.cached_property
  def _ratio(self) -> float:
    low, high = self.start / self.tau, self.end / self.tau
    return math.cosh(low / 2) / math.cosh(high / 2)

  def noisy_log_snr(self, t: Array) -> Array:
    # S(x) − S(y) = sinh((x − y)/2) / (2·cosh(x/2)·cosh(y/2)); the factor of u cancels in the ratio.
    half = self._half
    return jnp.log(self._ratio * jnp.sinh(half * (1 - t)) / jnp.sinh(half * t))

  def time_of(self, log_snr: Array) -> Array:
    half = self._half
    return jnp.arctanh(math.sinh(half) / (jnp.exp(log_snr) / self._ratio + math.cosh(half))) / half


@dataclasses.dataclass(frozen=True)
class Shifted(VariancePreserving):
  """Cosine log-SNR between two bounds, shifted by resolution (Hoogeboom et al. 2023, eq. 5).

  λ(t) = −2·log tan(b + a·t) + 2·log(base_resolution/resolution). Bounds ±20 and no shift are the
  schedule of Salimans & Ho (2022).

  Attributes:
    log_snr_max, log_snr_min: λ at time 0 and at time 1, before the shift.
    resolution: the side of the images.
    base_resolution: the side of the images that need no shift.
  """

  name: ClassVar[str] = 'shifted'
  log_snr_max: Annotated[float, FINITE] = 15.0
  log_snr_min: Annotated[float, FINITE] = -15.0
  resolution: Annotated[int, AT_LEAST_ONE] = 64
  base_resolution: Annotated[int, AT_LEAST_ONE] = 64
  t_min: Annotated[float, ABOVE_ZERO] = 1e-5
  t_max: Annotated[float, ABOVE_ZERO] = 1.0

  @functools.cached_property
  def _shift(self) -> float:
    return 2 * math.log(self.base_resolution / self.resolution)

  @functools.cached_property
  def _first(self) -> float:  # b, where λ is log_snr_max at t = 0
    return math.atan(math.exp(-0.5 * self.log_snr_max))

  @functools.cached_property
  def _slope(self) -> float:  # a, so that λ is log_snr_min at t = 1
    return math.atan(math.exp(-0.5 * self.log_snr_min)) - self._first

  def noisy_log_snr(self, t: Array) -> Array:
    return self._shift - 2 * jnp.log(jnp.tan(self._first + self._slope * t))

  def time_of(self, log_snr: Array) -> Array:
    # tan(b + a·t) = exp((shift − λ)/2), solved for t.
    return (jnp.arctan(jnp.exp(0.5 * (self._shift - log_snr))) - self._first) / self._slope


@dataclasses.dataclass(frozen=True)
class SubVP(Process):
  """Sub-VP: the mean of VP with the smaller noise σ = 1 − α² (Song et al. 2021, eq. 34).

  t_min is the authors' for sampling; they train from 1e-5 on.

  Attributes:
    beta_min, beta_max: β at time 0 and at time 1.
  """

  name: ClassVar[str] = 'sub_vp'
  beta_min: Annotated[float, AT_LEAST_ZERO] = 0.1
  beta_max: Annotated[float, ABOVE_ZERO] = 20.0
  t_min: Annotated[float, ABOVE_ZERO] = 1e-3
  t_max: Annotated[float, ABOVE_ZERO] = 1.0

  def _log_alpha(self, t: Array) -> Array:
    # −½·∫₀ᵗ β: the mean is that of the VP process.
    return -0.5 * t * (self.beta_min + 0.5 * t * (self.beta_max - self.beta_min))

  def log_snr(self, t: Array) -> Array:
    # σ = 1 − α², by expm1: near t = 0 the difference would cancel.
    return 2 * self._log_alpha(t) - 2 * jnp.log(-jnp.expm1(2 * self._log_alpha(t)))

  def time_of(self, log_snr: Array) -> Array:
    # α/(1 − α²) = exp(λ/2) solved for log α: sinh(−log α) = ½·exp(−λ/2).
    return _linear_time(
      2 * jnp.arcsinh(0.5 * jnp.exp(-0.5 * log_snr)), self.beta_min, self.beta_max
    )

  def alpha(self, t: Array) -> Array:
    return jnp.exp(self._log_alpha(t))

  def sigma(self, t: Array) -> Array:
    return -jnp.expm1(2 * self._log_alpha(t))


@dataclasses.dataclass(frozen=True)
class VE(Process):
  """Variance exploding: σ(t) geometric between two bounds (Song et al. 2021, eq. 30-31).

  Attributes:
    sigma_min, sigma_max: σ at time 0 and at time 1.
  """

  name: ClassVar[str] = 've'
  sigma_min: Annotated[float, ABOVE_ZERO] = 0.01
  sigma_max: Annotated[float, ABOVE_ZERO] = 50.0
  t_min: Annotated[float, ABOVE_ZERO] = 1e-5
  t_max: Annotated[float, ABOVE_ZERO] = 1.0

  @property
  def prior_std(self) -> float:
    # σ(t_max), the standard deviation that samples start from (Song et al. 2021, appendix C).
    return self.sigma_min ** (1 - self.t_max) * self.sigma_max**self.t_max

  @functools.cached_property
  def _growth(self) -> float:
    return math.log(self.sigma_max / self.sigma_min)

  def _log_sigma(self, t: Array) -> Array:
    return math.log(self.sigma_min) + self._growth * t

  def log_snr(self, t: Array) -> Array:
    return where_noisy(t, -2 * self._log_sigma(t), jnp.inf)

  def time_of(self, log_snr: Array) -> Array:
    return (-0.5 * log_snr - math.log(self.sigma_min)) / self._growth

  def alpha(self, t: Array) -> Array:
    return jnp.ones_like(t)

  def sigma(self, t: Array) -> Array:
    # The formula gives sigma_min at time 0, where every process here is clean data.
    return where_noisy(t, jnp.exp(self._log_sigma(t)), 0.0)


@dataclasses.dataclass(frozen=True)
class EDM(Process):
  """Time is the noise level: α = 1, σ(t) = t (Karras et al. 2022, table 1).

  Attributes:
    sigma_min, sigma_max: the smallest and the largest noise level.
  """

  name: ClassVar[str] = 'edm'
  sigma_min: Annotated[float, ABOVE_ZERO] = 0.002
  sigma_max: Annotated[float, ABOVE_ZERO] = 80.0

  @property
  def t_min(self) -> float:
    return self.sigma_min

  @property
  def t_max(self) -> float:
    return self.sigma_max

  @property
  def prior_std(self) -> float:
    return self.sigma_max

  def log_snr(self, t: Array) -> Array:
    return -2 * jnp.log(t)

  def time_of(self, log_snr: Array) -> Array:
    return jnp.exp(-0.5 * log_snr)

  def alpha(self, t: Array) -> Array:
    return jnp.ones_like(t)

  def sigma(self, t: Array) -> Array:
    return t


@dataclasses.dataclass(frozen=True)
class RectifiedFlow(Process):
  """The straight line from data to noise: α = 1 − t, σ = t (Liu et al. 2022).

  Also the optimal-transport path of Lipman et al. 2022, with their σ_min at 0.
  """

  name: ClassVar[str] = 'rectified_flow'
  t_min: Annotated[float, ABOVE_ZERO] = 1e-3
  t_max: Annotated[float, ABOVE_ZERO] = 1.0

  def log_snr(self, t: Array) -> Array:
    # α/σ = (1 − t)/t = exp(λ/2), so t = sigmoid(−λ/2) below.
    return 2 * (jnp.log1p(-t) - jnp.log(t))

  def time_of(self, log_snr: Array) -> Array:
    return jax.nn.sigmoid(-0.5 * log_snr)

  def alpha(self, t: Array) -> Array:
    return 1 - t

  def sigma(self, t: Array) -> Array:
    return t


@dataclasses.dataclass(frozen=True)
class GVP(Process):
  """The trigonometric interpolant: α = cos(πt/2), σ = sin(πt/2) (Albergo et al. 2023)."""

  name: ClassVar[str] = 'gvp'
  t_min: Annotated[float, ABOVE_ZERO] = 1e-3
  t_max: Annotated[float, ABOVE_ZERO] = 1.0

  def log_snr(self, t: Array) -> Array:
    return 2 * (jnp.log(self.alpha(t)) - jnp.log(self.sigma(t)))

  def time_of(self, log_snr: Array) -> Array:
    # tan(πt/2) = σ/α = exp(−λ/2).
    return 2 / math.pi * jnp.arctan(jnp.exp(-0.5 * log_snr))

  def alpha(self, t: Array) -> Array:
    return jnp.sin(0.5 * math.pi * (1 - t))  # as a sine: exactly 0 at t = 1

  def sigma(self, t: Array) -> Array:
    return jnp.sin(0.5 * math.pi * t)


@dataclasses.dataclass(frozen=True)
class VPInterpolant(Process):
  """Variance preserving with linear noise: α = √(1 − t²), σ = t.

  α′ is infinite at t = 1, so t_max stays below 1.
  """

  name: ClassVar[str] = 'vp_interpolant'
  t_min: Annotated[float, ABOVE_ZERO] = 1e-3
  t_max: Annotated[float, ABOVE_ZERO] = 0.9999

  def log_snr(self, t: Array) -> Array:
    # α² = 1 − t² = (1 − t)·(1 + t), whose logarithm stays accurate near t = 0.
    return jnp.log1p(-t) + jnp.log1p(t) - 2 * jnp.log(t)

  def time_of(self, log_snr: Array) -> Array:
    # t² = σ² = sigmoid(−λ).
    return jnp.exp(0.5 * jax.nn.log_sigmoid(-log_snr))

  def alpha(self, t: Array) -> Array:
    return jnp.sqrt((1 - t) * (1 + t))

  def sigma(self, t: Array) -> Array:
    return t
