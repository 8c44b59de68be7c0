"""Slices of TPUs that are not there: their names, their devices and the memory of a device."""

import importlib.util
import os
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
from jax.experimental import topologies

from common.config import ConfigError
from common.ranges import did_you_mean

GIB = 2**30
# Set before libtpu is loaded: it must ask no metadata server, take no lock and open no chip.
ENVIRONMENT = {
  'TPU_SKIP_MDS_QUERY': '1',
  'ALLOW_MULTIPLE_LIBTPU_LOAD': '1',
  'TPU_ACCELERATOR_TYPE': 'v5litepod-16',
  'TPU_WORKER_HOSTNAMES': 'localhost',
  'TPU_STDERR_LOG_LEVEL': '3',
  'TPU_MIN_LOG_LEVEL': '3',
}
FLAT = ('2x2', '2x4', '4x4', '4x8', '8x8', '8x16', '16x16')
CUBES = ('2x2x1', '2x2x2', '2x2x4', '2x4x4', '4x4x4', '4x4x8', '4x8x8', '8x8x8', '8x8x16')
LARGE_CUBES = (*CUBES, '8x16x16', '16x16x16')


class Generation(NamedTuple):
  """A generation of TPUs.

  Attributes:
    limit: GiB of a device that the compiler lets a program use, as its refusals say (libtpu
      0.0.42.1).
    shapes: the slices that can be had, in chips.
    devices: devices of a chip.
    options: arguments of the topology.
  """

  limit: float
  shapes: tuple[str, ...]
  devices: int = 1
  options: Mapping[str, Any] = {}


# On v4 the two cores of a chip are one device if its configuration is 'megacore'.
GENERATIONS = {
  'v3': Generation(15.48, (*FLAT, '16x32', '32x32'), devices=2),
  'v4': Generation(30.75, (*LARGE_CUBES, '12x16x16'), options={'chip_config_name': 'megacore'}),
  'v5e': Generation(15.75, ('1x1', *FLAT)),
  'v5p': Generation(95.74, (*LARGE_CUBES, '16x16x24')),
  'v6e': Generation(31.25, ('1x1', *FLAT)),
  'tpu7x': Generation(94.75, LARGE_CUBES, devices=2),
}


class Slice(NamedTuple):
  """A slice of a generation, or several equal ones.

  Attributes:
    name: 'v5e:4x4'.
    generation: its generation.
    num_slices: the number of slices, which are joined by the network of the data centre.
  """

  name: str
  generation: Generation
  num_slices: int = 1

  @property
  def limit(self) -> int:
    """Bytes of a device that a program may use."""
    return round(self.generation.limit * GIB)

  @property
  def device_name(self) -> str:
    """What a device is, for reports."""
    return 'chip' if self.generation.devices == 1 else 'device (half a chip)'

  def __str__(self) -> str:
    return self.name if self.num_slices == 1 else f'{self.num_slices} × {self.name}'


def parse(text: str, num_slices: int = 1) -> Slice:
  """The slice that 'v5e:4x4' names.

  Raises:
    ConfigError: there is no such slice; lists those of the generation, or the generations.
  """
  kind, _, shape = text.partition(':')
  if kind not in GENERATIONS:
    known = ', '.join(f'{name}:{each.shapes[1]}' for name, each in GENERATIONS.items())
    hint = did_you_mean(kind, GENERATIONS)
    raise ConfigError(
      f'--topology={text}: there is no generation of TPUs {kind!r};{hint} write a generation and a '
      f'shape in chips, such as {known}'
    )
  generation = GENERATIONS[kind]
  if shape not in generation.shapes:
    known = ', '.join(f'{kind}:{each}' for each in generation.shapes)
    raise ConfigError(f'--topology={text}: there is no such slice of {kind}; known: {known}')
  return Slice(text, generation, num_slices)


def set_environment() -> None:
  """Makes the CPU the only backend of this process, and keeps libtpu from looking for chips.

  Called before any backend starts. JAX's compilation cache is off, because it cannot read
  executables for a machine that is not there.
  """
  os.environ.update(ENVIRONMENT)
  jax.config.update('jax_platforms', 'cpu')
  jax.config.update('jax_enable_compilation_cache', False)


def check_compiler() -> None:
  """Raises ConfigError if libtpu, which holds the compiler, is not installed."""
  if importlib.util.find_spec('libtpu') is None:
    raise ConfigError(
      "compiling for TPUs needs libtpu (213 MB to download): pip install 'twofold[tpu]', or "
      "pip install '.[tpu]' in the folder of the code"
    )


def devices_of(where: Slice) -> Sequence[jax.Device]:
  """The devices of a slice, for a mesh to compile for; nothing can run on them.

  Raises:
    ConfigError: libtpu is not installed, or does not know the slice.
  """
  check_compiler()
  options = dict(where.generation.options)
  if where.name.endswith(':1x1'):
    options['chips_per_host_bounds'] = (1, 1, 1)  # the default is a host of 2 × 2 chips
  if where.num_slices > 1:
    options['num_slices'] = where.num_slices
  try:
    described = topologies.get_topology_desc(platform='tpu', topology_name=where.name, **options)
  except jax.errors.JaxRuntimeError as error:
    raise ConfigError(f'--topology={where}: libtpu refuses it: {error}') from error
  return described.devices
