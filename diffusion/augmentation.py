"""Augmentation that does not leak into samples: a label tells the network what was done (EDM).

Karras et al. 2022, appendix F.2: each transformation is applied to an example with some
probability, and the network is given its parameters next to the noise level. Zeros mean an
unchanged image; sampling uses them. Images are resampled bilinearly, with reflection at the edges.
"""

import functools
from collections.abc import Mapping

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

LABEL_DIM = 9  # the numbers that describe one augmentation

Image = Float[Array, 'height width channels']


def augment(
  keys: Key[Array, 'batch'], x: Float[Array, 'batch height width channels'], settings: Mapping
) -> tuple[Float[Array, 'batch height width channels'], Float[Array, 'batch labels']]:
  """Transforms each image, and describes the transformation.

  Args:
    keys: one key per example.
    x: images.
    settings: `probability` of each transformation; `x_flip` and `y_flip`, whether images are
      flipped; the size of the other transformations, where 0 switches it off: `scale` and
      `anisotropy` (standard deviations of log2), `rotate` (largest angle, as a share of a half
      turn), `translate` (standard deviation, as a share of the image's size).

  Returns:
    The new images, and their labels: [x flip, y flip, scale, cos − 1 and sin of the rotation, two
    numbers for the anisotropy, two for the translation].
  """
  return jax.vmap(functools.partial(_augment_one, settings=settings))(keys, x)


def _augment_one(
  key: Key[Array, ''], image: Image, settings: Mapping
) -> tuple[Image, Float[Array, 'labels']]:
  # One key for each draw below, in this order: whether a transformation is used, then its size.
  draws = jax.random.split(key, 14)
  used = functools.partial(_with_probability, settings['probability'])
  x_flip = used(draws[0], _coin(draws[1])) * settings['x_flip']
  y_flip = used(draws[2], _coin(draws[3])) * settings['y_flip']
  scale = used(draws[4], jax.random.normal(draws[5])) * (settings['scale'] > 0)
  turn = used(draws[6], _angle(draws[7])) * settings['rotate']
  stretch = used(draws[8], jax.random.normal(draws[9])) * (settings['anisotropy'] > 0)
  axis = _angle(draws[10])
  shift = used(draws[11], jax.random.normal(draws[12], (2,))) * (settings['translate'] > 0)
  # Every number is 0 for an unchanged image; angles enter as cos − 1 and sin, so that a full turn
  # has the label of no turn.
  label = jnp.concatenate(
    [
      jnp.stack([x_flip, y_flip, scale, jnp.cos(turn) - 1, jnp.sin(turn)]),
      jnp.stack([stretch * jnp.cos(axis), stretch * jnp.sin(axis)]),
      shift,
    ]
  )
  # Flips are exact, so they are not part of the resampled map.
  image = jnp.where(x_flip > 0, image[:, ::-1], image)
  image = jnp.where(y_flip > 0, image[::-1], image)
  # Scale, stretch and turn are one matrix, so that the image is resampled only once.
  size = jnp.exp2(settings['scale'] * scale)
  long = jnp.exp2(settings['anisotropy'] * stretch)
  matrix = _rotation(turn) @ _rotation(axis) @ jnp.diag(jnp.stack([long, 1 / long]))
  matrix = size * matrix @ _rotation(-axis)
  offset = settings['translate'] * shift * jnp.asarray(image.shape[:2])  # in pixels
  return warp(image, matrix, offset), label


def _with_probability(
  probability: float, key: Key[Array, ''], value: Float[Array, '*shape']
) -> Float[Array, '*shape']:
  """The value with this probability, otherwise 0."""
  return jnp.where(jax.random.uniform(key) < probability, value, jnp.zeros_like(value))


def _angle(key: Key[Array, '']) -> Float[Array, '']:
  return jax.random.uniform(key, minval=-jnp.pi, maxval=jnp.pi)


def _coin(key: Key[Array, '']) -> Float[Array, '']:
  return jax.random.bernoulli(key).astype(jnp.float32)


def _rotation(angle: Float[Array, '']) -> Float[Array, '2 2']:
  cos, sin = jnp.cos(angle), jnp.sin(angle)
  return jnp.stack([jnp.stack([cos, -sin]), jnp.stack([sin, cos])])


def warp(image: Image, matrix: Float[Array, '2 2'], offset: Float[Array, '2']) -> Image:
  """Moves position p (row and column, in pixels from the centre) to matrix·p + offset.

  Bilinear; beyond the edges the image is mirrored.
  """
  height, width = image.shape[:2]
  centre = jnp.asarray([height - 1, width - 1]) / 2
  grid = jnp.stack(jnp.meshgrid(jnp.arange(height), jnp.arange(width), indexing='ij'), axis=-1)
  # For each pixel of the result, the position it comes from: the inverse of the map.
  source = (grid - centre - offset) @ jnp.linalg.inv(matrix).T + centre
  sample = functools.partial(
    jax.scipy.ndimage.map_coordinates,
    coordinates=[source[..., 0], source[..., 1]],
    order=1,
    mode='mirror',
  )
  return jax.vmap(sample, in_axes=-1, out_axes=-1)(image)
