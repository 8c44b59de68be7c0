"""Colour palettes: pixels as indices of K colours, found by k-means (ImageGPT, Chen et al. 2020).

Each pixel becomes one integer in place of three. Bits/dim of such data are per index: they do not
measure how far the colours of the palette are from the colours of the image.
"""

import dataclasses
from collections.abc import Iterable

import numpy as np
from jaxtyping import Float, Int, Integer, UInt8

from common.config import ConfigError

MAX_COLOURS = 2**16
KMEANS_PIXELS = 2**17  # pixels that k-means sees if the images have more different colours
DISTANCES_AT_ONCE = 2**20  # distances computed in one block: tens of megabytes


# A dataset's fingerprint includes the `repr` of this class: its name and fields are part of that.
@dataclasses.dataclass(frozen=True)
class Palette:
  """The colours that the indices of pixels stand for.

  Attributes:
    colours: (red, green, blue) of each, integers in [0, 256).
  """

  colours: tuple[tuple[int, int, int], ...]

  def encode(self, images: UInt8[np.ndarray, '*batch 3']) -> Int[np.ndarray, '*batch 1']:
    """The index of the colour nearest to each pixel; the first if several are equally near."""
    # Each different colour of the images is looked up once.
    packed, inverse = np.unique(_pack_rgb(images.reshape(-1, 3)), return_inverse=True)
    indices = _nearest(_unpack_rgb(packed), np.array(self.colours, np.float64))
    return indices[inverse].reshape(*images.shape[:-1], 1)

  def decode(self, indices: Integer[np.ndarray, '*batch 1']) -> UInt8[np.ndarray, '*batch 3']:
    """The colours of indices."""
    return np.array(self.colours, np.uint8)[np.asarray(indices)[..., 0]]


def check_num_colours(num_colours: int) -> None:
  """Raises ConfigError unless the size of a palette is 0 (no palette) or in the valid range."""
  if num_colours and not 2 <= num_colours <= MAX_COLOURS:
    raise ConfigError(f'data.palette must be 0 (off) or in [2, {MAX_COLOURS:,}], got {num_colours}')


def fit(images: Iterable[UInt8[np.ndarray, '...']], num_colours: int) -> tuple[Palette, float]:
  """Finds a palette by k-means. The order of the images makes no difference.

  Args:
    images: uint8 arrays [..., 3].
    num_colours: size of the palette. If the images have at most this number of different colours,
      the palette consists of exactly these.

  Returns:
    The palette, with sorted colours, and the root mean square difference between the images and
    their colours in the palette, for values from 0 to 255.

  Raises:
    ConfigError: if the images have a single colour.
  """
  # A histogram over all 2^24 colours: integer counts do not depend on the order of the images.
  counts = np.zeros(2**24, np.int64)
  for image in images:
    packed, occurrences = np.unique(_pack_rgb(image.reshape(-1, 3)), return_counts=True)
    counts[packed] += occurrences
  packed = np.flatnonzero(counts)
  counts = counts[packed]
  if len(packed) < 2:
    raise ConfigError(
      f'data.palette={num_colours} needs images with two colours or more, but the training images '
      'have a single colour; set data.palette=0'
    )
  points = _unpack_rgb(packed)
  centres = points if len(packed) <= num_colours else _kmeans(points, counts, num_colours)
  # Rounding may merge centres: the palette can be smaller than requested. `unique` also sorts.
  centres = np.unique(np.rint(centres).astype(np.uint8), axis=0)
  palette = Palette(tuple(map(tuple, centres.tolist())))
  error = np.square(points - centres[_nearest(points, centres)]).mean(-1)
  return palette, float(np.sqrt(np.average(error, weights=counts)))


def _kmeans(
  points: Float[np.ndarray, 'points 3'], counts: Int[np.ndarray, 'points'], num_clusters: int
) -> Float[np.ndarray, 'clusters 3']:
  """Cluster centres of points, where point i occurs counts[i] times."""
  from sklearn import cluster
  from threadpoolctl import threadpool_limits

  if len(points) > KMEANS_PIXELS:
    # A systematic sample: KMEANS_PIXELS positions, evenly spaced over all pixels sorted by colour.
    positions = (np.arange(KMEANS_PIXELS) + 0.5) * counts.sum() / KMEANS_PIXELS
    chosen, counts = np.unique(np.searchsorted(np.cumsum(counts), positions), return_counts=True)
    points = points[chosen]
    num_clusters = min(num_clusters, len(points))
  # One thread: the number of cores would change the order of sums, which could move a colour.
  with threadpool_limits(1):
    kmeans = cluster.KMeans(num_clusters, n_init=1, random_state=0)
    return kmeans.fit(points, sample_weight=counts).cluster_centers_


def _nearest(
  points: Float[np.ndarray, 'points 3'],
  centres: Integer[np.ndarray, 'n 3'] | Float[np.ndarray, 'n 3'],
) -> Int[np.ndarray, 'points']:
  """The index of the centre nearest to each point, exact for integers."""
  # In float64, where squared distances between integers are exact, so that ties are true ties.
  centres = centres.astype(np.float64)
  nearest = np.empty(len(points), np.int64)
  rows = max(1, DISTANCES_AT_ONCE // len(centres))
  for start in range(0, len(points), rows):
    part = points[start : start + rows]
    distance = np.square(part[:, None] - centres).sum(-1)
    nearest[start : start + rows] = distance.argmin(-1)  # argmin takes the first of equals
  return nearest


def _pack_rgb(pixels: UInt8[np.ndarray, 'pixels 3']) -> Int[np.ndarray, 'pixels']:
  """Each colour as one integer, red · 2^16 + green · 2^8 + blue."""
  return pixels.astype(np.int64) @ np.array([2**16, 2**8, 1])


def _unpack_rgb(packed: Int[np.ndarray, 'colours']) -> Float[np.ndarray, 'colours 3']:
  """The inverse of `_pack_rgb`, as floats."""
  return np.stack([packed >> 16, packed >> 8 & 255, packed & 255], -1).astype(np.float64)
