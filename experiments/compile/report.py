"""Compiles a program for devices that are not there, and says what it needs of each."""

import pathlib
import re
import tempfile
import time
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import jax

from common.attention import IMPLEMENTATIONS
from common.config import ConfigError
from common.devices.mesh import scope
from experiments import families
from experiments.compile.collectives import Traffic, collectives
from experiments.compile.data import spec_of
from experiments.compile.programs import Placed, bytes_on_device, place
from experiments.compile.topologies import GIB, Slice, devices_of

UNITS = {'K': 2**10, 'M': 2**20, 'G': 2**30, 'T': 2**40}
# Of the report that the compiler writes about buffers: the memory of the chip itself.
TOTAL = re.compile(r'^Memory Space: default .*?\nTotal bytes: (\d+) ', re.M)
NEEDED = re.compile(r'\(([\d.]+)([KMGT])\) exceeds')
ATTENTION = re.compile(rf'\battention_({"|".join(IMPLEMENTATIONS)})\b')


class TooLargeError(ConfigError):
  """What stays between calls alone exceeds the memory of a device."""


class Report(NamedTuple):
  """What a program needs of each device.

  Attributes:
    where: the slice.
    mesh: {axis: its size}.
    batch: what one call works through.
    total: bytes of everything that is in memory at once, by the compiler.
    kept: {what: bytes of arrays that stay between calls}, from their shapes and shardings.
    attention: the implementations that run.
    fits: whether the program compiled.
    traffic: {kind of collective: its traffic in one call}; {} if it did not compile.
    seconds: the time that tracing and compiling took.
  """

  where: Slice
  mesh: Mapping[str, int]
  batch: str
  total: int
  kept: Mapping[str, int]
  attention: tuple[str, ...]
  fits: bool
  traffic: Mapping[str, Traffic]
  seconds: float

  @property
  def rest(self) -> int:
    """Bytes of activations, gradients, batches and other temporaries."""
    return self.total - sum(self.kept.values())

  @property
  def shown_mesh(self) -> str:
    """'data=16, fsdp=1, tensor=1'."""
    return ', '.join(f'{axis}={size}' for axis, size in self.mesh.items())

  def to_json(self) -> dict[str, Any]:
    """The report as JSON values; sizes in bytes, for each device."""
    return {
      'topology': self.where.name,
      'num_slices': self.where.num_slices,
      'mesh': dict(self.mesh),
      'call': self.batch,
      'fits': self.fits,
      'limit': self.where.limit,
      'total': self.total,
      **{name.replace(' ', '_'): size for name, size in self.kept.items()},
      'activations_and_rest': self.rest,
      'collectives': {kind: each._asdict() for kind, each in self.traffic.items()},
      'attention': list(self.attention),
      'compile_seconds': round(self.seconds, 1),
    }

  def lines(self) -> Iterator[str]:
    """The report as text."""
    verdict = 'compiles and fits' if self.fits else 'does not fit'
    device = self.where.device_name
    yield f'{verdict}: {self.batch} on {self.where} ({self.shown_mesh})'
    yield f'memory of each {device}: {gib(self.total)} of {gib(self.where.limit)} GiB'
    for name, size in self.kept.items():
      yield f'  {name}: {gib(size)} GiB'
    yield f'  activations, gradients and the rest: {gib(self.rest)} GiB'
    if self.fits:
      yield f'collectives of a call, on each {device}: {shown_traffic(self.traffic) or "none"}'
    yield f'attention: {", ".join(self.attention) or "none"}'
    yield f'traced and compiled in {self.seconds:.0f} s'


def gib(size: int) -> str:
  """'13.24'."""
  return f'{size / GIB:.2f}'


def shown_traffic(traffic: Mapping[str, Traffic]) -> str:
  """'30 all-reduce (1.26 GiB), ...'."""
  return ', '.join(
    f'{each.count:,} {kind} ({gib(each.bytes)} GiB)' for kind, each in traffic.items()
  )


def check_kept(kept: Mapping[str, int], limit: int, device: str) -> None:
  """Refuses a config whose state alone exceeds the memory of a device.

  Args:
    kept: {what: bytes on each device}.
    limit: bytes that a program may use.
    device: what the device is, for the message.

  Raises:
    TooLargeError: says what needs how much.
  """
  if sum(kept.values()) > limit:
    parts = ', '.join(f'{name} {gib(size)}' for name, size in kept.items())
    raise TooLargeError(
      f'what stays between calls alone needs {gib(sum(kept.values()))} GiB of each {device}, which '
      f'has {gib(limit)} ({parts}): split it by parallel.fsdp, or use a larger slice'
    )


def compile_config(
  config: Mapping[str, Any], where: Slice, step: str, given: Mapping[str, Any]
) -> Report:
  """Compiles a step of a config for a slice.

  Args:
    config: a complete config.
    where: the slice.
    step: a key of `programs.STEPS`.
    given: what is known of the data (`data.spec_of`).

  Raises:
    ConfigError: the config does not suit the slice, or the data are not known.
  """
  spec = spec_of(config['data'], given)
  method, devices = families.build(config, spec), devices_of(where)
  return compile_for(place(step, config, method, spec, devices), where)


def compile_for(placed: Placed, where: Slice) -> Report:
  """Compiles a program for its mesh.

  Raises:
    TooLargeError: what stays between calls alone exceeds the memory of a device.
    jax.errors.JaxRuntimeError: the compiler refuses the program, but not for its memory.
  """
  kept = {name: bytes_on_device(arrays) for name, arrays in placed.kept.items()}
  check_kept(kept, where.limit, where.device_name)
  start = time.monotonic()
  with scope(placed.mesh):
    lowered = placed.program.function.trace(*placed.program.arguments).lower()
  attention = attention_in(lowered)
  try:
    total, traffic = _compile(lowered)
    fits = True
  except jax.errors.JaxRuntimeError as error:
    total, traffic, fits = needed_memory(error), {}, False
  seconds = time.monotonic() - start
  mesh = dict(placed.mesh.shape)
  return Report(where, mesh, placed.batch, total, kept, attention, fits, traffic, seconds)


def attention_in(lowered: jax.stages.Lowered) -> tuple[str, ...]:
  """The implementations of attention that a program contains, sorted."""
  return tuple(sorted(set(ATTENTION.findall(lowered.as_text(debug_info=True)))))


def _compile(lowered: jax.stages.Lowered) -> tuple[int, dict[str, Traffic]]:
  """Bytes of everything that is in memory at once, and the collectives."""
  with tempfile.TemporaryDirectory() as folder:
    compiled = lowered.compile(compiler_options={'xla_dump_to': folder})
    reports = pathlib.Path(folder).glob('*memory-usage-report.txt')
    total = max(reported_memory(file.read_text()) for file in reports)
  return total, collectives(compiled.as_text())


def reported_memory(text: str) -> int:
  """The bytes of a device that a program needs, from the compiler's report about its buffers."""
  return int(TOTAL.search(text)[1])


def needed_memory(error: Exception) -> int:
  """The bytes of a device that a program needs, from the compiler's refusal.

  The figure includes the arguments, whatever the message calls it. An error for another reason is
  raised again.
  """
  status, _, message = str(error).partition(': ')
  if status != 'RESOURCE_EXHAUSTED' or not (needed := NEEDED.search(message)):
    raise error
  return round(float(needed[1]) * UNITS[needed[2]])
