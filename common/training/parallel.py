"""A training step on the devices of a mesh: how arrays are sharded and how the step is compiled.

The default mode is `jit` over a mesh with three axes. `data` splits the batch. `fsdp` also splits
the batch, and gives each device a shard of the parameters, of the optimiser state and of the moving
average. `tensor` splits the work inside a layer (common/training/sharding.py). The mode `pmap` runs
the same step with a full copy of the state on every device.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Int

from common.config import ConfigError, pick
from common.devices.mesh import AXES, BATCH_AXES, scope
from common.method import Batch
from common.training.sharding import check_placement, shardings, with_shardings
from common.training.state import Metrics, TrainState, TrainStep


def make_mesh(settings: Mapping, devices: Sequence | None = None) -> Mesh:
  """A mesh with axes data, fsdp, tensor over `devices` (default: all).

  Args:
    settings: the `parallel` section of a config. One axis may be -1: its size is the number of
      devices divided by the other sizes.
    devices: the devices, or descriptions of the devices of another machine.

  Raises:
    ConfigError: when the product of the axes is not the number of devices.
  """
  devices = list(jax.devices() if devices is None else devices)
  sizes = [settings[axis] for axis in AXES]
  shown = ', '.join(f'{a}={s}' for a, s in zip(AXES, sizes, strict=True))
  known = int(np.prod([s for s in sizes if s != -1]))
  if sizes.count(-1) > 1 or known < 1:
    raise ConfigError(f'parallel: sizes must be positive, and at most one may be -1, got {shown}')
  sizes = [len(devices) // known if s == -1 else s for s in sizes]
  if int(np.prod(sizes)) != len(devices):
    raise ConfigError(
      f'parallel: data × fsdp × tensor must be the number of devices, {len(devices)}, got {shown}'
    )
  # `tensor` is the last axis: its devices communicate most, and the last axis makes them adjacent.
  return Mesh(np.array(devices).reshape(sizes), AXES, axis_types=(AxisType.Auto,) * len(AXES))


def mesh_for_reading(settings: Mapping, devices: Sequence | None = None) -> Mesh:
  """The mesh for the parameters of a run that is read back, over `devices` (default: all).

  It is the mesh of training if that has as many devices. If not, one axis has all devices: `fsdp`
  if training split the parameters, so that they need no more memory of a device than necessary;
  otherwise `data`.

  Args:
    settings: the `parallel` section of the run's config.
    devices: the devices.
  """
  devices = list(jax.devices() if devices is None else devices)
  try:
    return make_mesh(settings, devices)
  except ConfigError:
    axis = 'data' if settings['fsdp'] == settings['tensor'] == 1 else 'fsdp'
    return make_mesh(dict.fromkeys(AXES, 1) | {axis: len(devices)}, devices)


def check_batch_size(batch_size: int, shards: int, micro_batches: int) -> None:
  """Raises ConfigError unless the batch divides evenly over devices and micro-batches."""
  parts = shards * micro_batches
  if batch_size % parts:
    nearest = max(round(batch_size / parts), 1) * parts
    raise ConfigError(
      f'data.batch_size={batch_size} must be a multiple of {parts} ({shards} devices × '
      f'{micro_batches} micro-batches); the nearest is {nearest}'
    )


@dataclasses.dataclass(frozen=True, eq=False)
class PlacedStep:
  """A training step on the devices of a mesh; moves states and batches to and from them.

  The logical state has one copy of each leaf, whatever the number of devices. It is the state that
  a run saves, evaluates and samples from.

  Attributes:
    step: the step as one device sees it.
    mesh: the devices.
    shapes: shapes and types of the logical state (`jax.eval_shape` of `init_state`).
  """

  step: TrainStep
  mesh: Mesh
  shapes: TrainState

  @property
  def abstract_state(self) -> TrainState:
    """Shapes, types and shardings of the logical state, for restoring a checkpoint."""
    raise NotImplementedError

  @property
  def evaluation_sharding(self) -> jax.sharding.Sharding:
    """The sharding of a batch [batch, ...] to evaluate with the logical state."""
    raise NotImplementedError

  def create_state(self, init: Callable[[], TrainState]) -> TrainState:
    """The state that `init` returns, on the devices."""
    raise NotImplementedError

  def put_state(self, state: TrainState) -> TrainState:
    """Puts a logical state onto the devices."""
    raise NotImplementedError

  def local_rows(self, batch_size: int) -> Int[np.ndarray, 'rows']:
    """The rows of a global batch that the devices of this process take, in order.

    Devices that differ only in their place along `tensor` take the same rows, also if they belong
    to different processes.
    """
    shards = self.mesh.devices.reshape(-1, self.mesh.shape['tensor'])
    ours = [any(d.process_index == jax.process_index() for d in shard) for shard in shards]
    return np.flatnonzero(np.repeat(ours, batch_size // len(shards)))

  def put_batches(self, batches: Mapping[str, np.ndarray]) -> Batch:
    """Puts the local rows of stacked batches [steps, rows, ...] onto the devices."""
    raise NotImplementedError

  def run(self, state: TrainState, batches: Batch) -> tuple[TrainState, Metrics]:
    """Runs the compiled step. It donates `state`: the caller must not use it afterwards."""
    raise NotImplementedError

  def logical_state(self, state: TrainState) -> TrainState:
    """The logical state for a state on the devices."""
    raise NotImplementedError

  def length(self, steps: int) -> int:
    """The number of steps in the compiled program that runs a call of a number of steps."""
    return steps

  def memory(self, state: TrainState, batches: Batch) -> int | None:
    """Bytes of each device that the step needs, by its compiler; None if the mode does not tell.

    Args:
      state: a state on the devices.
      batches: batches that `run` has run; the step is then not compiled again.
    """
    del state, batches
    return None


@dataclasses.dataclass(frozen=True, eq=False)
class JitStep(PlacedStep):
  """The step under `jit`: arrays are global, and the compiler splits the work along the mesh.

  Attributes:
    unrolled: whether the host loops over the batches of a call. XLA's CPU backend is about fifty
      times slower at gradients of convolution kernels inside a compiled loop.
  """

  unrolled: bool = False

  def __post_init__(self):
    check_placement(self.shapes.params, self.mesh)

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
    return with_shardings(self.shapes, self.state_shardings)

  @property
  def evaluation_sharding(self) -> NamedSharding:
    return NamedSharding(self.mesh, P(BATCH_AXES))

  @functools.cached_property
  def compiled(self) -> Callable[[TrainState, Batch], tuple[TrainState, Metrics]]:
    """The jitted step, compiled at its first call. Metrics are replicated."""
    return jax.jit(
      self._on_mesh,
      in_shardings=(self.state_shardings, self.batch_sharding),
      out_shardings=(self.state_shardings, NamedSharding(self.mesh, P())),
      donate_argnums=0,
    )

  def _on_mesh(self, state: TrainState, batches: Batch) -> tuple[TrainState, Metrics]:
    # The step is traced with the mesh in scope, because kernels that the compiler cannot split
    # (splash attention) are mapped over it explicitly.
    with scope(self.mesh):
      return self.step(state, batches)

  def create_state(self, init: Callable[[], TrainState]) -> TrainState:
    # Compiled with its shardings, so that no device ever holds a whole state that is split.
    return jax.jit(init, out_shardings=self.state_shardings)()

  def put_state(self, state: TrainState) -> TrainState:
    return jax.device_put(state, self.state_shardings)

  def put_batches(self, batches: Mapping[str, np.ndarray]) -> Batch:
    put = functools.partial(jax.make_array_from_process_local_data, self.batch_sharding)
    return {name: put(value) for name, value in batches.items()}

  def run(self, state: TrainState, batches: Batch) -> tuple[TrainState, Metrics]:
    if not self.unrolled:
      return self.compiled(state, batches)
    # Slices keep a steps axis of length 1, for which `TrainStep` runs no loop.
    parts = []
    for i in range(batches['x'].shape[0]):
      state, metrics = self.compiled(state, {k: v[i : i + 1] for k, v in batches.items()})
      parts.append(metrics)
    return state, jax.tree.map(lambda *values: jnp.concatenate(values), *parts)

  def logical_state(self, state: TrainState) -> TrainState:
    return state

  def length(self, steps: int) -> int:
    return 1 if self.unrolled else steps

  def memory(self, state: TrainState, batches: Batch) -> int | None:
    if self.unrolled:
      batches = {k: v[:1] for k, v in batches.items()}
    # JAX keeps what it has compiled for these arguments.
    sizes = self.compiled.lower(state, batches).compile().memory_analysis()
    # The peak of XLA's CPU backend leaves out the temporaries; donated outputs take no room.
    outputs = sizes.output_size_in_bytes - sizes.alias_size_in_bytes
    whole = sizes.argument_size_in_bytes + sizes.temp_size_in_bytes + max(outputs, 0)
    on_cpu = self.mesh.devices.flat[0].platform == 'cpu'
    return (whole if on_cpu else sizes.peak_memory_in_bytes) or None


PMAP_AXIS = 'devices'


@dataclasses.dataclass(frozen=True, eq=False)
class PmapStep(PlacedStep):
  """The step under `pmap`: arrays have a leading axis of devices, and all copies are equal."""

  def __post_init__(self):
    if self.mesh.shape['fsdp'] * self.mesh.shape['tensor'] > 1:
      raise ConfigError(
        "parallel.mode='pmap' splits only the batch; set parallel.fsdp=1 and parallel.tensor=1"
      )
    # A method's memory may depend on the examples that a device saw: the copies would diverge.
    if jax.tree.leaves(self.shapes.memory):
      raise ConfigError(
        "parallel.mode='pmap' cannot train a method that keeps memory between steps; "
        "use parallel.mode='jit'"
      )

  @property
  def local_devices(self) -> list[jax.Device]:
    """The devices of the mesh that belong to this process."""
    return [d for d in self.mesh.devices.flat if d.process_index == jax.process_index()]

  @property
  def stacked_sharding(self) -> NamedSharding:
    """The sharding of arrays [devices, ...]: one slice on each local device."""
    return NamedSharding(self.local_mesh, P('data'))

  @property
  def abstract_state(self) -> TrainState:
    return with_shardings(self.shapes, jax.tree.map(lambda _: self.replicated, self.shapes))

  @functools.cached_property
  def local_mesh(self) -> Mesh:
    """The devices of this process, which evaluates and samples by itself."""
    sizes = dict.fromkeys(AXES, 1) | {'data': len(self.local_devices)}
    return make_mesh(sizes, self.local_devices)

  @property
  def replicated(self) -> NamedSharding:
    """The sharding of the logical state: a copy on each local device."""
    return NamedSharding(self.local_mesh, P())

  @property
  def evaluation_sharding(self) -> NamedSharding:
    return NamedSharding(self.local_mesh, P(BATCH_AXES))

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
    # Metrics are means over all devices, so every device has the same values.
    return state, jax.tree.map(_on_first, metrics)

  def logical_state(self, state: TrainState) -> TrainState:
    return jax.tree.map(lambda v: jax.device_put(_on_first(v), self.replicated), state)


def _on_first(array: jax.Array) -> jax.Array:
  """The slice of an array [devices, ...] that is on the first device of this process."""
  # `array[0]` would be a program in which devices communicate, as in the step; on a CPU the two
  # can wait for each other for ever.
  return array.addressable_data(0)[0]


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
