"""Standard MIDI files of several voices, using `mido`, which the extra `music` installs."""

import io
import pathlib
from collections.abc import Sequence
from typing import Any

from common.config import ConfigError
from common.data.music import STEPS_PER_QUARTER, Note, Voice, pitch_name
from common.files import atomic_write

TICKS_PER_STEP = 120
TEMPO = 80  # quarters per minute
PROGRAM = 52  # General MIDI, counted from 0: choir aahs
VELOCITY = 80
DRUMS = 9  # on this channel (counted from 0) a note number means a drum, not a pitch
CHANNELS = tuple(channel for channel in range(16) if channel != DRUMS)
MAX_BYTES = 10**7  # of a file that is read: hours of music
MAX_STEPS = 10**5  # sixteenths of a file that is read: five hours at TEMPO
NAMES = ('soprano', 'alto', 'tenor', 'bass')


def _library() -> Any:
  try:
    import mido
  except ImportError:
    raise ConfigError("MIDI files need mido: pip install -e '.[music]'") from None
  return mido


def write(path: pathlib.Path, voices: Sequence[Voice]) -> None:
  """Writes notes as a file of type 1: a track for the tempo and one for each voice.

  Raises:
    ConfigError: if `mido` is not installed.
  """
  mido = _library()
  tempo = mido.MetaMessage('set_tempo', tempo=mido.bpm2tempo(TEMPO))
  tracks = [mido.MidiTrack([tempo])]
  for number, voice in enumerate(voices):
    name = NAMES[number] if len(voices) == len(NAMES) else f'voice {number + 1}'
    # The channels without that of the drums; further voices share them, in tracks of their own.
    channel = CHANNELS[number % len(CHANNELS)]
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
  """Messages that switch the notes of a voice on and off; times count from the message before."""
  now = 0
  for pitch, start, end in voice:
    for kind, step in (('note_on', start), ('note_off', end)):
      ticks = (step - now) * TICKS_PER_STEP
      yield mido.Message(kind, note=pitch, velocity=VELOCITY, channel=channel, time=ticks)
      now = step


def read(path: pathlib.Path) -> tuple[tuple[Note, ...], ...]:
  """The notes of each track that has any, moved to the nearest sixteenths.

  Raises:
    ConfigError: if `mido` is not installed, the file is not a MIDI file or too large, or two notes
      of a track sound together.
  """
  mido = _library()
  try:
    if path.exists() and not (path.is_file() and path.stat().st_size <= MAX_BYTES):
      raise ValueError(f'it must be a regular file of at most {MAX_BYTES:,} bytes')
    file = mido.MidiFile(path)
    if file.ticks_per_beat <= 0:
      raise ValueError('it counts time in film frames (SMPTE); save it with ticks per quarter')
    if file.type == 2:
      raise ValueError('its tracks are independent pieces (format 2); save it as format 1')
    if sum(message.time for message in mido.merge_tracks(file.tracks)) > MAX_STEPS * (
      file.ticks_per_beat / STEPS_PER_QUARTER
    ):
      raise ValueError(f'it is longer than {MAX_STEPS:,} sixteenths')
  except EOFError as error:
    raise ConfigError(f'{path} is not a MIDI file of notes: it ends too early') from error
  except OSError as error:
    raise ConfigError(f'{path} cannot be read: {error.strerror or error}') from error
  except Exception as error:  # a broken file makes the library raise almost any type
    raise ConfigError(
      f'{path} is not a MIDI file of notes: {error or type(error).__name__}'
    ) from error
  tick = STEPS_PER_QUARTER / file.ticks_per_beat  # length of a tick, in steps of a sixteenth
  voices = (_voice(track, tick, f'{path}, track {i}') for i, track in enumerate(file.tracks))
  return tuple(voice for voice in voices if voice)


def _voice(track: Any, tick: float, where: str) -> tuple[Note, ...]:
  """Notes of a track; `tick` is the length of a tick, in steps."""
  notes, now, sounding = [], 0, None
  for message in track:
    now += message.time
    step = round(now * tick)
    if message.type not in ('note_on', 'note_off') or message.channel == DRUMS:
      continue
    # A note ends at its note_off, or at a note_on of the same pitch: the note is then repeated.
    ends = sounding is not None and message.note == sounding[0]
    if ends and sounding[1] < step:  # a note shorter than half a step vanishes
      notes.append(Note(*sounding, step))
    if message.type == 'note_on' and message.velocity:  # velocity 0 stands for note_off
      if sounding is not None and not ends:
        raise ConfigError(
          f'{where}: {pitch_name(message.note)} begins at step {step} while '
          f'{pitch_name(sounding[0])} sounds; write each voice as a track of its own'
        )
      sounding = (message.note, step)
    elif ends:
      sounding = None
  return tuple(notes)
