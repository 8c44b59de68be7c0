"""Standard MIDI files of several voices, written and read with `mido`, of the extra `music`."""

import io
import pathlib
from collections.abc import Sequence
from typing import Any

from common.config import ConfigError
from common.data.music import STEPS_PER_QUARTER, Note, Voice, pitch_name
from common.files import atomic_write

TICKS_PER_STEP = 120
TEMPO = 80  # quarters per minute
PROGRAM = 52  # choir aahs
VELOCITY = 80
DRUMS = 9  # the channel whose notes are no pitches
NAMES = ('soprano', 'alto', 'tenor', 'bass')


def _library() -> Any:
  try:
    import mido
  except ImportError:
    raise ConfigError("MIDI files need mido: pip install 'twofold[music]'") from None
  return mido


def write(path: pathlib.Path, voices: Sequence[Voice]) -> None:
  """Writes notes as a file of type 1: a track for the tempo and one for each voice.

  Raises:
    ConfigError: where `mido` is not installed.
  """
  mido = _library()
  tempo = mido.MetaMessage('set_tempo', tempo=mido.bpm2tempo(TEMPO))
  tracks = [mido.MidiTrack([tempo])]
  for number, voice in enumerate(voices):
    name = NAMES[number] if len(voices) == len(NAMES) else f'voice {number + 1}'
    channel = number + (number >= DRUMS)
    head = (
      mido.MetaMessage('track_name', name=name),
      mido.Message('program_change', program=PROGRAM, channel=channel),
    )
    tracks.append(mido.MidiTrack([*head, *_messages(mido, voice, channel)]))
  buffer = io.BytesIO()
  ticks = STEPS_PER_QUARTER * TICKS_PER_STEP
  mido.MidiFile(type=1, ticks_per_beat=ticks, tracks=tracks).save(file=buffer)
  atomic_write(path, buffer.getvalue())


def _messages(mido: Any, voice: Voice, channel: int):
  """What switches the notes of a voice on and off, each with the ticks since the one before."""
  now = 0
  for pitch, start, end in voice:
    for kind, step in (('note_on', start), ('note_off', end)):
      ticks = (step - now) * TICKS_PER_STEP
      yield mido.Message(kind, note=pitch, velocity=VELOCITY, channel=channel, time=ticks)
      now = step


def read(path: pathlib.Path) -> tuple[tuple[Note, ...], ...]:
  """The notes of each track that has any, on the grid of sixteenths that they are nearest to.

  Raises:
    ConfigError: where `mido` is not installed, the file is no MIDI file, or notes of a track sound
      together.
  """
  mido = _library()
  try:
    file = mido.MidiFile(path)
    if file.ticks_per_beat <= 0:
      raise ValueError('it counts time in frames of film, not in parts of a quarter')
  except OSError as error:
    raise ConfigError(f'{path} cannot be read: {error.strerror or error}') from error
  except Exception as error:  # the library raises almost anything for a broken file
    raise ConfigError(f'{path} is no MIDI file: {error or type(error).__name__}') from error
  tick = STEPS_PER_QUARTER / file.ticks_per_beat
  voices = (_voice(track, tick, f'{path}, track {i}') for i, track in enumerate(file.tracks))
  return tuple(voice for voice in voices if voice)


def _voice(track: Any, tick: float, where: str) -> tuple[Note, ...]:
  """Notes of a track; `tick` is the length of one, in steps."""
  notes, now, sounding = [], 0, None
  for message in track:
    now += message.time
    step = round(now * tick)
    if message.type not in ('note_on', 'note_off') or message.channel == DRUMS:
      continue
    ends = sounding is not None and message.note == sounding[0]
    if ends and sounding[1] < step:
      notes.append(Note(*sounding, step))
    if message.type == 'note_on' and message.velocity:
      if sounding is not None and not ends:
        raise ConfigError(
          f'{where}: {pitch_name(message.note)} begins at step {step} while '
          f'{pitch_name(sounding[0])} sounds; a track is to be one voice'
        )
      sounding = (message.note, step)
    elif ends:
      sounding = None
  return tuple(notes)
