"""The devices of a mesh: its axes, and how a compiled program shares a batch out among them.

Arrays know the devices that they are on. So whoever has the parameters has the mesh (`mesh_of`),
and sampling, likelihood and validation run on the devices of the parameters.
"""

import contextlib
import math
from typing import Any

import jax
import numpy as np
from jax.sharding import AbstractMesh, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Int

PyTree = Any
AXES = ('data', 'fsdp', 'tensor')
BATCH_AXES = ('data', 'fsdp')  # the axes that split the batch
HEADS_AXIS = 'tensor'  # the axis that splits the heads of attention


def mesh_of(arrays: PyTree) -> Mesh | None:
  """The mesh that arrays are on; None if they are on one device."""
  for leaf in jax.tree.leaves(arrays):
    if isinstance(leaf, jax.Array) and isinstance(leaf.sharding, NamedSharding):
      return leaf.sharding.mesh if leaf.sharding.mesh.size > 1 else None
  return None


def scope(mesh: Mesh | None) -> contextlib.AbstractContextManager:
  """Programs traced in this context know the mesh: attention, chunks and `split_batch` read it."""
  if mesh is None:
    return contextlib.nullcontext()
  return jax.sharding.use_abstract_mesh(mesh.abstract_mesh)


def batch_axes(mesh: Mesh | AbstractMesh | None = None) -> dict[str, int]:
  """The axes of a mesh (default: that of the scope) that split the batch, with their sizes."""
  mesh = jax.sharding.get_abstract_mesh() if mesh is None else mesh
  return {axis: mesh.shape[axis] for axis in BATCH_AXES if mesh.shape.get(axis, 1) > 1}


def even_index(num: int, mesh: Mesh | None) -> Int[np.ndarray, 'rows']:
  """The rows of a batch, the last one repeated until the devices of a mesh have equal parts."""
  shards = 1 if mesh is None else math.prod(batch_axes(mesh).values())
  return np.minimum(np.arange(-(-num // shards) * shards), num - 1)


def split_batch(arrays: PyTree) -> PyTree:
  """Arrays [batch, ...] of which each device has its part; unchanged outside the scope of a mesh.

  Only for compiled programs: up to `whole`, the compiler gives each device the work on its part.
  Every input of such a program that has a batch axis goes through this function or `whole`.
  """
  axes = tuple(batch_axes())
  # Inputs of the program arrive whole: JAX rejects the part that the compiler would otherwise
  # choose for an input that does not divide.
  return _constrained(_constrained(arrays, P()), P(axes)) if axes else arrays


def kept_split(arrays: PyTree) -> PyTree:
  """Arrays [batch, ...] inside a compiled program of which each device keeps its part.

  Unchanged outside the scope of a mesh. Between convolutions and what follows them (a product,
  another network) it keeps the compiler from splitting channels across both, for which XLA's
  partitioner (JAX 0.10.2) gives wrong numbers.
  """
  axes = tuple(batch_axes())
  return _constrained(arrays, P(axes)) if axes else arrays


def split_rows(arrays: PyTree) -> PyTree:
  """Arrays [groups, rows, ...] of which each device has its part of the rows of every group.

  Unchanged outside the scope of a mesh; for arrays that a program makes, not for its inputs.
  """
  axes = tuple(batch_axes())
  return _constrained(arrays, P(None, axes)) if axes else arrays


def whole(arrays: PyTree) -> PyTree:
  """Arrays of which each device has a copy; unchanged outside the scope of a mesh."""
  return arrays if jax.sharding.get_abstract_mesh().empty else _constrained(arrays, P())


def _constrained(arrays: PyTree, spec: P) -> PyTree:
  return jax.tree.map(lambda x: jax.lax.with_sharding_constraint(x, spec), arrays)
