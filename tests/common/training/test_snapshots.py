"""Stored averages: any width can be reconstructed, and only the newest are kept."""

import jax.numpy as jnp
import numpy as np
import pytest

from common.training import averages
from common.training.snapshots import Snapshots, remove_snapshots_after


def test_an_average_uses_only_snapshots_up_to_its_step(tmp_path):
  paths = [np.random.default_rng(seed).normal(size=(3, 5)) for seed in (0, 1)]
  widths, steps = (0.05, 0.1), (20, 30, 40)
  with Snapshots(tmp_path, keep=3) as snapshots:
    for n, step in enumerate(steps):
      snapshots.save(step, tuple({'w': jnp.asarray(path[n], jnp.float32)} for path in paths), {})
  with Snapshots(tmp_path, read_only=True) as snapshots:
    found = snapshots.reconstruct({'w': jnp.zeros(5)}, widths, 30, 0.07)['w']
  share = averages.posthoc_weights([(20, 0.05), (20, 0.1), (30, 0.05), (30, 0.1)], 30, 0.07)
  wanted = share @ [paths[0][0], paths[1][0], paths[0][1], paths[1][1]]
  np.testing.assert_allclose(found, wanted, atol=1e-6)


def test_only_the_newest_snapshots_are_kept_and_later_steps_are_removed(tmp_path):
  with Snapshots(tmp_path, keep=2) as snapshots:
    for step in (1, 2, 3, 4):
      snapshots.save(step, ({'w': jnp.full(2, float(step))},), {})
  with Snapshots(tmp_path, read_only=True) as snapshots:
    assert snapshots.steps == [3, 4]
  remove_snapshots_after(tmp_path, 3)
  with Snapshots(tmp_path, read_only=True) as snapshots:
    assert snapshots.steps == [3]
    with pytest.raises(RuntimeError, match='no averages up to step 2; a run stores them with'):
      snapshots.reconstruct({'w': jnp.zeros(2)}, (0.1,), 2, 0.1)
