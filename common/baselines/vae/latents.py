"""The latents of an autoencoder, by name: Gaussian ones, or codes of a codebook."""

import dataclasses
import functools
import math
from collections.abc import Mapping
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key, Num

from common.baselines.vae import codebook
from common.ranges import ABOVE_ZERO, AT_LEAST_ONE, AT_LEAST_ZERO, Interval

LOG_VARIANCE_RANGE = (-30.0, 20.0)  # as in the published autoencoders (Rombach et al. 2022, code)


class Encoded(NamedTuple):
  """What the loss needs of encoded images.

  Attributes:
    z: drawn from the posterior; the input of the decoder.
    kl: divergence of the posterior from the prior, in nats, by channel of the latents.
    extra: further terms of the loss, which belong to no likelihood.
    metrics: further means to log, each a number for each example or for all.
  """

  z: Float[Array, 'batch rows columns channels']
  kl: Float[Array, 'batch channels']
  extra: Float[Array, 'batch']
  metrics: Mapping[str, Float[Array, '...']]


class Latents:
  """A kind of latents. Each is a frozen dataclass.

  Attributes:
    channels: channels of the latents at each position.
    features: channels that the encoder returns at each position.
    exact: whether the posterior is a single point: one evaluation then gives the bound exactly.
    stored_channels: channels of the latents as data.
    levels: as data they are whole numbers below this; 0: numbers.
  """

  channels: int
  exact: bool = False

  @property
  def features(self) -> int:
    raise NotImplementedError

  @property
  def stored_channels(self) -> int:
    raise NotImplementedError

  @property
  def levels(self) -> int:
    raise NotImplementedError

  def init(self, key: Key[Array, '']) -> dict[str, Any]:
    """Parameters besides those of encoder and decoder."""
    del key
    return {}

  def encode(
    self,
    params: Mapping[str, Any],
    features: Float[Array, 'batch rows columns features'],
    keys: Key[Array, 'batch'],
  ) -> Encoded:
    """Draws latents from the posterior, each example with its own key."""
    raise NotImplementedError

  def log_ratio(
    self,
    params: Mapping[str, Any],
    features: Float[Array, 'batch rows columns features'],
    z: Float[Array, 'batch rows columns channels'],
  ) -> Float[Array, 'batch']:
    """log p(z) - log q(z|x), in nats."""
    raise NotImplementedError

  def draw(
    self,
    params: Mapping[str, Any],
    keys: Key[Array, 'batch'],
    grid: tuple[int, int],
    temperature: float,
  ) -> Float[Array, 'batch rows columns channels']:
    """Latents drawn from the prior on a grid of positions, each with its own key."""
    raise NotImplementedError

  def to_data(
    self, params: Mapping[str, Any], features: Float[Array, 'batch rows columns features']
  ) -> Num[Array, 'batch rows columns stored']:
    """The latents of images as data: means of the posterior, or codes."""
    raise NotImplementedError

  def from_data(
    self, params: Mapping[str, Any], data: Num[Array, 'batch rows columns stored']
  ) -> Float[Array, 'batch rows columns channels']:
    """The input of the decoder for latents as data."""
    raise NotImplementedError


@dataclasses.dataclass(frozen=True)
class GaussianLatents(Latents):
  """A normal posterior for each position and channel, and a standard normal prior.

  Kingma & Welling 2014; the encoder returns the means, then the logarithms of the variances.

  Attributes:
    channels: channels of the latents at each position.
  """

  channels: Annotated[int, AT_LEAST_ONE] = 4

  @property
  def features(self) -> int:
    return 2 * self.channels

  @property
  def stored_channels(self) -> int:
    return self.channels

  @property
  def levels(self) -> int:
    return 0

  def encode(self, params, features, keys):
    mean, log_variance = _posterior(features)
    noise = _normal(keys, mean.shape[1:])
    # The divergence of two normals in closed form (Kingma & Welling 2014, appendix B).
    kl = 0.5 * (mean**2 + jnp.exp(log_variance) - 1 - log_variance)
    zeros = jnp.zeros(mean.shape[0], jnp.float32)
    z = mean + jnp.exp(0.5 * log_variance) * noise
    return Encoded(z, kl.sum(axis=(1, 2)), zeros, {})

  def log_ratio(self, params, features, z):
    mean, log_variance = _posterior(features)
    noise = (z - mean) * jnp.exp(-0.5 * log_variance)
    # The constants of both normals cancel.
    return 0.5 * (noise**2 + log_variance - z**2).sum(axis=(1, 2, 3))

  def draw(self, params, keys, grid, temperature):
    return temperature * _normal(keys, (*grid, self.channels))

  def to_data(self, params, features):
    return _posterior(features)[0]

  def from_data(self, params, data):
    return data


def _posterior(
  features: Float[Array, 'batch rows columns features'],
) -> tuple[Float[Array, 'batch rows columns channels'], ...]:
  """Means and logarithms of the variances."""
  mean, log_variance = jnp.split(features, 2, axis=-1)
  return mean, jnp.clip(log_variance, *LOG_VARIANCE_RANGE)


def _normal(keys: Key[Array, 'batch'], shape: tuple[int, ...]) -> Float[Array, 'batch *shape']:
  return jax.vmap(functools.partial(jax.random.normal, shape=shape))(keys)


@dataclasses.dataclass(frozen=True)
class Codes(Latents):
  """The nearest vector of a learned codebook at each position: a VQ-VAE (van den Oord et al. 2017).

  The posterior is one code, and the prior is uniform over all codes (section 3.1), so the bound has
  log(codes) nats for each position.

  Attributes:
    channels: numbers in a vector.
    codes: vectors of the codebook.
    codebook: weight of the term that moves the vectors to the encoder's output (equation 3).
    commitment: weight of the term that keeps the encoder's output near them, the paper's β.
    normalise: whether vectors and the encoder's output have length 1, so that the nearest vector is
      the one of the largest cosine; more codes stay in use (Yu et al. 2022, section 3.2).
  """

  channels: Annotated[int, AT_LEAST_ONE] = 8
  codes: Annotated[int, Interval(2, 2**16)] = 128
  codebook: Annotated[float, ABOVE_ZERO] = 1.0
  commitment: Annotated[float, AT_LEAST_ZERO] = 0.25
  normalise: bool = True
  exact = True

  @property
  def features(self) -> int:
    return self.channels

  @property
  def stored_channels(self) -> int:
    return 1

  @property
  def levels(self) -> int:
    return self.codes

  def init(self, key):
    return {'codebook': {'embedding': jax.random.normal(key, (self.codes, self.channels))}}

  def encode(self, params, features, keys):
    features = self._unit(features)
    found = codebook.quantise(features, self._table(params))
    # The paper's terms are sums over channels; here means, as the loss is one over dimensions.
    terms = self.codebook * codebook.codebook_loss(features, found.vectors)
    terms += codebook.commitment_loss(features, found.vectors, self.commitment)
    kl = jnp.full((len(features), self.channels), self._nats(features) / self.channels)
    used = codebook.usage(found.codes, self.codes)
    return Encoded(found.straight, kl, terms / self.channels, used)

  def _nats(self, features: Float[Array, 'batch rows columns features']) -> float:
    """Divergence of one code at each position from the uniform prior."""
    return features.shape[1] * features.shape[2] * math.log(self.codes)

  def log_ratio(self, params, features, z):
    return jnp.full(len(features), -self._nats(features), jnp.float32)

  def draw(self, params, keys, grid, temperature):
    del temperature  # of a uniform distribution there is none
    draw = functools.partial(jax.random.randint, shape=grid, minval=0, maxval=self.codes)
    return self._table(params)[jax.vmap(draw)(keys)]

  def to_data(self, params, features):
    return codebook.nearest(self._unit(features), self._table(params))[..., None]

  def from_data(self, params, data):
    codes: Int[Array, 'batch rows columns'] = data[..., 0].astype(jnp.int32)
    return self._table(params)[codes]

  def _table(self, params: Mapping[str, Any]) -> Float[Array, 'codes channels']:
    """The vectors of the codebook."""
    return self._unit(params['codebook']['embedding'])

  def _unit(self, x: Float[Array, '*batch channels']) -> Float[Array, '*batch channels']:
    if not self.normalise:
      return x
    return x * jax.lax.rsqrt(jnp.square(x).sum(-1, keepdims=True) + 1e-12)


LATENTS = {'gaussian': GaussianLatents, 'codes': Codes}
