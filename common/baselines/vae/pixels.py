"""Distributions of pixels around the output of a decoder, by name.

Data of whole numbers get probabilities and not densities: the distribution is integrated over the
bin of each level, and the outer bins are open. On the scale of [-1, 1], level j has the bin x_j ± h
with h = 1/(levels - 1). Data of numbers (`levels` 0) have densities.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Annotated, Any

import jax
import jax.numpy as jnp
from jax.scipy.special import log_ndtr
from jaxtyping import Array, Float, Key, Num

from common.data.spec import to_unit
from common.ranges import OneOf

LOG_SCALE_MIN = -7.0  # a distribution narrower than this lies within one of 256 bins


@dataclasses.dataclass(frozen=True)
class Pixels:
  """A location-scale family: location from the decoder, scale learned.

  Attributes:
    scale: 'shared': one learned scale for each channel (Rybkin et al. 2021); 'each': the decoder
      predicts the scale of every value as further channels of its output.
  """

  scale: Annotated[str, OneOf('shared', 'each')] = 'shared'

  def outputs(self, channels: int) -> int:
    """Channels of the decoder's output for images of `channels`."""
    return channels * (2 if self.scale == 'each' else 1)

  def init(self, channels: int) -> dict[str, Float[Array, 'channels']]:
    """The parameters of the distribution itself."""
    return {} if self.scale == 'each' else {'scale': jnp.full(channels, -1.0, jnp.float32)}

  def log_prob(
    self,
    params: Mapping[str, Any],
    outputs: Float[Array, 'batch height width outputs'],
    x: Num[Array, 'batch height width channels'],
    levels: int,
  ) -> Float[Array, 'batch']:
    """Log-probability of images in nats; of numbers (`levels` 0), their log-density."""
    location, log_scale = self._parts(params, outputs)
    sharpness = jnp.exp(-log_scale)
    distance = to_unit(x, levels) - location
    if not levels:
      values = self._log_density(sharpness * distance) - log_scale
    else:
      half = 1 / (levels - 1)
      upper, lower = sharpness * (distance + half), sharpness * (distance - half)
      inner = self._log_between(upper, lower, 2 * half * sharpness)
      inner = jnp.where(x == levels - 1, self._log_below(-lower), inner)
      values = jnp.where(x == 0, self._log_below(upper), inner)
    return values.sum(axis=range(1, values.ndim))

  def mean(
    self, params: Mapping[str, Any], outputs: Float[Array, 'batch height width outputs']
  ) -> Float[Array, 'batch height width channels']:
    """The locations, on the scale of [-1, 1]."""
    return self._parts(params, outputs)[0]

  def draw(
    self,
    params: Mapping[str, Any],
    outputs: Float[Array, 'batch height width outputs'],
    keys: Key[Array, 'batch'],
  ) -> Float[Array, 'batch height width channels']:
    """Values drawn around the locations, each example with its own key."""
    location, log_scale = self._parts(params, outputs)
    noise = jax.vmap(self._noise, (0, None))(keys, location.shape[1:])
    return location + jnp.exp(log_scale) * noise

  def _parts(self, params, outputs):
    """Locations and log-scales."""
    if self.scale == 'each':
      location, log_scale = jnp.split(outputs, 2, axis=-1)
    else:
      location, log_scale = outputs, params['scale']
    return location, jnp.maximum(log_scale, LOG_SCALE_MIN)

  # The standard distribution of the family, which is symmetric.

  def _log_density(self, z: Float[Array, '*shape']) -> Float[Array, '*shape']:
    raise NotImplementedError

  def _log_below(self, z: Float[Array, '*shape']) -> Float[Array, '*shape']:
    """log F(z), F the distribution function."""
    raise NotImplementedError

  def _log_between(
    self, a: Float[Array, '*shape'], b: Float[Array, '*shape'], width: Float[Array, '*#shape']
  ) -> Float[Array, '*shape']:
    """log(F(a) - F(b)), `width` = a - b > 0."""
    raise NotImplementedError

  def _noise(self, key: Key[Array, ''], shape: tuple[int, ...]) -> Float[Array, '*shape']:
    raise NotImplementedError


@dataclasses.dataclass(frozen=True)
class Gaussian(Pixels):
  """Normal distributions."""

  def _log_density(self, z):
    return -0.5 * z**2 - 0.5 * math.log(2 * math.pi)

  def _log_below(self, z):
    return log_ndtr(z)

  def _log_between(self, a, b, width):
    # Mirrored into the lower tail, where log Φ is exact: Φ(a) - Φ(b) = Φ(-b) - Φ(-a).
    mirror = a + b > 0
    top, bottom = jnp.where(mirror, -b, a), jnp.where(mirror, -a, b)
    below_top = log_ndtr(top)
    return below_top + _log1mexp(below_top - log_ndtr(bottom))

  def _noise(self, key, shape):
    return jax.random.normal(key, shape)


@dataclasses.dataclass(frozen=True)
class Logistic(Pixels):
  """Logistic distributions (Salimans et al. 2017, section 2.1, with one component)."""

  def _log_density(self, z):
    return jax.nn.log_sigmoid(z) + jax.nn.log_sigmoid(-z)

  def _log_below(self, z):
    return jax.nn.log_sigmoid(z)

  def _log_between(self, a, b, width):
    # σ(a) - σ(b) = σ(a)·σ(-b)·(1 - exp(b - a)): no cancellation.
    return jax.nn.log_sigmoid(a) + jax.nn.log_sigmoid(-b) + _log1mexp(width)

  def _noise(self, key, shape):
    return jax.random.logistic(key, shape)


def _log1mexp(d: Float[Array, '*shape']) -> Float[Array, '*shape']:
  """log(1 - exp(-d)) for d > 0, exact for small and for large d (Mächler 2012)."""
  small = d < math.log(2.0)
  # Each branch gets an argument at which it and its gradient are finite.
  return jnp.where(
    small,
    jnp.log(-jnp.expm1(-jnp.where(small, jnp.maximum(d, 1e-30), 1.0))),
    jnp.log1p(-jnp.exp(-jnp.where(small, 1.0, d))),
  )


PIXELS = {'gaussian': Gaussian, 'logistic': Logistic}
