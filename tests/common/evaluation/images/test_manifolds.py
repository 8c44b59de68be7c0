"""Precision and recall against their definition, and where the answer is known."""

import numpy as np
import pytest

from common.evaluation.images import manifolds


def covered_by_definition(points, features, k):
  """Kynkäänniemi et al. 2019, eq. 1, pair by pair."""
  radii = [
    sorted(np.linalg.norm(one - other) for j, other in enumerate(features) if j != i)[k - 1]
    for i, one in enumerate(features)
  ]
  return [
    any(np.linalg.norm(point - one) <= r for one, r in zip(features, radii, strict=True))
    for point in points
  ]


@pytest.mark.parametrize('k', [1, 3, 5])
@pytest.mark.parametrize('block', [1, 100, manifolds.BLOCK_VALUES])
def test_balls_are_those_of_the_definition_however_the_blocks_are_cut(k, block, monkeypatch):
  rng = np.random.default_rng(0)
  features, points = rng.normal(size=(40, 3)), 1.5 * rng.normal(size=(30, 3))
  monkeypatch.setattr(manifolds, 'BLOCK_VALUES', block)
  found = manifolds.covered(points, features, k)
  assert found.tolist() == covered_by_definition(points, features, k)
  assert 0 < found.sum() < 30


def test_a_set_covers_itself_even_where_features_are_equal():
  """Far from 0, and with more equal features than neighbours, so that radii are 0."""
  features = 1000 + np.random.default_rng(0).normal(size=(50, 16))
  assert manifolds.covered(features, features).all()
  collapsed = np.concatenate([features, np.repeat(features[:1], 6, axis=0)])
  assert manifolds.squared_radii(collapsed, 3)[0] == 0
  assert manifolds.covered(collapsed, collapsed).all()
  assert manifolds.covered(features, collapsed[50:]).tolist() == [True] + [False] * 49


def test_far_sets_do_not_cover_each_other():
  rng = np.random.default_rng(0)
  one, other = rng.normal(size=(50, 4)), 100 + rng.normal(size=(50, 4))
  assert not manifolds.covered(one, other).any() and not manifolds.covered(other, one).any()


def test_samples_of_one_of_two_clusters_are_precise_and_have_half_the_recall():
  rng = np.random.default_rng(0)
  clusters = np.array([[0.0, 0.0], [50.0, 0.0]])
  real = clusters[np.arange(1000) % 2] + rng.uniform(-1, 1, (1000, 2))
  samples = clusters[0] + rng.uniform(-1, 1, (1000, 2))
  precision = manifolds.covered(samples, real).mean()
  recall = manifolds.covered(real, samples).mean()
  assert precision > 0.9 and recall == pytest.approx(0.5, abs=0.05)
  # The whole distribution has both.
  both = clusters[np.arange(1000) % 2] + rng.uniform(-1, 1, (1000, 2))
  assert min(manifolds.covered(both, real).mean(), manifolds.covered(real, both).mean()) > 0.9


def test_too_few_features_are_refused():
  with pytest.raises(ValueError, match='a 3-th neighbour needs more than 3 features, got 3'):
    manifolds.squared_radii(np.zeros((3, 2)), 3)
