"""The energy of images at high spatial frequencies: blur takes it away, noise adds to it.

The discrete Fourier transform of an image, by distance from frequency zero, is the radial power
spectrum by which Durall, Keuper & Keuper 2020 compare generated with real images. Here it is summed
up in one number: the mean power beyond half of the Nyquist frequency.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, UInt8

CUTOFF = 0.25  # cycles per pixel: half of the Nyquist frequency
BLOCK = 1024  # images that are transformed at once


class Ratio(NamedTuple):
  """A ratio of means with its standard error; None if either mean rests on one value."""

  value: float
  standard_error: float | None


def high_frequencies(height: int, width: int) -> Bool[np.ndarray, 'height width']:
  """Which frequencies of the transform of an image count; none of an image of one pixel."""
  down, across = np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width)
  return np.hypot(down, across) > CUTOFF


def high_frequency_power(
  images: UInt8[np.ndarray, 'n height width channels'], levels: int
) -> Float[np.ndarray, 'n']:
  """Mean power of each image at high frequencies; of the mean of its channels, in [0, 1]."""
  height, width = images.shape[1:3]
  chosen = high_frequencies(height, width)
  parts = []
  for start in range(0, len(images), BLOCK):
    grey = images[start : start + BLOCK].mean(-1, dtype=np.float64) / (levels - 1)
    power = np.abs(np.fft.fft2(grey)) ** 2 / (height * width)
    parts.append(power[:, chosen].mean(1) if chosen.any() else np.zeros(len(grey)))
  return np.concatenate(parts)


def ratio_of_means(ours: Float[np.ndarray, 'n'], theirs: Float[np.ndarray, 'm']) -> Ratio:
  """mean(ours) / mean(theirs), with the standard error of both means by the delta method."""
  value = float(ours.mean() / theirs.mean())
  if min(len(ours), len(theirs)) < 2:
    return Ratio(value, None)
  # Var(a / b) ≈ (Var(a) + (a / b)² Var(b)) / b², for independent means a and b.
  spread = ours.var(ddof=1) / len(ours) + value**2 * theirs.var(ddof=1) / len(theirs)
  return Ratio(value, float(np.sqrt(spread) / theirs.mean()))
