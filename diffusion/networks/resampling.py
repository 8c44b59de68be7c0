"""Halving and doubling the resolution of images."""

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

_FILTER = np.array([1.0, 3.0, 3.0, 1.0], np.float32) / 8


def downsample(
  x: Float[Array, 'batch height width channels'], fir: bool = False
) -> Float[Array, 'batch height//2 width//2 channels']:
  """Half the resolution: means of 2x2 pixels, or the filter [1, 3, 3, 1] (Karras et al. 2020)."""
  if fir:
    return _separable(x, _FILTER, strides=2, padding=(1, 1), dilation=1)
  batch, height, width, channels = x.shape
  return x.reshape(batch, height // 2, 2, width // 2, 2, channels).mean(axis=(2, 4))


def upsample(
  x: Float[Array, 'batch height width channels'], fir: bool = False
) -> Float[Array, 'batch 2*height 2*width channels']:
  """Double the resolution: copies, or the filter [1, 3, 3, 1] (Karras et al. 2020)."""
  if fir:
    return _separable(x, 2 * _FILTER, strides=1, padding=(2, 2), dilation=2)
  return jnp.repeat(jnp.repeat(x, 2, axis=1), 2, axis=2)


def _separable(x, kernel, strides, padding, dilation):
  """The same filter along height, then along width, in each channel."""
  for axis in (0, 1):
    pick = lambda value, other, axis=axis: tuple(value if i == axis else other for i in (0, 1))
    x = lax.conv_general_dilated(
      x,
      jnp.broadcast_to(
        kernel.reshape(*pick(4, 1), 1, 1).astype(x.dtype), (*pick(4, 1), 1, x.shape[-1])
      ),
      window_strides=pick(strides, 1),
      padding=pick(padding, (0, 0)),
      lhs_dilation=pick(dilation, 1),
      dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
      feature_group_count=x.shape[-1],
    )
  return x
