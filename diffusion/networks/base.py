"""The interface of diffusion networks: noisy data and a noise level in, an estimate out."""

import flax.linen as nn
from jaxtyping import Array, Float, Int


class DiffusionNetwork(nn.Module):
  """A network that estimates the clean data or the noise from noisy data.

  Every network of the table has the flax fields `out_channels`, `num_classes` and `dtype`, the type
  of products and of the residual stream (docs/precision.md). The members below are plain class
  attributes, not flax fields, and their values here are neutral.

  Attributes:
    augment_dim: number of augmentation parameters that the network is told (Karras et al. 2022,
      appendix F.2); 0: it takes none.
    has_convolutions: whether it has convolutions, which never run for several experts at once.
  """

  augment_dim = 0
  has_convolutions = False

  def __call__(
    self,
    x: Float[Array, 'batch height width channels'],
    noise: Float[Array, 'batch'],
    label: Int[Array, 'batch'] | None = None,
    train: bool = False,
    augment: Float[Array, 'batch numbers'] | None = None,
  ) -> Float[Array, 'batch height width out_channels']:
    """Estimates the target.

    Args:
      x: noisy data.
      noise: the noise level on the scale of DDPM's timesteps, from 0 (clean) to 1000.
      label: classes; `num_classes` is the null class of classifier-free guidance. None: the null
        class for every example.
      train: whether dropout is on; it needs the random stream 'dropout'.
      augment: augmentation parameters, for a network with `augment_dim` above 0.

    Returns:
      The estimate, in float32.
    """
    raise NotImplementedError
