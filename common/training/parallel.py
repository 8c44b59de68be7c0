"""A training step on the devices of a mesh: where arrays live, and how the step is compiled.

`jit` over a mesh is the default. The mesh has three axes. `data` splits the batch. `fsdp` splits
the batch too, and gives each device a shard of the parameters, of the optimiser state and of the
moving average. `tensor` splits the width of the network. `pmap` runs the same step with everything
replicated.
"""

import dataclasses
import functools
import re
from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, SingleDeviceSharding
from jax.sharding import PartitionSpec as P

from common.config import ConfigError, pick
from common.method import Batch, PyTree
from common.training.state import Metrics, TrainState, TrainStep
from common.trees import path_name

AXES = ('data', 'fsdp', 'tensor')
BATCH_AXES = ('data', 'fsdp')

# Which dimension of a parameter goes to `tensor`, counted from the end; the first match wins. As in
# Megatron-LM (Shoeybi et al. 2019): a block's first matrix is split by columns and its last one by
# rows, so that the devices exchange sums once per block.
TENSOR_RULES = (
  (r'(query|key|value|qkv|up|gate)/kernel$', -1),
  (r'(query|key|value|qkv|up|gate)/bias$', -1),
  (r'(attention/out|down|attention_out)/kernel$', -2),
)
# Smaller leaves are replicated: gathering their shards costs more than the memory is worth.
FSDP_MIN_SIZE = 2**12


def make_mesh(settings: Mapping, devices: Sequence | None = None) -> Mesh:
  """A mesh with axes data, fsdp, tensor over `devices` (default: all).

  Args:
    settings: the `parallel` section of a config. One axis may be -1: it takes the devices that the
      others leave.
    devices: the devices, which may be descriptions of absent ones.

  Raises:
    ConfigError: when the product of the axes is not the number of devices.
  """
  devices = list(jax.devices() if devices is None else devices)
  sizes = [settings[axis] for axis in AXES]
  shown = ', '.join(f'{a}={s}' for a, s in zip(AXES, sizes, strict=True))
  known = int(np.prod([s for s in sizes if s != -1]))
  if sizes.count(-1) > 1 or known < 1:
    raise ConfigError(f'parallel: axes must be positive, at most one of them -1, got {shown}')
  sizes = [len(devices) // known if s == -1 else s for s in sizes]
  if int(np.prod(sizes)) != len(devices):
    raise ConfigError(f'parallel: {shown} does not multiply to the {len(devices)} devices here')
  # `tensor` is the last axis, so that its devices, which communicate most, are neighbours.
  return Mesh(np.array(devices).reshape(sizes), AXES, axis_types=(AxisType.Auto,) * len(AXES))


def leaf_spec(path: str, shape: tuple[int, ...], mesh: Mesh) -> P:
  """Which dimension of a leaf goes to which axis of the mesh.

  `tensor` goes by name (TENSOR_RULES). `fsdp` then takes the largest remaining dimension that it
  divides. A dimension that an axis does not divide stays whole.
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
      spec[max(free, key=lambda d: (shape[d], d))] = 'fsdp'  # of equals the last
  return P(*spec)


def shardings(abstract: PyTree, mesh: Mesh) -> PyTree:
  """A NamedSharding for every leaf.

  Paths of optimiser state end in the path of their parameter, so it is split in the same way.
  """
  return jax.tree_util.tree_map_with_path(
    lambda path, leaf: NamedSharding(mesh, leaf_spec(path_name(path), leaf.shape, mesh)), abstract
  )


def check_batch_size(batch_size: int, shares: int, micro_batches: int) -> None:
  """Raises ConfigError unless the batch divides evenly over devices and micro-batches."""
  if batch_size % (shares * micro_batches):
    nearest = max(round(batch_size / (shares * micro_batches)), 1) * shares * micro_batches
    raise ConfigError(
      f'data.batch_size={batch_size} cannot be shared out over {shares} devices and '
      f'{micro_batches} micro-batches; the nearest that can: {nearest}'
    )


@dataclasses.dataclass(frozen=True, eq=False)
class PlacedStep:
  """A training step on the devices of a mesh, and the way of states and batches there and back.

  The logical state is the one that is saved, evaluated and sampled from: one copy of each leaf,
  whatever the number of devices.

  Attributes:
    step: the step, one device's view of it.
    mesh: the devices.
    shapes: shapes and types of the logical state (`jax.eval_shape` of `init_state`).
  """

  step: TrainStep
  mesh: Mesh
  shapes: TrainState

  @property
  def abstract_state(self) -> TrainState:
    """Shapes, types and shardings of the logical state, as a checkpoint is restored."""
    raise NotImplementedError

  @property
  def evaluation_sharding(self) -> jax.sharding.Sharding:
    """The sharding of one batch [batch, ...] that is evaluated with the logical state."""
    raise NotImplementedError

  def create_state(self, init: Callable[[], TrainState]) -> TrainState:
    """The state that `init` makes, on the devices."""
    raise NotImplementedError

  def put_state(self, state: TrainState) -> TrainState:
    """A state with host or single-device leaves, on the devices."""
    raise NotImplementedError

  def put_batches(self, batches: Mapping[str, np.ndarray]) -> Batch:
    """This process's part of stacked batches [steps, batch, ...], on the devices."""
    raise NotImplementedError

  def run(self, state: TrainState, batches: Batch) -> tuple[TrainState, Metrics]:
    """Runs the compiled step. It donates `state`: the caller must not use it afterwards."""
    raise NotImplementedError

  def logical_state(self, state: TrainState) -> TrainState:
    """The logical state of one that is on the devices."""
    raise NotImplementedError


@dataclasses.dataclass(frozen=True, eq=False)
class JitStep(PlacedStep):
  """The step under `jit`: arrays are global, and the compiler splits the work along the mesh.

  Attributes:
    unrolled: whether the host loops over the batches of a call. XLA's CPU backend computes the
      gradients of convolution kernels some fifty times slower inside a compiled loop.
  """

  unrolled: bool = False

  @functools.cached_property
  def state_shardings(self) -> TrainState:
    """The sharding of each leaf of the state."""
    return shardings(self.shapes, self.mesh)

  @property
  def batch_sharding(self) -> NamedSharding:
    """The sharding of stacked batches [steps, batch, ...]."""
    return NamedSharding(self.mesh, P(None, BATCH_AXES))

  @property
  def abstract_state(self) -> TrainState:
    return _with_shardings(self.shapes, self.state_shardings)

  @property
  def evaluation_sharding(self) -> NamedSharding:
    return NamedSharding(self.mesh, P(BATCH_AXES))

  @functools.cached_property
  def compiled(self) -> Callable[[TrainState, Batch], tuple[TrainState, Metrics]]:
    """The jitted step, compiled at its first call. Metrics are replicated."""
    return jax.jit(
      self._on_mesh,
      in_shardings=(self.state_shardings, self.batch_sharding),
      out_shardings=(self.state_shardings, None),
      donate_argnums=0,
    )

  def _on_mesh(self, state: TrainState, batches: Batch) -> tuple[TrainState, Metrics]:
    # The mesh is in scope while the step is traced: kernels that the compiler cannot split (splash
    # attention) are mapped over it.
    with jax.sharding.use_abstract_mesh(self.mesh.abstract_mesh):
      return self.step(state, batches)

  def create_state(self, init: Callable[[], TrainState]) -> TrainState:
    # Compiled with its shardings: no device ever holds the whole of a state that is split.
    return jax.jit(init, out_shardings=self.state_shardings)()

  def put_state(self, state: TrainState) -> TrainState:
    return jax.device_put(state, self.state_shardings)

  def put_batches(self, batches: Mapping[str, np.ndarray]) -> Batch:
    put = functools.partial(jax.make_array_from_process_local_data, self.batch_sharding)
    return {name: put(value) for name, value in batches.items()}

  def run(self, state: TrainState, batches: Batch) -> tuple[TrainState, Metrics]:
    if not self.unrolled:
      return self.compiled(state, batches)
    # Slices keep their axis of steps, of length 1: `TrainStep` then runs no loop at all.
    parts = []
    for i in range(batches['x'].shape[0]):
      state, metrics = self.compiled(state, {k: v[i : i + 1] for k, v in batches.items()})
      parts.append(metrics)
    return state, jax.tree.map(lambda *values: jnp.concatenate(values), *parts)

  def logical_state(self, state: TrainState) -> TrainState:
    return state


PMAP_AXIS = 'devices'


@dataclasses.dataclass(frozen=True, eq=False)
class PmapStep(PlacedStep):
  """The step under `pmap`: arrays have a leading axis of devices, all with the same state."""

  def __post_init__(self):
    if self.mesh.shape['fsdp'] * self.mesh.shape['tensor'] > 1:
      raise ConfigError(
        "parallel.mode='pmap' replicates; set parallel.fsdp=1 and parallel.tensor=1"
      )
    # A method's memory may depend on the examples that a device saw: the copies would diverge.
    if jax.tree.leaves(self.shapes.memory):
      raise ConfigError(
        "parallel.mode='pmap' cannot train a method that remembers something between steps; "
        "use 'jit'"
      )

  @property
  def local_devices(self) -> list[jax.Device]:
    """The devices of the mesh that belong to this process."""
    return [d for d in self.mesh.devices.flat if d.process_index == jax.process_index()]

  @property
  def stacked_sharding(self) -> NamedSharding:
    """The sharding of arrays [devices, ...]: one slice on each local device."""
    return NamedSharding(Mesh(np.array(self.local_devices), ('local',)), P('local'))

  @property
  def abstract_state(self) -> TrainState:
    return _with_shardings(
      self.shapes, jax.tree.map(lambda _: self.evaluation_sharding, self.shapes)
    )

  @property
  def evaluation_sharding(self) -> SingleDeviceSharding:
    return SingleDeviceSharding(self.local_devices[0])

  @functools.cached_property
  def compiled(self) -> Callable[[TrainState, Batch], tuple[TrainState, Metrics]]:
    """The mapped step, compiled at its first call."""
    step = dataclasses.replace(self.step, axis=PMAP_AXIS)
    devices = list(self.mesh.devices.flat)
    return jax.pmap(step, axis_name=PMAP_AXIS, devices=devices, donate_argnums=0)

  def create_state(self, init: Callable[[], TrainState]) -> TrainState:
    return self.put_state(jax.jit(init)())

  def put_state(self, state: TrainState) -> TrainState:
    return jax.tree.map(self._replicate, state)

  def _replicate(self, leaf: jax.Array | np.ndarray) -> jax.Array:
    shape = (len(self.local_devices), *leaf.shape)
    return jax.device_put(np.broadcast_to(np.asarray(leaf)[None], shape), self.stacked_sharding)

  def put_batches(self, batches: Mapping[str, np.ndarray]) -> Batch:
    return {name: self._split(value) for name, value in batches.items()}

  def _split(self, array: np.ndarray) -> jax.Array:
    """[steps, batch, ...] to [devices, steps, batch / devices, ...]."""
    steps, batch, *rest = array.shape
    devices = len(self.local_devices)
    parts = array.reshape(steps, devices, batch // devices, *rest)
    return jax.device_put(parts.swapaxes(0, 1), self.stacked_sharding)

  def run(self, state: TrainState, batches: Batch) -> tuple[TrainState, Metrics]:
    state, metrics = self.compiled(state, batches)
    # Metrics are sums over all devices, so every device has the same.
    return state, {name: value[0] for name, value in metrics.items()}

  def logical_state(self, state: TrainState) -> TrainState:
    one = self.evaluation_sharding
    return jax.tree.map(lambda v: jax.device_put(v[0], one), state)


MODES = {'jit': JitStep, 'pmap': PmapStep}


def place_step(mode: str, step: TrainStep, shapes: TrainState, mesh: Mesh) -> PlacedStep:
  """Puts a training step onto the devices of a mesh.

  Args:
    mode: 'jit' or 'pmap'.
    step: the step.
    shapes: shapes and types of the state (`jax.eval_shape` of `init_state`).
    mesh: the devices.

  Raises:
    ConfigError: for an unknown mode, or one that cannot run this step on this mesh.
  """
  return pick(MODES, mode, 'parallel.mode')(step, mesh, shapes)


def _with_shardings(shapes: PyTree, where: PyTree) -> PyTree:
  return jax.tree.map(
    lambda a, s: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=s), shapes, where
  )
