"""Heads over numbers: the values of time series, real or counted.

All take a `scale` ν, such as 1 + mean z of the past of a series of counts (Salinas et al. 2020,
section 3.3). The network sees emission/ν, but the distribution is over the emission itself, so
likelihoods of differently scaled series can be compared. Without a scale ν is 1. The ordering has
subtracted the location of a window already, which changes no density (`orderings.Windows`).

Parametrisations differ between libraries. GluonTS keeps the negative binomial's shape as ν grows
(variance μ + μ²/r); here, as in the paper, α shrinks by √ν.
"""

import dataclasses
import itertools
import math
from typing import Annotated, ClassVar

import jax
import jax.numpy as jnp
import jax.scipy.stats as stats
from jaxtyping import Array, Float, Key, Num

from autoregressive.heads.base import Head, Scale
from autoregressive.heads.densities import negative_binomial_log_prob, student_t_log_prob
from common.config import ConfigError
from common.ranges import Each, Interval

MIN_SCALE = 1e-6  # relative to ν, so that a constant series has a finite likelihood


@dataclasses.dataclass(frozen=True)
class NumberHead(Head):
  """The base of the heads over numbers; a subclass implements `log_prob_of_values`.

  Attributes:
    values: numbers in an emission, independent given the past.
    outputs_per_value: outputs of the network for each of them.
  """

  values: int

  outputs_per_value: ClassVar[int]
  over_numbers: ClassVar[bool] = True

  @property
  def size(self) -> int:
    """Outputs per emission."""
    return self.values * self.outputs_per_value

  def network_inputs(
    self, emission: Num[Array, '*batch values'], scale: Scale = 1.0
  ) -> Float[Array, '*batch values']:
    """Emissions divided by the scale."""
    return emission / _per_value(scale)

  def log_prob(
    self,
    outputs: Float[Array, '*#batch size'],
    emission: Num[Array, '*#batch values'],
    scale: Scale = 1.0,
  ) -> Float[Array, '...']:
    """Log-probability or log-density of an emission, in nats: the sum over its values.

    A value of NaN was not observed: it counts as the mean of those that were.
    """
    emission = emission.astype(jnp.float32)
    seen = ~jnp.isnan(emission)
    # Replaced before, not only after: the gradient of an unused NaN is NaN too.
    each = self.log_prob_of_values(outputs, jnp.where(seen, emission, 0), scale)
    share = seen.mean(-1, dtype=jnp.float32)
    return jnp.where(seen, each, 0).sum(-1) / jnp.where(share > 0, share, 1)

  def log_prob_of_values(
    self,
    outputs: Float[Array, '*#batch size'],
    emission: Float[Array, '*#batch values'],
    scale: Scale = 1.0,
  ) -> Float[Array, '...']:
    """The log-probability, log-density or score of each value."""
    raise NotImplementedError

  def _split(self, outputs: Float[Array, '*batch size'], scale: Scale):
    """The outputs of each parameter [..., values] in float32, and the scale [..., 1]."""
    # float32 before the softplus: scales and densities lose too much in bfloat16.
    outputs = outputs.astype(jnp.float32)
    table = outputs.reshape(*outputs.shape[:-1], self.values, self.outputs_per_value)
    return *jnp.moveaxis(table, -1, 0), _per_value(scale)


def _per_value(scale: Scale) -> Float[Array, '*batch 1']:
  """The scale with an axis for the values of an emission."""
  return jnp.asarray(scale, jnp.float32)[..., None]


@dataclasses.dataclass(frozen=True)
class Gaussian(NumberHead):
  """Normal with mean ν·o₁ and standard deviation ν·softplus(o₂)."""

  outputs_per_value: ClassVar[int] = 2

  def parameters(self, outputs: Float[Array, '*batch size'], scale: Scale = 1.0):
    """Mean and standard deviation [..., values]."""
    mean, raw, scale = self._split(outputs, scale)
    # Both are in units of ν, so the network need not know how large the series is.
    return scale * mean, scale * (jax.nn.softplus(raw) + MIN_SCALE)

  def log_prob_of_values(
    self,
    outputs: Float[Array, '*#batch size'],
    emission: Float[Array, '*#batch values'],
    scale: Scale = 1.0,
  ) -> Float[Array, '...']:
    """The log-density of each value, in nats."""
    return stats.norm.logpdf(emission, *self.parameters(outputs, scale))

  def sample(
    self, outputs: Float[Array, '*batch size'], key: Key[Array, ''], scale: Scale = 1.0
  ) -> Float[Array, '*batch values']:
    """An emission drawn from the distribution."""
    mean, deviation = self.parameters(outputs, scale)
    return mean + deviation * jax.random.normal(key, mean.shape)

  def mode(
    self, outputs: Float[Array, '*batch size'], scale: Scale = 1.0
  ) -> Float[Array, '*batch values']:
    """The mean."""
    return self.parameters(outputs, scale)[0]


@dataclasses.dataclass(frozen=True)
class StudentT(NumberHead):
  """Student's t with location ν·o₁, scale ν·softplus(o₂) and 2 + softplus(o₃) degrees of freedom.

  More than two degrees of freedom give it a variance: scale²·df/(df - 2).
  """

  outputs_per_value: ClassVar[int] = 3

  def parameters(self, outputs: Float[Array, '*batch size'], scale: Scale = 1.0):
    """Degrees of freedom, location and scale [..., values]."""
    centre, width, df, scale = self._split(outputs, scale)
    # df > 2, so that the variance exists; the location and the width are in units of ν.
    return 2 + jax.nn.softplus(df), scale * centre, scale * (jax.nn.softplus(width) + MIN_SCALE)

  def log_prob_of_values(
    self,
    outputs: Float[Array, '*#batch size'],
    emission: Float[Array, '*#batch values'],
    scale: Scale = 1.0,
  ) -> Float[Array, '...']:
    """The log-density of each value, in nats."""
    return student_t_log_prob(emission, *self.parameters(outputs, scale))

  def sample(
    self, outputs: Float[Array, '*batch size'], key: Key[Array, ''], scale: Scale = 1.0
  ) -> Float[Array, '*batch values']:
    """An emission drawn from the distribution."""
    df, centre, width = self.parameters(outputs, scale)
    return centre + width * jax.random.t(key, df, centre.shape)

  def mode(
    self, outputs: Float[Array, '*batch size'], scale: Scale = 1.0
  ) -> Float[Array, '*batch values']:
    """The location."""
    return self.parameters(outputs, scale)[1]


@dataclasses.dataclass(frozen=True)
class NegativeBinomial(NumberHead):
  """Counts with mean μ = ν·softplus(o₁) and variance μ + αμ², α = softplus(o₂)/√ν.

  Salinas et al. 2020 (DeepAR), section 3.1. It is a Poisson whose rate has a gamma distribution; α
  is the squared coefficient of variation of the rate.
  """

  outputs_per_value: ClassVar[int] = 2
  counts: ClassVar[bool] = True

  def parameters(self, outputs: Float[Array, '*batch size'], scale: Scale = 1.0):
    """Mean μ and overdispersion α [..., values]."""
    mean, raw, scale = self._split(outputs, scale)
    # μ = ν·softplus(o₁), α = softplus(o₂) / √ν (Salinas et al. 2020, section 3.3).
    mean = scale * (jax.nn.softplus(mean) + MIN_SCALE)
    return mean, (jax.nn.softplus(raw) + MIN_SCALE) / jnp.sqrt(scale)

  def log_prob_of_values(
    self,
    outputs: Float[Array, '*#batch size'],
    emission: Float[Array, '*#batch values'],
    scale: Scale = 1.0,
  ) -> Float[Array, '...']:
    """The log-probability of each whole number, in nats."""
    return negative_binomial_log_prob(emission, *self.parameters(outputs, scale))

  def sample(
    self, outputs: Float[Array, '*batch size'], key: Key[Array, ''], scale: Scale = 1.0
  ) -> Float[Array, '*batch values']:
    """An emission drawn from the distribution: whole numbers, as floats."""
    mean, alpha = self.parameters(outputs, scale)
    rate_key, key = jax.random.split(key)
    # A Poisson whose rate is Gamma with shape 1/α and mean μ is this negative binomial.
    rate = jax.random.gamma(rate_key, 1 / alpha) * alpha * mean
    return jax.random.poisson(key, rate).astype(jnp.float32)

  def mode(
    self, outputs: Float[Array, '*batch size'], scale: Scale = 1.0
  ) -> Float[Array, '*batch values']:
    """The most probable count: ⌊μ(1 - α)⌋, or 0 where α ≥ 1."""
    mean, alpha = self.parameters(outputs, scale)
    # (r - 1)·(1 - p)/p with r = 1/α and (1 - p)/p = αμ.
    return jnp.floor(jnp.maximum(mean * (1 - alpha), 0))


# 0 and 1 are excluded: they have no quantile on the real line.
LEVELS = Each(Interval(0, 1, above=True, below=True), float, least=1)


@dataclasses.dataclass(frozen=True)
class Quantiles(NumberHead):
  """Quantiles at chosen levels, trained with the quantile loss; no likelihood.

  The outputs of a value are its first quantile and, through a softplus, the steps from each to
  the next, so quantiles never cross (Park et al. 2022).

  Attributes:
    values: numbers in an emission.
    levels: the quantiles' levels, rising within (0, 1).

  Raises:
    ConfigError: for levels that do not rise strictly.
  """

  levels: Annotated[tuple[float, ...], LEVELS] = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)

  likelihood: ClassVar[bool] = False

  def __post_init__(self):
    if any(a >= b for a, b in itertools.pairwise(self.levels)):
      raise ConfigError(f'head.levels must rise strictly, got {self.levels}')

  @property
  def outputs_per_value(self) -> int:
    """One output for each quantile of a value."""
    return len(self.levels)

  def quantiles(
    self, outputs: Float[Array, '*batch size'], scale: Scale = 1.0
  ) -> Float[Array, '*batch values levels']:
    """The quantiles of each value, rising."""
    outputs = outputs.astype(jnp.float32)
    table = outputs.reshape(*outputs.shape[:-1], self.values, self.outputs_per_value)
    # q_1 = o_1, q_k = q_{k-1} + softplus(o_k): rising by construction.
    steps = table.at[..., 1:].set(jax.nn.softplus(table[..., 1:]))
    return _per_value(scale)[..., None] * jnp.cumsum(steps, -1)

  def log_prob_of_values(
    self,
    outputs: Float[Array, '*#batch size'],
    emission: Float[Array, '*#batch values'],
    scale: Scale = 1.0,
  ) -> Float[Array, '...']:
    """A score instead of a log-density: minus the quantile losses Σ ρ_τ(value - q_τ)/ν, where
    ρ_τ(u) = u·(τ - [u < 0]) (Koenker & Bassett 1978). It is in units of the scale, so that large
    series do not outweigh small ones."""
    # u of each level, [..., values, levels].
    over = (emission[..., None] - self.quantiles(outputs, scale)) / _per_value(scale)[..., None]
    levels = jnp.array(self.levels)
    # ρ_τ(u) = max(τ·u, (τ - 1)·u)
    return -jnp.maximum(levels * over, (levels - 1) * over).sum(-1)

  def sample(
    self, outputs: Float[Array, '*batch size'], key: Key[Array, ''], scale: Scale = 1.0
  ) -> Float[Array, '*batch values']:
    """An emission at a uniform level (`quantile_function`)."""
    table = self.quantiles(outputs, scale)
    # float32 draws multiples of 2⁻²³; half a step more keeps 0, which has no quantile, out.
    level = jax.random.uniform(key, table.shape[:-1], minval=2.0**-24)
    return quantile_function(level, self.levels, table)

  def mode(
    self, outputs: Float[Array, '*batch size'], scale: Scale = 1.0
  ) -> Float[Array, '*batch values']:
    """The median: quantiles do not determine a mode."""
    table = self.quantiles(outputs, scale)
    return quantile_function(jnp.full(table.shape[:-1], 0.5), self.levels, table)


def quantile_function(
  level: Float[Array, '*batch'],
  levels: tuple[float, ...],
  quantiles: Float[Array, '*batch levels'],
) -> Float[Array, '*batch']:
  """The quantile at a level: linear between the given levels, with exponential tails beyond them.

  The lower tail is q_1 + s·ln(u / τ_1), with the slope s that would pass through the second
  quantile as well; the upper tail mirrors it. For a Laplace distribution both are exact. A single
  level tells nothing of the spread: every quantile is that one.

  Args:
    level: the level in (0, 1).
    levels: the given levels τ, rising.
    quantiles: their quantiles q.
  """
  tau = jnp.array(levels)
  # jnp.interp takes one row; it is constant beyond the outer levels, and the tails start there.
  interpolate = jnp.vectorize(jnp.interp, signature='(),(n),(n)->()')
  inner = interpolate(level, tau, quantiles)
  if len(levels) == 1:
    return inner
  low, second, *_ = levels
  *_, before, high = levels
  below = (quantiles[..., 1] - quantiles[..., 0]) / math.log(second / low)
  above = (quantiles[..., -1] - quantiles[..., -2]) / math.log((1 - before) / (1 - high))
  # ln of 1 between the outer levels: no tail is added there.
  lower = below * jnp.log(jnp.minimum(level / low, 1))
  upper = above * jnp.log(jnp.minimum((1 - level) / (1 - high), 1))
  return inner + lower - upper
