"""Data whose modes are known, so that those which a model misses can be counted."""

import dataclasses
import math

import numpy as np
from jaxtyping import Float, Int


@dataclasses.dataclass(frozen=True)
class Modes:
  """The modes of a dataset: Gaussians of a mixture, or classes of the channels of stacked images.

  Attributes:
    centres: the means of the Gaussians, which are equally likely; empty for stacked images.
    deviation: their standard deviation in every coordinate.
    classes: the number of classes of each channel of stacked images; empty for a mixture. A mode is
      a class for each channel. Examples then have 'mode', an int.
  """

  centres: tuple[tuple[float, ...], ...] = ()
  deviation: float = 0.0
  classes: tuple[int, ...] = ()

  @property
  def number(self) -> int:
    """The number of modes."""
    return math.prod(self.classes) if self.classes else len(self.centres)

  def mode_of(self, classes: Int[np.ndarray, 'n channels']) -> Int[np.ndarray, 'n']:
    """The modes of stacked images, from the classes of their channels."""
    return np.ravel_multi_index(tuple(classes.T), self.classes).astype(np.int32)

  def classes_of(self, mode: Int[np.ndarray, 'n']) -> Int[np.ndarray, 'n channels']:
    """The classes of the channels of stacked images, from their modes."""
    return np.stack(np.unravel_index(mode, self.classes), axis=-1)

  def nearest(
    self, points: Float[np.ndarray, 'n dim']
  ) -> tuple[Int[np.ndarray, 'n'], Float[np.ndarray, 'n']]:
    """(the nearest centre of each point, the distance from it in standard deviations)."""
    points = np.asarray(points, np.float64)
    distances = np.linalg.norm(points[:, None] - np.array(self.centres), axis=-1)
    nearest = distances.argmin(1)
    return nearest, distances[np.arange(len(points)), nearest] / self.deviation

  def draw(self, num: int, rng: np.random.Generator) -> Float[np.ndarray, 'num dim']:
    """Points of the mixture."""
    centres = np.array(self.centres)
    chosen = rng.integers(len(centres), size=num)
    noise = rng.standard_normal((num, centres.shape[1]))
    return (centres[chosen] + self.deviation * noise).astype(np.float32)
