"""MIDI files give back the notes that were written; piano rolls show them."""

import sys

import numpy as np
import pytest

from common.config import ConfigError
from common.data.music import Note, Pitches
from common.domains import midi
from common.domains.piano_roll import COLOURS, legend, piano_rolls
from common.reporting import pictures

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
  for name, message in [
    (
      'chord',
      r'track 0: E4 begins at step 0 while C4 sounds; write each voice as a track',
    ),
    ('text', r'text\.mid cannot be read: MThd not found'),
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
  assert pictures.image_grid(roll[None], 1, 4).shape == (29 * 4, 11 * 4, 3)
