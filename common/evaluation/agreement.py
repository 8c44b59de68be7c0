"""Class agreement: does a classifier of real images recognise the class that was requested?"""

import math

import numpy as np
from jaxtyping import Int, UInt8

from common.evaluation import classifiers


def agreement(
  images: UInt8[np.ndarray, 'n height width channels'],
  label: Int[np.ndarray, 'n'],
  classifier: classifiers.Classifier,
) -> tuple[float, float]:
  """Share of `images` that the classifier assigns to their `label`, and its standard error."""
  return share(int(np.sum(classifier.predict(images) == label)), len(images))


def share(hits: int, total: int) -> tuple[float, float]:
  """A binomial proportion and its standard error.

  The error is computed with two hits and two misses added (Agresti and Coull 1998), so that a
  proportion of 0 or 1 does not get an error of zero.
  """
  # For a 95 % interval, z² ≈ 4 pseudo-observations are added, half of them hits.
  smooth = (hits + 2) / (total + 4)
  return hits / total, math.sqrt(smooth * (1 - smooth) / (total + 4))
