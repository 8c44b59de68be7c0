"""Files of measures: one for each step and choice of settings; metrics are added one by one."""

import datetime
import glob
import hashlib
import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from common.config import ConfigError
from common.evaluation.measures import Measure
from common.files import Path, atomic_write

MAX_NAME = 200  # file systems allow 255 bytes, with the suffix and that of a temporary file


def file_name(step: int, changed: Mapping[str, Any]) -> str:
  """'2000-guidance=2.0-steps=20': the name of the files of a step, without a suffix.

  Args:
    step: the step of the checkpoint.
    changed: settings that differ from those of the run.
  """
  parts = [f'{key}={value}'.replace('/', '_') for key, value in sorted(changed.items())]
  name = '-'.join([str(step), *parts])
  if len(name.encode()) <= MAX_NAME:
    return name
  return f'{step}-{hashlib.sha256(name.encode()).hexdigest()[:16]}'


class Result(NamedTuple):
  """The measures in one file.

  Attributes:
    step: the step of the checkpoint.
    changed: settings that differ from those of the run: sampler options, and others by name.
    measures: by name of metric.
  """

  step: int
  changed: dict[str, Any]
  measures: dict[str, Measure]


def read_results(folder: Path) -> list[Result]:
  """The results in a folder, by step; without those of an earlier config, and other files."""
  found = []
  for path in sorted(folder.glob('*.json')):
    try:
      record = json.loads(path.read_text('utf-8'))
      measures = {name: _measure(measure) for name, measure in record.pop('measures').items()}
      step, options = record.pop('step'), record.pop('options')
      changed = options | {k: v for k, v in record.items() if k != 'config'}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
      continue
    if path.stem == file_name(step, changed):  # renamed once the config had changed
      found.append(Result(step, changed, measures))
  return sorted(found, key=_step_of)


def _step_of(result: Result) -> int:
  return result.step


def _measure(record: Mapping[str, Any]) -> Measure:
  return Measure.from_json({k: v for k, v in record.items() if k != 'date'})


class ResultFile:
  """The measures of one step under the same conditions, by name of metric.

  A metric that is measured again replaces its earlier value, and the others stay. An earlier file
  of other conditions, because the config has changed since, is renamed to NAME.1.json, or to the
  next number that is free.

  Args:
    path: the file.
    conditions: a JSON object: everything besides the checkpoint that all measures depend on.

  Raises:
    ConfigError: there is a file, but it holds no measures.
  """

  def __init__(self, path: Path, conditions: Mapping[str, Any]):
    self._path = path
    self._conditions = json.loads(json.dumps(conditions))  # as it is read back: lists, no tuples
    self._earlier, self._outdated = self._read()

  def _read(self) -> tuple[dict[str, Any], bool]:
    """(the measures in the file, whether it is of other conditions)."""
    if not self._path.exists():
      return {}, False
    try:
      record = json.loads(self._path.read_text('utf-8'))
      measures = dict(record.pop('measures'))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
      raise ConfigError(f'{self._path} must hold measures as JSON: move it away') from None
    return ({}, True) if record != self._conditions else (measures, False)

  def add(self, measures: Mapping[str, Measure]) -> None:
    """Writes the file with `measures` added, each with the date of today."""
    if self._outdated:
      number = len(list(self._path.parent.glob(f'{glob.escape(self._path.stem)}.*.json'))) + 1
      self._path.rename(self._path.with_name(f'{self._path.stem}.{number}.json'))
      self._outdated = False
    today = {'date': datetime.date.today().isoformat()}
    self._earlier |= {name: measure.to_json() | today for name, measure in measures.items()}
    record = {'measures': self._earlier} | self._conditions
    atomic_write(self._path, json.dumps(record, indent=2, allow_nan=False))
