"""Conditional diffusion over windows of time series: the horizon is noised, the rest is given.

As in CSDI (Tashiro et al. 2021, section 4), the network sees the clean context next to the noisy
horizon, and a mask that tells them apart; here also the covariates of every step. The values of a
window are centred and scaled by its context (common/data/series/inputs.py), so that all series have
the noise of one process. Missing values are neither given nor counted in the loss.
"""

import dataclasses
from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key, Num

from common.config import ConfigError
from common.data.series import inputs
from common.data.spec import DataSpec
from common.method import Batch, Program, PyTree, Request, Samples
from diffusion.classifier import Classifier
from diffusion.method import Diffusion, parts
from diffusion.method import build as build_images


class Conditioned(NamedTuple):
  """Windows as a diffusion model takes them: as images of one column, a row for each step.

  Attributes:
    x0: the values of the horizon, centred and scaled; 0 where they are missing.
    given: what the network is given of all steps: the values before the horizon, whether they are
      known, whether a step is before the horizon, and the covariates.
    counted: 1 for the values of the horizon that are known, which count in the loss.
    location, scale: of each window.
  """

  x0: Float[Array, 'batch horizon 1 1']
  given: Float[Array, 'batch length 1 channels']
  counted: Float[Array, 'batch horizon 1 1']
  location: Float[Array, 'batch']
  scale: Float[Array, 'batch']


@dataclasses.dataclass(frozen=True, eq=False)
class WindowDiffusion(Diffusion):
  """A diffusion model of the horizon of windows, given their context and covariates.

  `spec`, and with it the samples of `sampling`, describe the horizon as an image of one column.

  Attributes:
    windows: describes the data.
    location, scale: what values are centred at and scaled by (common/data/series/inputs.py).
  """

  windows: DataSpec
  location: str = 'mean'
  scale: str = 'deviation'

  @property
  def context(self) -> int:
    """Number of given steps."""
    return self.windows.shape[0] - self.windows.series.horizon

  def inputs(self, batch: Batch):
    made = self.condition(batch['x'])
    return made.x0, made.given, made.counted

  def sample(self, params: PyTree, key: Key[Array, ''], request: Request) -> Samples:
    x = jnp.asarray(self._checked(request).past)
    made = self.condition(x)
    drawn = self._sampling(x).sample(params, key, _without_past(request), made.given)
    return drawn._replace(x=_restored(made, drawn.x, x))

  def check_request(self, params: PyTree | None, request: Request) -> None:
    x = jnp.asarray(self._checked(request).past)
    self._sampling(x).check(params, _without_past(request), self.condition(x).given)

  def sampling_program(self, params: PyTree, request: Request) -> Program:
    x = jnp.asarray(self._checked(request).past)
    return self._sampling(x).program(params, _without_past(request), self.condition(x).given)

  def condition(self, x: Num[Array, 'batch length columns']) -> Conditioned:
    """The condition of windows; the horizon may be NaN."""
    return condition(self.windows, x, self.context, self.location, self.scale)

  def _sampling(self, x: Num[Array, 'batch length columns']):
    """The sampler of horizons as long as those of x, which may differ from those of training."""
    spec = dataclasses.replace(self.spec, shape=(x.shape[1] - self.context, 1, 1))
    return dataclasses.replace(self.sampling, spec=spec)

  def _checked(self, request: Request) -> Request:
    """The request; raises ConfigError unless it is a forecast of a horizon after the context."""
    if request.past is None or request.mask is None:
      raise ConfigError('a forecast needs a past with its covariates, and a mask of what is given')
    shape = np.shape(request.past)
    wanted = np.ones(shape[1:], bool)
    wanted[self.context :, 0] = False
    if not (np.broadcast_to(np.asarray(request.mask), shape) == wanted).all():
      raise ConfigError(
        f'a forecast by diffusion needs {self.context} given steps and all covariates; the mask '
        'may hide only the values after these steps'
      )
    return request


def _without_past(request: Request) -> Request:
  label = None if request.label is None else jnp.asarray(request.label)
  return request._replace(label=label, past=None, mask=None)


def condition(
  spec: DataSpec,
  x: Num[Array, 'batch length columns'],
  context: int,
  location: str = 'mean',
  scale: str = 'deviation',
) -> Conditioned:
  """The condition of windows whose first `context` values are given; the horizon may be NaN."""
  series, value = spec.series, x[..., 0].astype(jnp.float32)
  past = jnp.broadcast_to(jnp.arange(x.shape[1]) < context, value.shape)
  known = ~jnp.isnan(value)
  centre, width = inputs.levels(value[:, :context], past[:, :context], location, scale)
  scaled = jnp.where(known, (value - centre[:, None]) / width[:, None], 0)
  seen = inputs.visible(series, x[..., 1:], past)
  # One channel for each text of a category, and one for an unknown text.
  texts = [
    jax.nn.one_hot(seen.codes[..., i].astype(jnp.int32), len(known_texts) + 1)
    for i, known_texts in enumerate(series.categories)
  ]
  flags = jnp.stack([jnp.where(past, scaled, 0), past & known, past], -1)
  given = jnp.concatenate([flags, seen.ahead, seen.late, seen.known, *texts], -1)
  counted = known[:, context:].astype(jnp.float32)
  return Conditioned(
    x0=scaled[:, context:, None, None],
    given=given[:, :, None],
    counted=counted[..., None, None],
    location=centre,
    scale=width,
  )


def _restored(
  made: Conditioned, drawn: Float[Array, 'batch horizon 1 1'], x: Num[Array, 'batch length columns']
) -> Float[Array, 'batch length columns']:
  """Windows with the values that were drawn, as they are stored; other missing numbers are 0."""
  values = made.location[:, None] + made.scale[:, None] * drawn[:, :, 0, 0]
  return jnp.nan_to_num(x).at[:, -values.shape[1] :, 0].set(values)


def build(config: Mapping, spec: DataSpec, classifier: Classifier | None = None) -> Diffusion:
  """The diffusion model of a config, for images or for windows of time series.

  `classifier` guides samples of images, see `diffusion.method.build`.

  Raises:
    ConfigError: for unknown names or settings, and parts that do not go together.
  """
  unbounded = spec.series is not None or spec.latents is not None
  if unbounded and config['sampling']['threshold']['name'] != 'none':
    kind = 'values of time series' if spec.latents is None else 'latents'
    raise ConfigError(f'{kind} are not bounded by 1: set sampling.threshold.name=none')
  if spec.series is None:
    return build_images(config, spec, classifier)
  horizon = dataclasses.replace(spec, shape=(spec.series.horizon, 1, 1))
  return WindowDiffusion(**parts(config, horizon), windows=spec, **config['windows'])
