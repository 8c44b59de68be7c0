"""The interface of autoencoders: an encoder from images to latents, and a decoder back."""

import flax.linen as nn
from jaxtyping import Array, Float, Int

from common.config import ConfigError

Images = Float[Array, 'batch height width channels']
Features = Float[Array, 'batch rows columns features']
Latents = Float[Array, 'batch rows columns latent_channels']
Outputs = Float[Array, 'batch height width out_channels']
Labels = Int[Array, 'batch'] | None


class Autoencoder(nn.Module):
  """An encoder and a decoder, which share no parameters.

  The meaning of the channels belongs to the method. In a VAE the features are mean and log-variance
  of each latent channel, and the decoder is given the channels.

  Attributes:
    out_channels: channels that `decode` returns.
    features: channels that `encode` returns.
    num_classes: number of classes, which encoder and decoder are told, or 0.
    dtype: type of products and of the residual stream (docs/precision.md).
  """

  out_channels: int
  features: int
  num_classes: int = 0
  dtype: str = 'float32'

  @property
  def factor(self) -> int:
    """The side of the square of pixels that a latent stands for."""
    raise NotImplementedError

  @property
  def factor_setting(self) -> str:
    """The setting that decides `factor`, for messages: 'network.patch=4'."""
    raise NotImplementedError

  def encode(self, x: Images, label: Labels = None, train: bool = False) -> Features:
    """The features of each latent, in float32.

    Args:
      x: images, with any number of channels.
      label: classes, if `num_classes` is above 0.
      train: whether this is training, for networks that differ there; those of this folder do not.

    Raises:
      ConfigError: for images that `grid` refuses, for missing labels, or for labels of a network
        without classes.
    """
    raise NotImplementedError

  def decode(self, z: Latents, label: Labels = None, train: bool = False) -> Outputs:
    """Images in float32.

    Args:
      z: latents, with any number of channels.
      label, train: as for `encode`.

    Raises:
      ConfigError: for missing labels, or for labels of a network without classes.
    """
    raise NotImplementedError

  def __call__(self, x: Images, z: Latents, label: Labels = None) -> tuple[Features, Outputs]:
    """`encode` of `x` and `decode` of `z`, so that `init` creates all parameters."""
    return self.encode(x, label), self.decode(z, label)

  def grid(self, height: int, width: int) -> tuple[int, int]:
    """(rows, columns) of the latents of images of height x width pixels.

    Raises:
      ConfigError: for images that latents do not divide.
    """
    if height % self.factor or width % self.factor:
      raise ConfigError(
        f'{self.factor_setting} needs images whose sides are multiples of {self.factor}, '
        f'got {height}x{width}'
      )
    return height // self.factor, width // self.factor


def embed_label(label: Labels, num_classes: int, width: int) -> Float[Array, 'batch width'] | None:
  """A trained vector for the class of each example; None for a network without classes.

  The calling module gets the table `label_embed`.

  Raises:
    ConfigError: for missing labels, or for labels of a network without classes.
  """
  if not num_classes and label is not None:
    raise ConfigError('an autoencoder with num_classes=0 takes no labels')
  if not num_classes:
    return None
  if label is None:
    raise ConfigError(f'an autoencoder with num_classes={num_classes} needs labels, got none')
  # As large as the activations that it is added to, from the first step on.
  init = nn.initializers.normal(1.0)
  # Rows are looked up in float32, so that the gradients of a row add up in float32.
  return nn.Embed(num_classes, width, embedding_init=init, name='label_embed')(label)
