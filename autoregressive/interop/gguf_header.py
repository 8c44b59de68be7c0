"""The header of a GGUF file: its keys, and where its tensors are.

The package `gguf` reads it too, but takes 13 s for a vocabulary of 49,152 tokens, because it makes
an array of every string (2-core CPU machine, 2026-11-29). The format: https://github.com/ggml-org/
ggml/blob/master/docs/gguf.md, versions 2 and 3, little-endian.
"""

import mmap
import pathlib
import struct
from typing import Any, NamedTuple

from common.config import ConfigError

# {GGUF's number of a type: that of the module `struct`}
SCALARS = dict(zip(range(8), 'BbHhIif?', strict=True)) | {10: 'Q', 11: 'q', 12: 'd'}
STRING, ARRAY = 8, 9
MAX_AXES = 4
ALIGNMENT = 32  # of the tensors, unless the file has another


class Entry(NamedTuple):
  """A tensor: its name, axes in the order of the file (the fastest first), type and position."""

  name: str
  axes: tuple[int, ...]
  kind: int
  start: int


class Header(NamedTuple):
  """The keys of a file, and its tensors by name."""

  fields: dict[str, Any]
  tensors: dict[str, Entry]


def read_header(path: pathlib.Path) -> Header:
  """Reads the header. Raises ConfigError for a file that is not GGUF, or is broken."""
  try:
    with path.open('rb') as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
      return _Cursor(data).header()
  except (OSError, ValueError, struct.error, KeyError, IndexError, RecursionError) as error:
    raise ConfigError(f'{path} is not a complete GGUF file: {error}') from error


class _Cursor:
  """A place in the file, from which values are read one after the other."""

  def __init__(self, data: mmap.mmap):
    self.data, self.place = data, 0

  def header(self) -> Header:
    if self.data[:4] != b'GGUF':
      raise ValueError('it does not begin with GGUF')
    self.place = 4
    version = self.scalar('I')
    if version not in (2, 3):
      raise ValueError(f'its version must be 2 or 3, got {version}')
    num_tensors, num_fields = self.scalar('Q'), self.scalar('Q')
    fields = {}
    for _ in range(num_fields):
      name, kind = self.string(), self.scalar('I')
      fields[name] = self.value(kind)
    entries = [self.entry() for _ in range(num_tensors)]
    alignment = fields.get('general.alignment', ALIGNMENT)
    first = -(-self.place // alignment) * alignment
    moved = (entry._replace(start=first + entry.start) for entry in entries)
    return Header(fields, {entry.name: entry for entry in moved})

  def entry(self) -> Entry:
    name, number = self.string(), self.scalar('I')
    if number > MAX_AXES:
      raise ValueError(f'tensor {name!r} has {number} axes')
    axes = tuple(self.scalar('Q') for _ in range(number))
    return Entry(name, axes, self.scalar('I'), self.scalar('Q'))

  def scalar(self, form: str) -> Any:
    (value,) = struct.unpack_from('<' + form, self.data, self.place)
    self.place += struct.calcsize('<' + form)
    return value

  def string(self) -> str:
    length = self.scalar('Q')
    end = self.place + length
    if end > len(self.data):
      raise ValueError('it ends within a text')
    text = self.data[self.place : end].decode(errors='replace')
    self.place = end
    return text

  def value(self, kind: int) -> Any:
    if kind == STRING:
      return self.string()
    if kind != ARRAY:
      return self.scalar(SCALARS[kind])
    inner, count = self.scalar('I'), self.scalar('Q')
    if count > len(self.data):  # each element has at least one byte
      raise ValueError('it ends within a list')
    if inner not in SCALARS:
      return [self.value(inner) for _ in range(count)]
    form = f'<{count}{SCALARS[inner]}'
    values = struct.unpack_from(form, self.data, self.place)
    self.place += struct.calcsize(form)
    return list(values)
