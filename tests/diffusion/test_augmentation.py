"""Augmentation: the label describes the transformation that was applied."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion import augmentation

OFF = {
  'probability': 1.0,
  'x_flip': False,
  'y_flip': False,
  'scale': 0.0,
  'rotate': 0.0,
  'anisotropy': 0.0,
  'translate': 0.0,
}
KEYS = jax.random.split(jax.random.key(0), 64)
IMAGES = jax.random.normal(jax.random.key(1), (64, 9, 9, 2))


def run(**settings):
  return jax.jit(lambda keys, x: augmentation.augment(keys, x, OFF | settings))(KEYS, IMAGES)


def test_switched_off_it_changes_nothing():
  for settings in ({}, {'probability': 0.0, 'x_flip': True, 'scale': 0.2, 'rotate': 1.0}):
    images, labels = run(**settings)
    np.testing.assert_allclose(images, IMAGES, atol=1e-5)
    np.testing.assert_allclose(labels, 0, atol=1e-7)


@pytest.mark.parametrize(('name', 'column', 'axis'), [('x_flip', 0, 2), ('y_flip', 1, 1)])
def test_flips(name, column, axis):
  images, labels = run(**{name: True})
  flipped = np.asarray(labels[:, column]) > 0
  assert 16 < flipped.sum() < 48
  expected = np.where(flipped[:, None, None, None], np.flip(IMAGES, axis), IMAGES)
  np.testing.assert_allclose(images, expected, atol=1e-5)
  assert not np.asarray(labels)[:, [i for i in range(9) if i != column]].any()


def test_translation_by_whole_pixels():
  shift = jnp.asarray([2.0, -1.0])
  moved = augmentation.warp(IMAGES[0], jnp.eye(2), shift)
  np.testing.assert_allclose(moved[2:, :-1], IMAGES[0][:-2, 1:], atol=1e-5)


def test_a_quarter_turn():
  turn = jnp.asarray([[0.0, -1.0], [1.0, 0.0]])
  moved = augmentation.warp(IMAGES[0], turn, jnp.zeros(2))
  np.testing.assert_allclose(moved, np.rot90(IMAGES[0]), atol=1e-5)


def test_labels_of_each_kind_describe_the_warp():
  row, column = jnp.meshgrid(jnp.arange(33.0) - 16, jnp.arange(33.0) - 16, indexing='ij')
  blob = lambda r, c: jnp.exp(-((row - r) ** 2 + (column - c) ** 2) / 4.5)[..., None]
  image = jnp.broadcast_to(blob(0.0, 4.0), (64, 33, 33, 1))
  centre = lambda x: (
    np.stack([(x[..., 0] * g).sum((1, 2)) for g in (row, column)], -1) / np.asarray(x.sum((1, 2)))
  )
  go = lambda **s: augmentation.augment(KEYS, image, OFF | s)
  turned, labels = go(rotate=1.0)
  angle = np.arctan2(labels[:, 4], labels[:, 3] + 1)
  expected = 4 * np.stack([-np.sin(angle), np.cos(angle)], -1)
  np.testing.assert_allclose(centre(turned), expected, atol=0.1)
  grown, labels = go(scale=0.2)
  np.testing.assert_allclose(centre(grown)[:, 1], 4 * 2 ** (0.2 * labels[:, 2]), rtol=0.05)
  shifted, labels = go(translate=0.05)
  expected = np.array([0, 4]) + 0.05 * 33 * np.asarray(labels[:, 7:])
  np.testing.assert_allclose(centre(shifted), expected, atol=0.1)
  stretched, labels = go(anisotropy=0.2)
  size = np.hypot(labels[:, 5], labels[:, 6])
  assert (size > 0).all()
  assert np.abs(centre(stretched) - [0, 4]).max() > 0.2
