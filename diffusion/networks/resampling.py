"""Halving and doubling the resolution of images."""

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

# Binomial [1, 3, 3, 1]: a box filter three times over, so less aliasing than means of pairs.
_FILTER = np.array([1.0, 3.0, 3.0, 1.0], np.float32) / 8
FIR_MARGIN = 1  # zeros on each side with which the filter halves a size exactly


def downsample(
  x: Float[Array, 'batch height width channels'], fir: bool = False, margin: int = FIR_MARGIN
) -> Float[Array, 'batch _ _ channels']:
  """Half the resolution: means of 2x2 pixels, or the filter [1, 3, 3, 1] (Karras et al. 2020).

  The filter adds `margin` zeros on each side: 0 for an input that has a margin already.
  """
  if fir:
    return _separable(x, _FILTER, strides=2, padding=(margin, margin), dilation=1)
  batch, height, width, channels = x.shape
  return x.reshape(batch, height // 2, 2, width // 2, 2, channels).mean(axis=(2, 4))


def upsample(
  x: Float[Array, 'batch height width channels'], fir: bool = False
) -> Float[Array, 'batch 2*height 2*width channels']:
  """Double the resolution: copies, or the filter [1, 3, 3, 1] (Karras et al. 2020)."""
  if fir:
    # Every second input is a zero, so the filter doubles to keep the mean.
    return _separable(x, 2 * _FILTER, strides=1, padding=(2, 2), dilation=2)
  return jnp.repeat(jnp.repeat(x, 2, axis=1), 2, axis=2)


def _separable(x, kernel, strides, padding, dilation):
  """The same filter along height, then along width, in each channel."""
  for axis in (0, 1):
    size = _along(axis, len(kernel), 1)
    weights = kernel.reshape(*size, 1, 1).astype(x.dtype)
    x = lax.conv_general_dilated(
      x,
      jnp.broadcast_to(weights, (*size, 1, x.shape[-1])),
      window_strides=_along(axis, strides, 1),
      padding=_along(axis, padding, (0, 0)),
      lhs_dilation=_along(axis, dilation, 1),  # zeros between inputs: a transposed convolution
      dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
      feature_group_count=x.shape[-1],  # each channel by itself
    )
  return x


def _along(axis, value, other):
  """(value, other) for axis 0, (other, value) for axis 1."""
  return (value, other) if axis == 0 else (other, value)
