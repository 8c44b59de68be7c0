"""Piano rolls: which keys sound in each frame, as pictures and MIDI files."""

import math
from collections.abc import Mapping

import numpy as np
from jaxtyping import Integer

from common.data import music
from common.data.sources import Source
from common.domains.music import midi
from common.domains.music.domain import MusicDomain
from common.domains.music.piano_roll import key_legend, key_rolls
from common.method import Request

FRAME = 2  # sixteenths in MIDI files: a frame is an eighth


class RollsDomain(MusicDomain):
  """Windows of frames [context + 1, keys], 1 where a key sounds; the first is only given.

  A piece without a prompt begins with the first frame of a window of the data.
  """

  noun = 'piano rolls'
  flags: Mapping[str, str] = MusicDomain.flags | {
    'prompt': 'a MIDI file that each piece continues, with a frame for each eighth; a piece of jsb '
    'has frames of quarters, so write its quarters as eighths',
    'length': 'frames to draw (256)',
    'scale': 'size of a frame in the picture (4)',
  }
  frames = 'frames'
  in_front = 0

  def preview_request(self, spec, labelled, source):
    return Request(self.preview_num, past=first_frames(source, np.arange(self.preview_num)))

  def evaluation_request(self, spec, indices, label, source, options):
    return Request(len(indices), past=first_frames(source, indices), options=options)

  def beginning(self, data, num):
    return first_frames(data.splits['train'], np.arange(num))

  def rolls(self, spec, x):
    return key_rolls(x, spec.pitches)

  def legend(self, spec):
    return key_legend(spec.pitches)

  def dimension_note(self, spec, bits):
    nats = bits * spec.shape[1] * math.log(2)
    return f'; a dimension is a key in a frame: {nats:.4g} nats per frame'

  def describe(self, spec):
    frames, keys = spec.shape
    return f'windows of {frames - 1} + 1 frames of {keys} keys'

  def read_prompt(self, spec, path):
    return music.keys_of(midi.read(path), spec.pitches, FRAME)

  def notes(self, spec, frames):
    return music.notes_of_keys(frames, spec.pitches, FRAME)


def first_frames(
  source: Source, indices: Integer[np.ndarray, 'num']
) -> Integer[np.ndarray, 'num 1 keys']:
  """The first frames of windows of a split."""
  return source.gather(indices % len(source))['x'][:, :1].astype(np.int32)
