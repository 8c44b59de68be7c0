"""Points: pictures over the data, and files."""

import jax
import numpy as np
import pytest
from PIL import Image

from common.data.builders import BUILDERS
from common.data.pipeline import Data
from common.data.spec import DataSpec
from common.domains import domain_of, points
from common.domains.base import SampleFlags, SampleSettings, TrainedModel
from common.domains.display import EvaluationDraws
from common.reporting import plots
from common.reporting.writers import Writer
from tests.common.domains.toy import Sampler, Split

RING = BUILDERS['ring'].modes
SPEC = DataSpec('ring', 'points', (1, 1, 2), 0, modes=RING, num_train=100)
BLUE = np.array([0, 132, 209])  # of samples


def draws(num, seed=0):
  return RING.draw(num, np.random.default_rng(seed))[:, None, None]


def trained(x):
  split = Split(x=draws(50))
  splits = dict.fromkeys(('train', 'validation', 'test'), split)
  method = Sampler(lambda key, request: x[: request.num])
  return TrainedModel(method, {}, Data(SPEC, splits), 5, 'toy', {})


def blue(picture, x, y):
  """Whether a picture of SPEC has the colour of samples near a place."""
  half = points.MARGIN * np.sqrt(2)
  # The axes: the columns and rows of the darkest lines at the left and below.
  dark = (picture < 60).all(-1)
  left, bottom = dark.sum(0).argmax(), dark.sum(1).argmax()
  right = picture.shape[1] - 4
  scale = (right - left) / (2 * half)
  column, row = int(left + (x + half) * scale), int(bottom - (y + half) * scale)
  near = picture[row - 8 : row + 9, column - 8 : column + 9].astype(int)
  return bool(((near[..., 2] - near[..., 0]) > 60).any())


def test_samples_are_drawn_where_they_lie():
  x = np.repeat(draws(100)[:1], 200, axis=0)
  x[:, 0, 0] = RING.centres[1]
  picture = points.picture(SPEC, x)
  assert [blue(picture, *centre) for centre in RING.centres] == [False, True] + [False] * 6


def test_samples_outside_of_the_picture_are_counted(monkeypatch):
  titles = []

  def drawn(clouds, half, title):
    titles.append(title)
    return np.zeros((1, 1, 3), np.uint8)

  monkeypatch.setattr(plots, 'point_clouds', drawn)
  x = draws(20)
  points.picture(SPEC, x)
  x[:3] *= 10
  points.picture(SPEC, x)
  assert titles == ['', '3 of 20 samples lie outside']


def test_files_of_points(tmp_path):
  model, domain = trained(draws(100)), domain_of(SPEC)
  settings = SampleSettings(SampleFlags(num=30))
  said = domain.sample(model, settings, tmp_path / 'x.npy')
  assert said.startswith('30 points from step 5 in ')
  np.testing.assert_array_equal(np.load(tmp_path / 'x.npy'), draws(100)[:30, 0, 0])
  np.testing.assert_array_equal(domain.draw(model, settings), draws(100)[:30, 0, 0])
  domain.sample(model, settings, tmp_path / 'x.png')
  with Image.open(tmp_path / 'x.png') as picture:
    assert picture.size == (600, 620)
  with pytest.raises(ValueError, match='--label=a: ring holds points, drawn by --num'):
    domain.check_flags(SPEC, SampleFlags(label='a'), tmp_path / 'x.png')


def test_training_and_evaluation_show_points(tmp_path):
  domain, model = domain_of(SPEC), trained(draws(2500))
  request = domain.preview_request(SPEC, True, model.data.splits['validation'])
  x = np.asarray(model.method.sample({}, jax.random.key(0), request).x)
  with Writer(tmp_path, tensorboard=False) as writer:
    domain.save_preview(model.data, x, request, 7, tmp_path / 'samples', writer)
  assert (tmp_path / 'samples' / '00000007.png').is_file()
  assert domain.evaluation_display(SPEC, EvaluationDraws(draws(10))).picture().ndim == 3
  assert domain.evaluation_display(SPEC, EvaluationDraws()).picture() is None
  assert len(domain.shown(10_000, None)) == 2500 and len(domain.shown(10, None)) == 10
  assert domain.describe(SPEC) == 'points of 2 coordinates, 8 Gaussians'
