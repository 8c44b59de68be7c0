"""Gaussian processes x_t = α(t)·x₀ + σ(t)·ε, from data (time 0) to noise (time t_max).

A process is a handful of pure elementwise functions of time. Its log-SNR λ = log(α²/σ²) is the
primitive: for a variance-preserving process α² = sigmoid(λ) and σ² = sigmoid(−λ), and every
process can be inverted in λ. The forward SDE dx = f(t)·x dt + g(t) dw with these marginals follows
by automatic differentiation: f = d log α/dt and g² = −σ²·dλ/dt.

Time 0 is clean data in every process (α = 1, σ = 0, λ = ∞): that is where a sampler's last step
ends. `t_min` is the least time at which a network is trained and asked.
"""

import dataclasses
import logging
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy.interpolate
from jaxtyping import Array, Float, Key

from common.config import ConfigError, component, pick

Function = Callable[[Array], Array]  # elementwise, any shape

TERMINAL_SNR = 1e-2  # above this, noise at t_max still shows the data: a warning when built


def rate(function: Function, t: Float[Array, '*shape']) -> Float[Array, '*shape']:
  """The derivative of an elementwise function of time."""
  return jax.jvp(function, (t,), (jnp.ones_like(t),))[1]


def _no_params(key: Key[Array, '']) -> dict:
  return {}


@dataclasses.dataclass(frozen=True)
class Process:
  """x_t = alpha(t)·x0 + sigma(t)·eps. All functions are elementwise, float32 or float64.

  Attributes:
    name: its key in `PROCESSES`.
    log_snr: λ(t) = log(α²/σ²), decreasing in t.
    time_of: the inverse of `log_snr`.
    alpha: the scale of the data.
    sigma: the standard deviation of the noise.
    t_min: least time at which the network is asked; the likelihood's reconstruction starts here.
    t_max: where sampling starts.
    prior_std: standard deviation of what sampling starts from, a Gaussian with mean 0. By the
      usual convention it is 1 for processes that end in unit variance and σ(t_max) for those whose
      variance explodes: the marginal of data of unit variance, up to the terminal SNR.
    steps: T of a discrete process, whose times are k/T with k = 1..T; 0 for continuous time.
    init: makes the parameters of a learned process; {} for every other.
    bind: the learned process at given parameters; None for every other.
  """

  name: str
  log_snr: Function
  time_of: Function
  alpha: Function
  sigma: Function
  t_min: float
  t_max: float
  prior_std: float = 1.0
  steps: int = 0
  init: Callable[[Key[Array, '']], Any] = _no_params
  bind: Callable[[Any], 'Process'] | None = None

  def f(self, t: Float[Array, '*shape']) -> Float[Array, '*shape']:
    """Drift of the forward SDE, dx = f(t)·x dt + g(t) dw: d log α/dt."""
    return rate(self.alpha, t) / self.alpha(t)

  def g2(self, t: Float[Array, '*shape']) -> Float[Array, '*shape']:
    """Squared diffusion g²(t) = dσ²/dt − 2·f·σ² = −σ²·dλ/dt (Kingma et al. 2021, eq. 29)."""
    return -(self.sigma(t) ** 2) * rate(self.log_snr, t)

  def at(self, params: Any) -> 'Process':
    """The process at these parameters: itself, unless it is learned."""
    return self if self.bind is None else self.bind(params)


def _where_noisy(t: Array, value: Array, clean: float) -> Array:
  """`value` at positive times, `clean` at time 0."""
  return jnp.where(t > 0, value, clean)


def variance_preserving(
  name: str, log_snr: Function, time_of: Function, t_min: float, t_max: float, **fields
) -> Process:
  """The process with α² + σ² = 1 and the given log-SNR (Kingma et al. 2021, eq. 2-3)."""

  def noisy(t):
    return _where_noisy(t, log_snr(jnp.where(t > 0, t, t_min)), jnp.inf)

  return Process(
    name=name,
    log_snr=noisy,
    time_of=time_of,
    alpha=lambda t: jnp.exp(0.5 * jax.nn.log_sigmoid(noisy(t))),
    sigma=lambda t: jnp.exp(0.5 * jax.nn.log_sigmoid(-noisy(t))),
    t_min=t_min,
    t_max=t_max,
    **fields,
  )


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
  """Cosine log-SNR between two bounds, shifted by resolution (Hoogeboom et al. 2023, section 3.2).

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
    log_snr=lambda t: _where_noisy(t, -2 * log_sigma(t), jnp.inf),
    time_of=lambda value: (-0.5 * value - math.log(sigma_min)) / growth,
    alpha=jnp.ones_like,
    sigma=lambda t: _where_noisy(t, jnp.exp(log_sigma(t)), 0.0),
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
    return (low + _bisect(lambda part: between(low, part), 0.0, 1.0)(value)) / steps

  return variance_preserving('ddpm', log_snr, time_of, 1 / steps, 1.0, steps=steps)


def learned(
  log_snr_max: float = 13.3,
  log_snr_min: float = -5.0,
  width: int = 1024,
  t_min: float = 1e-5,
) -> Process:
  """A monotone network for the log-SNR (Kingma et al. 2021, appendix H); its ends are learned too.

  Until it is bound to parameters, λ falls linearly between the two bounds, which is also about
  where it starts. Time 1 is the noisiest. The parameters are `ends`, by which the bound differs,
  and `shape`, by which only the variance of its estimate does.
  """

  def init(key):
    first, second, third = jax.random.split(key, 3)
    normal = lambda key: jax.random.normal(key, (width,), jnp.float32)
    ends = {'log_snr_max': jnp.float32(log_snr_max), 'log_snr_min': jnp.float32(log_snr_min)}
    shape = {
      'linear': jnp.float32(1.0),
      'hidden': normal(first),
      'bias': normal(second),
      'out': 0.01 / width * normal(third),
    }
    return {'ends': ends, 'shape': shape}

  def raw(shape, t):
    hidden = jax.nn.sigmoid(4 * (t[..., None] - 0.5) * jnp.abs(shape['hidden']) + shape['bias'])
    return jnp.abs(shape['linear']) * t + hidden @ jnp.abs(shape['out'])

  def bind(params):
    def log_snr(t):
      cast = jax.tree.map(lambda leaf: jnp.asarray(leaf, t.dtype), params)
      shape, ends = cast['shape'], cast['ends']
      low, high = raw(shape, jnp.zeros((), t.dtype)), raw(shape, jnp.ones((), t.dtype))
      fraction = (raw(shape, (t - t_min) / (1 - t_min)) - low) / (high - low)
      return ends['log_snr_max'] + (ends['log_snr_min'] - ends['log_snr_max']) * fraction

    return variance_preserving('learned', log_snr, _bisect(log_snr, t_min, 1.0), t_min, 1.0)

  def linear(t):
    return log_snr_max + (log_snr_min - log_snr_max) * (t - t_min) / (1 - t_min)

  def linear_time(value):
    return t_min + (1 - t_min) * (value - log_snr_max) / (log_snr_min - log_snr_max)

  return variance_preserving('learned', linear, linear_time, t_min, 1.0, init=init, bind=bind)


def _bisect(decreasing: Function, low: float, high: float) -> Function:
  """The inverse of a decreasing function on [low, high], to the last bit of a float64."""

  def inverse(value):
    def halve(_, bounds):
      left, right = bounds
      middle = 0.5 * (left + right)
      above = decreasing(middle) > value
      return jnp.where(above, middle, left), jnp.where(above, right, middle)

    bounds = jnp.full_like(value, low), jnp.full_like(value, high)
    left, right = jax.lax.fori_loop(0, 60, halve, bounds)
    return 0.5 * (left + right)

  return inverse


PROCESSES = {
  'vp_linear': vp_linear,
  'cosine': cosine,
  'sigmoid': sigmoid,
  'shifted': shifted,
  'sub_vp': sub_vp,
  've': ve,
  'edm': edm,
  'rectified_flow': rectified_flow,
  'gvp': gvp,
  'vp_interpolant': vp_interpolant,
  'ddpm': ddpm,
  'learned': learned,
}


def build(settings) -> Process:
  """The process of a config, its times checked; warns where noise at t_max still shows the data.

  Raises:
    ConfigError: for an unknown name or setting, or times that are not 0 < t_min < t_max with a
      log-SNR that falls from one to the other.
  """
  process = component(PROCESSES, settings, 'process')
  if not 0 < process.t_min < process.t_max:
    raise ConfigError(
      f'process {process.name!r}: times must be 0 < t_min < t_max,'
      f' not {process.t_min} and {process.t_max}'
    )
  with jax.ensure_compile_time_eval():
    first, last = np.asarray(process.log_snr(jnp.asarray([process.t_min, process.t_max])))
  if not first > last:
    raise ConfigError(
      f'process {process.name!r}: the log-SNR must fall with time, not go from {first} to {last}'
    )
  terminal = math.exp(last)
  if terminal > TERMINAL_SNR:
    logging.warning(
      'process %r: terminal SNR %.3g at t = %g; samples start from pure noise, which the network'
      ' never saw in training',
      process.name,
      terminal,
      process.t_max,
    )
  return process
