"""Precision and recall of samples by balls around features (Kynkäänniemi et al. 2019).

The manifold of a set of features is the union of balls, one around each of them, that reach as far
as its k-th nearest neighbour in the set. Precision is the share of samples in the manifold of the
real images, recall the share of real images in the manifold of the samples (eq. 1 to 3). Both
depend on the size of the sets, which are equally large.
"""

from collections.abc import Iterator

import numpy as np
from jaxtyping import Bool, Float

NEIGHBOURS = 3  # k of the paper, section 3.1
BLOCK_VALUES = 2**23  # distances that are held at once: 64 MB
# Of |a|² + |b|²: a smaller squared distance is only rounding, and counts as none.
ROUNDING = 1e-12


def covered(
  points: Float[np.ndarray, 'm dim'], features: Float[np.ndarray, 'n dim'], k: int = NEIGHBOURS
) -> Bool[np.ndarray, 'm']:
  """Whether each point lies in the manifold of `features` (eq. 1).

  Args:
    points: features of other images.
    features: more than `k` features.
    k: the neighbour that the radius of a ball reaches.

  Raises:
    ValueError: for `k` features or fewer.
  """
  radii = squared_radii(features, k)
  return np.concatenate([(rows <= radii).any(1) for _, rows in _distances(points, features)])


def squared_radii(features: Float[np.ndarray, 'n dim'], k: int) -> Float[np.ndarray, 'n']:
  """The squared distance of each feature from its k-th nearest neighbour, itself not counted."""
  if len(features) <= k:
    raise ValueError(f'a {k}-th neighbour needs more than {k} features, got {len(features)}')
  found = []
  for start, rows in _distances(features, features):
    own = np.arange(len(rows))
    rows[own, start + own] = np.inf
    found.append(np.partition(rows, k - 1, axis=1)[:, k - 1])
  return np.concatenate(found)


def _distances(
  points: Float[np.ndarray, 'm dim'], features: Float[np.ndarray, 'n dim']
) -> Iterator[tuple[int, Float[np.ndarray, 'rows n']]]:
  """(number of the first point, squared distances from all features) of some points at a time."""
  points, features = np.asarray(points, np.float64), np.asarray(features, np.float64)
  ours, theirs = np.sum(points**2, 1), np.sum(features**2, 1)
  rows = max(1, BLOCK_VALUES // len(features))
  for start in range(0, len(points), rows):
    # |a − b|² = |a|² + |b|² − 2 a·b: one matrix product for all pairs.
    part = slice(start, start + rows)
    sums = ours[part, None] + theirs
    squares = sums - 2 * points[part] @ features.T
    yield start, np.where(squares <= ROUNDING * sums, 0.0, squares)
