"""Where arrays live: a mesh of devices, rules from parameter paths to shards, and the step on it.

`jit` over a mesh is the default. The mesh has three axes: `data` shares out the batch; `fsdp` the
batch and, a shard each, parameters, optimiser state and moving average; `tensor` shares out the
width of the network. `pmap` runs the same step function with everything replicated.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from common.config import ConfigError, pick
from common.method import PyTree
from common.training.optimizers import path_name
from common.training.state import Step

AXES = ('data', 'fsdp', 'tensor')
BATCH_AXES = ('data', 'fsdp')

# First match wins: (pattern of the path, which dimension, counted from the end, goes to `tensor`).
TENSOR_RULES = (
  (r'(query|key|value|qkv|up|gate)/kernel$', -1),
  (r'(query|key|value|qkv|up|gate)/bias$', -1),
  (r'(attention/out|down|attention_out)/kernel$', -2),
)
FSDP_MIN_SIZE = 2**12  # smaller leaves are replicated: sharing them out costs more than it saves


class Placement(NamedTuple):
  """How a training step runs on the devices at hand.

  Attributes:
    put_state: a state with host or single-device leaves, or a function that makes one, onto the
      devices.
    put_batch: this process's part of stacked batches [steps, batch, ...] onto the devices.
    run: (state, batches) -> (state, metrics); compiled, gives up its `state` argument.
    view: a placed state as one logical state (what is saved, evaluated and sampled from).
    abstract: shapes, types and shardings of the logical state: what a checkpoint is restored to.
    batch_sharding: of one batch [batch, ...] that meets the logical state, in evaluation.
  """

  put_state: Callable[[PyTree], PyTree]
  put_batch: Callable[[Mapping[str, np.ndarray]], PyTree]
  run: Step
  view: Callable[[PyTree], PyTree]
  abstract: PyTree
  batch_sharding: jax.sharding.Sharding


def make_mesh(settings: Mapping, devices: Sequence | None = None) -> Mesh:
  """A mesh with axes data, fsdp, tensor over `devices` (default: all).

  Args:
    settings: the `parallel` section of a config; one axis may be -1, for the devices left over.

  Raises:
    ConfigError: when the axes do not multiply to the number of devices.
  """
  devices = list(jax.devices() if devices is None else devices)
  sizes = [settings[axis] for axis in AXES]
  shown = ', '.join(f'{a}={s}' for a, s in zip(AXES, sizes, strict=True))
  known = int(np.prod([s for s in sizes if s != -1]))
  if sizes.count(-1) > 1 or known < 1:
    raise ConfigError(f'parallel: {shown}: axes are positive, and at most one is -1')
  sizes = [len(devices) // known if s == -1 else s for s in sizes]
  if int(np.prod(sizes)) != len(devices):
    raise ConfigError(f'parallel: {shown} does not multiply to the {len(devices)} devices here')
  return Mesh(np.array(devices).reshape(sizes), AXES, axis_types=(AxisType.Auto,) * len(AXES))


def leaf_spec(path: str, shape: tuple[int, ...], mesh: Mesh) -> P:
  """Which dimension of a leaf goes to which axis of the mesh.

  `tensor` by name (TENSOR_RULES); then `fsdp` takes the largest dimension left that it divides.
  """
  spec: list[str | None] = [None] * len(shape)
  for pattern, dim in TENSOR_RULES:
    if re.search(pattern, path):
      if len(shape) >= -dim and mesh.shape['tensor'] > 1 and shape[dim] % mesh.shape['tensor'] == 0:
        spec[dim] = 'tensor'
      break
  if mesh.shape['fsdp'] > 1 and np.prod(shape, dtype=np.int64) >= FSDP_MIN_SIZE:
    free = [d for d, s in enumerate(shape) if spec[d] is None and s % mesh.shape['fsdp'] == 0]
    if free:
      spec[max(free, key=lambda d: (shape[d], d))] = 'fsdp'
  return P(*spec)


def shardings(abstract: PyTree, mesh: Mesh) -> PyTree:
  """A NamedSharding for every leaf. Optimiser state follows its parameters: their paths agree."""
  return jax.tree_util.tree_map_with_path(
    lambda path, leaf: NamedSharding(mesh, leaf_spec(path_name(path), leaf.shape, mesh)), abstract
  )


def check_batch_size(batch_size: int, shares: int, micro_batches: int) -> None:
  """Raises ConfigError unless the batch can be shared out and cut."""
  if batch_size % (shares * micro_batches):
    nearest = max(round(batch_size / (shares * micro_batches)), 1) * shares * micro_batches
    raise ConfigError(
      f'data.batch_size={batch_size} cannot be shared out over {shares} devices and '
      f'{micro_batches} micro-batches; the nearest that can: {nearest}'
    )


def _struct(abstract: PyTree, where: PyTree) -> PyTree:
  return jax.tree.map(
    lambda a, s: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=s), abstract, where
  )


def _place_jit(step: Step, abstract: PyTree, mesh: Mesh) -> Placement:
  where = shardings(abstract, mesh)
  batch_sharding = NamedSharding(mesh, P(None, BATCH_AXES))

  def on_mesh(state, batches):
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):  # kernels are cut up along it
      return step(state, batches)

  run = jax.jit(
    on_mesh, in_shardings=(where, batch_sharding), out_shardings=(where, None), donate_argnums=0
  )

  def put_state(state):
    if callable(state):
      return jax.jit(state, out_shardings=where)()
    return jax.device_put(state, where)

  def put_batch(batch):
    return {k: jax.make_array_from_process_local_data(batch_sharding, v) for k, v in batch.items()}

  one_batch = NamedSharding(mesh, P(BATCH_AXES))
  return Placement(
    put_state, put_batch, run, lambda state: state, _struct(abstract, where), one_batch
  )


def _place_pmap(step: Step, abstract: PyTree, mesh: Mesh) -> Placement:
  if mesh.shape['fsdp'] * mesh.shape['tensor'] > 1:
    raise ConfigError("parallel.mode='pmap' replicates; set parallel.fsdp=1 and parallel.tensor=1")
  if jax.tree.leaves(abstract.memory):
    raise ConfigError(
      "parallel.mode='pmap' cannot train a method that remembers something between steps; use 'jit'"
    )
  devices = list(mesh.devices.flat)
  local = [d for d in devices if d.process_index == jax.process_index()]
  run = jax.pmap(step, axis_name=PMAP_AXIS, devices=devices, donate_argnums=0)
  stacked = NamedSharding(Mesh(np.array(local), ('local',)), P('local'))

  def put_state(state):
    state = jax.jit(state)() if callable(state) else state
    return jax.tree.map(
      lambda v: jax.device_put(
        np.broadcast_to(np.asarray(v)[None], (len(local), *v.shape)), stacked
      ),
      state,
    )

  def put_batch(batch):
    def cut(v):  # [steps, batch, ...] to [devices, steps, batch / devices, ...]
      parts = v.reshape(v.shape[0], len(local), v.shape[1] // len(local), *v.shape[2:])
      return jax.device_put(parts.swapaxes(0, 1), stacked)

    return {k: cut(v) for k, v in batch.items()}

  def run_and_take_first(state, batches):
    state, metrics = run(state, batches)
    return state, {k: v[0] for k, v in metrics.items()}

  one = jax.sharding.SingleDeviceSharding(local[0])
  where = jax.tree.map(lambda _: one, abstract)
  view = lambda state: jax.tree.map(lambda v: jax.device_put(v[0], one), state)
  return Placement(put_state, put_batch, run_and_take_first, view, _struct(abstract, where), one)


PMAP_AXIS = 'devices'
MODES = {'jit': _place_jit, 'pmap': _place_pmap}


def place(
  mode: str, make_step: Callable[[str | None], Step], abstract: PyTree, mesh: Mesh
) -> Placement:
  """Puts a training step onto the devices of a mesh.

  Args:
    mode: 'jit' or 'pmap'.
    make_step: builds the step, given the name of the mapped axis (None under `jit`).
    abstract: shapes and types of the state (`jax.eval_shape` of `init_state`).
    mesh: the devices.
  """
  build = pick(MODES, mode, 'parallel.mode')
  return build(make_step(PMAP_AXIS if mode == 'pmap' else None), abstract, mesh)
