"""Log-densities that stay exact in float32 where the usual formulas cancel.

The usual ones subtract log-gamma functions: those of 10⁷ are 1.5·10⁸, where float32 has steps of
16 nats. Here Stirling's formula is subtracted first, on paper: what is left of each log-gamma is
small, and the rest is a sum of terms of one sign (Loader 2000, Fast and Accurate Computation of
Binomial Probabilities).
"""

import math

import jax.numpy as jnp
from jax.scipy.special import gammaln
from jaxtyping import Array, Float, Num

LARGE = 8.0  # from here on, the series in 1/z below are exact in float32
NEAR = 0.2  # |v| of `_deviance` up to which its series is


def negative_binomial_log_prob(
  count: Num[Array, '*#batch'], mean: Float[Array, '*#batch'], alpha: Float[Array, '*#batch']
) -> Float[Array, '*batch']:
  """Log-probability of a negative binomial with mean μ and variance μ + αμ².

  With r = 1/α and p = 1/(1 + αμ), P(k) = r/(r + k) · B(r; r + k, p), where B is the binomial
  probability of r in r + k trials. Loader's form of ln B is, with n = r + k,

    δ(n) - δ(r) - δ(k) - D(r, np) - D(k, n(1 - p)) - ½·ln(2π·r·k/n),

  where δ is `_stirling_error` and D `_deviance`.

  Args:
    count: whole numbers from 0.
    mean: μ > 0.
    alpha: α > 0.
  """
  count = count.astype(jnp.float32)
  k, ratio = jnp.maximum(count, 1), 1 + alpha * mean
  # k - n(1 - p), and minus that is r - np: the difference is never one of two large numbers.
  difference = (k - mean) / ratio
  share = (1 + alpha * k) / ratio  # np / r
  # D(r, np) = r·D(1, np / r): α goes to 0 in the Poisson limit, where r has no gradient left.
  deviance = _deviance(k, mean * share, difference)
  deviance += _deviance(jnp.ones_like(share), share, -alpha * difference) / alpha
  errors = _stirling_error(1 / alpha + k) - _stirling_error(1 / alpha) - _stirling_error(k)
  positive = errors - deviance - 0.5 * jnp.log(2 * math.pi * k * (1 + alpha * k))
  # P(0) = pʳ: Stirling's formula has no value at 0.
  return jnp.where(count == 0, -jnp.log1p(alpha * mean) / alpha, positive)


def student_t_log_prob(
  x: Num[Array, '*#batch'],
  df: Float[Array, '*#batch'],
  location: Float[Array, '*#batch'],
  scale: Float[Array, '*#batch'],
) -> Float[Array, '*batch']:
  """Log-density of Student's t, which becomes the normal's as the degrees of freedom grow."""
  distance = (x - location) / scale
  # Γ((df + 1)/2) / (Γ(df/2)·√(df·π)) is exp(excess) / √(2π).
  normalizer = _half_step(df / 2) - 0.5 * math.log(2 * math.pi)
  return normalizer - jnp.log(scale) - (df + 1) / 2 * jnp.log1p(distance**2 / df)


def _stirling_error(z: Float[Array, '*batch']) -> Float[Array, '*batch']:
  """ln Γ(z + 1) - [½·ln 2πz + z·ln z - z]: what Stirling's formula leaves out, about 1/(12z)."""
  inverse = 1 / jnp.maximum(z, LARGE)  # bounded: an unused branch must not have infinite gradients
  series = inverse * (1 / 12 - inverse**2 * (1 / 360 - inverse**2 / 1260))
  small = jnp.minimum(z, LARGE)
  direct = gammaln(small + 1) + small - (small + 0.5) * jnp.log(small) - 0.5 * math.log(2 * math.pi)
  return jnp.where(z < LARGE, direct, series)


def _half_step(z: Float[Array, '*batch']) -> Float[Array, '*batch']:
  """ln Γ(z + ½) - ln Γ(z) - ½·ln z, about -1/(8z)."""
  inverse = 1 / jnp.maximum(z, LARGE)
  series = -inverse * (1 / 8 - inverse**2 * (1 / 192 - inverse**2 / 640))
  small = jnp.minimum(z, LARGE)
  direct = gammaln(small + 0.5) - gammaln(small) - 0.5 * jnp.log(small)
  return jnp.where(z < LARGE, direct, series)


def _deviance(
  x: Float[Array, '*batch'], mean: Float[Array, '*batch'], difference: Float[Array, '*batch']
) -> Float[Array, '*batch']:
  """D(x, m) = x·ln(x/m) - (x - m), of which the difference x - m is given: no term cancels it.

  With v = (x - m)/(x + m), ln(x/m) = 2·(v + v³/3 + v⁵/5 + …) and 2xv - (x - m) = (x - m)·v.
  """
  v = difference / (x + mean)
  near = jnp.clip(v, -NEAR, NEAR)
  square, series = near**2, 0.0
  for power in (11, 9, 7, 5, 3):  # Horner's rule
    series = square * (1 / power + series)
  direct = x * jnp.log(x / mean) - difference
  return jnp.where(jnp.abs(v) < NEAR, difference * v + 2 * x * near * series, direct)
