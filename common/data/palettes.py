"""A palette: pixels as indices of K colours, found by k-means (ImageGPT, Chen et al. 2020).

A pixel becomes one whole number in place of three. Bits/dim of such data are of the indices: they
say nothing of how far a palette's colours are from those of the image.
"""

import dataclasses
from collections.abc import Iterable

import numpy as np
from jaxtyping import Float, Int, Integer, UInt8

from common.config import ConfigError

LARGEST = 2**16
FITTED_PIXELS = 2**17  # that k-means sees of more different colours, evenly spread over all pixels


@dataclasses.dataclass(frozen=True)
class Palette:
  """Colours, which pixels are indices of.

  Attributes:
    colours: (red, green, blue) of each, integers in [0, 256).
  """

  colours: tuple[tuple[int, int, int], ...]

  def encode(self, images: UInt8[np.ndarray, '*batch 3']) -> Int[np.ndarray, '*batch 1']:
    """The index of the nearest colour of each pixel, of equally near ones the first."""
    packed, places = np.unique(_pack(images.reshape(-1, 3)), return_inverse=True)
    indices = _nearest(_unpack(packed), np.array(self.colours, np.float64))
    return indices[places].reshape(*images.shape[:-1], 1)

  def decode(self, indices: Integer[np.ndarray, '*batch 1']) -> UInt8[np.ndarray, '*batch 3']:
    """The colours of indices."""
    return np.array(self.colours, np.uint8)[np.asarray(indices)[..., 0]]


def check(colours: int) -> None:
  """Raises ConfigError for a number of colours that no palette has; 0 is none."""
  if colours and not 2 <= colours <= LARGEST:
    raise ConfigError(f'data.palette={colours} must be 0 (off) or in [2, {LARGEST:,}]')


def fit(images: Iterable[UInt8[np.ndarray, '...']], number: int) -> tuple[Palette, float]:
  """A palette for images, the same for the same images in any order.

  Args:
    images: uint8 arrays [..., 3].
    number: colours of the palette. Images with fewer different ones give those, exactly.

  Returns:
    The palette, its colours sorted; and the root mean square of what the values of the images
    differ by from it, of 255.

  Raises:
    ConfigError: for images of a single colour.
  """
  counts = np.zeros(2**24, np.int64)
  for image in images:
    packed, found = np.unique(_pack(image.reshape(-1, 3)), return_counts=True)
    counts[packed] += found
  packed = np.flatnonzero(counts)
  counts = counts[packed]
  if len(packed) < 2:
    raise ConfigError(f'data.palette={number}: the training images have a single colour')
  points = _unpack(packed)
  centres = points if len(packed) <= number else _centres(points, counts, number)
  centres = np.unique(np.rint(centres).astype(np.uint8), axis=0)
  palette = Palette(tuple(map(tuple, centres.tolist())))
  error = np.square(points - centres[_nearest(points, centres)]).mean(-1)
  return palette, float(np.sqrt(np.average(error, weights=counts)))


def _centres(
  points: Float[np.ndarray, 'points 3'], counts: Int[np.ndarray, 'points'], number: int
) -> Float[np.ndarray, 'number 3']:
  """Centres of clusters of points, each of which there are so many."""
  from sklearn import cluster
  from threadpoolctl import threadpool_limits

  if len(points) > FITTED_PIXELS:
    places = (np.arange(FITTED_PIXELS) + 0.5) * counts.sum() / FITTED_PIXELS
    chosen, counts = np.unique(np.searchsorted(np.cumsum(counts), places), return_counts=True)
    points = points[chosen]
    number = min(number, len(points))
  with threadpool_limits(1):  # sums in one order, whatever the number of cores
    means = cluster.KMeans(number, n_init=1, random_state=0)
    return means.fit(points, sample_weight=counts).cluster_centers_


def _nearest(
  points: Float[np.ndarray, 'points 3'],
  centres: Integer[np.ndarray, 'n 3'] | Float[np.ndarray, 'n 3'],
) -> Int[np.ndarray, 'points']:
  """The index of the nearest centre of each point, exact for whole numbers."""
  centres = centres.astype(np.float64)
  found = np.empty(len(points), np.int64)
  rows = max(1, 2**20 // len(centres))  # at once: tens of megabytes
  for start in range(0, len(points), rows):
    part = points[start : start + rows]
    distance = np.square(part[:, None] - centres).sum(-1)
    found[start : start + rows] = distance.argmin(-1)
  return found


def _pack(pixels: UInt8[np.ndarray, 'pixels 3']) -> Int[np.ndarray, 'pixels']:
  """Each colour as one number."""
  return pixels.astype(np.int64) @ np.array([2**16, 2**8, 1])


def _unpack(packed: Int[np.ndarray, 'colours']) -> Float[np.ndarray, 'colours 3']:
  return np.stack([packed >> 16, packed >> 8 & 255, packed & 255], -1).astype(np.float64)
