"""The Fréchet distance between two sets of features, with its standard error and its floor.

It is the distance between two Gaussians with the means and covariances of the sets (Dowson & Landau
1982; Heusel et al. 2017, eq. 6): |m - m'|² + tr(C + C' - 2 (C C')^½). With few samples it is far
above zero even for two sets from one distribution. A distance is therefore only meaningful next to
its floor: the distance between two disjoint sets of real data of the same size.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

MIN_SAMPLES = 2  # a covariance needs two


class Moments(NamedTuple):
  """Mean and (unbiased) covariance of a set of features, in float64."""

  mean: Float[np.ndarray, 'dim']
  covariance: Float[np.ndarray, 'dim dim']


def moments(features: Float[np.ndarray, 'n dim']) -> Moments:
  """Moments of `features`. Raises ValueError for fewer than two, or a value that is not finite."""
  features = np.asarray(features, np.float64)
  if len(features) < MIN_SAMPLES:
    raise ValueError(
      f'a covariance needs at least {MIN_SAMPLES} feature vectors, got {len(features)}'
    )
  if not np.isfinite(features).all():
    raise ValueError('features must be finite; some are NaN or infinite')
  return Moments(features.mean(0), np.atleast_2d(np.cov(features, rowvar=False)))


def gaussian_distance(a: Moments, b: Moments) -> float:
  """Fréchet distance between two Gaussians.

  tr (C C')^½ is computed as the sum of the singular values of C^½ C'^½. Unlike a matrix square root
  of C C', it has no complex parts to drop and needs no offset for a singular covariance.
  """
  cross = np.linalg.svd(_root(a.covariance) @ _root(b.covariance), compute_uv=False).sum()
  traces = np.trace(a.covariance) + np.trace(b.covariance)
  return float(np.sum((a.mean - b.mean) ** 2) + traces - 2.0 * cross)


def distance(a: Float[np.ndarray, 'n dim'], b: Float[np.ndarray, 'm dim']) -> float:
  """Fréchet distance between two sets of features."""
  return gaussian_distance(moments(a), moments(b))


def standard_error(
  samples: Float[np.ndarray, 'n dim'],
  reference: Moments,
  strata: Int[np.ndarray, 'n'] | None = None,
) -> float | None:
  """Standard error of `distance` due to the finite number of samples, for a fixed reference.

  This is the delta method: the spread over the samples of the influence function of the distance.
  The gradient with respect to the mean is 2 (m - m'), with respect to the covariance I - T, where
  T = C'^½ (C'^½ C C'^½)^-½ C'^½ transports the Gaussian of the samples to that of the reference. It
  is of first order: when the distance is near its floor, the true error is somewhat larger.

  Args:
    samples: features of the samples.
    reference: moments of the other set.
    strata: group of each sample, if the number of samples in each group was fixed in advance: the
      spread between groups is then not part of the error.

  Returns:
    None if no group has two samples: nothing is then known about the spread.
  """
  mean, covariance = moments(samples)
  root = _root(reference.covariance)
  values, vectors = np.linalg.eigh(root @ covariance @ root)
  kept = values > values.max(initial=0.0) * 1e-12  # the pseudo-inverse: no 1/0 on null directions
  half = root @ (vectors[:, kept] * values[kept] ** -0.25)  # half halfᵀ = T
  centred = np.asarray(samples, np.float64) - mean
  stretched = np.sum(centred**2, 1) - np.sum((centred @ half) ** 2, 1)  # xᵀ (I - T) x
  influence = 2.0 * centred @ (mean - reference.mean) + stretched
  if strata is not None:
    # Fixed group sizes: only the spread within each group counts.
    groups, position, counts = np.unique(strata, return_inverse=True, return_counts=True)
    influence = influence - (np.bincount(position, influence) / counts)[position]
  dof = len(samples) - (1 if strata is None else len(groups))  # degrees of freedom
  if dof < 1:
    return None
  return float(np.sqrt(np.sum((influence - influence.mean()) ** 2) / dof / len(samples)))


def halves(
  strata: Int[np.ndarray, 'num'], size: int, seed: int = 0
) -> tuple[Int[np.ndarray, 'half'], Int[np.ndarray, 'half']]:
  """Indices of two disjoint random sets of `size` (or of half of all, if that is less).

  Each set has the groups of `strata` (the classes) in their proportions, like samples whose classes
  were requested in turn.
  """
  num = len(strata)
  size = min(size, num // 2)
  order = np.random.default_rng(seed).permutation(num)
  # Sorted by group, in random order within each: even spacing takes the same share of each group.
  # The two sets alternate.
  order = order[np.argsort(strata[order], kind='stable')]
  chosen = order[np.arange(2 * size) * num // max(2 * size, 1)]
  return chosen[::2], chosen[1::2]


def floor(
  features: Float[np.ndarray, 'num dim'],
  strata: Int[np.ndarray, 'num'],
  size: int,
  splits: int = 4,
) -> float:
  """Mean distance between two halves of real data: the value that a perfect model would reach."""
  pairs = (halves(strata, size, seed) for seed in range(splits))
  return float(np.mean([distance(features[one], features[other]) for one, other in pairs]))


def _root(matrix: np.ndarray) -> np.ndarray:
  """The square root of a positive semi-definite matrix; rounding errors below zero become zero."""
  values, vectors = np.linalg.eigh(matrix)
  return (vectors * np.sqrt(np.maximum(values, 0.0))) @ vectors.T
