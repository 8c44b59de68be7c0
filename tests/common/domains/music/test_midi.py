"""MIDI files give back the notes that were written; piano rolls show them."""

import os
import sys

import numpy as np
import pytest

from common.config import ConfigError
from common.data.music import Note, Pitches
from common.domains.music import midi
from common.domains.music.piano_roll import (
  BAR_LINE,
  COLOURS,
  key_rolls,
  legend,
  page,
  piano_rolls,
  sheet,
)

VOICES = (
  (Note(72, 0, 2), Note(72, 2, 4), Note(74, 6, 8)),  # repeated at once, then a rest
  (Note(64, 0, 8),),
  (Note(60, 1, 3), Note(59, 3, 8)),
  (Note(48, 4, 9),),
)


def test_written_notes_are_read_back(tmp_path):
  mido = pytest.importorskip('mido')
  midi.write(tmp_path / 'x.mid', VOICES)
  assert midi.read(tmp_path / 'x.mid') == VOICES
  file = mido.MidiFile(tmp_path / 'x.mid')
  assert (file.type, len(file.tracks)) == (1, 5)
  assert [track.name for track in file.tracks[1:]] == ['soprano', 'alto', 'tenor', 'bass']
  assert file.length == pytest.approx(9 / 4 * 60 / midi.TEMPO)


def test_more_voices_than_channels_are_written_and_read_back(tmp_path):
  mido = pytest.importorskip('mido')
  voices = tuple((Note(40 + n, n, n + 4),) for n in range(20))
  midi.write(tmp_path / 'x.mid', voices)
  assert midi.read(tmp_path / 'x.mid') == voices
  messages = mido.merge_tracks(mido.MidiFile(tmp_path / 'x.mid').tracks)
  assert midi.DRUMS not in {m.channel for m in messages if not m.is_meta}


def test_other_files_are_read_on_the_grid(tmp_path):
  """Another resolution, note_on of velocity 0, drums, a note slightly off the grid."""
  mido = pytest.importorskip('mido')
  on = lambda **k: mido.Message('note_on', **k)
  track = [
    on(note=60, velocity=9, time=1),
    on(note=60, velocity=0, time=22),
    on(note=62, velocity=9, time=2),
    on(note=62, velocity=0, time=24),
  ]
  drums = [on(note=36, channel=9, velocity=9, time=0), on(note=38, channel=9, velocity=9, time=0)]
  tracks = [mido.MidiTrack(track), mido.MidiTrack(drums)]
  mido.MidiFile(type=1, ticks_per_beat=96, tracks=tracks).save(tmp_path / 'x.mid')
  assert midi.read(tmp_path / 'x.mid') == ((Note(60, 0, 1), Note(62, 1, 2)),)


def test_a_file_that_cannot_be_read_is_refused_in_one_line(tmp_path):
  mido = pytest.importorskip('mido')
  chord = [mido.Message('note_on', note=n, time=0) for n in (60, 64)]
  mido.MidiFile(tracks=[mido.MidiTrack(chord)]).save(tmp_path / 'chord.mid')
  (tmp_path / 'text.mid').write_text('no music at all')
  (tmp_path / 'empty.mid').write_bytes(b'')
  midi.write(tmp_path / 'cut.mid', VOICES)
  whole = (tmp_path / 'cut.mid').read_bytes()
  (tmp_path / 'cut.mid').write_bytes(whole[: len(whole) // 2])
  # Bytes 8 and 9 are the format, 12 and 13 the division of time.
  (tmp_path / 'two.mid').write_bytes(whole[:9] + b'\2' + whole[10:])
  (tmp_path / 'frames.mid').write_bytes(whole[:12] + b'\xe7\x28' + whole[14:])
  (tmp_path / 'large.mid').write_bytes(whole + bytes(midi.MAX_BYTES))
  midi.write(tmp_path / 'long.mid', ((Note(60, 0, midi.MAX_STEPS + 1),),))
  os.mkfifo(tmp_path / 'pipe.mid')
  for name, message in [
    (
      'chord',
      r'track 0: E4 begins at step 0 while C4 sounds; write each voice as a track',
    ),
    ('text', r'text\.mid cannot be read: MThd not found'),
    ('empty', r'empty\.mid is not a MIDI file of notes: it ends too early'),
    ('cut', r'cut\.mid is not a MIDI file of notes: it ends too early'),
    ('two', r'its tracks are independent pieces \(format 2\)'),
    ('frames', r'it counts time in film frames \(SMPTE\)'),
    ('large', r'it must be a regular file of at most 10,000,000 bytes'),
    ('pipe', r'it must be a regular file'),
    ('long', r'it is longer than 100,000 sixteenths'),
    ('nothing', r'nothing\.mid cannot be read: No such file'),
  ]:
    with pytest.raises(ConfigError, match=message) as error:
      midi.read(tmp_path / f'{name}.mid')
    assert '\n' not in str(error.value)


def test_without_the_library_one_line_says_how_to_install_it(tmp_path, monkeypatch):
  monkeypatch.setitem(sys.modules, 'mido', None)
  with pytest.raises(ConfigError, match=r"pip install -e '.\[music\]'"):
    midi.write(tmp_path / 'x.mid', VOICES)
  assert not list(tmp_path.iterdir())


def test_a_roll_has_high_notes_at_the_top_and_notes_begin_dark():
  pitches = Pitches(48, 74)
  (roll,) = piano_rolls(pitches.encode(VOICES, 9)[None], pitches)
  assert roll.shape == (27, 9, 3)
  soprano = (roll == COLOURS[0]).all(-1)
  assert np.argwhere(soprano).tolist() == [[0, 6], [2, 0], [2, 2]]
  bass = (roll == COLOURS[3]).all(-1)
  assert np.argwhere(bass).tolist() == [[26, 4]]
  assert len(np.unique(roll[26, 5:9], axis=0)) == 1  # held: one pale colour
  assert (roll[26, 5] != roll[26, 4]).any()
  assert legend(pitches).startswith('C3 to D5')


def test_a_sheet_names_its_pitches_and_has_a_line_every_four_quarters():
  pitches = Pitches(47, 74)
  (roll,) = piano_rolls(pitches.encode(VOICES, 40)[None], pitches)
  drawn = sheet(roll, pitches, 4)
  left = drawn.shape[1] - 40 * 4
  assert drawn.shape[0] == 28 * 4 and left > 10
  lines = (drawn[:, left:] == BAR_LINE).all((0, 2))
  assert np.flatnonzero(lines).tolist() == [0, 64, 128]
  inked = (drawn[:, :left] < 128).any((1, 2))
  rows = np.flatnonzero(inked) // 4
  for pitch in (48, 60, 72):  # C3, C4, C5
    assert 74 - pitch in rows
  assert not {74 - 66, 74 - 54} & set(rows.tolist())  # the F♯ half way between two of them
  pages = page(np.stack([roll] * 2), pitches, 4, legend(pitches))
  assert pages.shape[0] > 2 * drawn.shape[0]


def test_a_roll_of_keys_is_dark_where_a_key_begins_to_sound():
  pitches = Pitches(60, 63)
  frames = np.array([[0, 0, 0, 1], [1, 0, 0, 1], [1, 0, 0, 0], [0, 0, 0, 1]])
  (roll,) = key_rolls(frames[None], pitches)
  assert roll.shape == (4, 4, 3)
  dark = (roll == COLOURS[0]).all(-1)
  assert np.argwhere(dark).tolist() == [[0, 0], [0, 3], [3, 1]]  # high pitches at the top
  assert (roll[0, 1] == roll[3, 2]).all() and (roll[0, 1] > roll[0, 0]).any()
