"""The interface of a Gaussian diffusion process, and the base class of variance-preserving ones."""

import functools
from collections.abc import Callable
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

Function = Callable[[Array], Array]  # elementwise, any shape

# A process may end in log-SNR −∞. Grids in log-SNR and the continuous bound then start at this
# value: there, the prior term of data in [-1, 1] is below 2e-7 nats per dimension.
MIN_LOG_SNR = -15.0

BISECTIONS = 60  # halvings of an interval: more than the 53 bits of a float64's fraction


def rate(function: Function, t: Float[Array, '*shape']) -> Float[Array, '*shape']:
  """The derivative of an elementwise function of time."""
  return jax.jvp(function, (t,), (jnp.ones_like(t),))[1]


class Process:
  """x_t = alpha(t)·x0 + sigma(t)·eps. All functions are elementwise, in float32 or float64.

  Each process is a frozen dataclass whose fields are the settings that a config gives. Each
  attribute below is a field, a property or a class attribute; all except `name`, `t_min` and
  `t_max` have a neutral default.

  Attributes:
    name: its key in `PROCESSES`.
    t_min: the smallest time at which the network is evaluated; the likelihood's reconstruction
      term starts here.
    t_max: the time at which sampling starts.
    prior_std: standard deviation of the Gaussian with mean 0 that sampling starts from. By
      convention it is 1 for processes that end in unit variance and σ(t_max) for those whose
      variance explodes: the marginal of data of unit variance, up to the terminal SNR.
    steps: T of a discrete process, whose times are k/T with k = 1..T; 0 for continuous time.
    learned: whether the process has parameters; `at` then returns the process for given ones.
  """

  name: ClassVar[str]
  t_min: float
  t_max: float
  prior_std: float = 1.0
  steps: int = 0
  learned: ClassVar[bool] = False

  def log_snr(self, t: Float[Array, '*shape']) -> Float[Array, '*shape']:
    """λ(t) = log(α²/σ²), which decreases in t."""
    raise NotImplementedError

  def time_of(self, log_snr: Float[Array, '*shape']) -> Float[Array, '*shape']:
    """The inverse of `log_snr`."""
    raise NotImplementedError

  def alpha(self, t: Float[Array, '*shape']) -> Float[Array, '*shape']:
    """The scale of the data."""
    raise NotImplementedError

  def sigma(self, t: Float[Array, '*shape']) -> Float[Array, '*shape']:
    """The standard deviation of the noise."""
    raise NotImplementedError

  def init(self, key: Key[Array, '']) -> Any:
    """The parameters of a learned process; {} for any other process."""
    return {}

  def at(self, params: Any) -> 'Process':
    """The process with these parameters: itself, unless it is learned."""
    return self

  def drift_coefficient(self, t: Float[Array, '*shape']) -> Float[Array, '*shape']:
    """f(t) = d log α/dt of the forward SDE, dx = f(t)·x dt + g(t) dw (Song et al. 2021, eq. 5)."""
    # The mean of x_t is α(t)·x0, so dα/dt = f·α.
    return rate(self.alpha, t) / self.alpha(t)

  def squared_diffusion(self, t: Float[Array, '*shape']) -> Float[Array, '*shape']:
    """g²(t) = dσ²/dt − 2·f·σ² = −σ²·dλ/dt (Kingma et al. 2021, eq. 36)."""
    # λ = 2·log α − 2·log σ, so −σ²·dλ/dt = 2σ·σ′ − 2·(α′/α)·σ².
    return -(self.sigma(t) ** 2) * rate(self.log_snr, t)

  def added_noise_share(
    self, t: Float[Array, '*shape'], s: Float[Array, '*shape']
  ) -> Float[Array, '*shape']:
    """σ²(t|s)/σ²(t) = 1 − SNR(t)/SNR(s), s < t (Kingma et al. 2021, appendix A).

    The share of the noise variance at t that was added since s; 1 where s is clean data.
    """
    # expm1: for neighbouring times the two SNRs are nearly equal, and 1 − exp would cancel.
    return -jnp.expm1(self.log_snr(t) - self.log_snr(s))


class VariancePreserving(Process):
  """A process with α² + σ² = 1, given by its log-SNR (Kingma et al. 2021, section 3)."""

  def noisy_log_snr(self, t: Float[Array, '*shape']) -> Float[Array, '*shape']:
    """λ(t) at times above 0."""
    raise NotImplementedError

  def log_snr(self, t: Float[Array, '*shape']) -> Float[Array, '*shape']:
    # The formula is evaluated at t_min in place of 0, so that no gradient becomes NaN there.
    return where_noisy(t, self.noisy_log_snr(jnp.where(t > 0, t, self.t_min)), jnp.inf)

  def alpha(self, t: Float[Array, '*shape']) -> Float[Array, '*shape']:
    # α² = sigmoid(λ). The logarithm keeps σ accurate where α is close to 1, and the reverse.
    return jnp.exp(0.5 * jax.nn.log_sigmoid(self.log_snr(t)))

  def sigma(self, t: Float[Array, '*shape']) -> Float[Array, '*shape']:
    return jnp.exp(0.5 * jax.nn.log_sigmoid(-self.log_snr(t)))  # σ² = sigmoid(−λ)


def where_noisy(t: Array, value: Array, clean: float) -> Array:
  """`value` at positive times, `clean` at time 0."""
  return jnp.where(t > 0, value, clean)


def bisect(decreasing: Function, value: Array, low: float, high: float) -> Array:
  """The argument in [low, high] at which a decreasing function is `value`, to float64 precision."""
  bounds = jnp.full_like(value, low), jnp.full_like(value, high)
  halve = functools.partial(_halve, decreasing, value)
  left, right = jax.lax.fori_loop(0, BISECTIONS, halve, bounds)
  return 0.5 * (left + right)


def _halve(
  decreasing: Function, value: Array, _: Any, bounds: tuple[Array, Array]
) -> tuple[Array, Array]:
  left, right = bounds
  middle = 0.5 * (left + right)
  above = decreasing(middle) > value  # then the solution lies to the right of the middle
  return jnp.where(above, middle, left), jnp.where(above, right, middle)
