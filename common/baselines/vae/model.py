"""Encoder, decoder and the distributions of latents and pixels: what a VAE consists of."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key, Num

from common.baselines.vae.latents import LATENTS, Latents
from common.baselines.vae.networks import NETWORKS
from common.baselines.vae.networks.base import Autoencoder
from common.baselines.vae.pixels import PIXELS, Pixels
from common.config import ConfigError, component
from common.data.spec import DataSpec, to_unit
from common.method import PyTree


@dataclasses.dataclass(frozen=True, eq=False)  # hashed by identity: a key of compiled programs
class Model:
  """An autoencoder: a variational one (VAE), or a vector-quantised one (VQ-VAE).

  Attributes:
    network: encoder and decoder.
    latents: posterior and prior of the latents.
    pixels: distribution of pixels around the decoder's output.
    num_classes: number of classes that encoder and decoder know, or 0.
    spec: describes the data.
  """

  network: Autoencoder
  latents: Latents
  pixels: Pixels
  num_classes: int
  spec: DataSpec

  @property
  def grid(self) -> tuple[int, int]:
    """Rows and columns of the latents."""
    return self.network.grid(*self.spec.shape[:2])

  def init(self, key: Key[Array, ''], x: Num[Array, 'batch height width channels']) -> dict:
    """Parameters; only the shape of x matters."""
    first, second = jax.random.split(key)
    z = jnp.zeros((x.shape[0], *self.grid, self.latents.channels), jnp.float32)
    label = jnp.zeros(x.shape[0], jnp.int32) if self.num_classes else None
    inputs = to_unit(x, self.spec.levels)
    params = {'network': self.network.init(first, inputs, z, label)['params']}
    params |= self.latents.init(second)
    if own := self.pixels.init(self.spec.shape[-1]):
      params['pixels'] = own
    return params

  def features(
    self,
    params: PyTree,
    x: Num[Array, 'batch height width channels'],
    label: Int[Array, 'batch'] | None,
  ) -> Float[Array, 'batch rows columns features']:
    """The encoder's output for images as they are stored."""
    inputs = to_unit(x, self.spec.levels)
    return self.network.apply({'params': params['network']}, inputs, label, method='encode')

  def outputs(
    self,
    params: PyTree,
    z: Float[Array, 'batch rows columns channels'],
    label: Int[Array, 'batch'] | None,
  ) -> Float[Array, 'batch height width outputs']:
    """The decoder's output for latents."""
    return self.network.apply({'params': params['network']}, z, label, method='decode')

  def log_prob(
    self,
    params: PyTree,
    outputs: Float[Array, 'batch height width outputs'],
    x: Num[Array, 'batch height width channels'],
  ) -> Float[Array, 'batch']:
    """log p(x|z) in nats, for the decoder's output."""
    return self.pixels.log_prob(params.get('pixels', {}), outputs, x, self.spec.levels)


def build_model(config: Mapping[str, Any], spec: DataSpec) -> Model:
  """The model of a config (see `configs/vae/base.py`).

  Raises:
    ConfigError: for unknown names or settings, and data that are not images, or do not divide.
  """
  if len(spec.shape) != 3 or spec.series is not None:
    raise ConfigError(f'a VAE takes images, and {spec.name} has none: choose other data')
  if spec.indices:
    raise ConfigError(
      f'a VAE takes ordered values, and those of {spec.name} are indices of colours or codes: set '
      "data.palette=0, and data.first_stage='' or one whose latents are numbers"
    )
  num_classes = spec.num_classes if config['conditional'] else 0
  latents = component(LATENTS, config['latent'], 'latent')
  pixels = component(PIXELS, config['pixels'], 'pixels')
  network = component(
    NETWORKS,
    config['network'],
    'network',
    out_channels=pixels.outputs(spec.shape[-1]),
    features=latents.features,
    num_classes=num_classes,
    dtype=config['precision'],
  )
  network.grid(*spec.shape[:2])  # raises for images that do not divide
  return Model(network, latents, pixels, num_classes, spec)
