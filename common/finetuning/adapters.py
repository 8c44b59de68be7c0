"""Checkpoints of a run with LoRA hold the updates alone; the base is referred to, and stored once.

WORKDIR/base.json says where the base is: in another run, or in WORKDIR/base; and has a digest of
each of its arrays, so that a base that has changed is noticed.
"""

import dataclasses
import json
import re
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from common.checkpoints import records
from common.checkpoints.checkpoints import Checkpoints, Restored
from common.checkpoints.records import CheckpointError
from common.config import read_json
from common.files import Path, atomic_write
from common.method import PyTree

REFERENCE = 'base.json'
OWN = 'base'  # folder of a base that is in no other run
# Leaves of a state that are the base, or copies of it: it never changes, so its averages do not.
BASE = re.compile(r'(params|ema|averages/\d+)/base/(.+)')


@dataclasses.dataclass(frozen=True)
class Reference:
  """The base of a run with LoRA.

  Attributes:
    source: the folder of the run that has it; '': WORKDIR/base.
    step: its checkpoint there.
    leaves: {name: [shape, type, digest]} of its arrays.
  """

  source: str
  step: int
  leaves: Mapping[str, list]

  def write(self, workdir: Path) -> None:
    atomic_write(workdir / REFERENCE, json.dumps(dataclasses.asdict(self)))


def read_reference(workdir: Path) -> Reference | None:
  """The base of a run; None if its checkpoints hold all of its parameters."""
  path = workdir / REFERENCE
  if not path.is_file():
    return None
  try:
    return Reference(**read_json(path))
  except TypeError as error:
    raise CheckpointError(f'{path} must name the base of this run: {error}') from error


class AdapterCheckpoints(Checkpoints):
  """Checkpoints whose base is elsewhere.

  Args:
    directory, **settings: as in `Checkpoints`.
    workdir: the folder of the run, for messages.
    reference: its base.
    read_base: reads the parameters of the base.
  """

  def __init__(
    self,
    directory: Path,
    workdir: Path,
    reference: Reference,
    read_base: Callable[[], PyTree],
    **settings: Any,
  ):
    self._workdir, self._reference, self._read_base = workdir, reference, read_base
    super().__init__(directory, **settings)

  def save(self, step: int, state: PyTree, **details: Any) -> bool:
    """Saves all but the base; see `Checkpoints.save`."""
    leaves = records.named_leaves(state)
    return super().save(step, {k: x for k, x in leaves.items() if not BASE.match(k)}, **details)

  def shapes(self, step: int | str = 'last') -> dict[str, jax.ShapeDtypeStruct]:
    """Shape and type of every leaf, with those of the base in `ema`."""
    base = {
      f'ema/base/{name}': jax.ShapeDtypeStruct(shape, kind)
      for name, (shape, kind, _) in self._reference.leaves.items()
    }
    return super().shapes(step) | base

  def restore(
    self, abstract_state: PyTree, step: int | str = 'last', *, partial: bool = False
  ) -> Restored:
    """Reads a step, and the base from its place; see `Checkpoints.restore`.

    Raises:
      CheckpointError: also for a base that is missing, or has changed.
    """
    asked = records.named_leaves(abstract_state)
    places = {name: match[2] for name in asked if (match := BASE.match(name))}
    own = {name: x for name, x in asked.items() if name not in places}
    restored = super().restore(own, step, partial=partial)
    base = self._checked_base() if places else {}
    # Copies: the compiled step donates the state, whose leaves must not share a buffer.
    found = {name: _placed(base[inner], asked[name]) for name, inner in places.items()}
    values = [(restored.state | found)[name] for name in asked]
    state = jax.tree.unflatten(jax.tree.structure(abstract_state), values)
    return restored._replace(state=state)

  def _checked_base(self) -> dict[str, jax.Array]:
    where = self._reference.source or self._workdir / OWN
    try:
      leaves = records.named_leaves(self._read_base())
    except (OSError, ValueError, CheckpointError) as error:
      raise CheckpointError(
        f'the base of {self._workdir} cannot be read from {where}: {error}; put it back, or write '
        f'its new place as "source" into {self._workdir / REFERENCE}'
      ) from error
    there = self._reference.leaves
    found = records.describe({name: leaves[name] for name in there if name in leaves})
    if wrong := [name for name in there if found.get(name) != there[name]]:
      raise CheckpointError(
        f'the base of {self._workdir} has changed: {where} has another {wrong[0]} at step '
        f'{self._reference.step} ({len(wrong)} of {len(there)} arrays differ); put it back'
      )
    return leaves


def _placed(x: jax.Array, like: Any) -> jax.Array:
  return jax.device_put(jnp.array(x, copy=True), records.restore_target('base', like).sharding)
