"""Heads over numbers: the values of time series, real or counted.

All take a `scale` ν, such as 1 + mean |z| of a series' past (Salinas et al. 2020, section 3.3): the
network sees emission/ν, the distribution is that of the emission itself, so likelihoods of
differently scaled series compare. Without a scale ν is 1.

Parametrisations differ between libraries. GluonTS keeps the negative binomial's shape as ν grows
(variance μ + μ²/r); here, as in the paper, α shrinks by √ν.
"""

import dataclasses
import itertools
from typing import ClassVar

import jax
import jax.numpy as jnp
import jax.scipy.stats as stats
from jax.scipy.special import betaln
from jaxtyping import Array, Float, Key, Num

from common.config import ConfigError

Scale = Float[Array, '*#batch'] | float
TINY = 1e-6  # the least scale, so that a constant series has a finite likelihood


@dataclasses.dataclass(frozen=True)
class Numbers:
  """What these heads share.

  Attributes:
    values: numbers in an emission, independent given the past.
  """

  values: int

  parameters: ClassVar[int]
  discrete: ClassVar[bool] = False
  likelihood: ClassVar[bool] = True
  counts: ClassVar[bool] = False  # whether it is over whole numbers alone
  rows: ClassVar[int] = 0

  @property
  def size(self) -> int:
    """Outputs per emission."""
    return self.values * self.parameters

  def numbers(
    self, emission: Num[Array, '*batch values'], scale: Scale = 1.0
  ) -> Float[Array, '*batch values']:
    """Emissions as a network takes them: divided by the scale."""
    return emission / _last(scale)

  def _split(self, outputs: Float[Array, '*batch size'], scale: Scale):
    """Each parameter's outputs [..., values] in float32, and the scale to go with them."""
    outputs = outputs.astype(jnp.float32)
    table = outputs.reshape(*outputs.shape[:-1], self.values, self.parameters)
    return *jnp.moveaxis(table, -1, 0), _last(scale)


def _last(scale: Scale) -> Array:
  return jnp.asarray(scale, jnp.float32)[..., None]


@dataclasses.dataclass(frozen=True)
class Gaussian(Numbers):
  """Normal with mean ν·o₁ and standard deviation ν·softplus(o₂)."""

  parameters: ClassVar[int] = 2

  def moments(self, outputs: Float[Array, '*batch size'], scale: Scale = 1.0):
    """Mean and standard deviation [..., values]."""
    mean, raw, scale = self._split(outputs, scale)
    return scale * mean, scale * (jax.nn.softplus(raw) + TINY)

  def log_prob(
    self,
    outputs: Float[Array, '*#batch size'],
    emission: Num[Array, '*#batch values'],
    scale: Scale = 1.0,
  ) -> Float[Array, '...']:
    """Log-density of an emission, in nats."""
    return stats.norm.logpdf(emission, *self.moments(outputs, scale)).sum(-1)

  def sample(
    self, outputs: Float[Array, '*batch size'], key: Key[Array, ''], scale: Scale = 1.0
  ) -> Float[Array, '*batch values']:
    """An emission drawn from the distribution."""
    mean, deviation = self.moments(outputs, scale)
    return mean + deviation * jax.random.normal(key, mean.shape)

  def mode(
    self, outputs: Float[Array, '*batch size'], scale: Scale = 1.0
  ) -> Float[Array, '*batch values']:
    """The mean."""
    return self.moments(outputs, scale)[0]


@dataclasses.dataclass(frozen=True)
class StudentT(Numbers):
  """Student's t with location ν·o₁, scale ν·softplus(o₂) and 2 + softplus(o₃) degrees of freedom.

  More than two degrees of freedom give it a variance: scale²·df/(df - 2).
  """

  parameters: ClassVar[int] = 3

  def shape(self, outputs: Float[Array, '*batch size'], scale: Scale = 1.0):
    """Degrees of freedom, location and scale [..., values]."""
    centre, width, df, scale = self._split(outputs, scale)
    return 2 + jax.nn.softplus(df), scale * centre, scale * (jax.nn.softplus(width) + TINY)

  def log_prob(
    self,
    outputs: Float[Array, '*#batch size'],
    emission: Num[Array, '*#batch values'],
    scale: Scale = 1.0,
  ) -> Float[Array, '...']:
    """Log-density of an emission, in nats."""
    return stats.t.logpdf(emission, *self.shape(outputs, scale)).sum(-1)

  def sample(
    self, outputs: Float[Array, '*batch size'], key: Key[Array, ''], scale: Scale = 1.0
  ) -> Float[Array, '*batch values']:
    """An emission drawn from the distribution."""
    df, centre, width = self.shape(outputs, scale)
    return centre + width * jax.random.t(key, df, centre.shape)

  def mode(
    self, outputs: Float[Array, '*batch size'], scale: Scale = 1.0
  ) -> Float[Array, '*batch values']:
    """The location."""
    return self.shape(outputs, scale)[1]


@dataclasses.dataclass(frozen=True)
class NegativeBinomial(Numbers):
  """Counts with mean μ = ν·softplus(o₁) and variance μ + αμ², α = softplus(o₂)/√ν.

  Salinas et al. 2020 (DeepAR), section 3.1. A Poisson whose rate is gamma-distributed; α is the
  squared coefficient of variation of the rate.
  """

  parameters: ClassVar[int] = 2
  counts: ClassVar[bool] = True

  def moments(self, outputs: Float[Array, '*batch size'], scale: Scale = 1.0):
    """Mean μ and overdispersion α [..., values]."""
    mean, raw, scale = self._split(outputs, scale)
    mean = scale * (jax.nn.softplus(mean) + TINY)
    return mean, (jax.nn.softplus(raw) + TINY) / jnp.sqrt(scale)

  def log_prob(
    self,
    outputs: Float[Array, '*#batch size'],
    emission: Num[Array, '*#batch values'],
    scale: Scale = 1.0,
  ) -> Float[Array, '...']:
    """Log-probability of an emission of whole numbers, in nats."""
    mean, alpha = self.moments(outputs, scale)
    count, r = emission.astype(jnp.float32), 1 / alpha
    ways = -betaln(r, count + 1) - jnp.log(r + count)  # ln Γ(count + r) / Γ(r) count!
    success = jnp.log1p(alpha * mean)  # the parts of p^r·(1 - p)^count, p = 1/(1 + αμ)
    return (ways - (r + count) * success + count * jnp.log(alpha * mean)).sum(-1)

  def sample(
    self, outputs: Float[Array, '*batch size'], key: Key[Array, ''], scale: Scale = 1.0
  ) -> Float[Array, '*batch values']:
    """An emission drawn from the distribution: whole numbers, as floats."""
    mean, alpha = self.moments(outputs, scale)
    rate_key, key = jax.random.split(key)
    rate = jax.random.gamma(rate_key, 1 / alpha) * alpha * mean
    return jax.random.poisson(key, rate).astype(jnp.float32)

  def mode(
    self, outputs: Float[Array, '*batch size'], scale: Scale = 1.0
  ) -> Float[Array, '*batch values']:
    """The most probable count: ⌊μ(1 - α)⌋, or 0 where α ≥ 1."""
    mean, alpha = self.moments(outputs, scale)
    return jnp.floor(jnp.maximum(mean * (1 - alpha), 0))


@dataclasses.dataclass(frozen=True)
class Quantiles(Numbers):
  """Chosen quantiles, trained by the quantile loss; no likelihood.

  The outputs of a value are its first quantile and, through a softplus, the steps from each to
  the next, so quantiles never cross (Park et al. 2022).

  Attributes:
    values: numbers in an emission.
    levels: the quantiles' levels, rising within (0, 1).

  Raises:
    ConfigError: for levels that do not rise within (0, 1).
  """

  levels: tuple[float, ...] = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)

  likelihood: ClassVar[bool] = False

  def __post_init__(self):
    ends = (0.0, *self.levels, 1.0)
    if len(ends) < 3 or any(a >= b for a, b in itertools.pairwise(ends)):
      raise ConfigError(f'head.levels={self.levels} must rise within (0, 1)')

  @property
  def parameters(self) -> int:
    """Outputs per value."""
    return len(self.levels)

  def quantiles(
    self, outputs: Float[Array, '*batch size'], scale: Scale = 1.0
  ) -> Float[Array, '*batch values levels']:
    """The quantiles of each value, rising."""
    outputs = outputs.astype(jnp.float32)
    table = outputs.reshape(*outputs.shape[:-1], self.values, self.parameters)
    steps = table.at[..., 1:].set(jax.nn.softplus(table[..., 1:]))
    return _last(scale)[..., None] * jnp.cumsum(steps, -1)

  def log_prob(
    self,
    outputs: Float[Array, '*#batch size'],
    emission: Num[Array, '*#batch values'],
    scale: Scale = 1.0,
  ) -> Float[Array, '...']:
    """A score in place of a log-density: minus the quantile losses Σ ρ_τ(emission - q_τ)/ν, where
    ρ_τ(u) = u·(τ - [u < 0]) (Koenker & Bassett 1978). In units of the scale, so that large series
    do not outweigh the others."""
    over = (emission[..., None] - self.quantiles(outputs, scale)) / _last(scale)[..., None]
    levels = jnp.array(self.levels)
    return -jnp.maximum(levels * over, (levels - 1) * over).sum((-2, -1))

  def sample(
    self, outputs: Float[Array, '*batch size'], key: Key[Array, ''], scale: Scale = 1.0
  ) -> Float[Array, '*batch values']:
    """An emission drawn by a uniform level; linear between quantiles, none beyond the outer."""
    table = self.quantiles(outputs, scale)
    return _between(jax.random.uniform(key, table.shape[:-1]), jnp.array(self.levels), table)

  def mode(
    self, outputs: Float[Array, '*batch size'], scale: Scale = 1.0
  ) -> Float[Array, '*batch values']:
    """The median: quantiles say nothing of a mode."""
    table = self.quantiles(outputs, scale)
    return _between(jnp.full(table.shape[:-1], 0.5), jnp.array(self.levels), table)


def _between(
  level: Float[Array, '*batch'],
  levels: Float[Array, 'levels'],
  quantiles: Float[Array, '*batch levels'],
) -> Float[Array, '*batch']:
  """The quantile function at a level, linear between those given."""
  interpolate = jnp.vectorize(jnp.interp, signature='(),(n),(n)->()')
  return interpolate(level, levels, quantiles)
