"""First stages: autoencoders whose latents are modelled in the place of images."""

import abc
from collections.abc import Callable

import numpy as np
from jaxtyping import Float, Num, Shaped

BATCH = 256  # images that are encoded or decoded at once


class FirstStage(abc.ABC):
  """A trained autoencoder whose latents are modelled in the place of images.

  Attributes:
    name: what it is, for messages.
    digest: hash of its weights and settings.
    shape: shape of the latents of one image.
    levels: latents are whole numbers below this; 0: numbers.
    parameters: number of its parameters.
    distribution: whether it has a distribution of pixels, and not only their locations.
  """

  name: str
  digest: str
  shape: tuple[int, ...]
  levels: int
  parameters: int
  distribution: bool = False

  @abc.abstractmethod
  def encode(
    self, x: Shaped[np.ndarray, 'batch height width channels']
  ) -> Num[np.ndarray, 'batch rows columns c']:
    """The latents of images as they are stored."""

  @abc.abstractmethod
  def decode(
    self, latents: Num[np.ndarray, 'batch rows columns c']
  ) -> Shaped[np.ndarray, 'batch height width channels']:
    """Images, as they are stored, from latents."""

  def decode_flops(self) -> int:
    """Operations of decoding the latents of one image, as `common.flops` counts them."""
    raise NotImplementedError

  def nats(
    self,
    latents: Num[np.ndarray, 'batch rows columns c'],
    x: Shaped[np.ndarray, 'batch height width channels'],
  ) -> Float[np.ndarray, 'batch']:
    """-log p(x|z) of images given their latents, in nats; only if `distribution`."""
    raise NotImplementedError


def in_batches(function: Callable[[np.ndarray], np.ndarray], x: np.ndarray) -> np.ndarray:
  """function(x), BATCH examples at a time; the last are padded, so that it compiles once."""
  size = min(BATCH, 1 << max(len(x) - 1, 0).bit_length())  # few: up to the next power of two
  parts = []
  for start in range(0, len(x), size):
    part = x[np.minimum(np.arange(start, start + size), len(x) - 1)]
    parts.append(np.asarray(function(part)))
  return np.concatenate(parts)[: len(x)] if parts else np.asarray(function(x))
