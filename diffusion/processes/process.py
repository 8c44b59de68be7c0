"""What a Gaussian process is, and how one is made from its log-SNR."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

Function = Callable[[Array], Array]  # elementwise, any shape


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
    """Squared diffusion g²(t) = dσ²/dt − 2·f·σ² = −σ²·dλ/dt (Kingma et al. 2021)."""
    return -(self.sigma(t) ** 2) * rate(self.log_snr, t)

  def lost(self, t: Float[Array, '*shape'], s: Float[Array, '*shape']) -> Float[Array, '*shape']:
    """1 − SNR(t)/SNR(s), s < t: the share of what s knows that is lost at t; 1 for clean s."""
    return -jnp.expm1(self.log_snr(t) - self.log_snr(s))

  def at(self, params: Any) -> 'Process':
    """The process at these parameters: itself, unless it is learned."""
    return self if self.bind is None else self.bind(params)


def where_noisy(t: Array, value: Array, clean: float) -> Array:
  """`value` at positive times, `clean` at time 0."""
  return jnp.where(t > 0, value, clean)


def variance_preserving(
  name: str, log_snr: Function, time_of: Function, t_min: float, t_max: float, **fields
) -> Process:
  """The process with α² + σ² = 1 and the given log-SNR (Kingma et al. 2021, section 3)."""

  def noisy(t):
    return where_noisy(t, log_snr(jnp.where(t > 0, t, t_min)), jnp.inf)

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


def bisect(decreasing: Function, low: float, high: float) -> Function:
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
