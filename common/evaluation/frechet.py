"""The Fréchet distance between two sets of features, with what it takes to read one.

The distance of two Gaussians with the sets' means and covariances (Dowson & Landau 1982; Heusel et
al. 2017, eq. 6): |m - m'|² + tr(C + C' - 2 (C C')^½). With few samples it is far above zero even
for two sets from one distribution, so a distance is worth as much as the floor beside it: that of
two disjoint sets of real data of the same size.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int


class Moments(NamedTuple):
  """Mean and (unbiased) covariance of a set of features, in float64."""

  mean: Float[np.ndarray, 'dim']
  covariance: Float[np.ndarray, 'dim dim']


def moments(features: Float[np.ndarray, 'n dim']) -> Moments:
  """Moments of `features`. Raises ValueError for fewer than two, or where one is not finite."""
  features = np.asarray(features, np.float64)
  if len(features) < 2:
    raise ValueError(f'{len(features)} features have no covariance; give at least 2')
  if not np.isfinite(features).all():
    raise ValueError('features hold values that are not finite')
  return Moments(features.mean(0), np.atleast_2d(np.cov(features, rowvar=False)))


def gaussian_distance(a: Moments, b: Moments) -> float:
  """Fréchet distance of two Gaussians.

  tr (C C')^½ is taken as the sum of the singular values of C^½ C'^½: no complex parts to drop, no
  offset to add to a singular covariance, no root of a rounding error.
  """
  cross = np.linalg.svd(_root(a.covariance) @ _root(b.covariance), compute_uv=False).sum()
  traces = np.trace(a.covariance) + np.trace(b.covariance)
  return float(np.sum((a.mean - b.mean) ** 2) + traces - 2.0 * cross)


def distance(a: Float[np.ndarray, 'n dim'], b: Float[np.ndarray, 'm dim']) -> float:
  """Fréchet distance of two sets of features."""
  return gaussian_distance(moments(a), moments(b))


def standard_error(
  samples: Float[np.ndarray, 'n dim'],
  reference: Moments,
  strata: Int[np.ndarray, 'n'] | None = None,
) -> float:
  """Standard error of `distance` due to the finite number of samples, the reference held fixed.

  The delta method: the spread of the distance's influence function over the samples. Its gradient
  with respect to the mean is 2 (m - m'), that with respect to the covariance is I - T, where
  T = C'^½ (C'^½ C C'^½)^-½ C'^½ transports the samples' Gaussian to the reference's. It is of first
  order: where the distance is at its floor, the true error is somewhat larger.
  """
  mean, covariance = moments(samples)
  root = _root(reference.covariance)
  values, vectors = np.linalg.eigh(root @ covariance @ root)
  kept = values > values.max(initial=0.0) * 1e-12
  half = root @ (vectors[:, kept] * values[kept] ** -0.25)
  centred = np.asarray(samples, np.float64) - mean
  stretched = np.sum(centred**2, 1) - np.sum((centred @ half) ** 2, 1)
  influence = 2.0 * centred @ (mean - reference.mean) + stretched
  if strata is not None:
    groups, position, counts = np.unique(strata, return_inverse=True, return_counts=True)
    influence = influence - (np.bincount(position, influence) / counts)[position]
  freedom = len(samples) - (1 if strata is None else len(groups))
  return float(np.sqrt(np.sum((influence - influence.mean()) ** 2) / freedom / len(samples)))


def halves(
  strata: Int[np.ndarray, 'num'], size: int, seed: int = 0
) -> tuple[Int[np.ndarray, 'half'], Int[np.ndarray, 'half']]:
  """Indices of two disjoint random sets of `size` (or of half of all, if that is less).

  Each has the groups of `strata` (the classes) in their proportions, as sets of samples have whose
  classes were asked for.
  """
  num = len(strata)
  size = min(size, num // 2)
  order = np.random.default_rng(seed).permutation(num)
  order = order[np.argsort(strata[order], kind='stable')]
  chosen = order[np.arange(2 * size) * num // max(2 * size, 1)]
  return chosen[::2], chosen[1::2]


def floor(
  features: Float[np.ndarray, 'num dim'],
  strata: Int[np.ndarray, 'num'],
  size: int,
  splits: int = 4,
) -> float:
  """Mean distance between two halves of real data: what a perfect model would come down to."""
  pairs = (halves(strata, size, seed) for seed in range(splits))
  return float(np.mean([distance(features[one], features[other]) for one, other in pairs]))


def _root(matrix: np.ndarray) -> np.ndarray:
  values, vectors = np.linalg.eigh(matrix)
  return (vectors * np.sqrt(np.maximum(values, 0.0))) @ vectors.T
