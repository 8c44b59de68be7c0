"""Points in the plane, shown as a scatter plot over the data."""

import math
from collections.abc import Mapping

import numpy as np
from jaxtyping import Float, UInt8

from common.data.spec import DataSpec
from common.domains.base import Domain
from common.domains.display import Display
from common.reporting import pictures, plots

SHOWN = 2500  # points in a picture
MARGIN = 1.4  # half of the side of a picture, relative to the centre that is farthest from 0


class PointsDomain(Domain):
  """Points, float32 [1, 1, coordinates], of a mixture of Gaussians."""

  noun = unit = 'points'
  usage = 'drawn by --num'
  metrics = Domain.metrics | {'modes', 'mode_kl', 'high_quality'}
  flags: Mapping[str, str] = {'num': f'number of points ({SHOWN})'}
  num = preview_num = SHOWN

  def readable(self, spec, x):
    return np.asarray(x)

  def preview_display(self, data, x, request):
    return Display(plot=picture(data.spec, x))

  def shown(self, num, label):
    return np.arange(min(num, SHOWN))

  def evaluation_display(self, spec, drawn):
    return Display() if drawn.x is None else Display(plot=picture(spec, drawn.x))

  def describe(self, spec):
    number = math.prod(spec.shape)
    gaussians = spec.modes.number if spec.modes is not None else 0
    return f'points of {number} coordinates' + (f', {gaussians} Gaussians' if gaussians else '')

  def draw(self, trained, settings):
    """Points [num, coordinates]."""
    x = super().draw(trained, settings)
    return x.reshape(len(x), -1)

  def sample(self, trained, settings, out):
    samples, seconds = trained.draw(self.first_request(trained, settings), settings.seed)
    x = np.asarray(samples.x)
    if out.suffix == '.npy':
      pictures.save_array(out, x.reshape(len(x), -1))
    else:
      pictures.save_png(out, picture(trained.data.spec, x))
    return (
      f'{len(x)} points from step {trained.step} in {out}: {samples.evaluations} network '
      f'evaluations each, {seconds:.1f} s with compilation'
    )


def picture(
  spec: DataSpec, x: Float[np.ndarray, 'num *shape']
) -> UInt8[np.ndarray, 'height width 3']:
  """The first two coordinates of points, over as many points of the data.

  Args:
    spec: data whose modes are Gaussians.
    x: the points.
  """
  points, modes = np.asarray(x).reshape(len(x), -1)[:, :2], spec.modes
  centres = np.array(modes.centres)[:, :2]
  half = MARGIN * float(np.abs(centres).max())
  data = modes.draw(len(points), np.random.default_rng(0))[:, :2]
  outside = int(np.sum(np.abs(points).max(1) > half))
  title = f'{outside} of {len(points)} samples lie outside' if outside else ''
  clouds = {'data': data, 'samples': points, 'centres': centres}
  return plots.point_clouds(clouds, half, title)
