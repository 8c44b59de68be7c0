"""Bach's four-part chorales as windows of frames: what every voice does in each sixteenth."""

import functools
import hashlib
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from common.config import ConfigError
from common.data import music, musicxml
from common.data.builders import base, raw
from common.data.builders.text import context_of, cut

VOICES = 4


class Chorales(base.Builder, skip_registration=True):
  """The scores of four parts in the PyPI package `music21` 10.5.1, which is never imported.

  A split is its chorales one after the other, with a frame of rests before, between and behind
  them; a window is `context` + 1 frames, of which the first is given and is the last of the window
  before, so that each frame is predicted once. A chorale is in one split as a whole, by its hash.
  """

  name = 'chorales'
  sha256 = (
    '7af09fc0d44723d07c438031936d74da8003e65f814163f41f4fb8ecf23a4db7'  # of names and contents
  )
  num_scores = 408  # of which not all have four parts
  package = raw.Package(
    hint='pip download --no-deps music21==10.5.1',
    fetch=raw.pip_download('music21==10.5.1'),
    archive='music21-10.5.1-*.whl',
    unpack=raw.UNZIP,
    folder='music21/corpus/bach',
  )

  @classmethod
  def variant(cls, settings: Mapping[str, Any]) -> str:
    return f'frames-{context_of(settings)}'

  def read(self) -> base.Contents:
    context, pieces = context_of(self.settings), self.pieces
    frames = [self.pitches.encode(piece, music.num_steps(piece)) for piece in pieces]
    splits = base.hash_splits((base.digest(part.tobytes()) for part in frames), self.name)
    windows = {
      split: cut(stream([frames[i] for i in chosen]), context, split, 'frames')
      for split, chosen in splits.items()
    }
    steps = sum(map(len, frames))
    return base.Contents(
      shape=(context + 1, VOICES),
      levels=self.pitches.levels,
      class_names=(),
      splits={k: base.from_arrays(v, None, range(len(v))) for k, v in windows.items()},
      notes=(f'{len(pieces)} chorales, {steps:,} steps',),
    )

  def features(self) -> dict[str, Any]:
    return {'x': tfds.features.Tensor(shape=self.contents.shape, dtype=np.uint8, encoding='bytes')}

  def metadata(self) -> dict[str, Any]:
    return {'domain': 'music', 'pitches': [self.pitches.lowest, self.pitches.highest]}

  @functools.cached_property
  def pieces(self) -> tuple[tuple[tuple[music.Note, ...], ...], ...]:
    """The notes of each voice of each chorale."""
    with raw.located(self.name, self.package, self.settings, self.network) as folder:
      paths = sorted(folder.rglob('*.mxl'), key=lambda path: path.name)
      found = hashlib.sha256(b''.join(path.name.encode() + path.read_bytes() for path in paths))
      if found.hexdigest() != self.sha256:
        raise ConfigError(
          f'{folder} holds {len(paths)} scores (*.mxl) with sha256 {found.hexdigest()}, not the '
          f'{self.num_scores} of music21 10.5.1 with {self.sha256}'
        )
      return read_pieces(paths)

  @functools.cached_property
  def pitches(self) -> music.Pitches:
    """The range of all notes."""
    found = [note.pitch for piece in self.pieces for voice in piece for note in voice]
    return music.Pitches(min(found), max(found))


def read_pieces(paths: Sequence[pathlib.Path]) -> tuple[tuple[tuple[music.Note, ...], ...], ...]:
  """The scores of four parts, each of which has notes.

  Raises:
    ConfigError: for a file that is no score; where none has four parts.
  """
  scores = (musicxml.read_score(path) for path in paths)
  pieces = tuple(score for score in scores if len(score) == VOICES and all(score))
  if not pieces:
    raise ConfigError(f'none of the {len(paths)} scores has {VOICES} parts with notes')
  return pieces


def stream(pieces: Sequence[np.ndarray]) -> np.ndarray:
  """Frames [steps, voices] of pieces, a frame of rests before each and behind the last."""
  silence = np.full((1, VOICES), music.REST, np.uint8)
  return np.concatenate([silence, *(part for piece in pieces for part in (piece, silence))])
