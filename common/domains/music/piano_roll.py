"""Piano rolls, pictures of music: a column is a step, a row a pitch, a colour a voice."""

import numpy as np
from jaxtyping import Integer, UInt8
from PIL import Image, ImageDraw, ImageFont

from common.data.music import STEPS_PER_QUARTER, Pitches, pitch_name
from common.reporting import pictures

# The colours of the first voice, the second, ...; further voices repeat them.
COLOURS = np.array([(0, 132, 209), (213, 94, 0), (0, 158, 115), (139, 92, 246)], np.uint8)
COLOUR_NAMES = ('blue', 'orange', 'green', 'violet')
WHITE_KEYS, BLACK_KEYS, C_KEYS = 255, 240, 215  # grey values of the background
BAR_LINE = 150  # grey value
BAR = 4 * STEPS_PER_QUARTER  # steps between two lines
TEXT_SIZE = 10  # of the names of pitches, in pixels: a C and the next are at least 12 apart
SHARPS = (1, 3, 6, 8, 10)  # pitches of the black keys, modulo 12


def piano_rolls(
  frames: Integer[np.ndarray, 'n steps voices'], pitches: Pitches
) -> UInt8[np.ndarray, 'n pitches steps 3']:
  """Pictures of music with high pitches at the top: a note begins dark and continues pale.

  If voices meet on one pitch, the upper voice is visible.
  """
  num, steps, voices = frames.shape
  rolls = _empty_rolls(num, steps, pitches)
  for voice in reversed(range(voices)):  # the upper voices last, over the others
    dark = COLOURS[voice % len(COLOURS)]
    values = frames[..., voice].astype(np.int64)
    which, step = np.nonzero(values)
    # With n pitches, value v in [0, n) begins pitch v, and n + v continues it (common.data.music).
    value = values[which, step] - 1
    row = pitches.num_pitches - 1 - value % pitches.num_pitches
    begins = value < pitches.num_pitches
    rolls[which, row, step] = np.where(begins[:, None], dark, _pale(dark))
  return rolls


def key_rolls(
  frames: Integer[np.ndarray, 'n steps keys'], pitches: Pitches
) -> UInt8[np.ndarray, 'n pitches steps 3']:
  """Pictures of piano rolls, like `piano_rolls`, in one colour."""
  rolls = _empty_rolls(*frames.shape[:2], pitches)
  sounds = frames[..., ::-1].transpose(0, 2, 1) > 0  # high pitches at the top
  begins = sounds & ~np.pad(sounds, ((0, 0), (0, 0), (1, 0)))[..., :-1]
  rolls[sounds] = _pale(COLOURS[0])
  rolls[begins] = COLOURS[0]
  return rolls


def _empty_rolls(num: int, steps: int, pitches: Pitches) -> UInt8[np.ndarray, 'n pitches steps 3']:
  """The background: white and black keys, and every C."""
  keys = np.arange(pitches.highest, pitches.lowest - 1, -1) % 12
  shade = np.where(keys == 0, C_KEYS, np.where(np.isin(keys, SHARPS), BLACK_KEYS, WHITE_KEYS))
  rolls = np.empty((num, len(keys), steps, 3), np.uint8)
  rolls[:] = shade[:, None, None]
  return rolls


def _pale(dark: UInt8[np.ndarray, '3']) -> UInt8[np.ndarray, '3']:
  return (0.5 * dark + 0.5 * 255).astype(np.uint8)


def page(
  rolls: UInt8[np.ndarray, 'n pitches steps 3'], pitches: Pitches, scale: int, text: str
) -> UInt8[np.ndarray, 'rows columns 3']:
  """Numbered rolls below each other, under a line of text; `scale` is the size of a step."""
  # White below each, so that the names of its lowest pitch and of the next highest are apart.
  below = ((0, TEXT_SIZE // 2), (0, 0), (0, 0))
  sheets = [np.pad(sheet(roll, pitches, scale), below, constant_values=255) for roll in rolls]
  rows = [(str(number), one[None]) for number, one in enumerate(sheets, 1)]
  return pictures.captioned_rows(text, rows)


def sheet(
  roll: UInt8[np.ndarray, 'pitches steps 3'], pitches: Pitches, scale: int
) -> UInt8[np.ndarray, 'rows columns 3']:
  """An enlarged roll, with a line in front of every fourth quarter and each C named on the left."""
  picture = roll.repeat(scale, 0).repeat(scale, 1)
  picture[:, :: BAR * scale] = BAR_LINE
  font = ImageFont.load_default(TEXT_SIZE)
  names = {
    pitch: pitch_name(pitch)
    for pitch in range(pitches.lowest, pitches.highest + 1)
    if pitch % 12 == 0 or pitch in (pitches.lowest, pitches.highest)
  }
  left = 2 + int(max(map(font.getlength, names.values())))
  named = Image.new('RGB', (left + picture.shape[1], picture.shape[0]), 'white')
  named.paste(Image.fromarray(picture), (left, 0))
  draw, free = ImageDraw.Draw(named), picture.shape[0]
  for pitch, name in names.items():  # from the bottom upwards
    middle = (pitches.highest - pitch + 0.5) * scale
    # The lowest and the highest pitch may be too close to a C, or to the edge.
    top = min(max(middle - TEXT_SIZE / 2, 0), free - TEXT_SIZE)
    if top >= 0 and (top <= middle <= top + TEXT_SIZE):
      draw.text((0, top + TEXT_SIZE / 2), name, 'black', font, anchor='lm')
      free = top
  return np.asarray(named)


def legend(pitches: Pitches) -> str:
  """One line that explains a roll of voices."""
  return (
    f'{_range(pitches)}; a column is a sixteenth, a line every four quarters, dark where a note '
    f'begins; from the top voice: {", ".join(COLOUR_NAMES)}'
  )


def key_legend(pitches: Pitches) -> str:
  """One line that explains a roll of keys."""
  return (
    f'{_range(pitches)}; a column is a frame, a line every {BAR} frames, dark where a note begins'
  )


def _range(pitches: Pitches) -> str:
  return f'{pitch_name(pitches.lowest)} to {pitch_name(pitches.highest)}, every C grey'
