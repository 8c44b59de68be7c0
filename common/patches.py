"""Images as sequences of patches, and fixed embeddings of where in the image a patch is."""

import numpy as np
from jaxtyping import Array, Float


def sincos_positions(rows: int, columns: int, dim: int) -> Float[np.ndarray, 'patches dim']:
  """Fixed embedding of grid positions, row by row.

  A quarter of the channels each for sine and cosine of column and row, as in the authors' code.
  """
  frequencies = 10_000.0 ** -(np.arange(dim // 4) / (dim // 4))
  row, column = np.meshgrid(np.arange(rows), np.arange(columns), indexing='ij')
  parts = [np.reshape(axis, (-1, 1)) * frequencies for axis in (column, row)]
  waves = [f(part) for part in parts for f in (np.sin, np.cos)]
  return np.concatenate(waves, axis=-1).astype(np.float32)


def patchify(
  x: Float[Array, 'batch height width channels'], patch: int
) -> Float[Array, 'batch patches numbers']:
  """Cuts images into patches, row by row; a patch's numbers are (row, column, channel)."""
  batch, height, width, channels = x.shape
  rows, columns = height // patch, width // patch
  # [batch, rows, columns, patch row, patch column, channels]
  x = x.reshape(batch, rows, patch, columns, patch, channels).swapaxes(2, 3)
  return x.reshape(batch, rows * columns, patch * patch * channels)


def unpatchify(
  tokens: Float[Array, 'batch patches numbers'], patch: int, shape: tuple[int, int, int]
) -> Float[Array, 'batch height width channels']:
  """The inverse of `patchify`, for images of `shape` (height, width, channels)."""
  height, width, channels = shape
  # [batch, rows, columns, patch row, patch column, channels]
  x = tokens.reshape(-1, height // patch, width // patch, patch, patch, channels)
  return x.swapaxes(2, 3).reshape(-1, height, width, channels)
