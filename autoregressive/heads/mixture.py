"""Discretised mixtures of logistics over pixels (Salimans et al. 2017, section 2.1 and 2.2)."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from common.config import ConfigError
from common.data.spec import to_unit

LOG_SCALE_MIN = -7.0  # a logistic narrower than this lies within one of 256 bins


@dataclasses.dataclass(frozen=True)
class LogisticMixture:
  """A mixture of logistics, integrated over the bin of each level; the outer bins are open.

  On the scale of [-1, 1] level j has the bin x_j ± 1/(levels - 1), and a logistic with mean μ and
  inverse scale s gives it σ(s·(x_j + half - μ)) - σ(s·(x_j - half - μ)); without a lower end at
  the first level, without an upper end at the last, so a pixel's probabilities sum to one. Their
  logarithm is exact, with no density in place of small differences.

  Three channels share the component, and within it they follow one another (equation 3): the mean
  of green is moved by a·red, that of blue by b·red + c·green, with |a|, |b|, |c| < 1.

  Attributes:
    values: channels of a pixel: 1 or 3.
    vocabulary: levels; a value is an integer in [0, vocabulary).
    components: components of the mixture.

  Raises:
    ConfigError: for another number of channels, fewer than two levels, or no component.
  """

  values: int
  vocabulary: int
  components: int = 10

  discrete: ClassVar[bool] = False
  likelihood: ClassVar[bool] = True
  rows: ClassVar[int] = 0

  def __post_init__(self):
    if self.values not in (1, 3):
      raise ConfigError(
        f"head 'logistic_mixture' takes emissions of 1 or 3 channels, not {self.values} values"
      )
    if self.vocabulary < 2:
      raise ConfigError(f"head 'logistic_mixture' takes 2 levels or more, not {self.vocabulary}")
    if self.components < 1:
      raise ConfigError(f'head.components={self.components} must be 1 or more')

  @property
  def size(self) -> int:
    """Outputs per emission: a weight, then means, scales and coefficients of each component."""
    return self.components * (3 if self.values == 1 else 10)

  def numbers(self, emission: Int[Array, '*batch values']) -> Float[Array, '*batch values']:
    """Emissions as a network takes them: on the scale of [-1, 1]."""
    return to_unit(emission, self.vocabulary)

  def log_prob(
    self, outputs: Float[Array, '*#batch size'], emission: Int[Array, '*#batch values']
  ) -> Float[Array, '...']:
    """Log-probability of an emission, in nats."""
    weights, *rest = self._parameters(outputs)
    for channel in range(self.values):
      centre, log_scale = self._channel(channel, rest, emission)
      weights += self._bin(emission[..., channel, None], centre, log_scale)
    return jax.nn.logsumexp(weights, axis=-1)

  def sample(
    self, outputs: Float[Array, '*batch size'], key: Key[Array, '']
  ) -> Int[Array, '*batch values']:
    """An emission drawn from the distribution: a component, then channel after channel."""
    weights, *rest = self._parameters(outputs)
    component_key, key = jax.random.split(key)
    component = jax.random.categorical(component_key, weights)[..., None]
    noise = jax.random.logistic(key, (*weights.shape[:-1], self.values))

    def draw(channel, centre, log_scale):
      centre, log_scale = (
        jnp.take_along_axis(x, component, -1)[..., 0] for x in (centre, log_scale)
      )
      x = centre + jnp.exp(log_scale) * noise[..., channel]
      level = jnp.round((x + 1) * ((self.vocabulary - 1) / 2))
      return jnp.clip(level, 0, self.vocabulary - 1).astype(jnp.int32)

    return self._by_channel(rest, draw, weights.shape[:-1])

  def mode(self, outputs: Float[Array, '*batch size']) -> Int[Array, '*batch values']:
    """The most probable level of each channel in turn, given the channels before it."""
    weights, *rest = self._parameters(outputs)
    levels = jnp.arange(self.vocabulary)
    posterior = weights  # of the component, given the channels chosen so far

    def choose(channel, centre, log_scale):
      nonlocal posterior
      table = self._bin(levels[:, None], centre[..., None, :], log_scale[..., None, :])
      table += posterior[..., None, :]
      level = jax.nn.logsumexp(table, axis=-1).argmax(-1).astype(jnp.int32)
      posterior = jnp.take_along_axis(table, level[..., None, None], axis=-2)[..., 0, :]
      return level

    return self._by_channel(rest, choose, weights.shape[:-1])

  def _parameters(self, outputs):
    """Log-weights [..., K]; means, log-scales [..., channels, K]; coefficients [..., 3, K]."""
    outputs = outputs.astype(jnp.float32)
    table = outputs.reshape(*outputs.shape[:-1], -1, self.components)
    n = self.values
    log_scales = jnp.maximum(table[..., 1 + n : 1 + 2 * n, :], LOG_SCALE_MIN)
    weights = jax.nn.log_softmax(table[..., 0, :])
    return weights, table[..., 1 : 1 + n, :], log_scales, jnp.tanh(table[..., 1 + 2 * n :, :])

  def _channel(self, channel, parameters, emission):
    """Centre and log-scale of a channel in each component, given the channels before it."""
    means, log_scales, coefficients = parameters
    centre, first = means[..., channel, :], channel * (channel - 1) // 2
    before = to_unit(emission, self.vocabulary)
    for i in range(channel):
      centre += coefficients[..., first + i, :] * before[..., i, None]
    return centre, log_scales[..., channel, :]

  def _bin(self, level, centre, log_scale):
    """log(σ(upper) - σ(lower)) of a level's bin, by way of
    σ(a) - σ(b) = σ(a)·σ(-b)·(1 - exp(b - a))."""
    distance, half = to_unit(level, self.vocabulary) - centre, 1 / (self.vocabulary - 1)
    sharpness = jnp.exp(-log_scale)
    below = jax.nn.log_sigmoid(sharpness * (distance + half))
    above = jax.nn.log_sigmoid(-sharpness * (distance - half))
    both = below + above + jnp.log(-jnp.expm1(-2 * half * sharpness))
    inner = jnp.where(level == self.vocabulary - 1, above, both)
    return jnp.where(level == 0, below, inner)

  def _by_channel(self, parameters, choose, batch):
    """An emission, each channel chosen from its centre and log-scale given those before."""
    emission = jnp.zeros((*batch, self.values), jnp.int32)
    for channel in range(self.values):
      level = choose(channel, *self._channel(channel, parameters, emission))
      emission = emission.at[..., channel].set(level)
    return emission
