"""The communication in a compiled program, counted in its text.

A loop stands in the text once: what is in its body counts once for each of its rounds, if the text
tells their number.
"""

import math
import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple

KINDS = ('all-gather', 'all-reduce', 'reduce-scatter', 'all-to-all', 'collective-permute')
BITS = {'pred': 8, 's4': 4, 'u4': 4, 's8': 8, 'u8': 8, 's16': 16, 'u16': 16, 's32': 32, 'u32': 32}
BITS |= {'s64': 64, 'u64': 64, 'f16': 16, 'bf16': 16, 'f32': 32, 'f64': 64, 'c64': 64, 'c128': 128}
BITS |= {'f8e4m3fn': 8, 'f8e5m2': 8, 'f8e4m3b11fnuz': 8}

# '%name (arguments) -> result {' begins a computation; 'ENTRY' marks the one that runs.
HEADER = re.compile(r'^(ENTRY )?%?([\w.-]+) \(.*\) -> .* \{$')
# '%name = type kind(operands), attributes'
OPERATION = re.compile(r'^\s*(?:ROOT )?%?([\w.-]+) = (.*?) ([a-z][\w-]*)\((.*)$')
ARRAY = re.compile(r'\b(pred|[a-z]+\d+\w*)\[([\d,]*)\]')
CALLED = re.compile(
  r'\b(?:calls|to_apply|body|condition|true_computation|false_computation)=%?([\w.-]+)'
)
BRANCHES = re.compile(r'\bbranch_computations=\{([^}]*)\}')


class Traffic(NamedTuple):
  """The collectives of one kind.

  Attributes:
    count: how many run.
    bytes: bytes of their operands on a device; of an all-gather, of its results.
  """

  count: int
  bytes: int


class Operation(NamedTuple):
  """A line of a computation."""

  name: str
  type: str
  kind: str
  rest: str


def collectives(text: str) -> dict[str, Traffic]:
  """{kind: its traffic} of one call of a program, on each device.

  Args:
    text: a compiled program (`jax.stages.Compiled.as_text`).
  """
  computations, entry = _computations(text)
  found: dict[str, Traffic] = {}
  for kind, size, times in _walk(computations, entry, 1):
    count, total = found.get(kind, Traffic(0, 0))
    found[kind] = Traffic(count + times, total + times * size)
  return {kind: found[kind] for kind in KINDS if kind in found}


def _computations(text: str) -> tuple[dict[str, list[Operation]], str]:
  """({name: its operations}, the name of the entry)."""
  computations: dict[str, list[Operation]] = {}
  current, entry = [], ''
  for line in text.splitlines():
    if header := HEADER.match(line):
      current = computations[header[2]] = []
      entry = header[2] if header[1] else entry
    elif operation := OPERATION.match(re.sub(r'/\*.*?\*/', '', line)):
      current.append(Operation(*operation.groups()))
  return computations, entry


def _walk(
  computations: Mapping[str, list[Operation]], name: str, times: int
) -> Iterator[tuple[str, int, int]]:
  """(kind, bytes, how often it runs) of each collective in a computation and those it calls."""
  types = {operation.name: operation.type for operation in computations.get(name, ())}
  for operation in computations.get(name, ()):
    kind = operation.kind.removesuffix('-start')
    if kind in KINDS:
      yield kind, _size(kind, operation, types), times
      continue  # what it calls adds two numbers
    rounds = times
    if operation.kind == 'while':
      rounds *= _rounds(computations, operation)
    for called in _called(operation):
      yield from _walk(computations, called, rounds)


def _called(operation: Operation) -> list[str]:
  """The computations that an operation calls. Of several branches all count."""
  branches = BRANCHES.search(operation.rest)
  names = re.findall(r'[\w.-]+', branches[1]) if branches else []
  return CALLED.findall(operation.rest) + names


def _rounds(computations: Mapping[str, list[Operation]], loop: Operation) -> int:
  """The number of rounds of a loop; 1 if the text does not tell.

  A loop over an index runs while the index, which starts at 0, is less than a constant.
  """
  if known := re.search(r'"known_trip_count":\{"n":"(\d+)"\}', loop.rest):
    return int(known[1])
  condition = re.search(r'\bcondition=%?([\w.-]+)', loop.rest)
  operations = computations.get(condition[1], []) if condition else []
  constants = {o.name: o.rest.partition(')')[0] for o in operations if o.kind == 'constant'}
  for operation in operations:
    if operation.kind == 'compare' and 'direction=LT' in operation.rest:
      operands = re.findall(r'%([\w.-]+)', operation.rest.partition(')')[0])
      limits = [constants[each] for each in operands if each in constants]
      if len(limits) == 1 and limits[0].isdecimal():
        return int(limits[0])
  return 1


def _size(kind: str, operation: Operation, types: Mapping[str, str]) -> int:
  """Bytes of the operands of a collective on a device; of an all-gather, of its results."""
  operands = operation.rest.partition(')')[0]
  names = re.findall(r'%([\w.-]+)', operands)
  # Operands have their types either at their definition or here.
  given = sum(_bytes(types.get(name, '')) for name in names) or _bytes(operands)
  if kind != 'all-gather':
    return given
  # The type of an asynchronous start is (operands, results).
  return _bytes(operation.type) - (given if operation.kind.endswith('-start') else 0)


def _bytes(types: str) -> int:
  """Bytes of all arrays in a type."""
  return sum(
    math.prod(map(int, filter(None, sizes.split(',')))) * BITS.get(type, 32) // 8
    for type, sizes in ARRAY.findall(types)
  )
