"""Augmentation that does not leak into samples: the network is told what was done (EDM's labels).

Karras et al. 2022, appendix F.2: each transformation is applied to an example with some
probability, and its parameters are given to the network beside the noise level; zeros, which is
what the network is told when sampling, mean an image as it was. Images are resampled bilinearly,
with reflection at the edges.
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from common.config import ConfigError

LABELS = 9  # numbers that describe an augmentation

Image = Float[Array, 'height width channels']


def augment(
  keys: Key[Array, 'batch'], x: Float[Array, 'batch height width channels'], settings: Mapping
) -> tuple[Float[Array, 'batch height width channels'], Float[Array, 'batch labels']]:
  """Transforms each image, and describes how.

  Args:
    keys: one per example.
    x: images.
    settings: `probability` of each transformation; `x_flip` and `y_flip`, whether there are; the
      size of the others, 0 being none: `scale` and `anisotropy` (standard deviations of log2),
      `rotate` (share of a half turn), `translate` (standard deviation over the image's size).

  Returns:
    The images, and [x flip, y flip, scale, cos − 1 and sin of the rotation, two numbers for the
    anisotropy, two for the translation].
  """
  return jax.vmap(lambda key, image: _one(key, image, settings))(keys, x)


def _one(key: Key[Array, ''], image: Image, settings: Mapping) -> tuple[Image, Array]:
  draws = jax.random.split(key, 14)

  def maybe(index: int, value: Array) -> Array:
    """The value, or none with the remaining probability."""
    use = jax.random.uniform(draws[index]) < settings['probability']
    return jnp.where(use, value, jnp.zeros_like(value))

  normal = lambda index, shape=(): jax.random.normal(draws[index], shape)
  angle = lambda index: jax.random.uniform(draws[index], minval=-jnp.pi, maxval=jnp.pi)
  coin = lambda index: jax.random.bernoulli(draws[index]).astype(jnp.float32)
  x_flip = maybe(0, coin(1)) * settings['x_flip']
  y_flip = maybe(2, coin(3)) * settings['y_flip']
  scale = maybe(4, normal(5)) * (settings['scale'] > 0)
  turn = maybe(6, angle(7)) * settings['rotate']
  stretch, axis = maybe(8, normal(9)) * (settings['anisotropy'] > 0), angle(10)
  shift = maybe(11, normal(12, (2,))) * (settings['translate'] > 0)
  label = jnp.concatenate(
    [
      jnp.stack([x_flip, y_flip, scale, jnp.cos(turn) - 1, jnp.sin(turn)]),
      jnp.stack([stretch * jnp.cos(axis), stretch * jnp.sin(axis)]),
      shift,
    ]
  )
  image = jnp.where(x_flip > 0, image[:, ::-1], image)
  image = jnp.where(y_flip > 0, image[::-1], image)
  size = jnp.exp2(settings['scale'] * scale)
  long = jnp.exp2(settings['anisotropy'] * stretch)
  matrix = _rotation(turn) @ _rotation(axis) @ jnp.diag(jnp.stack([long, 1 / long]))
  matrix = size * matrix @ _rotation(-axis)
  offset = settings['translate'] * shift * jnp.asarray(image.shape[:2])
  return warp(image, matrix, offset), label


def _rotation(angle: Float[Array, '']) -> Float[Array, '2 2']:
  cos, sin = jnp.cos(angle), jnp.sin(angle)
  return jnp.stack([jnp.stack([cos, -sin]), jnp.stack([sin, cos])])


def warp(image: Image, matrix: Float[Array, '2 2'], offset: Float[Array, '2']) -> Image:
  """Moves what is at position p (in pixels from the centre, row and column) to matrix·p + offset.

  Bilinear; beyond the edges the image is mirrored.
  """
  height, width = image.shape[:2]
  centre = jnp.asarray([height - 1, width - 1]) / 2
  grid = jnp.stack(jnp.meshgrid(jnp.arange(height), jnp.arange(width), indexing='ij'), axis=-1)
  source = (grid - centre - offset) @ jnp.linalg.inv(matrix).T + centre
  rows, columns = source[..., 0], source[..., 1]
  sample = lambda channel: jax.scipy.ndimage.map_coordinates(
    channel, [rows, columns], order=1, mode='mirror'
  )
  return jax.vmap(sample, in_axes=-1, out_axes=-1)(image)


def check(settings: Mapping) -> None:
  """Raises ConfigError for settings that are out of range."""
  if not 0 <= settings['probability'] <= 1:
    raise ConfigError(f'augmentation.probability={settings["probability"]} must be in [0, 1]')
  for name in ('scale', 'rotate', 'anisotropy', 'translate'):
    if settings[name] < 0:
      raise ConfigError(f'augmentation.{name}={settings[name]} must be at least 0')
