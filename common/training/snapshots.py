"""Stores power-function averages of a run, and reconstructs averages of any width from them."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from common.checkpoints import storage
from common.checkpoints.checkpoints import Checkpoints
from common.checkpoints.records import CheckpointError
from common.files import Path, children
from common.method import PyTree
from common.training.averages import posthoc_weights

FOLDER = 'averages'


class Snapshots:
  """The averages that a run stores in its folder; a context manager.

  Args:
    workdir: the folder of the run.
    keep: the number of newest snapshots to keep.
    read_only: whether to write and remove nothing.
  """

  def __init__(self, workdir: Path, keep: int = 1, read_only: bool = False):
    self.folder = workdir / FOLDER
    self._store = Checkpoints(self.folder, keep=keep, read_only=read_only)

  def __enter__(self) -> 'Snapshots':
    return self

  def __exit__(self, *exception) -> None:
    self._store.close()

  @property
  def steps(self) -> list[int]:
    """The steps at which averages were stored, oldest first."""
    return self._store.steps

  def save(self, step: int, averages: PyTree, config: Mapping[str, Any]) -> None:
    """Stores the averages at a step, and removes all but the newest `keep` snapshots."""
    self._store.save(step, {'averages': averages}, config=config, position={'step': step})

  def reconstruct(
    self, abstract: PyTree, widths: Sequence[float], step: int, width: float
  ) -> PyTree:
    """The average of `width` at `step`, from the averages stored up to that step.

    Args:
      abstract: shapes and types of the parameters, with the sharding of each, if any.
      widths: the widths of the stored averages.
      step: the step at which the average ends.
      width: the width of the average, in (0, 1/√12).

    Raises:
      CheckpointError: no averages are stored, or they are damaged.
      ConfigError: the width is outside (0, 1/√12).
    """
    steps = [s for s in self.steps if s <= step]
    if not steps:
      raise CheckpointError(
        f'{self.folder} holds no averages up to step {step}; a run stores them with'
        " ema.widths, such as --config.ema.widths='(0.05,0.1)'"
      )
    # One weight per average, in the order in which the averages are read: by step, then by width.
    weights = iter(posthoc_weights([(s, w) for s in steps for w in widths], step, width))
    # Summed in float64: the weights are large, of both signs, and sum to only 1.
    total = jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float64), abstract)
    # Only one snapshot is in memory at a time.
    for s in steps:
      restored = self._store.restore({'averages': (abstract,) * len(widths)}, s)
      for average in restored.state['averages']:
        weight = next(weights)
        total = jax.tree.map(lambda sum, leaf, w=weight: sum + w * np.asarray(leaf), total, average)
    # Back to where `abstract` wants them; a leaf without a sharding goes to the first device.
    return jax.tree.map(
      lambda sum, leaf: jax.device_put(sum.astype(leaf.dtype), leaf.sharding), total, abstract
    )


def remove_snapshots_after(workdir: Path, step: int) -> None:
  """Removes snapshots of steps after `step`, where a run resumes; it will store them again."""
  if jax.process_index() == 0:
    for path in children(workdir / FOLDER):
      if path.name.isdecimal() and int(path.name) > step:
        storage.remove(path)
