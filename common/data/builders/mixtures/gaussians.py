"""Mixtures of Gaussians in the plane: a ring of 8, and a grid of 25.

Means and deviations are those of the authors' code of PacGAN (Lin, Khetan, Fanti & Oh 2018, section
4.1); a ring and a grid were compared by Srivastava et al. 2017 (VEEGAN). Both are scaled to about
unit variance.
"""

import math

import numpy as np

from common.data.builders import base
from common.data.modes import Modes

SIZES = {'train': 20_000, 'validation': 2_000, 'test': 2_000}


class Mixture(base.Builder, skip_registration=True):
  """Points of a mixture, float32 [1, 1, 2].

  Attributes:
    modes: the Gaussians.
    seed: decides the points.
  """

  domain = 'points'
  modes: Modes
  seed: int

  @classmethod
  def expected(cls, settings):
    del settings
    shape = (1, 1, len(cls.modes.centres[0]))
    return dict(shape=shape, levels=0, num_classes=0, num_train=SIZES['train'], modes=cls.modes)

  def read(self) -> base.Contents:
    points = self.modes.draw(sum(SIZES.values()), np.random.default_rng(self.seed))
    points = points[:, None, None]
    ends = np.cumsum(list(SIZES.values()))[:-1]
    return base.Contents(
      shape=points.shape[1:],
      levels=0,
      class_names=(),
      splits=base.window_splits(dict(zip(SIZES, np.split(points, ends), strict=True))),
      modes=self.modes,
    )


def ring(number: int, radius: float, deviation: float) -> Modes:
  """Gaussians evenly on a circle about the origin, the first at the right."""
  angles = 2 * np.pi * np.arange(number) / number
  centres = radius * np.stack([np.cos(angles), np.sin(angles)], axis=-1)
  return Modes(tuple(map(tuple, centres.tolist())), deviation)


def grid(side: int, spacing: float, deviation: float) -> Modes:
  """Gaussians on a square grid of `side` × `side` about the origin."""
  places = spacing * (np.arange(side) - (side - 1) / 2)
  return Modes(tuple((x, y) for x in places.tolist() for y in places.tolist()), deviation)


class Ring(Mixture, skip_registration=True):
  """Eight Gaussians on a circle: in the paper's units radius 1 and deviation 0.01."""

  name = 'ring'
  modes = ring(8, math.sqrt(2), 0.01 * math.sqrt(2))  # x and y have the variance radius² / 2
  seed = 0


class Gaussians25(Mixture, skip_registration=True):
  """A grid of 5×5 Gaussians: in the paper's units -4, -2, 0, 2, 4 and deviation 0.05."""

  name = 'gaussians25'
  modes = grid(5, 2 / math.sqrt(8), 0.05 / math.sqrt(8))  # the variance of these places is 8
  seed = 1
