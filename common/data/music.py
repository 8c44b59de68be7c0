"""Music of several voices on a grid of steps: as notes, and as frames of small whole numbers.

A frame is what each voice does during one step, a sixteenth. Of n pitches from `lowest` on:

  0               the voice rests
  1 ... n         a note begins, of pitch lowest + value - 1
  n + 1 ... 2n    a note goes on, of pitch lowest + value - n - 1

So a held note and a repeated one differ, and every frame says by itself what sounds, wherever a
window of frames begins (a pair of pitch and tie, as in BachBot, Liang et al. 2017).
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
  """A note: its MIDI pitch (60 is middle C), and where it begins and ends, in steps."""

  pitch: int
  start: int
  end: int


Voice = Sequence[Note]


def pitch_name(pitch: int) -> str:
  """'C4' of 60."""
  return f'{NAMES[pitch % 12]}{pitch // 12 - 1}'


def num_steps(voices: Sequence[Voice]) -> int:
  """Steps until the last note of all voices ends."""
  return max((note.end for voice in voices for note in voice), default=0)


@dataclasses.dataclass(frozen=True)
class Pitches:
  """Notes as frames, and back.

  Attributes:
    lowest, highest: the range of MIDI pitches that there are.
  """

  lowest: int
  highest: int

  @property
  def number(self) -> int:
    """Pitches in the range."""
    return self.highest - self.lowest + 1

  @property
  def levels(self) -> int:
    """Values that a voice can have in a frame."""
    return 1 + 2 * self.number

  def encode(self, voices: Sequence[Voice], steps: int) -> UInt8[np.ndarray, 'steps voices']:
    """Frames of notes.

    Args:
      voices: notes of each voice, none of which sound together within a voice.
      steps: how many frames; what lies beyond is cut off.

    Raises:
      ConfigError: for a pitch outside the range.
    """
    frames = np.zeros((steps, len(voices)), np.uint8)
    for i, voice in enumerate(voices):
      for pitch, start, end in voice:
        if not self.lowest <= pitch <= self.highest:
          known = f'{pitch_name(self.lowest)} to {pitch_name(self.highest)}'
          raise ConfigError(
            f'voice {i + 1} has {pitch_name(pitch)} (MIDI {pitch}) at step {start}, outside {known}'
          )
        frames[start:end, i] = 1 + self.number + pitch - self.lowest
        frames[start : start + 1, i] = 1 + pitch - self.lowest
    return frames

  def decode(self, frames: Integer[np.ndarray, 'steps voices']) -> tuple[tuple[Note, ...], ...]:
    """Notes of frames: the inverse of `encode`.

    A note that goes on without having begun, as in a window or a sample, begins where it is seen.
    """
    return tuple(self._voice(column) for column in np.asarray(frames, np.int64).T)

  def _voice(self, values: np.ndarray) -> tuple[Note, ...]:
    sounds, fresh = values > REST, (values > REST) & (values <= self.number)
    pitch = np.where(sounds, self.lowest + (values - 1) % self.number, -1)
    new = np.ones(len(values), bool)  # where something else begins: a note, or a rest
    new[1:] = fresh[1:] | (pitch[1:] != pitch[:-1])
    starts = np.flatnonzero(new)
    ends = np.append(starts[1:], len(values))
    return tuple(
      Note(int(pitch[a]), int(a), int(b)) for a, b in zip(starts, ends, strict=True) if sounds[a]
    )
