"""Augmentation: the label describes the transformation that was applied."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion import augmentation
from experiments import families

OFF = {
  'probability': 1.0,
  'x_flip': 0.0,
  'y_flip': 0.0,
  'scale': 0.0,
  'rotate': 0.0,
  'anisotropy': 0.0,
  'translate': 0.0,
  'scale_std': 0.2,
  'rotate_max': 1.0,
  'anisotropy_std': 0.2,
  'anisotropy_turned': 0.5,
  'translate_std': 0.125,
}
KEYS = jax.random.split(jax.random.key(0), 64)
IMAGES = jax.random.normal(jax.random.key(1), (64, 9, 9, 2))


def run(**settings):
  return jax.jit(lambda keys, x: augmentation.augment(keys, x, OFF | settings))(KEYS, IMAGES)


def test_switched_off_it_changes_nothing():
  for settings in ({}, {'probability': 0.0, 'x_flip': 1e8, 'scale': 1.0, 'rotate': 1.0}):
    images, labels = run(**settings)
    np.testing.assert_allclose(images, IMAGES, atol=1e-5)
    np.testing.assert_allclose(labels, 0, atol=1e-7)


@pytest.mark.parametrize(('name', 'column', 'axis'), [('x_flip', 0, 2), ('y_flip', 1, 1)])
def test_flips(name, column, axis):
  images, labels = run(**{name: 1.0})
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


def blob(row, column, size):
  """An image of a small disc, its position in pixels from the centre."""
  rows, columns = np.mgrid[:size, :size] - (size - 1) / 2
  return jnp.exp(-((rows - row) ** 2 + (columns - column) ** 2) / 4.5)[..., None]


def centres(images):
  """Row and column of the centre of mass, from the centre of each image."""
  size = images.shape[1]
  places = np.mgrid[:size, :size] - (size - 1) / 2
  mass = np.asarray(images)[..., 0]
  return np.einsum('nrc,krc->nk', mass, places) / mass.sum((1, 2))[:, None]


def moved_blob(row, column, size=33, **settings):
  """Where the disc goes, and the labels. The image is large enough for none of its reflections."""
  images = jnp.broadcast_to(blob(row, column, size), (64, size, size, 1))
  moved, labels = augmentation.augment(KEYS, images, OFF | settings)
  return centres(moved), np.asarray(labels)


def test_labels_of_each_kind_describe_the_warp():
  turned, labels = moved_blob(0, 4, rotate=1.0)
  angle = np.arctan2(labels[:, 4], labels[:, 3] + 1)
  np.testing.assert_allclose(turned, 4 * np.stack([-np.sin(angle), np.cos(angle)], -1), atol=0.1)
  grown, labels = moved_blob(0, 4, scale=1.0)
  np.testing.assert_allclose(grown[:, 1], 4 * 2 ** (0.2 * labels[:, 2]), rtol=0.05)
  shifted, labels = moved_blob(0, 4, translate=1.0, translate_std=0.05)
  across, down = 0.05 * 33 * labels[:, 7:].T  # x, then y
  np.testing.assert_allclose(shifted, np.stack([down, 4 + across], -1), atol=0.1)


def test_a_stretch_along_the_rows_keeps_the_axes():
  """Without a turned axis: wider by 2^(std·w), lower by as much, and nothing else."""
  across, labels = moved_blob(0, 6, 65, anisotropy=1.0, anisotropy_turned=0.0)
  np.testing.assert_array_equal(labels[:, 6], 0)  # w·sin 0
  np.testing.assert_allclose(across[:, 0], 0, atol=1e-3)
  np.testing.assert_allclose(across[:, 1], 6 * 2 ** (0.2 * labels[:, 5]), rtol=0.03)
  down, labels = moved_blob(6, 0, 65, anisotropy=1.0, anisotropy_turned=0.0)
  np.testing.assert_allclose(down[:, 1], 0, atol=1e-3)
  np.testing.assert_allclose(down[:, 0], 6 * 2 ** (-0.2 * labels[:, 5]), rtol=0.03)


def test_the_map_is_that_of_edm():
  """In x and y downwards: scale, turn by −w, then stretch along an axis at −r (AugmentPipe)."""
  here = np.array([5.0, 2.0])  # x, y
  kinds = dict(scale=1.0, rotate=1.0, anisotropy=1.0, anisotropy_turned=1.0)
  sizes = dict(scale_std=0.15, rotate_max=0.5, anisotropy_std=0.1)
  moved, labels = moved_blob(here[1], here[0], 65, **kinds, **sizes)
  turn = lambda angle: np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
  for label, place in zip(labels, moved, strict=True):
    w, r = np.arctan2(label[4], label[3] + 1), np.arctan2(label[6], label[5])
    long = 2 ** (0.1 * np.hypot(label[5], label[6]))
    # The label w·(cos r, sin r) of EDM is that of −w and r + π too: longer or shorter along r.
    ends = [
      2 ** (0.15 * label[2]) * turn(-r) @ np.diag([s, 1 / s]) @ turn(r) @ turn(-w) @ here
      for s in (long, 1 / long)
    ]
    assert np.abs(np.asarray(ends) - place[::-1]).max(axis=1).min() < 0.05


def test_frequencies_of_edms_config_f():
  """x flips hit half of the images whatever p is; every other kind happens with its probability."""
  default = families.defaults('diffusion')['augmentation'] | {'probability': 0.12}
  keys = jax.random.split(jax.random.key(2), 4000)
  images = jnp.zeros((4000, 2, 2, 1))
  label = np.asarray(jax.jit(lambda k: augmentation.augment(k, images, default)[1])(keys)) != 0
  share = label.mean(axis=0)
  expected = [0.5, 0.06, 0.12, 0.12, 0.12, 0.12, 0.06, 0.12, 0.12]
  np.testing.assert_allclose(share, expected, atol=0.025)
  # The kinds are independent, but the numbers of one kind come together.
  assert (label[:, 3] == label[:, 4]).all() and (label[:, 7] == label[:, 8]).all()
  assert (label[:, 2] & label[:, 7]).mean() == pytest.approx(0.12**2, abs=0.008)
