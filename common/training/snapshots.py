"""The power-function averages that a run stores, and averages of any width made of them."""

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
    keep: how many of the newest to keep.
    read_only: look, but change nothing.
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
    """When averages were stored, the oldest first."""
    return self._store.steps

  def save(self, step: int, averages: PyTree, config: Mapping[str, Any]) -> None:
    """Stores the averages of a step, and removes the oldest that are too many."""
    self._store.save(step, {'averages': averages}, config=config, position={'step': step})

  def reconstruct(
    self, abstract: PyTree, widths: Sequence[float], step: int, width: float
  ) -> PyTree:
    """The average of `width` at `step`, from those that are stored up to then.

    Args:
      abstract: shapes and types of the parameters.
      widths: of the stored averages.
      step: when the average ends.
      width: any, in (0, 1/√12).

    Raises:
      CheckpointError: where nothing is stored, or it is damaged.
      ConfigError: for another width.
    """
    steps = [s for s in self.steps if s <= step]
    if not steps:
      raise CheckpointError(
        f'{self.folder} holds no averages up to step {step}; a run stores them with'
        " ema.widths, such as --config.ema.widths='(0.05,0.1)'"
      )
    wanted = weights([(s, w) for s in steps for w in widths], step, width)
    shares = iter(wanted)
    total = jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float64), abstract)
    for s in steps:
      restored = self._store.restore({'averages': (abstract,) * len(widths)}, s)
      for average in restored.state['averages']:
        share = next(shares)
        total = jax.tree.map(lambda sum, leaf, w=share: sum + w * np.asarray(leaf), total, average)
    return jax.tree.map(lambda sum, leaf: jnp.asarray(sum, leaf.dtype), total, abstract)


def forget_after(workdir: pathlib.Path, step: int) -> None:
  """Removes averages of later steps than a run goes on from: it stores them anew."""
  folder = pathlib.Path(workdir) / FOLDER
  if jax.process_index() == 0 and folder.is_dir():
    for path in folder.iterdir():
      if path.name.isdecimal() and int(path.name) > step:
        shutil.rmtree(path)
