"""Class agreement: does a classifier of real images recognise the class that was requested?"""

import math


def share(hits: int, total: int) -> tuple[float, float]:
  """A binomial proportion and its standard error.

  The error is computed with two hits and two misses added (Agresti and Coull 1998), so that a
  proportion of 0 or 1 does not get an error of zero.
  """
  # For a 95 % interval, z² ≈ 4 pseudo-observations are added, half of them hits.
  smooth = (hits + 2) / (total + 4)
  return hits / total, math.sqrt(smooth * (1 - smooth) / (total + 4))
