"""The rows of a user's file, as text: CSV, or Parquet.

Fields of a CSV file are separated by commas, or by semicolons or tabs if the header has no comma;
then numbers may have a decimal comma. Every error names the line and the column that are wrong.
"""

import collections
import csv
import datetime
import io
import pathlib
import re
from collections.abc import Sequence
from typing import Any

from common.config import ConfigError
from common.data.series.columns import Rows, listing
from common.files import check_regular

INDEX_NAME = re.compile(r'(Unnamed: 0)?')  # of the column that pandas adds for its row numbers
PARQUET_INDEX = re.compile(r'__index_level_\d+__')  # of those that it adds to a Parquet file
COMPRESSED = (b'\x1f\x8b', b'PK\x03\x04', b'BZh', b'\xfd7zXZ')  # how gzip, zip, bzip2 and xz begin
PARQUET = b'PAR1'  # how a Parquet file begins


def read_file(path: pathlib.Path, what: str) -> bytes:
  """The contents of a file; `what` names the setting or flag that gives its path.

  Raises:
    ConfigError: it cannot be read.
  """
  check_regular(path)
  try:
    return path.read_bytes()
  except OSError as error:
    raise ConfigError(f'cannot read {what}={str(path)!r}: {error.strerror}') from error


def read_rows(data: bytes, what: str) -> Rows:
  """The rows of a CSV or Parquet file.

  Args:
    data: contents of the file.
    what: the file, for messages.

  Raises:
    ConfigError: for a file in another format, with the line that is wrong.
  """
  if data.startswith(PARQUET):
    return _read_parquet(data, what)
  return _read_csv(data, what)


def _read_parquet(data: bytes, what: str) -> Rows:
  """The rows of a Parquet file, with values as text that reads back as the same values."""
  try:
    from pyarrow import ArrowException, BufferReader, parquet
  except ImportError as error:
    raise ConfigError(f"{what} is a Parquet file; run: pip install 'twofold[parquet]'") from error
  try:
    table = parquet.read_table(BufferReader(data))
  except (ArrowException, OSError) as error:
    reason = str(error).splitlines()[0]
    raise ConfigError(f'cannot read {what} as a Parquet file ({reason}); write it again') from None
  names = [name for name in table.column_names if not PARQUET_INDEX.fullmatch(name)]
  if not table.num_rows or not names:
    raise ConfigError(f'{what} needs columns and one row for each value, got no rows')
  _check_names(names, what)
  texts = {name: tuple(map(_text, table[name].to_pylist())) for name in names}
  return Rows(range(1, table.num_rows + 1), texts, line='row')


def _text(value: Any) -> str:
  """A value of a Parquet file as it would stand in a CSV file."""
  if value is None:
    return ''
  if isinstance(value, bool):
    return str(int(value))
  if isinstance(value, datetime.datetime):
    # Days have no time; in a column of moments the longest text shows how they are written.
    midnight = value.tzinfo is None and value.time() == datetime.time()
    return value.date().isoformat() if midnight else value.isoformat(' ')
  return str(value)


def _read_csv(data: bytes, what: str) -> Rows:
  """The rows of a CSV file."""
  if data.startswith(COMPRESSED):
    raise ConfigError(f'{what} is compressed: unpack it, and name the CSV file')
  try:
    # utf-8-sig: spreadsheets put a byte order mark in front of the header.
    text = data.decode('utf-8-sig')
    delimiter = _delimiter(text)
    reader = csv.reader(io.StringIO(text, newline=''), delimiter=delimiter, strict=True)
    header = [name.strip() for name in next(reader, [])]
    numbered, line = [], reader.line_num
    for row in reader:
      # A row begins after the one before it; a quoted field may span several lines.
      numbered += [(line + 1, row)] if row else []
      line = reader.line_num
  except (UnicodeDecodeError, csv.Error) as error:
    raise ConfigError(
      f'cannot read {what} as a CSV file in UTF-8 ({error}); save it as one'
    ) from None
  if not numbered:
    raise ConfigError(f'{what} needs a header and one row for each value, got no rows')
  for line, row in numbered:
    if len(row) != len(header):
      raise ConfigError(
        f'{what}, line {line}: a row must have {len(header)} fields, as the header has, got '
        f'{len(row)}'
      )
  lines, fields = zip(*numbered, strict=True)
  columns, notes = list(zip(*fields, strict=True)), ()
  if INDEX_NAME.fullmatch(header[0]) and columns[0] == tuple(map(str, range(len(lines)))):
    notes = ('the first column, which numbers the rows, was left out',)
    header, columns = header[1:], columns[1:]
  _check_names(header, what)
  return Rows(lines, dict(zip(header, columns, strict=True)), delimiter != ',', notes)


def _delimiter(text: str) -> str:
  """The character between fields: a comma, or what the header has instead."""
  header = text.partition('\n')[0]
  return next((mark for mark in ',;\t' if mark in header), ',')


def _check_names(header: Sequence[str], what: str) -> None:
  """Raises ConfigError unless every column has a name of its own."""
  if all(re.fullmatch(r'[-+.\d][-+.,\deE]*', name) for name in header):
    raise ConfigError(
      f'{what}, line 1: must be a header with a name for each column, got only numbers '
      f'({listing(header)}); add one'
    )
  for name, number in collections.Counter(header).items():
    if not name:
      at = list(header).index(name) + 1
      raise ConfigError(f'{what}, line 1: column {at} has no name; name it, or remove it')
    if number > 1:
      raise ConfigError(
        f'{what}, line 1: {number} columns are called {name!r}; give each a name of its own'
      )
