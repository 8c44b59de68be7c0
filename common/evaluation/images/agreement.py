"""Class agreement: does a classifier of real images recognise the class that was requested?"""

import math

Z = 1.959964  # of a 95 % interval: the quantile 0.975 of a standard normal


def share(hits: int, total: int) -> tuple[float, float, tuple[float, float]]:
  """A binomial proportion, its standard error and its 95 % interval, which lies in [0, 1].

  The error is computed with two hits and two misses added (Agresti and Coull 1998), so that a
  proportion of 0 or 1 does not get an error of zero. The interval is that of Wilson (1927).
  """
  # For a 95 % interval, z² ≈ 4 pseudo-observations are added, half of them hits.
  smooth = (hits + 2) / (total + 4)
  value, error = hits / total, math.sqrt(smooth * (1 - smooth) / (total + 4))
  # The proportions p with |p̂ − p| ≤ z √(p (1 − p) / n).
  centre = (hits + Z**2 / 2) / (total + Z**2)
  half = Z / (total + Z**2) * math.sqrt(hits * (total - hits) / total + Z**2 / 4)
  # Rounding must not exclude the value itself.
  return value, error, (max(0.0, min(centre - half, value)), min(1.0, max(centre + half, value)))
