"""MusicXML scores, read with the standard library: the notes of each part on a grid of steps."""

import pathlib
import xml.etree.ElementTree as ElementTree
import zipfile
import zlib
from fractions import Fraction

from common.config import ConfigError
from common.data.music import STEPS_PER_QUARTER, Note

NATURAL = {'C': 0, 'D': 2, 'E': 4, 'F': 5, 'G': 7, 'A': 9, 'B': 11}  # semitones above C
CONTAINER = 'META-INF/container.xml'  # names the score within a zipped file


def read_score(path: pathlib.Path) -> tuple[tuple[Note, ...], ...]:
  """The notes of each part of a zipped score (.mxl), as written: repeats are not unrolled.

  A part is one voice: only the first note of a chord is kept. Grace notes are left out. Starts and
  ends of notes are rounded up to the grid, so a note that lies between two steps disappears.

  Raises:
    ConfigError: for a file that cannot be read as such a score.
  """
  try:
    with zipfile.ZipFile(path) as archive:
      root = ElementTree.fromstring(archive.read(_score_name(archive)))
    if root.tag != 'score-partwise':
      raise ValueError(f'its root must be <score-partwise>, got <{root.tag}>')
    return tuple(_read_part(part) for part in root.findall('part'))
  except (
    OSError,
    KeyError,
    ValueError,
    ZeroDivisionError,
    NotImplementedError,  # from zipfile, for a compression method that it does not know
    EOFError,
    zipfile.BadZipFile,
    zlib.error,
    ElementTree.ParseError,
  ) as error:
    raise ConfigError(f'cannot read {path} as a MusicXML score (.mxl): {error}') from error


def _score_name(archive: zipfile.ZipFile) -> str:
  """The name of the score within the archive: the only file, or the one its container names."""
  if CONTAINER not in archive.namelist():
    (name,) = archive.namelist()
    return name
  rootfile = ElementTree.fromstring(archive.read(CONTAINER)).find('.//{*}rootfile')
  if rootfile is None or not rootfile.get('full-path'):
    raise ValueError(f'{CONTAINER} does not name the score')
  return rootfile.get('full-path')


def _read_part(part: ElementTree.Element) -> tuple[Note, ...]:
  """The notes of a part; tied notes are joined."""
  # Time is an exact fraction of steps: triplets and tuplets do not fall on a binary grid.
  notes, now, divisions = [], Fraction(0), 1
  for element in (element for measure in part.findall('measure') for element in measure):
    if element.tag == 'attributes':
      divisions = int(element.findtext('divisions') or divisions)  # per quarter
    if element.tag not in ('note', 'forward', 'backup') or _takes_no_time(element):
      continue
    length = Fraction(int(element.findtext('duration') or 0), divisions) * STEPS_PER_QUARTER
    if element.tag == 'backup':
      now -= length
      continue
    if element.find('pitch') is not None:
      tied = any(tie.get('type') == 'stop' for tie in element.findall('tie'))
      _add_note(notes, _pitch(element.find('pitch')), (now, now + length), tied)
    now += length  # of notes, rests and <forward> alike
  # A note that starts and ends between the same two steps has been rounded to nothing.
  return tuple(Note(*note) for note in notes if note[1] < note[2])


def _takes_no_time(element: ElementTree.Element) -> bool:
  """Whether this is a grace note, or a note of a chord after its first."""
  return element.find('grace') is not None or element.find('chord') is not None


def _pitch(element: ElementTree.Element) -> int:
  """The MIDI pitch of a <pitch>."""
  alter = int(float(element.findtext('alter') or 0))  # semitones: 1 for a sharp
  octave = int(element.findtext('octave') or '')
  # MIDI counts from C in octave -1.
  return NATURAL[element.findtext('step') or ''] + alter + 12 * (octave + 1)


def _add_note(notes: list, pitch: int, interval: tuple[Fraction, Fraction], tied: bool) -> None:
  """Appends [pitch, start, end], or lengthens the last note if the new one is tied to it."""
  start, end = (-(-time // 1) for time in interval)  # rounded up to the grid
  if tied and notes and notes[-1][0] == pitch and notes[-1][2] == start:
    notes[-1][2] = end
  else:
    notes.append([pitch, start, end])
