"""Augmentation that does not leak into samples: a label tells the network what was done (EDM).

Karras et al. 2022, appendix F.2, and the authors' code: each kind of transformation is applied to
an example with its own probability, and the network is given the parameters next to the noise
level. Zeros mean an unchanged image; sampling uses them. Kinds, order, distributions and labels are
the authors'. One thing is not: images are resampled bilinearly, with reflection at the edges, where
the authors filter with a wavelet at twice the resolution.
"""

import functools
from collections.abc import Mapping

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

LABEL_DIM = 9  # the numbers that describe one augmentation
FLIPS = ('x_flip', 'y_flip')
RESAMPLED = ('scale', 'rotate', 'anisotropy', 'translate')

Image = Float[Array, 'height width channels']


def augment(
  keys: Key[Array, 'batch'], x: Float[Array, 'batch height width channels'], settings: Mapping
) -> tuple[Float[Array, 'batch height width channels'], Float[Array, 'batch labels']]:
  """Transforms each image, and describes the transformation.

  Args:
    keys: one key per example.
    x: images.
    settings: `probability` p, and a multiplier of p for each kind: `x_flip`, `y_flip`, `scale`,
      `rotate`, `anisotropy`, `translate`. Of the images that a flip is applied to, half are
      flipped. Sizes: `scale_std` and `anisotropy_std` (standard deviations of log2), `rotate_max`
      (largest angle, as a share of a half turn), `translate_std` (standard deviation, as a share of
      the image's size); `anisotropy_turned` is the probability that an image is stretched along a
      random axis and not along its rows.

  Returns:
    The new images, and their labels: [x flip, y flip, scale, cos − 1 and sin of the rotation, two
    numbers for the anisotropy, the translation in x and in y].
  """
  return jax.vmap(functools.partial(_augment_one, settings=settings))(keys, x)


def _augment_one(
  key: Key[Array, ''], image: Image, settings: Mapping
) -> tuple[Image, Float[Array, 'labels']]:
  # One key for each draw below, in this order: whether a transformation is used, then its size.
  draws = jax.random.split(key, 14)
  chance = {kind: settings['probability'] * settings[kind] for kind in (*FLIPS, *RESAMPLED)}
  x_flip = _with_probability(chance['x_flip'], draws[0], _coin(draws[1]))
  y_flip = _with_probability(chance['y_flip'], draws[2], _coin(draws[3]))
  scale = _with_probability(chance['scale'], draws[4], jax.random.normal(draws[5]))
  turn = _angle(draws[7]) * settings['rotate_max']
  turn = _with_probability(chance['rotate'], draws[6], turn)
  stretch = _with_probability(chance['anisotropy'], draws[8], jax.random.normal(draws[9]))
  axis = _with_probability(settings['anisotropy_turned'], draws[13], _angle(draws[10]))
  shift = jax.random.normal(draws[12], (2,))  # x and y
  shift = _with_probability(chance['translate'], draws[11], shift)
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
  if not any(chance[kind] for kind in RESAMPLED):
    return image, label
  # Positions are (row, column). The image is scaled, then turned, then stretched along its axis,
  # then moved: one map, so that it is resampled only once.
  size = jnp.exp2(settings['scale_std'] * scale)
  long = jnp.exp2(settings['anisotropy_std'] * stretch)
  stretched = _rotation(axis) @ jnp.diag(jnp.stack([1 / long, long])) @ _rotation(-axis)
  offset = settings['translate_std'] * shift[::-1] * jnp.asarray(image.shape[:2])  # in pixels
  return warp(image, size * stretched @ _rotation(turn), offset), label


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
