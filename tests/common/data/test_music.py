"""Notes and frames are inverse to each other, and scores are read as written."""

import itertools

import numpy as np
import pytest

from common.config import ConfigError
from common.data.music import Note, Pitches, keys_of, notes_of_keys, num_steps, pitch_name
from common.data.musicxml import read_score
from tests.common.data.scores import mxl, note, rest, score

PITCHES = Pitches(48, 72)


def test_a_held_note_and_a_repeated_one_differ():
  held = PITCHES.encode([[Note(60, 0, 4)]], 4)
  repeated = PITCHES.encode([[Note(60, 0, 2), Note(60, 2, 4)]], 4)
  assert held[:, 0].tolist() == [13, 38, 38, 38]
  assert repeated[:, 0].tolist() == [13, 38, 13, 38]
  assert PITCHES.decode(repeated) == ((Note(60, 0, 2), Note(60, 2, 4)),)
  assert PITCHES.levels == 51


def test_decoding_undoes_encoding():
  rng = np.random.default_rng(0)
  voices = []
  for _ in range(4):
    edges = np.sort(rng.choice(60, 20, replace=False)).tolist()
    pairs = itertools.pairwise(edges)
    notes = [Note(int(rng.integers(48, 73)), a, b) for a, b in pairs if rng.random() < 0.7]
    voices.append(tuple(notes))
  steps = num_steps(voices)
  frames = PITCHES.encode(voices, steps)
  assert frames.shape == (steps, 4) and frames.max() < PITCHES.levels
  assert PITCHES.decode(frames) == tuple(voices)


def test_a_window_can_start_in_the_middle_of_a_note():
  """A held note starts with the window, and also wherever the pitch changes without an onset."""
  frames = PITCHES.encode([[Note(60, 0, 4), Note(62, 4, 8)]], 8)
  assert PITCHES.decode(frames[2:6]) == ((Note(60, 0, 2), Note(62, 2, 4)),)
  assert PITCHES.decode(np.array([[38], [40], [0], [40]])) == (
    (Note(60, 0, 1), Note(62, 1, 2), Note(62, 3, 4)),
  )


def test_a_pitch_outside_the_range_is_refused():
  with pytest.raises(
    ConfigError, match=r'between C3 and C5, got C♯5 \(MIDI 73\) in voice 2 at step 3'
  ):
    PITCHES.encode([[], [Note(73, 3, 4)]], 4)
  assert [pitch_name(p) for p in (36, 58, 81)] == ['C2', 'B♭3', 'A5']


@pytest.fixture
def read(tmp_path):
  def read(data: bytes):
    (tmp_path / 'x.mxl').write_bytes(data)
    return read_score(tmp_path / 'x.mxl')

  return read


@pytest.mark.parametrize('container', [True, False])
def test_a_score_is_read_as_written(read, container):
  tied = ('<tie type="start"/>', '<tie type="stop"/>')
  melody = note('C', 4, 2, tied[0]) + note('C', 4, 2, tied[1]) + note('C', 4, 4) + rest(4)
  melody += note('F', 4, 4, '<grace/>') + note('F', 4, 4, alter=1) + note('A', 4, 4, '<chord/>')
  melody += '<forward><duration>4</duration></forward>' + note('B', 3, 3, alter=-1)
  upper, lower = read(mxl(score(melody, rest(8) + note('D', 2, 2)), container=container))
  assert upper == (Note(60, 0, 4), Note(60, 4, 8), Note(66, 12, 16), Note(58, 20, 23))
  assert lower == (Note(38, 8, 10),)


def test_times_between_two_steps_are_rounded_up(read):
  """With 8 divisions per quarter: a thirty-second between two steps disappears."""
  (voice,) = read(mxl(score(note('C', 4, 3) + note('D', 4, 1) + note('E', 4, 4), divisions=8)))
  assert voice == (Note(60, 0, 2), Note(64, 2, 4))
  back = note('C', 4, 8) + '<backup><duration>4</duration></backup>' + note('E', 4, 4)
  assert read(mxl(score(back)))[0] == (Note(60, 0, 8), Note(64, 4, 8))


@pytest.mark.parametrize(
  'data, message',
  [
    (b'no archive', 'File is not a zip file'),
    (mxl(score(note()))[:200], 'not a zip file'),
    (mxl('<score-partwise><part>'), 'no element found'),
    (mxl('<html/>'), 'root must be <score-partwise>, got <html>'),
    (mxl(score(note(step='H'))), 'H'),
    (mxl(score(note(octave=''))), 'invalid literal'),
    (mxl(score(note(), divisions=0)), r'Fraction\(4, 0\)'),
  ],
)
def test_other_files_are_refused_in_one_line(read, data, message):
  with pytest.raises(
    ConfigError, match=r'cannot read .*x\.mxl as a MusicXML score.*' + message
  ) as e:
    read(data)
  assert '\n' not in str(e.value)


def test_a_roll_holds_the_keys_that_sound_and_gives_notes_back():
  voices = ((Note(60, 0, 4), Note(62, 6, 7)), (Note(60, 2, 6),))
  roll = keys_of(voices, PITCHES, frame=2)
  assert roll.shape == (4, PITCHES.num_pitches)
  assert [np.flatnonzero(frame).tolist() for frame in roll] == [
    [60 - PITCHES.lowest],
    [60 - PITCHES.lowest],
    [60 - PITCHES.lowest],
    [62 - PITCHES.lowest],
  ]
  # A key that is struck again while it sounds is one note, and a note fills whole frames.
  notes = notes_of_keys(roll, PITCHES, frame=2)
  assert notes == ((Note(60, 0, 6), Note(62, 6, 8)),)
  chord = np.zeros_like(roll)
  chord[1:3, [0, 4]] = chord[3, 4] = 1
  low, high = PITCHES.lowest, PITCHES.lowest + 4
  assert notes_of_keys(chord, PITCHES, 1) == (
    (Note(high, 1, 4),),
    (Note(low, 1, 3),),
  )
  with pytest.raises(ConfigError, match=r'\(MIDI 5\) at step 3') as error:
    keys_of(((Note(5, 3, 4),),), PITCHES, 2)
  assert '\n' not in str(error.value)
