"""The power-function averages that a run stores, and averages of any width made from them."""

import pathlib
import shutil
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from common.checkpoints.checkpoints import Checkpoints
from common.checkpoints.records import CheckpointError
from common.method import PyTree
from common.training.averages import weights

FOLDER = 'averages'


class Snapshots:
  """The averages that a run stores in its folder; a context manager.

  Args:
    workdir: of the run.
    keep: the number of newest snapshots to keep.
    read_only: write and remove nothing.
  """

  def __init__(self, workdir: pathlib.Path, keep: int = 1, read_only: bool = False):
    self.folder = pathlib.Path(workdir) / FOLDER
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
    """Stores the averages of a step, and removes the oldest ones beyond `keep`."""
    self._store.save(step, {'averages': averages}, config=config, position={'step': step})

  def reconstruct(
    self, abstract: PyTree, widths: Sequence[float], step: int, width: float
  ) -> PyTree:
    """The average of `width` at `step`, from the averages stored up to that step.

    Args:
      abstract: shapes and types of the parameters.
      widths: of the stored averages.
      step: the step at which the average ends.
      width: any in (0, 1/√12).

    Raises:
      CheckpointError: nothing is stored, or it is damaged.
      ConfigError: for a width outside that range.
    """
    steps = [s for s in self.steps if s <= step]
    if not steps:
      raise CheckpointError(
        f'{self.folder} holds no averages up to step {step}; a run stores them with'
        " ema.widths, such as --config.ema.widths='(0.05,0.1)'"
      )
    wanted = weights([(s, w) for s in steps for w in widths], step, width)
    shares = iter(wanted)  # step by step, and within a step width by width, as they are read
    # Summed in float64: the weights are large and of both signs, and their sum is only 1.
    total = jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float64), abstract)
    # One step in memory at a time.
    for s in steps:
      restored = self._store.restore({'averages': (abstract,) * len(widths)}, s)
      for average in restored.state['averages']:
        share = next(shares)
        total = jax.tree.map(lambda sum, leaf, w=share: sum + w * np.asarray(leaf), total, average)
    return jax.tree.map(lambda sum, leaf: jnp.asarray(sum, leaf.dtype), total, abstract)


def forget_after(workdir: pathlib.Path, step: int) -> None:
  """Removes averages of steps after the one a run resumes from: the run stores them again."""
  folder = pathlib.Path(workdir) / FOLDER
  if jax.process_index() == 0 and folder.is_dir():
    for path in folder.iterdir():
      if path.name.isdecimal() and int(path.name) > step:
        shutil.rmtree(path)
