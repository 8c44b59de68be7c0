"""Piano rolls, pictures of music: a column is a step, a row a pitch, a colour a voice."""

import numpy as np
from jaxtyping import Integer, UInt8

from common.data.music import Pitches, pitch_name

# The colours of the first voice, the second, ...; further voices repeat them.
COLOURS = np.array([(0, 132, 209), (213, 94, 0), (0, 158, 115), (139, 92, 246)], np.uint8)
COLOUR_NAMES = ('blue', 'orange', 'green', 'violet')
WHITE_KEYS, BLACK_KEYS, C_KEYS = 255, 240, 215  # grey values of the background
SHARPS = (1, 3, 6, 8, 10)  # pitches of the black keys, modulo 12


def piano_rolls(
  frames: Integer[np.ndarray, 'n steps voices'], pitches: Pitches
) -> UInt8[np.ndarray, 'n pitches steps 3']:
  """Pictures of music with high pitches at the top: a note begins dark and continues pale.

  If voices meet on one pitch, the upper voice is visible.
  """
  keys = np.arange(pitches.highest, pitches.lowest - 1, -1) % 12
  shade = np.where(keys == 0, C_KEYS, np.where(np.isin(keys, SHARPS), BLACK_KEYS, WHITE_KEYS))
  num, steps, voices = frames.shape
  rolls = np.empty((num, len(keys), steps, 3), np.uint8)
  rolls[:] = shade[:, None, None]
  for voice in reversed(range(voices)):  # the upper voices last, over the others
    dark = COLOURS[voice % len(COLOURS)]
    pale = (0.5 * dark + 0.5 * 255).astype(np.uint8)
    values = frames[..., voice].astype(np.int64)
    which, step = np.nonzero(values)
    # With n pitches, value v in [0, n) begins pitch v, and n + v continues it (common.data.music).
    value = values[which, step] - 1
    row = pitches.num_pitches - 1 - value % pitches.num_pitches
    begins = value < pitches.num_pitches
    rolls[which, row, step] = np.where(begins[:, None], dark, pale)
  return rolls


def legend(pitches: Pitches) -> str:
  """One line that explains a roll."""
  return (
    f'{pitch_name(pitches.lowest)} to {pitch_name(pitches.highest)}, every C grey; a column is a '
    f'sixteenth, dark where a note begins; from the top voice: {", ".join(COLOUR_NAMES)}'
  )
