"""Music of several voices on a grid of sixteenths: as notes, and as frames of small integers.

A frame holds one value per voice: what the voice does during one sixteenth. With n pitches from
`lowest` upwards, the values are

  0               a rest
  1 ... n         the onset of a note of pitch lowest + value - 1
  n + 1 ... 2n    a held note of pitch lowest + value - n - 1

A held note therefore differs from a repeated one, and every frame states the sounding pitch, even
if a window starts in the middle of a note (pitch and tie, as in BachBot, Liang et al. 2017).

In a piano roll, a frame holds one value per key instead: whether it sounds.
"""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Integer, UInt8

from common.config import ConfigError

STEPS_PER_QUARTER = 4
REST = 0
NAMES = ('C', 'C♯', 'D', 'E♭', 'E', 'F', 'F♯', 'G', 'A♭', 'A', 'B♭', 'B')


class Note(NamedTuple):
  """A note: its MIDI pitch (60 is middle C) and its interval [start, end) in steps."""

  pitch: int
  start: int
  end: int


Voice = Sequence[Note]


def pitch_name(pitch: int) -> str:
  """The name of a MIDI pitch: 'C4' for 60."""
  return f'{NAMES[pitch % 12]}{pitch // 12 - 1}'


def num_steps(voices: Sequence[Voice]) -> int:
  """Number of steps until the last note of all voices ends."""
  return max((note.end for voice in voices for note in voice), default=0)


# A dataset's fingerprint includes the `repr` of this class: its name and fields are part of that.
@dataclasses.dataclass(frozen=True)
class Pitches:
  """The range of pitches of a dataset, which turns notes into frames and back.

  Attributes:
    lowest, highest: the range of MIDI pitches, both included.
  """

  lowest: int
  highest: int

  @property
  def num_pitches(self) -> int:
    """Number of pitches in the range."""
    return self.highest - self.lowest + 1

  @property
  def levels(self) -> int:
    """Number of values that a voice can have in a frame: rest, onsets, held notes."""
    return 1 + 2 * self.num_pitches

  def check(self, pitch: int, where: str) -> None:
    """Raises ConfigError for a pitch outside the range; `where` tells the place of its note."""
    if not self.lowest <= pitch <= self.highest:
      raise ConfigError(
        f'pitches must be between {pitch_name(self.lowest)} and {pitch_name(self.highest)}, '
        f'got {pitch_name(pitch)} (MIDI {pitch}) {where}'
      )

  def encode(self, voices: Sequence[Voice], steps: int) -> UInt8[np.ndarray, 'steps voices']:
    """Frames from notes.

    Args:
      voices: the notes of each voice; within a voice no two sound at the same time.
      steps: number of frames; notes beyond it are cut off.

    Raises:
      ConfigError: for a pitch outside the range.
    """
    frames = np.zeros((steps, len(voices)), np.uint8)
    for i, voice in enumerate(voices):
      for pitch, start, end in voice:
        self.check(pitch, f'in voice {i + 1} at step {start}')
        # The whole note as held, then its first step as an onset.
        frames[start:end, i] = 1 + self.num_pitches + pitch - self.lowest
        frames[start : start + 1, i] = 1 + pitch - self.lowest
    return frames

  def decode(self, frames: Integer[np.ndarray, 'steps voices']) -> tuple[tuple[Note, ...], ...]:
    """Notes from frames: the inverse of `encode`.

    A held note without an onset, as in a window or a sample, starts with its first frame.
    """
    return tuple(self._decode_voice(column) for column in np.asarray(frames, np.int64).T)

  def _decode_voice(self, values: np.ndarray) -> tuple[Note, ...]:
    sounding = values > REST
    onset = sounding & (values <= self.num_pitches)
    pitch = np.where(sounding, self.lowest + (values - 1) % self.num_pitches, -1)
    # A segment (a note or a rest) starts at an onset and wherever the pitch changes.
    segment_start = np.ones(len(values), bool)
    segment_start[1:] = onset[1:] | (pitch[1:] != pitch[:-1])
    starts = np.flatnonzero(segment_start)
    ends = np.append(starts[1:], len(values))
    return tuple(
      Note(int(pitch[start]), int(start), int(end))
      for start, end in zip(starts, ends, strict=True)
      if sounding[start]
    )


def keys_of(
  voices: Sequence[Voice], pitches: Pitches, frame: int
) -> UInt8[np.ndarray, 'frames keys']:
  """The keys that sound in each frame: a piano roll.

  Args:
    voices: the notes, in sixteenths.
    pitches: the range of keys.
    frame: sixteenths in a frame; a note sounds in every frame that it touches.

  Raises:
    ConfigError: for a pitch outside the range.
  """
  roll = np.zeros((-(-num_steps(voices) // frame), pitches.num_pitches), np.uint8)
  for pitch, start, end in (note for voice in voices for note in voice):
    pitches.check(pitch, f'at step {start}')
    roll[start // frame : -(-end // frame), pitch - pitches.lowest] = 1
  return roll


def notes_of_keys(
  roll: Integer[np.ndarray, 'frames keys'], pitches: Pitches, frame: int
) -> tuple[tuple[Note, ...], ...]:
  """Notes in sixteenths, spread over as few voices as they need: the inverse of `keys_of`.

  A key that sounds in consecutive frames is one note: a roll does not tell repeated ones.
  """
  held = pitches.num_pitches + 1
  # Each key as a voice of one pitch, which is held wherever it sounds.
  keys = pitches.decode(np.where(roll, held + np.arange(pitches.num_pitches), REST))
  notes = sorted((note for key in keys for note in key), key=_start_and_depth)
  voices: list[list[Note]] = []
  for note in notes:
    free = (voice for voice in voices if voice[-1].end <= note.start)
    voice = next(free, None)
    if voice is None:
      voices.append(voice := [])
    voice.append(note)
  return tuple(tuple(Note(p, frame * a, frame * b) for p, a, b in voice) for voice in voices)


def _start_and_depth(note: Note) -> tuple[int, int]:
  """Sorts notes by their start, higher ones first."""
  return note.start, -note.pitch
