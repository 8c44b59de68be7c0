"""Discretised mixtures of logistics over pixels (Salimans et al. 2017, section 2.1 and 2.2)."""

import dataclasses
from typing import Annotated

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from autoregressive.heads.base import Head, Scale
from common.config import ConfigError
from common.data.spec import to_unit
from common.ranges import AT_LEAST_ONE

LOG_SCALE_MIN = -7.0  # a logistic narrower than this lies within one of 256 bins


@dataclasses.dataclass(frozen=True)
class LogisticMixture(Head):
  """A mixture of logistics, integrated over the bin of each level; the outer bins are open.

  On the scale of [-1, 1], level j has the bin x_j ± h with h = 1/(levels - 1). A logistic with mean
  μ and inverse scale s gives it the probability σ(s·(x_j + h - μ)) - σ(s·(x_j - h - μ)). The first
  bin has no lower end and the last no upper end, so the probabilities of a channel sum to one. Logs
  of these differences are exact here; the paper's code replaces small differences by a density.

  Three channels share the component. Within it (equation 3), a·red is added to the mean of green,
  and b·red + c·green to the mean of blue, with |a|, |b|, |c| < 1.

  Attributes:
    values: channels of a pixel: 1 or 3.
    vocabulary: levels; a value is an integer in [0, vocabulary).
    components: number of components of the mixture.

  Raises:
    ConfigError: for another number of channels, fewer than two levels, or no component.
  """

  values: int
  vocabulary: int
  components: Annotated[int, AT_LEAST_ONE] = 10

  def __post_init__(self):
    if self.values not in (1, 3):
      raise ConfigError(
        f"head 'logistic_mixture' needs emissions of 1 or 3 channels, got {self.values} values"
      )
    if self.vocabulary < 2:
      raise ConfigError(f"head 'logistic_mixture' needs at least 2 levels, got {self.vocabulary}")

  @property
  def size(self) -> int:
    """Outputs per emission: weight, means, log-scales and coefficients of each component."""
    return self.components * (3 if self.values == 1 else 10)

  def network_inputs(
    self, emission: Int[Array, '*batch values'], scale: Scale = 1.0
  ) -> Float[Array, '*batch values']:
    """Levels on the scale of [-1, 1]."""
    del scale
    return to_unit(emission, self.vocabulary)

  def log_prob(
    self,
    outputs: Float[Array, '*#batch size'],
    emission: Int[Array, '*#batch values'],
    scale: Scale = 1.0,
  ) -> Float[Array, '...']:
    """Log-probability of an emission, in nats."""
    del scale
    weights, *rest = self._parameters(outputs)
    # log Σ_k π_k ∏_c P_k(level_c): the product over channels is inside the sum over components.
    for channel in range(self.values):
      centre, log_scale = self._channel(channel, rest, emission)
      weights += self._bin(emission[..., channel, None], centre, log_scale)
    return jax.nn.logsumexp(weights, axis=-1)

  def sample(
    self, outputs: Float[Array, '*batch size'], key: Key[Array, ''], scale: Scale = 1.0
  ) -> Int[Array, '*batch values']:
    """An emission drawn from the distribution: a component, then channel after channel."""
    del scale
    weights, *rest = self._parameters(outputs)
    # One component for all channels.
    component_key, key = jax.random.split(key)
    component = jax.random.categorical(component_key, weights)[..., None]
    noise = jax.random.logistic(key, (*weights.shape[:-1], self.values))
    emission = jnp.zeros(noise.shape, jnp.int32)
    for channel in range(self.values):  # in order: the mean of a channel depends on those before
      parameters = self._channel(channel, rest, emission)
      centre, log_scale = (jnp.take_along_axis(x, component, -1)[..., 0] for x in parameters)
      # A logistic variable: location + scale · standard logistic noise.
      x = centre + jnp.exp(log_scale) * noise[..., channel]
      level = jnp.round((x + 1) * ((self.vocabulary - 1) / 2))  # from [-1, 1]
      level = jnp.clip(level, 0, self.vocabulary - 1)  # the outer bins are open
      emission = emission.at[..., channel].set(level.astype(jnp.int32))
    return emission

  def mode(
    self, outputs: Float[Array, '*batch size'], scale: Scale = 1.0
  ) -> Int[Array, '*batch values']:
    """The most probable level of each channel in turn, given the channels before it."""
    del scale
    # Log-posterior of the component, given the channels so far: at first the log-weights.
    posterior, *rest = self._parameters(outputs)
    levels = jnp.arange(self.vocabulary)
    emission = jnp.zeros((*posterior.shape[:-1], self.values), jnp.int32)
    for channel in range(self.values):
      centre, log_scale = self._channel(channel, rest, emission)
      table = self._bin(levels[:, None], centre[..., None, :], log_scale[..., None, :])
      table += posterior[..., None, :]  # [..., levels, components]
      level = jax.nn.logsumexp(table, axis=-1).argmax(-1).astype(jnp.int32)
      # The chosen level's row is the (unnormalised) posterior given it.
      posterior = jnp.take_along_axis(table, level[..., None, None], axis=-2)[..., 0, :]
      emission = emission.at[..., channel].set(level)
    return emission

  def _parameters(self, outputs):
    """Log-weights [..., K]; means, log-scales [..., channels, K]; coefficients [..., 3, K]."""
    outputs = outputs.astype(jnp.float32)
    table = outputs.reshape(*outputs.shape[:-1], -1, self.components)
    n = self.values  # rows of the table: 1 weight, n means, n scales, then the coefficients
    log_scales = jnp.maximum(table[..., 1 + n : 1 + 2 * n, :], LOG_SCALE_MIN)
    weights = jax.nn.log_softmax(table[..., 0, :])
    # tanh keeps |a|, |b|, |c| below 1.
    return weights, table[..., 1 : 1 + n, :], log_scales, jnp.tanh(table[..., 1 + 2 * n :, :])

  def _channel(self, channel, parameters, emission):
    """Centre and log-scale of a channel in each component, given the channels before it."""
    means, log_scales, coefficients = parameters
    # Coefficients in the order a, b, c: red → green (index 0); red → blue, green → blue (from 1).
    centre, first = means[..., channel, :], channel * (channel - 1) // 2
    before = to_unit(emission, self.vocabulary)
    for i in range(channel):
      centre += coefficients[..., first + i, :] * before[..., i, None]
    return centre, log_scales[..., channel, :]

  def _bin(self, level, centre, log_scale):
    """log(σ(a) - σ(b)) of a level's bin, whose ends on the scale of the logistic are a and b."""
    distance, half = to_unit(level, self.vocabulary) - centre, 1 / (self.vocabulary - 1)
    sharpness = jnp.exp(-log_scale)
    below = jax.nn.log_sigmoid(sharpness * (distance + half))
    above = jax.nn.log_sigmoid(-sharpness * (distance - half))
    # σ(a) - σ(b) = σ(a)·σ(-b)·(1 - exp(b - a)) with a - b = 2·half·sharpness: no cancellation.
    both = below + above + jnp.log(-jnp.expm1(-2 * half * sharpness))
    # The outer bins are open: σ(a) = 1 at the last level, σ(b) = 0 at the first.
    inner = jnp.where(level == self.vocabulary - 1, above, both)
    return jnp.where(level == 0, below, inner)
