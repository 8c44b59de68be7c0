"""MusicXML scores, read with the standard library: the notes of each part on a grid of steps."""

import pathlib
import xml.etree.ElementTree as ElementTree
import zipfile
import zlib
from fractions import Fraction

from common.config import ConfigError
from common.data.music import STEPS_PER_QUARTER, Note

NATURAL = {'C': 0, 'D': 2, 'E': 4, 'F': 5, 'G': 7, 'A': 9, 'B': 11}  # semitones above C
CONTAINER = 'META-INF/container.xml'  # of a zipped score: which of its files is the score


def read_score(path: pathlib.Path) -> tuple[tuple[Note, ...], ...]:
  """The notes of each part of a zipped score (.mxl), as written: repeats are not played.

  A part is one voice: of a chord its first note counts. Grace notes are left out. Notes begin and
  end at the next step of the grid, so that one between two steps vanishes.

  Raises:
    ConfigError: for a file that is no such score.
  """
  try:
    with zipfile.ZipFile(path) as archive:
      root = ElementTree.fromstring(archive.read(_score_name(archive)))
    if root.tag != 'score-partwise':
      raise ValueError(f'it holds <{root.tag}>, not <score-partwise>')
    return tuple(_read_part(part) for part in root.findall('part'))
  except (
    OSError,
    KeyError,
    ValueError,
    ZeroDivisionError,
    NotImplementedError,  # a compression that zipfile does not know
    EOFError,
    zipfile.BadZipFile,
    zlib.error,
    ElementTree.ParseError,
  ) as error:
    raise ConfigError(f'{path} is no readable MusicXML score (.mxl): {error}') from error


def _score_name(archive: zipfile.ZipFile) -> str:
  if CONTAINER not in archive.namelist():
    (name,) = archive.namelist()
    return name
  found = ElementTree.fromstring(archive.read(CONTAINER)).find('.//{*}rootfile')
  if found is None or not found.get('full-path'):
    raise ValueError(f'{CONTAINER} names no score')
  return found.get('full-path')


def _read_part(part: ElementTree.Element) -> tuple[Note, ...]:
  """Notes of a part, those that are tied joined."""
  notes, now, divisions = [], Fraction(0), 1
  for element in (element for measure in part.findall('measure') for element in measure):
    if element.tag == 'attributes':
      divisions = int(element.findtext('divisions') or divisions)  # of a quarter
    if element.tag not in ('note', 'forward', 'backup') or _takes_no_time(element):
      continue
    length = Fraction(int(element.findtext('duration') or 0), divisions) * STEPS_PER_QUARTER
    if element.tag == 'backup':
      now -= length
      continue
    if element.find('pitch') is not None:
      tied = any(tie.get('type') == 'stop' for tie in element.findall('tie'))
      _add(notes, _pitch(element.find('pitch')), now, now + length, tied)
    now += length
  return tuple(Note(*note) for note in notes if note[1] < note[2])


def _takes_no_time(element: ElementTree.Element) -> bool:
  return element.find('grace') is not None or element.find('chord') is not None


def _pitch(element: ElementTree.Element) -> int:
  """The MIDI pitch of a <pitch>."""
  alter = int(float(element.findtext('alter') or 0))
  octave = int(element.findtext('octave') or '')
  return NATURAL[element.findtext('step') or ''] + alter + 12 * (octave + 1)


def _add(notes: list, pitch: int, start: Fraction, end: Fraction, tied: bool) -> None:
  """Adds a note, or lengthens the last one that it is tied to."""
  first, last = -(-start // 1), -(-end // 1)
  if tied and notes and notes[-1][0] == pitch and notes[-1][2] == first:
    notes[-1][2] = last
  else:
    notes.append([pitch, first, last])
